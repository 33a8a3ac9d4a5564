# in:  data/features/<dataset>/<backbone>/
# out: results/<dataset>/split.parquet, model.safetensors, model.json, influence.parquet


rule split_data:
    input:
        samples=lambda w: features(w.dataset, "samples.parquet"),
    output:
        split=f"{RESULTS}/{{dataset}}/split.parquet",
    log:
        f"logs/split_data/{RESULTS}/{{dataset}}.log",
    benchmark:
        f"benchmarks/split_data/{RESULTS}/{{dataset}}.tsv"
    conda:
        "../../envs/conda.yaml"
    threads: 1
    resources:
        mem_mb=memory(),
    params:
        code=code_of("split_data"),
        cfg=lambda w: {
            **slice_of("split"),
            "train_samples": definition(w.dataset).get("train_samples"),
        },
    script:
        "../scripts/split_data.py"


rule train_model:
    input:
        features=lambda w: features(w.dataset, "features.npy"),
        split=rules.split_data.output.split,
    output:
        model=f"{RESULTS}/{{dataset}}/model.safetensors",
        metadata=f"{RESULTS}/{{dataset}}/model.json",
    log:
        f"logs/train_model/{RESULTS}/{{dataset}}.log",
    benchmark:
        f"benchmarks/train_model/{RESULTS}/{{dataset}}.tsv"
    conda:
        "../../envs/conda.yaml"
    threads: 2
    resources:
        mem_mb=memory(8),
        runtime=minutes(60, per_class=0.1),
    params:
        code=code_of("train_model"),
        cfg=lambda w: {
            **slice_of("seed"),
            "model": model_settings(w.dataset),
            "scaling": definition(w.dataset)["features"]["scaling"],
        },
    script:
        "../scripts/train_model.py"


rule compute_influence:
    input:
        features=lambda w: features(w.dataset, "features.npy"),
        split=rules.split_data.output.split,
        model=rules.train_model.output.model,
        metadata=rules.train_model.output.metadata,
    output:
        influence=f"{RESULTS}/{{dataset}}/influence.parquet",
    log:
        f"logs/compute_influence/{RESULTS}/{{dataset}}.log",
    benchmark:
        f"benchmarks/compute_influence/{RESULTS}/{{dataset}}.tsv"
    conda:
        "../../envs/conda.yaml"
    threads: 2
    resources:
        mem_mb=memory(8),
        runtime=minutes(60, per_class=0.1),
    params:
        code=code_of("compute_influence"),
        cfg=lambda w: {**calculator_settings(w.dataset), **slice_of("influence.tolerance")},
    script:
        "../scripts/compute_influence.py"
