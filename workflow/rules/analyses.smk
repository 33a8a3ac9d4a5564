# in:  results/<dataset>/attack/: trajectories, published models; results/tables/
# out: results/<dataset>/gradient_norms.parquet
#      results/tables/table2, attack_starts, easy_targets
#      results/figures/objective_steps, starts_gain, figure5, training_size

# The k of Table 2: the nearest of the run's to the K that min_topk pushes down, of two the smaller.
ABLATION_K = min(ATTACK["ranks"], key=lambda k: (abs(k - ATTACK["suppressed_ranks"]), k))
# The C at which trajectories are shown: the middle one, of an even number the larger of two.
MIDDLE_RADIUS = sorted(RADII, key=float)[len(RADII) // 2]


rule summarise_ablation:
    input:
        by_starts=[rules.publish_attacks.output.by_starts.format(**run) for run in PUBLISHED],
    output:
        table2=table("table2", title="Table 2: ablation"),
        starts=table("attack_starts", title="Success by number of starts"),
    log:
        f"logs/summarise_ablation/{RESULTS}.log",
    benchmark:
        f"benchmarks/summarise_ablation/{RESULTS}.tsv"
    conda:
        "../../envs/conda.yaml"
    threads: 1
    resources:
        mem_mb=memory(),
    params:
        code=code_of("summarise_ablation"),
        cfg={
            **slice_of("attack.accuracy_budget"),
            "k": ABLATION_K,
            "published": PUBLISHED,
            "variants": list(VARIANTS),
        },
    script:
        "../scripts/summarise_ablation.py"


rule plot_starts_gain:
    input:
        starts=f"{RESULTS}/tables/attack_starts.parquet",
    output:
        figure("starts_gain", caption="starts_gain", title="What several starts gain"),
    log:
        f"logs/plot_starts_gain/{RESULTS}.log",
    benchmark:
        f"benchmarks/plot_starts_gain/{RESULTS}.tsv"
    conda:
        "../../envs/conda.yaml"
    threads: 1
    resources:
        mem_mb=memory(),
    params:
        code=code_of("plot_starts_gain"),
        cfg={
            **slice_of("figures.dpi", "attack.accuracy_budget"),
            "objective": MAIN_OBJECTIVE,
            "k": ABLATION_K,
        },
    script:
        "../scripts/plot_starts_gain.py"


rule plot_objective_steps:
    input:
        influence=expand(rules.compute_influence.output.influence, dataset=DATASETS),
        trajectories=expand(
            rules.attack.output.trajectory,
            dataset=DATASETS,
            objective=ATTACK["objectives"],
            radius=MIDDLE_RADIUS,
            seed=SEEDS[0],
            block=BLOCKS,
        ),
    output:
        figure("objective_steps", caption="objective_steps", title="Objectives step by step"),
    log:
        f"logs/plot_objective_steps/{RESULTS}.log",
    benchmark:
        f"benchmarks/plot_objective_steps/{RESULTS}.tsv"
    conda:
        "../../envs/conda.yaml"
    threads: 1
    resources:
        mem_mb=memory(),
    params:
        code=code_of("plot_objective_steps"),
        cfg={**slice_of("figures.dpi", "data.use", "attack.objectives"), "radius": MIDDLE_RADIUS},
    script:
        "../scripts/plot_objective_steps.py"


rule compute_gradient_norms:
    input:
        **ATTACK_INPUT,
        influence=rules.compute_influence.output.influence,
        targets=expand(rules.select_targets.output.targets, block=BLOCKS, allow_missing=True),
    output:
        gradients=f"{RESULTS}/{{dataset}}/gradient_norms.parquet",
    log:
        f"logs/compute_gradient_norms/{RESULTS}/{{dataset}}.log",
    benchmark:
        f"benchmarks/compute_gradient_norms/{RESULTS}/{{dataset}}.tsv"
    conda:
        "../../envs/conda.yaml"
    threads: 2
    resources:
        mem_mb=memory(5, base=2000),
        runtime=minutes(30, per_class=0.1),
        gpu=gpus(ATTACK["device"]),
        device=ATTACK["device"],
    params:
        code=code_of("compute_gradient_norms"),
        cfg=lambda w: {
            **calculator_settings(w.dataset),
            **slice_of("seed", "figures.gradient_samples"),
        },
    script:
        "../scripts/compute_gradient_norms.py"


rule analyse_easy_targets:
    input:
        attacks=f"{RESULTS}/tables/attacks.parquet",
        gradients=expand(rules.compute_gradient_norms.output.gradients, dataset=DATASETS),
        models=expand(rules.train_model.output.metadata, dataset=DATASETS),
    output:
        table=table("easy_targets", title="Easy and hard targets"),
        figure=figure("figure5", caption="figure5", title="Figure 5: easy and hard targets"),
    log:
        f"logs/analyse_easy_targets/{RESULTS}.log",
    benchmark:
        f"benchmarks/analyse_easy_targets/{RESULTS}.tsv"
    conda:
        "../../envs/conda.yaml"
    threads: 1
    resources:
        mem_mb=memory(),
    params:
        code=code_of("analyse_easy_targets"),
        cfg={
            **slice_of("data.use", "figures.dpi"),
            "objective": MAIN_OBJECTIVE,
            "k": min(ATTACK["ranks"]),
        },
    script:
        "../scripts/analyse_easy_targets.py"


rule plot_training_size:
    input:
        table1=f"{RESULTS}/tables/table1.parquet",
        models=expand(rules.train_model.output.metadata, dataset=SIZES),
    output:
        figure("training_size", caption="training_size", title="Success by size of the training set"),
    log:
        f"logs/plot_training_size/{RESULTS}.log",
    benchmark:
        f"benchmarks/plot_training_size/{RESULTS}.tsv"
    conda:
        "../../envs/conda.yaml"
    threads: 1
    resources:
        mem_mb=memory(),
    params:
        code=code_of("plot_training_size"),
        cfg={
            **slice_of("figures.dpi", "attack.accuracy_budget"),
            "datasets": SIZES,
            "objective": MAIN_OBJECTIVE,
        },
    script:
        "../scripts/plot_training_size.py"
