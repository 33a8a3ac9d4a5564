"""How sensitive the influences of the targets, and of other training samples, are to the parameters at θ*."""

import numpy as np
import pandas as pd
import torch
from snakemake.iocontainers import Snakemake

from undue.device import choose_device
from undue.run.job import job
from undue.tables import write_table
from undue.valuation.calculator import load_setting
from undue.valuation.gradients import GRADIENT_COLUMNS, gradient_norms, sample_others

snakemake: Snakemake  # put here by Snakemake

# Relative residual of the solves: norms are read to a few digits.
TOLERANCE = 1e-4

with job(snakemake) as log:
    cfg = snakemake.params.cfg
    setting = load_setting(
        snakemake.input.features,
        snakemake.input.split,
        snakemake.input.model,
        cfg,
        dtype=torch.float32,
        device=choose_device(snakemake.resources.device, key="attack.device"),
    )
    every = pd.concat(map(pd.read_parquet, snakemake.input.targets), ignore_index=True)
    targets = np.sort(every.loc[every["k"] == every["k"].min(), "index"].to_numpy())
    others = sample_others(
        setting.train_index, targets, count=cfg["figures.gradient_samples"], seed=cfg["seed"]
    )
    index = np.concatenate([targets, others])
    rows = setting.train_index.searchsorted(index)
    honest = pd.read_parquet(snakemake.input.influence).set_index("index").loc[index]
    log.info("%d targets, %d other samples", len(targets), len(others))
    table = pd.DataFrame(
        {
            "index": index,
            "target": np.arange(len(index)) < len(targets),
            "rank": honest["rank"].to_numpy(),
            "influence": honest["influence"].to_numpy(),
            "gradient_norm": gradient_norms(setting, rows, tolerance=TOLERANCE),
        }
    )
    write_table(snakemake.output.gradients, GRADIENT_COLUMNS, table)
