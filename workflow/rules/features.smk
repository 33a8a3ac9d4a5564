# in:  a data set's files: downloads or the user's own
# out: data/features/<dataset>/<backbone>/features.npy (samples, d), samples.parquet, features.json


rule extract_features:
    input:
        files=lambda w: dataset_inputs(w.dataset),
        weights=lambda w: weights_of(w.dataset),
    output:
        features="data/features/{dataset}/{variant}/features.npy",
        samples="data/features/{dataset}/{variant}/samples.parquet",
        metadata="data/features/{dataset}/{variant}/features.json",
    log:
        "logs/extract_features/{dataset}/{variant}.log",
    benchmark:
        "benchmarks/extract_features/{dataset}/{variant}.tsv"
    conda:
        "../../envs/conda.yaml"
    threads: 2
    resources:
        mem_mb=extraction_memory,
        runtime=minutes(60, per_mb=2),
        gpu=lambda w: gpus(definition(w.dataset)["features"]["device"]),
        device=lambda w: definition(w.dataset)["features"]["device"],
        batch_size=lambda w: definition(w.dataset)["features"]["batch_size"],
    params:
        code=code_of("extract_features"),
        cfg=lambda w: {**dataset_settings(w.dataset), **extraction_settings(w.dataset)},
        paths=lambda w: FILES[w.dataset],
    script:
        "../scripts/extract_features.py"
