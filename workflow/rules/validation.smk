# in:  plain pixels of validation.dataset; the heads of this run and the models that were published for them
# out: results/validation/: predicted and actual effects, network.json; results/<dataset>/validation/: of each run's own head
#      results/tables/validation, datamodelling, rankings
#      results/figures/leave_one_out, hinge, influence_parts, early_stopping, damping, rankings

VALIDATION_INPUT = dict(
    features=[features(dataset, "features.npy") for dataset in IMAGES],
    samples=[features(dataset, "samples.parquet") for dataset in IMAGES],
)


rule validate_softmax:
    input:
        **VALIDATION_INPUT,
    output:
        pairs=f"{RESULTS}/validation/softmax.parquet",
    log:
        f"logs/validate_softmax/{RESULTS}.log",
    benchmark:
        f"benchmarks/validate_softmax/{RESULTS}.tsv"
    conda:
        "../../envs/conda.yaml"
    threads: 2
    resources:
        mem_mb=memory(14, base=4000),
        runtime=minutes(60, per_mb=1),
    params:
        code=code_of("validate_softmax"),
        cfg={
            **slice_of("seed"),
            **validation_settings(
                "l2", "gradient_norm", "samples", "lissa_repeats", "lissa_depth", "lissa_batch"
            ),
        },
    script:
        "../scripts/validate_softmax.py"


rule validate_hinge:
    input:
        **VALIDATION_INPUT,
    output:
        pairs=f"{RESULTS}/validation/hinge.parquet",
    log:
        f"logs/validate_hinge/{RESULTS}.log",
    benchmark:
        f"benchmarks/validate_hinge/{RESULTS}.tsv"
    conda:
        "../../envs/conda.yaml"
    threads: 1
    resources:
        mem_mb=memory(6, base=2000),
        runtime=minutes(60, per_mb=1),
    params:
        code=code_of("validate_hinge"),
        cfg=validation_settings("gradient_norm", "pair", "pair_samples", "hinge_l2", "hinge_temperatures"),
    script:
        "../scripts/validate_hinge.py"


rule validate_logistic:
    input:
        **VALIDATION_INPUT,
    output:
        pairs=f"{RESULTS}/validation/logistic.parquet",
        parts=f"{RESULTS}/validation/influence_parts.parquet",
        table=table("datamodelling", title="Linear datamodelling score"),
    log:
        f"logs/validate_logistic/{RESULTS}.log",
    benchmark:
        f"benchmarks/validate_logistic/{RESULTS}.tsv"
    conda:
        "../../envs/conda.yaml"
    threads: 1
    resources:
        mem_mb=memory(6, base=2000),
        runtime=minutes(60, per_mb=1),
    params:
        code=code_of("validate_logistic"),
        cfg={
            **slice_of("seed"),
            **validation_settings(
                "l2", "gradient_norm", "pair", "pair_samples", "early_steps", "subsets", "quantities"
            ),
        },
    script:
        "../scripts/validate_logistic.py"


# Of training a network, and of going on from it without each of the samples, and twice with all.
NETWORK_STEPS = VALIDATION["network_steps"] + VALIDATION["network_more_steps"] * (
    2 + VALIDATION["network_samples"]
)


rule validate_network:
    input:
        **VALIDATION_INPUT,
    output:
        pairs=f"{RESULTS}/validation/network.parquet",
        facts=f"{RESULTS}/validation/network.json",
    log:
        f"logs/validate_network/{RESULTS}.log",
    benchmark:
        f"benchmarks/validate_network/{RESULTS}.tsv"
    conda:
        "../../envs/conda.yaml"
    threads: 2
    resources:
        mem_mb=memory(4, base=4000),
        # A fifth of a second for a step of a network.
        runtime=minutes(60 + NETWORK_STEPS / 300),
    params:
        code=code_of("validate_network"),
        cfg={
            **slice_of("seed"),
            **validation_settings(
                "network_steps",
                "network_more_steps",
                "network_train_samples",
                "network_samples",
                "network_batch",
                "network_learning_rate",
                "network_l2",
                "network_dampings",
            ),
        },
    script:
        "../scripts/validate_network.py"


