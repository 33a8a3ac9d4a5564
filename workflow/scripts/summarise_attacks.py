"""Success rates of all attacks, by data set, objective, radius and k; the paper's Table 1."""

import math
from itertools import islice

import pandas as pd
from snakemake.iocontainers import Snakemake

from undue.files import read_json, write_json
from undue.run.job import job
from undue.tables import write_result
from undue.valuation.differences import differences, markdown_list, refused
from undue.valuation.paper import BASELINE
from undue.valuation.summary import (
    ATTACK_SUCCESS_COLUMNS,
    ATTACKS_COLUMNS,
    TABLE1_COLUMNS,
    best_ranks,
    count_invalid,
    metrics,
    pretty_attacks,
    pretty_success,
    pretty_table1,
    rates_as_published,
    success_rates,
    table1,
)

snakemake: Snakemake  # put here by Snakemake

with job(snakemake) as log:
    cfg = snakemake.params.cfg
    budget = cfg["attack.accuracy_budget"]
    models = dict(zip(cfg["data.use"], map(read_json, snakemake.input.models), strict=True))
    trajectories = iter(snakemake.input.trajectories)
    attacks, rates, baseline = [], [], []
    for run, path in zip(cfg["published"], snakemake.input.published, strict=True):
        dataset, objective, radius = run["dataset"], run["objective"], float(run["radius"])
        published = pd.read_parquet(path)
        best = best_ranks(list(islice(trajectories, run["jobs"])))
        attacks.append(published.assign(dataset=dataset, objective=objective, radius=radius))
        rates.append(
            success_rates(published, dataset, objective, radius).merge(
                rates_as_published(published, best, budget=budget), on="k"
            )
        )
    for dataset, path in zip(cfg["baseline"], snakemake.input.baseline, strict=True):
        published = pd.read_parquet(path)
        best = published.groupby("target")["best_rank"].min()
        baseline.append(
            success_rates(published, dataset, BASELINE, math.nan).merge(
                rates_as_published(published, best, budget=budget), on="k"
            )
        )
    every = pd.concat(attacks, ignore_index=True)
    success = pd.concat(rates, ignore_index=True)
    # The data sets' order is that of the first rows; the baseline comes before the attacks.
    rows = pd.concat([*baseline, success], ignore_index=True)
    first = table1(rows, models, damping=cfg["damping"], variants=cfg["variants"])
    readable = pretty_table1(first, budget)
    invalid, lanes = count_invalid(snakemake.input.trajectories)
    checked = refused(
        claims=int(every["reached"].sum()),
        unconfirmed=int(success["unconfirmed"].sum()),
        attacks=lanes,
        invalid=invalid,
    )
    below = markdown_list([*differences(cfg, cfg["features"], models, cfg["variants"]), checked])
    for outputs, columns, table, pretty, text in (
        (snakemake.output.attacks, ATTACKS_COLUMNS, every, pretty_attacks(every), ""),
        (snakemake.output.success, ATTACK_SUCCESS_COLUMNS, success, pretty_success(success), ""),
        (snakemake.output.table1, TABLE1_COLUMNS, first, readable, below),
    ):
        write_result(outputs, columns, table, pretty, below=text)
    write_json(snakemake.output.metrics, metrics(first, models))
    log.info("\n%s\n%s", readable.to_string(index=False), below)
