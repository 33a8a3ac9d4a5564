# in:  results/<dataset>/model.safetensors, influence.parquet
# out: results/<dataset>/attack/<objective>/radius=<C>/: trajectories by seed and block, published models
#      results/tables/attacks, attack_success, table1; results/metrics.json

ATTACK_INPUT = dict(
    features=lambda w: features(w.dataset, "features.npy"),
    split=rules.split_data.output.split,
    model=rules.train_model.output.model,
    metadata=rules.train_model.output.metadata,
)


rule select_targets:
    input:
        influence=rules.compute_influence.output.influence,
    output:
        targets=f"{RESULTS}/{{dataset}}/attack/targets/block={{block}}.parquet",
    log:
        f"logs/select_targets/{RESULTS}/{{dataset}}/block={{block}}.log",
    benchmark:
        f"benchmarks/select_targets/{RESULTS}/{{dataset}}/block={{block}}.tsv"
    conda:
        "../../envs/conda.yaml"
    threads: 1
    resources:
        mem_mb=memory(),
    params:
        code=code_of("select_targets"),
        # Of the number of targets only what concerns this block, so that more targets leave it alone.
        cfg=lambda w: {**slice_of("seed", "attack.ranks"), **layout.block_places(CONFIG, int(w.block))},
    script:
        "../scripts/select_targets.py"


rule attack:
    input:
        **ATTACK_INPUT,
        targets=rules.select_targets.output.targets,
    output:
        trajectory=f"{attacks('{dataset}', '{objective}', '{radius}', '{seed}', '{block}')}.parquet",
        candidates=f"{attacks('{dataset}', '{objective}', '{radius}', '{seed}', '{block}')}.candidates.parquet",
        models=f"{attacks('{dataset}', '{objective}', '{radius}', '{seed}', '{block}')}.candidates.safetensors",
    log:
        f"logs/attack/{attacks('{dataset}', '{objective}', '{radius}', '{seed}', '{block}')}.log",
    benchmark:
        f"benchmarks/attack/{attacks('{dataset}', '{objective}', '{radius}', '{seed}', '{block}')}.tsv"
    conda:
        "../../envs/conda.yaml"
    threads: 1
    resources:
        mem_mb=memory(5, base=1000 + LANES_MB),
        lanes_mb=LANES_MB,
        runtime=minutes(30, per_class=2e-5 * LANE_STEPS * ATTACK["targets_per_block"]),
        gpu=gpus(ATTACK["device"]),
        device=ATTACK["device"],
    params:
        code=code_of("attack"),
        cfg=lambda w: {
            **calculator_settings(w.dataset),
            **slice_of("seed", "attack.publish", *attack_keys(w.objective)),
        },
    script:
        "../scripts/attack.py"


rule publish_attacks:
    input:
        **ATTACK_INPUT,
        targets=expand(rules.select_targets.output.targets, block=BLOCKS, allow_missing=True),
        candidates=lambda w: attack_files(w, rules.attack.output.candidates),
        models=lambda w: attack_files(w, rules.attack.output.models),
    output:
        published=f"{RESULTS}/{{dataset}}/attack/{{objective}}/radius={{radius}}/published.parquet",
        by_starts=f"{RESULTS}/{{dataset}}/attack/{{objective}}/radius={{radius}}/published_by_starts.parquet",
        models=f"{RESULTS}/{{dataset}}/attack/{{objective}}/radius={{radius}}/published.safetensors",
    log:
        f"logs/publish_attacks/{RESULTS}/{{dataset}}/{{objective}}/radius={{radius}}.log",
    benchmark:
        f"benchmarks/publish_attacks/{RESULTS}/{{dataset}}/{{objective}}/radius={{radius}}.tsv"
    conda:
        "../../envs/conda.yaml"
    threads: 2
    resources:
        mem_mb=memory(8),
        runtime=minutes(60, per_class=0.1),
    params:
        code=code_of("publish_attacks"),
        cfg=lambda w: {
            **calculator_settings(w.dataset),
            **slice_of("attack.accuracy_budget"),
            "seeds": starts_of(w.objective),
        },
    script:
        "../scripts/publish_attacks.py"


PUBLISHED = [
    {
        "dataset": dataset,
        "objective": objective,
        "radius": radius,
        "jobs": len(starts_of(objective)) * len(BLOCKS),
    }
    for dataset in DATASETS
    for objective in ATTACK["objectives"]
    for radius in RADII
]
VARIANTS = {name: CONFIG["datasets"][name] for name in DATASETS if "base" in CONFIG["datasets"][name]}
# What the text under Table 1 reads of a data set's features, and of a baseline where there is one.
FEATURES_NAMED = ("backbone", "image_size", "scaling")
BASELINE_KEYS = ("baseline.steps", "baseline.batch_size", "baseline.learning_rate")


rule summarise_attacks:
    input:
        published=[rules.publish_attacks.output.published.format(**run) for run in PUBLISHED],
        # In the order of the runs.
        trajectories=TRAJECTORIES,
        baseline=BASELINE if CONFIG["baseline"]["weights"] else [],
        models=expand(rules.train_model.output.metadata, dataset=DATASETS),
    output:
        attacks=table("attacks", title="Every attack"),
        success=table("attack_success", title="Attack success"),
        table1=table("table1", title="Table 1"),
        metrics=reported(METRICS, "Tables", caption="metrics", title="Metrics"),
    log:
        f"logs/summarise_attacks/{RESULTS}.log",
    benchmark:
        f"benchmarks/summarise_attacks/{RESULTS}.tsv"
    conda:
        "../../envs/conda.yaml"
    threads: 1
    resources:
        mem_mb=memory(),
    params:
        code=code_of("summarise_attacks"),
        cfg={
            **slice_of(
                "data.use",
                "model.training",
                "influence.damping",
                "influence.rank_sign",
                "baseline.weights",
                *(BASELINE_KEYS if CONFIG["baseline"]["weights"] else []),
                "attack.accuracy_budget",
                "attack.targets",
                "attack.seeds",
                "attack.steps",
                "attack.drop_at",
                "attack.radii",
                "attack.ranks",
                *(["attack.suppressed_ranks"] if "min_topk" in ATTACK["objectives"] else []),
                "attack.learning_rates",
                "attack.solver",
                "attack.publish",
            ),
            "features": {
                dataset: {key: definition(dataset)["features"][key] for key in FEATURES_NAMED}
                for dataset in DATASETS
            },
            "damping": {dataset: calculator_settings(dataset)["influence.damping"] for dataset in DATASETS},
            "variants": VARIANTS,
            "starts": {objective: len(starts_of(objective)) for objective in ATTACK["objectives"]},
            "published": PUBLISHED,
            "baseline": DATASETS if CONFIG["baseline"]["weights"] else [],
        },
    script:
        "../scripts/summarise_attacks.py"
