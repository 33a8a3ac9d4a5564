"""Easy and hard targets: their original ranks, and how sensitive influences of each rank are (Fig. 5)."""

import pandas as pd
from snakemake.iocontainers import Snakemake

from undue.files import read_json
from undue.plots import save, style
from undue.run.job import job
from undue.tables import write_result
from undue.valuation.analysis_figures import easy_and_hard
from undue.valuation.easy import EASY_COLUMNS, easy_summary, easy_targets, pretty_easy

snakemake: Snakemake  # put here by Snakemake

with job(snakemake) as log, style():
    cfg = snakemake.params.cfg
    datasets, objective, k = cfg["data.use"], cfg["objective"], cfg["k"]
    targets = easy_targets(pd.read_parquet(snakemake.input.attacks), objective=objective, k=k)
    gradients = {
        dataset: pd.read_parquet(path)
        for dataset, path in zip(datasets, snakemake.input.gradients, strict=True)
    }
    samples = {
        dataset: int(read_json(path)["samples_train"])
        for dataset, path in zip(datasets, snakemake.input.models, strict=True)
    }
    table = pd.DataFrame(
        [
            easy_summary(
                targets[targets["dataset"] == dataset],
                gradients[dataset],
                dataset=dataset,
                objective=objective,
                k=k,
                samples=samples[dataset],
            )
            for dataset in datasets
        ]
    )
    write_result(snakemake.output.table, EASY_COLUMNS, table, pretty_easy(table))
    log.info("\n%s", pretty_easy(table).to_string(index=False))
    every = pd.concat([part.assign(dataset=name) for name, part in gradients.items()], ignore_index=True)
    save(easy_and_hard(targets, every, samples), snakemake.output.figure, dpi=cfg["figures.dpi"])
