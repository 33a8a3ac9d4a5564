"""Predicted against actual effects of leaving one sample out, after Koh & Liang 2017, Figs. 1 to 3."""

import numpy as np
import pandas as pd
from snakemake.iocontainers import Snakemake

from undue.plots import save, style
from undue.run.job import job
from undue.validation.figures import early_stopping, harmful_twin, influence_parts, scatters

snakemake: Snakemake  # put here by Snakemake

with job(snakemake), style():
    dpi = snakemake.params.cfg["figures.dpi"]
    table = pd.read_parquet(snakemake.input.table)
    # The network is left out by default.
    removed = pd.concat(map(pd.read_parquet, [snakemake.input.softmax, *snakemake.input.network]))
    save(scatters(removed, table), snakemake.output.leave_one_out, dpi=dpi)
    save(scatters(pd.read_parquet(snakemake.input.hinge), table), snakemake.output.hinge, dpi=dpi)
    parts = pd.read_parquet(snakemake.input.parts)
    pixels = np.load(snakemake.input.features[0], mmap_mode="r", allow_pickle=False)
    shown = {
        f"test image {parts['test_sample'].iloc[0]}": pixels[parts["test_sample"].iloc[0]],
        f"harmful, same label: {(twin := harmful_twin(parts))}": pixels[twin],
    }
    save(influence_parts(parts, shown), snakemake.output.parts, dpi=dpi)
    save(early_stopping(table), snakemake.output.early, dpi=dpi)
