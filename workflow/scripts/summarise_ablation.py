"""Success rates by number of starts, and what each part of the attack contributes: the paper's Table 2."""

import pandas as pd
from snakemake.iocontainers import Snakemake

from undue.run.job import job
from undue.tables import write_result
from undue.valuation.ablation import (
    STARTS_COLUMNS,
    TABLE2_COLUMNS,
    pretty_starts,
    pretty_table2,
    starts_rates,
    table2,
)

snakemake: Snakemake  # put here by Snakemake

with job(snakemake) as log:
    cfg = snakemake.params.cfg
    rates = pd.concat(
        [
            starts_rates(pd.read_parquet(path), run["dataset"], run["objective"], float(run["radius"]))
            for run, path in zip(cfg["published"], snakemake.input.by_starts, strict=True)
        ],
        ignore_index=True,
    )
    second = table2(rates, k=cfg["k"], variants=cfg["variants"])
    pretty = pretty_table2(second, cfg["attack.accuracy_budget"])
    for outputs, columns, table, readable in (
        (snakemake.output.starts, STARTS_COLUMNS, rates, pretty_starts(rates)),
        (snakemake.output.table2, TABLE2_COLUMNS, second, pretty),
    ):
        write_result(outputs, columns, table, readable)
    log.info("\n%s", pretty.to_string(index=False))
