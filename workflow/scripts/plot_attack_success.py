"""Fig. 4 of the paper: success against accuracy as the radius grows."""

import pandas as pd
from snakemake.iocontainers import Snakemake

from undue.plots import save, style
from undue.run.job import job
from undue.valuation.figures import success_against_accuracy

snakemake: Snakemake  # put here by Snakemake

with job(snakemake), style():
    cfg = snakemake.params.cfg
    rates = pd.read_parquet(snakemake.input.success)
    figure = success_against_accuracy(rates, budget=cfg["attack.accuracy_budget"])
    save(figure, snakemake.output, dpi=cfg["figures.dpi"])
