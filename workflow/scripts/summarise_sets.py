"""How many of a set the multi-target attack brings into the top k; Fig. 6 of the paper."""

import pandas as pd
from snakemake.iocontainers import Snakemake

from undue.plots import save, style
from undue.run.job import job
from undue.tables import write_result
from undue.valuation.set_summary import (
    MULTI_TARGET_COLUMNS,
    multi_target,
    pretty_multi_target,
    success_of_sets,
)

snakemake: Snakemake  # put here by Snakemake

with job(snakemake), style():
    cfg = snakemake.params.cfg
    published = pd.concat(
        [
            pd.read_parquet(path).assign(dataset=run["dataset"], radius=float(run["radius"]))
            for run, path in zip(cfg["runs"], snakemake.input.published, strict=True)
        ],
        ignore_index=True,
    )
    table = multi_target(published)
    write_result(snakemake.output.table, MULTI_TARGET_COLUMNS, table, pretty_multi_target(table))
    save(success_of_sets(table), snakemake.output.figure, dpi=cfg["figures.dpi"])
