# in:  data/registry.tsv (the row of the file)
# out: data/downloads/<file>, as the registry's checksum says


rule download:
    output:
        "data/downloads/{file}",
    log:
        "logs/download/{file}.log",
    benchmark:
        "benchmarks/download/{file}.tsv"
    conda:
        "../../envs/conda.yaml"
    threads: 1
    resources:
        mem_mb=500,
    params:
        code=code_of("download"),
        cfg=lambda w: next((vars(entry) for entry in REGISTRY.values() if entry.file == w.file), None),
    script:
        "../scripts/download.py"
