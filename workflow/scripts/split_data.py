"""Divide a data set into training samples and the two halves of the test samples."""

import pandas as pd
from snakemake.iocontainers import Snakemake

from undue.data.split import SPLIT_COLUMNS, split, thin
from undue.run.job import job
from undue.tables import write_table

snakemake: Snakemake  # put here by Snakemake

with job(snakemake) as log:
    cfg, train_samples = snakemake.params.cfg["split"], snakemake.params.cfg["train_samples"]
    samples = pd.read_parquet(snakemake.input.samples)
    part = split(
        samples["label"].to_numpy(),
        samples["split"].to_numpy(dtype=object),
        test_fraction=cfg["test_fraction"],
        seed=cfg["seed"],
    )
    if train_samples is not None:
        part = thin(samples["label"].to_numpy(), part, train_samples, seed=cfg["seed"])
    write_table(snakemake.output.split, SPLIT_COLUMNS, samples[["index", "label"]].assign(part=part))
    log.info("%s", ", ".join(f"{count} {name}" for name, count in pd.Series(part).value_counts().items()))
