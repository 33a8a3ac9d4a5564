"""What rankings predict, before and after an attack: one table of all data sets."""

import pandas as pd
from snakemake.iocontainers import Snakemake

from undue.run.job import job
from undue.tables import write_csv, write_markdown, write_table
from undue.validation.rankings import RANKING_COLUMNS, pretty_rankings

snakemake: Snakemake  # put here by Snakemake

with job(snakemake):
    table = pd.concat(map(pd.read_parquet, snakemake.input.rankings), ignore_index=True)
    parquet, csv, markdown = snakemake.output.table
    write_table(parquet, RANKING_COLUMNS, table)
    write_csv(csv, table)
    write_markdown(markdown, pretty_rankings(table))
