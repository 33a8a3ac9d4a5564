# in:  results/<dataset>/model.safetensors
# out: results/<dataset>/attack/sets/radius=<C>/size=<n>: trajectories, published models
#      results/tables/multi_target, results/figures/figure6

MULTI = CONFIG["multi_target"]


rule attack_sets:
    input:
        **ATTACK_INPUT,
        influence=rules.compute_influence.output.influence,
    output:
        trajectory=f"{set_attacks('{dataset}', '{radius}', '{size}')}.trajectories.parquet",
        published=f"{set_attacks('{dataset}', '{radius}', '{size}')}.parquet",
        models=f"{set_attacks('{dataset}', '{radius}', '{size}')}.safetensors",
    log:
        f"logs/attack_sets/{set_attacks('{dataset}', '{radius}', '{size}')}.log",
    benchmark:
        f"benchmarks/attack_sets/{set_attacks('{dataset}', '{radius}', '{size}')}.tsv"
    conda:
        "../../envs/conda.yaml"
    threads: 1
    resources:
        mem_mb=memory(8, base=1000 + LANES_MB),
        lanes_mb=LANES_MB,
        runtime=minutes(60, per_class=1e-3 * LANE_STEPS * len(ATTACK["seeds"]) * MULTI["sets"]),
        gpu=gpus(ATTACK["device"]),
        device=ATTACK["device"],
    params:
        code=code_of("attack_sets"),
        cfg=lambda w: {
            **calculator_settings(w.dataset),
            **slice_of("seed", "multi_target.ranks", "multi_target.sets", "attack.seeds"),
            **slice_of("attack.accuracy_budget", *attack_keys(MAIN_OBJECTIVE, ranks=False)),
            "objective": MAIN_OBJECTIVE,
        },
    script:
        "../scripts/attack_sets.py"


SET_RUNS = [
    {"dataset": dataset, "radius": radius, "size": size}
    for dataset in DATASETS
    for radius in RADII
    for size in MULTI["sizes"]
]


rule summarise_sets:
    input:
        published=[rules.attack_sets.output.published.format(**run) for run in SET_RUNS],
    output:
        table=table("multi_target", title="Multi-target attack"),
        figure=figure("figure6", caption="figure6", title="Figure 6: multi-target attack"),
    log:
        f"logs/summarise_sets/{RESULTS}.log",
    benchmark:
        f"benchmarks/summarise_sets/{RESULTS}.tsv"
    conda:
        "../../envs/conda.yaml"
    threads: 1
    resources:
        mem_mb=memory(),
    params:
        code=code_of("summarise_sets"),
        cfg={**slice_of("figures.dpi", "attack.accuracy_budget"), "runs": SET_RUNS},
    script:
        "../scripts/summarise_sets.py"
