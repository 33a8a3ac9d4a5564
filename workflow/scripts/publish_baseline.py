"""Choose the reweighed model that would be published for each target; what each weight does."""

import pandas as pd
from snakemake.iocontainers import Snakemake

from undue.budget import honest_accuracies
from undue.files import read_json
from undue.run.job import job
from undue.tables import write_result, write_table
from undue.valuation.baseline import (
    BASELINE_COLUMNS,
    BY_WEIGHT_COLUMNS,
    pretty_by_weight,
    publish_baseline,
    rates_by_weight,
)

snakemake: Snakemake  # put here by Snakemake

with job(snakemake) as log:
    cfg = snakemake.params.cfg
    budget = cfg["attack.accuracy_budget"]
    datasets = cfg["data.use"]
    blocks = len(snakemake.input.targets) // len(datasets)
    rates = []
    for number, dataset in enumerate(datasets):
        own = slice(number * blocks, (number + 1) * blocks)
        targets, trials = (
            pd.concat(map(pd.read_parquet, paths[own]), ignore_index=True)
            for paths in (snakemake.input.targets, snakemake.input.trials)
        )
        honest = honest_accuracies(read_json(snakemake.input.models[number]))
        # A sample may be a target of several k, and then in several blocks.
        trials = trials.drop_duplicates(["target", "weight"])
        published = publish_baseline(targets, trials, honest=honest, budget=budget)
        write_table(snakemake.output.published[number], BASELINE_COLUMNS, published)
        rates.append(rates_by_weight(targets, trials, dataset, honest=honest, budget=budget))
    table = pd.concat(rates, ignore_index=True)
    write_result(snakemake.output.table, BY_WEIGHT_COLUMNS, table, pretty_by_weight(table))
    log.info("\n%s", pretty_by_weight(table).to_string(index=False))
