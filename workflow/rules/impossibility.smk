# in:  nothing; the data of the paper's Theorem 1 are made on the spot
# out: results/tables/impossibility, results/figures/impossibility


rule check_impossibility:
    output:
        table=table("impossibility", title="Where no attack can succeed"),
    log:
        f"logs/check_impossibility/{RESULTS}.log",
    benchmark:
        f"benchmarks/check_impossibility/{RESULTS}.tsv"
    conda:
        "../../envs/conda.yaml"
    threads: 1
    resources:
        mem_mb=memory(),
    params:
        code=code_of("check_impossibility"),
        cfg=slice_of("seed", "impossibility"),
    script:
        "../scripts/check_impossibility.py"


rule plot_impossibility:
    input:
        table=f"{RESULTS}/tables/impossibility.parquet",
    output:
        figure("impossibility", caption="impossibility", title="Where no attack can succeed"),
    log:
        f"logs/plot_impossibility/{RESULTS}.log",
    benchmark:
        f"benchmarks/plot_impossibility/{RESULTS}.tsv"
    conda:
        "../../envs/conda.yaml"
    threads: 1
    resources:
        mem_mb=memory(),
    params:
        code=code_of("plot_impossibility"),
        cfg=slice_of("figures.dpi"),
    script:
        "../scripts/plot_impossibility.py"
