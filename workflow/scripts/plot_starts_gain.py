"""What several random starts gain, by radius."""

import pandas as pd
from snakemake.iocontainers import Snakemake

from undue.plots import save, style
from undue.run.job import job
from undue.valuation.analysis_figures import success_against_starts

snakemake: Snakemake  # put here by Snakemake

with job(snakemake), style():
    cfg = snakemake.params.cfg
    rates = pd.read_parquet(snakemake.input.starts)
    shown = rates[(rates["objective"] == cfg["objective"]) & (rates["k"] == cfg["k"])]
    figure = success_against_starts(shown, budget=cfg["attack.accuracy_budget"])
    save(figure, snakemake.output, dpi=cfg["figures.dpi"])
