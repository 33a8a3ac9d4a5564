# in:  results/<dataset>/model.safetensors, attack/targets/
# out: results/<dataset>/attack/baseline/: trials by block of targets, published.parquet
#      results/tables/baseline


rule reweigh_loss:
    input:
        **ATTACK_INPUT,
        targets=rules.select_targets.output.targets,
    output:
        trials=f"{RESULTS}/{{dataset}}/attack/baseline/block={{block}}.parquet",
    log:
        f"logs/reweigh_loss/{RESULTS}/{{dataset}}/block={{block}}.log",
    benchmark:
        f"benchmarks/reweigh_loss/{RESULTS}/{{dataset}}/block={{block}}.tsv"
    conda:
        "../../envs/conda.yaml"
    threads: 2
    resources:
        mem_mb=memory(8, base=1000 + LANES_MB),
        lanes_mb=LANES_MB,
        runtime=minutes(60, per_class=0.1),
        gpu=gpus(ATTACK["device"]),
        device=ATTACK["device"],
    params:
        code=code_of("reweigh_loss"),
        cfg=lambda w: {
            **calculator_settings(w.dataset),
            **slice_of("seed", "baseline"),
        },
    script:
        "../scripts/reweigh_loss.py"


rule publish_baseline:
    input:
        targets=[
            rules.select_targets.output.targets.format(dataset=dataset, block=block)
            for dataset in DATASETS
            for block in BLOCKS
        ],
        trials=[
            rules.reweigh_loss.output.trials.format(dataset=dataset, block=block)
            for dataset in DATASETS
            for block in BLOCKS
        ],
        models=expand(rules.train_model.output.metadata, dataset=DATASETS),
    output:
        published=BASELINE,
        table=table("baseline", title="Baseline by weight"),
    log:
        f"logs/publish_baseline/{RESULTS}.log",
    benchmark:
        f"benchmarks/publish_baseline/{RESULTS}.tsv"
    conda:
        "../../envs/conda.yaml"
    threads: 1
    resources:
        mem_mb=memory(),
    params:
        code=code_of("publish_baseline"),
        cfg=slice_of("data.use", "attack.accuracy_budget"),
    script:
        "../scripts/publish_baseline.py"
