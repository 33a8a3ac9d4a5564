"""How well predicted effects agree with those of training again."""

import pandas as pd
from snakemake.iocontainers import Snakemake

from undue.run.job import job
from undue.tables import write_result
from undue.validation.effects import AGREEMENT_COLUMNS, agreement, pretty_agreement

snakemake: Snakemake  # put here by Snakemake

with job(snakemake):
    pairs = pd.concat(map(pd.read_parquet, snakemake.input.pairs), ignore_index=True)
    table = agreement(pairs, seed=snakemake.params.cfg["seed"])
    write_result(snakemake.output.table, AGREEMENT_COLUMNS, table, pretty_agreement(table))
