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
        mem_mb=4000,
        # Used if there is one; on a cluster, features.device: cpu asks for none.
        gpu=lambda w: int(definition(w.dataset)["features"]["device"] != "cpu"),
    params:
        code=code_of("extract_features"),
        cfg=lambda w: {**dataset_settings(w.dataset), **extraction_settings(w.dataset)},
        paths=lambda w: FILES[w.dataset],
    script:
        "../scripts/extract_features.py"
