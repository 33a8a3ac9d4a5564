# in:  data/registry.tsv (the row of the file)
# out: data/downloads/<file>, as the registry's checksum says


# Where Snakemake itself runs: a cluster's nodes often have no network.
localrules:
    download,


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
        # What the file must be. Where it is found is read by the script and is no reason to fetch it again.
        cfg=lambda w: required(w.file),
    script:
        "../scripts/download.py"
