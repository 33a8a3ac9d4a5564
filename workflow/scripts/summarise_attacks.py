"""Success rates of all attacks, by data set, objective, radius and k; the paper's Table 1."""

import pandas as pd
from snakemake.iocontainers import Snakemake

from undue.files import read_json, write_json
from undue.run.job import job
from undue.tables import write_csv, write_markdown, write_table
from undue.valuation.summary import (
    ATTACKS_COLUMNS,
    SUCCESS_COLUMNS,
    TABLE1_COLUMNS,
    metrics,
    pretty_attacks,
    pretty_success,
    pretty_table1,
    success_rates,
    table1,
)

snakemake: Snakemake  # put here by Snakemake

with job(snakemake) as log:
    cfg = snakemake.params.cfg
    published = [pd.read_parquet(path) for path in snakemake.input.published]
    models = dict(zip(cfg["data.use"], map(read_json, snakemake.input.models), strict=True))
    attacks = pd.concat(
        [
            table.assign(dataset=run["dataset"], objective=run["objective"], radius=float(run["radius"]))
            for run, table in zip(cfg["published"], published, strict=True)
        ],
        ignore_index=True,
    )
    rates = pd.concat(
        [
            success_rates(table, run["dataset"], run["objective"], float(run["radius"]))
            for run, table in zip(cfg["published"], published, strict=True)
        ],
        ignore_index=True,
    )
    first = table1(rates, models, damping=cfg["influence.damping"])
    for outputs, columns, table, pretty in (
        (snakemake.output.attacks, ATTACKS_COLUMNS, attacks, pretty_attacks(attacks)),
        (snakemake.output.success, SUCCESS_COLUMNS, rates, pretty_success(rates)),
        (snakemake.output.table1, TABLE1_COLUMNS, first, pretty_table1(first, cfg["attack.accuracy_budget"])),
    ):
        parquet, csv, markdown = outputs
        write_table(parquet, columns, table)
        write_csv(csv, table[list(columns)])
        write_markdown(markdown, pretty)
    write_json(snakemake.output.metrics, metrics(first, models))
    log.info("\n%s", pretty_table1(first, cfg["attack.accuracy_budget"]).to_string(index=False))
