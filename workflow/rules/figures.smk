# in:  results/tables/, results/<dataset>/attack/
# out: results/figures/<name>.svg and .png


rule plot_attack_success:
    input:
        success=f"{RESULTS}/tables/attack_success.parquet",
    output:
        figure("figure4", caption="figure4", title="Figure 4: success against accuracy"),
    log:
        f"logs/plot_attack_success/{RESULTS}.log",
    benchmark:
        f"benchmarks/plot_attack_success/{RESULTS}.tsv"
    conda:
        "../../envs/conda.yaml"
    threads: 1
    resources:
        mem_mb=memory(),
    params:
        code=code_of("plot_attack_success"),
        cfg=slice_of("figures.dpi", "attack.accuracy_budget"),
    script:
        "../scripts/plot_attack_success.py"


rule plot_top_ranked:
    input:
        **ATTACK_INPUT,
        samples=lambda w: features(w.dataset, "samples.parquet"),
        files=lambda w: dataset_inputs(w.dataset),
        published=expand(
            rules.publish_attacks.output.published,
            objective=MAIN_OBJECTIVE,
            radius=RADII,
            allow_missing=True,
        ),
        models=expand(
            rules.publish_attacks.output.models,
            objective=MAIN_OBJECTIVE,
            radius=RADII,
            allow_missing=True,
        ),
    output:
        figure("top_ranked_{dataset}", caption="top_ranked", title="Top ranks of {dataset}"),
    log:
        f"logs/plot_top_ranked/{RESULTS}/{{dataset}}.log",
    benchmark:
        f"benchmarks/plot_top_ranked/{RESULTS}/{{dataset}}.tsv"
    conda:
        "../../envs/conda.yaml"
    threads: 1
    resources:
        mem_mb=memory(12),
    params:
        code=code_of("plot_top_ranked"),
        cfg=lambda w: {
            **dataset_settings(w.dataset),
            **calculator_settings(w.dataset),
            **slice_of("influence.tolerance", "figures.gallery_targets", "figures.dpi", "attack.radii"),
        },
        paths=lambda w: FILES[w.dataset],
    script:
        "../scripts/plot_top_ranked.py"
