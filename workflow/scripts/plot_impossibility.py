"""The best rank that the target of Theorem 1 reaches, and where the theorem stops holding."""

import pandas as pd
from snakemake.iocontainers import Snakemake

from undue.plots import save, style
from undue.run.job import job
from undue.valuation.impossibility_figure import best_rank_panels

snakemake: Snakemake  # put here by Snakemake

with job(snakemake), style():
    figure = best_rank_panels(pd.read_parquet(snakemake.input.table))
    save(figure, snakemake.output, dpi=snakemake.params.cfg["figures.dpi"])
