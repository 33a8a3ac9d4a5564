"""Choose one block of the training samples that the attack tries to raise."""

import pandas as pd
from snakemake.iocontainers import Snakemake

from undue.run.job import job
from undue.tables import write_table
from undue.valuation.targets import TARGET_COLUMNS, target_block

snakemake: Snakemake  # put here by Snakemake

with job(snakemake) as log:
    cfg = snakemake.params.cfg
    influence = pd.read_parquet(snakemake.input.influence)
    targets = target_block(
        influence["index"].to_numpy(),
        influence["rank"].to_numpy(),
        ranks=cfg["attack.ranks"],
        first=cfg["first"],
        count=cfg["count"],
        seed=cfg["seed"],
    )
    write_table(snakemake.output.targets, TARGET_COLUMNS, targets)
    log.info("%d samples to raise", targets["index"].nunique())
