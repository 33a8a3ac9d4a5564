"""Success against the number of training samples, over data sets without a λ, δ or sign of their own."""

import pandas as pd
from snakemake.iocontainers import Snakemake

from undue.files import read_json
from undue.plots import save, style
from undue.run.job import job
from undue.valuation.analysis_figures import success_against_size

snakemake: Snakemake  # put here by Snakemake

with job(snakemake), style():
    cfg = snakemake.params.cfg
    first = pd.read_parquet(snakemake.input.table1)
    samples = {
        dataset: int(read_json(path)["samples_train"])
        for dataset, path in zip(cfg["datasets"], snakemake.input.models, strict=True)
    }
    rates = first[(first["objective"] == cfg["objective"]) & first["dataset"].isin(samples)]
    figure = success_against_size(rates, samples, budget=cfg["attack.accuracy_budget"])
    save(figure, snakemake.output, dpi=cfg["figures.dpi"])
