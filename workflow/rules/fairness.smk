# in:  the files of the tables in fairness.use: downloads or the user's own
# out: results/fairness/<dataset>/: problem, base model; by metric: scales and direct attacks
#      results/tables/table3, table4, fairness_*; results/figures/figure7, fairness_*


rule encode_table:
    input:
        unpack(lambda w: table_files_of(w.dataset)),
    output:
        problem=f"{RESULTS}/fairness/{{dataset}}/problem.safetensors",
        metadata=f"{RESULTS}/fairness/{{dataset}}/problem.json",
    log:
        f"logs/encode_table/{RESULTS}/{{dataset}}.log",
    benchmark:
        f"benchmarks/encode_table/{RESULTS}/{{dataset}}.tsv"
    conda:
        "../../envs/conda.yaml"
    threads: 1
    resources:
        mem_mb=memory(20, base=2000),
    params:
        code=code_of("encode_table"),
        cfg=lambda w: {
            **slice_of("seed", "fairness.order"),
            "table": {key: FAIRNESS["tables"][w.dataset][key] for key in READING_KEYS},
        },
    script:
        "../scripts/encode_table.py"


rule train_base_model:
    input:
        problem=rules.encode_table.output.problem,
    output:
        model=f"{RESULTS}/fairness/{{dataset}}/base.safetensors",
        metadata=f"{RESULTS}/fairness/{{dataset}}/base.json",
    log:
        f"logs/train_base_model/{RESULTS}/{{dataset}}.log",
    benchmark:
        f"benchmarks/train_base_model/{RESULTS}/{{dataset}}.tsv"
    conda:
        "../../envs/conda.yaml"
    threads: 1
    resources:
        mem_mb=memory(20, base=2000),
    params:
        code=code_of("train_base_model"),
        cfg=lambda w: {**slice_of("fairness.metrics"), "l2": FAIRNESS["tables"][w.dataset]["l2"]},
    script:
        "../scripts/train_base_model.py"


rule scale_base_model:
    input:
        problem=rules.encode_table.output.problem,
        model=rules.train_base_model.output.model,
    output:
        scales=f"{RESULTS}/fairness/{{dataset}}/{{metric}}/scales.parquet",
        removed=f"{RESULTS}/fairness/{{dataset}}/{{metric}}/removed.safetensors",
    log:
        f"logs/scale_base_model/{RESULTS}/{{dataset}}/{{metric}}.log",
    benchmark:
        f"benchmarks/scale_base_model/{RESULTS}/{{dataset}}/{{metric}}.tsv"
    conda:
        "../../envs/conda.yaml"
    threads: 1
    resources:
        mem_mb=memory(20, base=2000),
        runtime=minutes(60, per_mb=10),
    params:
        code=code_of("scale_base_model"),
        cfg=lambda w: {
            **judge_settings(w.dataset, w.metric),
            **slice_of("fairness.scales", "fairness.carry_over"),
        },
    script:
        "../scripts/scale_base_model.py"


rule attack_fairness:
    input:
        problem=rules.encode_table.output.problem,
        model=rules.train_base_model.output.model,
    output:
        direct=f"{RESULTS}/fairness/{{dataset}}/{{metric}}/direct.parquet",
        models=f"{RESULTS}/fairness/{{dataset}}/{{metric}}/direct.safetensors",
    log:
        f"logs/attack_fairness/{RESULTS}/{{dataset}}/{{metric}}.log",
    benchmark:
        f"benchmarks/attack_fairness/{RESULTS}/{{dataset}}/{{metric}}.tsv"
    conda:
        "../../envs/conda.yaml"
    threads: 1
    resources:
        mem_mb=memory(20, base=2000),
        runtime=minutes(60, per_mb=10),
    params:
        code=code_of("attack_fairness"),
        cfg=lambda w: {
            **judge_settings(w.dataset, w.metric),
            **slice_of(
                "fairness.direct_steps",
                "fairness.smoothing",
                "fairness.sharpness",
                "fairness.downstream_budget",
            ),
        },
    script:
        "../scripts/attack_fairness.py"


rule summarise_fairness:
    input:
        problems=expand(rules.encode_table.output.metadata, dataset=FAIR_DATASETS),
        bases=expand(rules.train_base_model.output.metadata, dataset=FAIR_DATASETS),
        scales=expand(rules.scale_base_model.output.scales, dataset=FAIR_DATASETS, metric=FAIR_METRICS),
        direct=expand(rules.attack_fairness.output.direct, dataset=FAIR_DATASETS, metric=FAIR_METRICS),
    output:
        table3=table("table3", title=FAIR_TABLES["table3"]),
        table4=table("table4", title=FAIR_TABLES["table4"]),
        attack=table("fairness_attack", title=FAIR_TABLES["fairness_attack"]),
        scales=table("fairness_scales", title=FAIR_TABLES["fairness_scales"]),
        direct=table("fairness_direct", title=FAIR_TABLES["fairness_direct"]),
        audit=table("fairness_audit", title=FAIR_TABLES["fairness_audit"]),
    log:
        f"logs/summarise_fairness/{RESULTS}.log",
    benchmark:
        f"benchmarks/summarise_fairness/{RESULTS}.tsv"
    conda:
        "../../envs/conda.yaml"
    threads: 1
    resources:
        mem_mb=memory(),
    params:
        code=code_of("summarise_fairness"),
        cfg={
            **slice_of(
                "fairness.metrics",
                "fairness.bound",
                "fairness.downstream_budget",
                "fairness.log_loss_budgets",
            ),
            "datasets": FAIR_DATASETS,
            "tables": {
                name: {key: FAIRNESS["tables"][name][key] for key in ("l2", *FAIR_METRICS)}
                for name in FAIR_DATASETS
            },
        },
    script:
        "../scripts/summarise_fairness.py"


rule plot_fairness:
    input:
        attack=f"{RESULTS}/tables/fairness_attack.parquet",
        scales=f"{RESULTS}/tables/fairness_scales.parquet",
        direct=f"{RESULTS}/tables/fairness_direct.parquet",
        audit=f"{RESULTS}/tables/fairness_audit.parquet",
    output:
        **{
            made: figure(made, caption=name, title=f"{FAIR_FIGURES[name]} ({metric.replace('_', ' ')})")
            for metric, names in FAIR_FIGURE_NAMES.items()
            for name, made in names.items()
        },
    log:
        f"logs/plot_fairness/{RESULTS}.log",
    benchmark:
        f"benchmarks/plot_fairness/{RESULTS}.tsv"
    conda:
        "../../envs/conda.yaml"
    threads: 1
    resources:
        mem_mb=memory(),
    params:
        code=code_of("plot_fairness"),
        cfg={**slice_of("figures.dpi"), "names": FAIR_FIGURE_NAMES},
    script:
        "../scripts/plot_fairness.py"