rule validate_rankings:
    input:
        **ATTACK_INPUT,
        published=expand(
            rules.publish_attacks.output.published,
            objective=MAIN_OBJECTIVE,
            radius=MIDDLE_RADIUS,
            allow_missing=True,
        ),
        models=expand(
            rules.publish_attacks.output.models,
            objective=MAIN_OBJECTIVE,
            radius=MIDDLE_RADIUS,
            allow_missing=True,
        ),
    output:
        rankings=f"{RESULTS}/{{dataset}}/validation/rankings.parquet",
        removed=f"{RESULTS}/{{dataset}}/validation/removed.parquet",
        pairs=f"{RESULTS}/{{dataset}}/validation/damping.parquet",
    log:
        f"logs/validate_rankings/{RESULTS}/{{dataset}}.log",
    benchmark:
        f"benchmarks/validate_rankings/{RESULTS}/{{dataset}}.tsv"
    conda:
        "../../envs/conda.yaml"
    threads: 2
    resources:
        mem_mb=memory(10, base=4000),
        runtime=minutes(60, per_class=0.2),
    params:
        code=code_of("validate_rankings"),
        cfg=lambda w: {
            **calculator_settings(w.dataset),
            **slice_of(
                "seed",
                "influence.tolerance",
                "validation.ranking_samples",
                "validation.dampings",
                "validation.gradient_norm",
            ),
            "radius": MIDDLE_RADIUS,
        },
    script:
        "../scripts/validate_rankings.py"


rule summarise_validation:
    input:
        pairs=VALIDATION_PAIRS,
    output:
        table=table("validation", title="Influence against training again"),
    log:
        f"logs/summarise_validation/{RESULTS}.log",
    benchmark:
        f"benchmarks/summarise_validation/{RESULTS}.tsv"
    conda:
        "../../envs/conda.yaml"
    threads: 1
    resources:
        mem_mb=memory(),
    params:
        code=code_of("summarise_validation"),
        cfg=slice_of("seed"),
    script:
        "../scripts/summarise_validation.py"


rule summarise_rankings:
    input:
        rankings=expand(rules.validate_rankings.output.rankings, dataset=DATASETS),
    output:
        table=table("rankings", title="What rankings predict, before and after an attack"),
    log:
        f"logs/summarise_rankings/{RESULTS}.log",
    benchmark:
        f"benchmarks/summarise_rankings/{RESULTS}.tsv"
    conda:
        "../../envs/conda.yaml"
    threads: 1
    resources:
        mem_mb=memory(),
    params:
        code=code_of("summarise_rankings"),
        cfg=slice_of("data.use"),
    script:
        "../scripts/summarise_rankings.py"


rule plot_validation:
    input:
        **VALIDATION_INPUT,
        softmax=rules.validate_softmax.output.pairs,
        hinge=rules.validate_hinge.output.pairs,
        logistic=rules.validate_logistic.output.pairs,
        parts=rules.validate_logistic.output.parts,
        network=[rules.validate_network.output.pairs] if VALIDATION["network_steps"] else [],
        table=rules.summarise_validation.output.table[0],
    output:
        leave_one_out=figure("leave_one_out", caption="leave_one_out", title="Leave-one-out, predicted"),
        hinge=figure("hinge", caption="hinge", title="The hinge, smoothed"),
        parts=figure("influence_parts", caption="influence_parts", title="The parts of influence"),
        early=figure("early_stopping", caption="early_stopping", title="Stopped early"),
    log:
        f"logs/plot_validation/{RESULTS}.log",
    benchmark:
        f"benchmarks/plot_validation/{RESULTS}.tsv"
    conda:
        "../../envs/conda.yaml"
    threads: 1
    resources:
        mem_mb=memory(2),
    params:
        code=code_of("plot_validation"),
        cfg=slice_of("figures.dpi"),
    script:
        "../scripts/plot_validation.py"


rule plot_rankings:
    input:
        table=rules.summarise_validation.output.table[0],
        removed=expand(rules.validate_rankings.output.removed, dataset=DATASETS),
    output:
        damping=figure("damping", caption="damping", title="What damping does"),
        rankings=figure("rankings", caption="rankings", title="What rankings predict"),
    log:
        f"logs/plot_rankings/{RESULTS}.log",
    benchmark:
        f"benchmarks/plot_rankings/{RESULTS}.tsv"
    conda:
        "../../envs/conda.yaml"
    threads: 1
    resources:
        mem_mb=memory(),
    params:
        code=code_of("plot_rankings"),
        cfg={
            **slice_of("figures.dpi", "data.use"),
            "dampings": {name: calculator_settings(name)["influence.damping"] for name in DATASETS},
        },
    script:
        "../scripts/plot_rankings.py"
