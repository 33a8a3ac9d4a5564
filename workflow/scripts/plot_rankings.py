"""What damping does to predictions, and what rankings predict before and after an attack."""

import pandas as pd
from snakemake.iocontainers import Snakemake

from undue.plots import save, style
from undue.run.job import job
from undue.validation.figures import damping_curves, removals

snakemake: Snakemake  # put here by Snakemake

with job(snakemake), style():
    cfg = snakemake.params.cfg
    table = pd.read_parquet(snakemake.input.table)
    figure = damping_curves(table, dampings=cfg["dampings"])
    save(figure, snakemake.output.damping, dpi=cfg["figures.dpi"])
    removed = pd.concat(map(pd.read_parquet, snakemake.input.removed), ignore_index=True)
    save(removals(removed), snakemake.output.rankings, dpi=cfg["figures.dpi"])
