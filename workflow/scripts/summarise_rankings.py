"""What rankings predict, before and after an attack: one table of all data sets."""

import pandas as pd
from snakemake.iocontainers import Snakemake

from undue.run.job import job
from undue.tables import write_result
from undue.validation.rankings import RANKING_COLUMNS, pretty_rankings

snakemake: Snakemake  # put here by Snakemake

with job(snakemake):
    table = pd.concat(map(pd.read_parquet, snakemake.input.rankings), ignore_index=True)
    write_result(snakemake.output.table, RANKING_COLUMNS, table, pretty_rankings(table))
