from snakemake.utils import min_version

min_version("9.0")


configfile: "config.yaml"


report: "workflow/report/workflow.rst"


include: "workflow/rules/common.smk"
include: "workflow/rules/fairness_common.smk"


rule all:
    input:
        FIGURES,
        TABLES,
        TRAJECTORIES,
        METRICS,
        FAIR_RESULTS,


rule data:
    input:
        downloads(),
        FAIR_DOWNLOADS,


rule features:
    input:
        [features(dataset, "features.npy") for dataset in [*DATASETS, *IMAGES]],


rule fairness:
    input:
        lambda w: FAIR_RESULTS,


include: "workflow/rules/data.smk"
include: "workflow/rules/features.smk"
include: "workflow/rules/model.smk"
include: "workflow/rules/valuation.smk"
include: "workflow/rules/multi_target.smk"
include: "workflow/rules/baseline.smk"
include: "workflow/rules/figures.smk"
include: "workflow/rules/analyses.smk"
include: "workflow/rules/fairness.smk"
include: "workflow/rules/impossibility.smk"
include: "workflow/rules/validation.smk"
include: "workflow/rules/guard.smk"
