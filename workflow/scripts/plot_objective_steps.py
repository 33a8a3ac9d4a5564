"""Objective and rank against the step, for every objective of the run."""

import pandas as pd
from snakemake.iocontainers import Snakemake

from undue.plots import save, style
from undue.run.job import job
from undue.valuation.analysis_figures import objectives_against_steps
from undue.valuation.convergence import quartiles

snakemake: Snakemake  # put here by Snakemake

with job(snakemake), style():
    cfg = snakemake.params.cfg
    paths = list(snakemake.input.trajectories)
    blocks = len(paths) // (len(cfg["data.use"]) * len(cfg["attack.objectives"]))
    curves = []
    for dataset, influence in zip(cfg["data.use"], snakemake.input.influence, strict=True):
        spread = float(pd.read_parquet(influence, columns=["influence"])["influence"].std(ddof=0))
        for objective in cfg["attack.objectives"]:
            trajectories, paths = paths[:blocks], paths[blocks:]
            curves.append(quartiles(trajectories, spread=spread).assign(dataset=dataset, objective=objective))
    figure = objectives_against_steps(pd.concat(curves, ignore_index=True))
    save(figure, snakemake.output, dpi=cfg["figures.dpi"])
