"""How well predicted effects agree with those of training again."""

import pandas as pd
from snakemake.iocontainers import Snakemake

from undue.run.job import job
from undue.tables import write_csv, write_markdown, write_table
from undue.validation.pairs import AGREEMENT_COLUMNS, agreement, pretty_agreement

snakemake: Snakemake  # put here by Snakemake

with job(snakemake):
    pairs = pd.concat(map(pd.read_parquet, snakemake.input.pairs), ignore_index=True)
    table = agreement(pairs, seed=snakemake.params.cfg["seed"])
    parquet, csv, markdown = snakemake.output.table
    write_table(parquet, AGREEMENT_COLUMNS, table)
    write_csv(csv, table)
    write_markdown(markdown, pretty_agreement(table))
