"""Choose the model that the attacker publishes for each target, by number of starts; judge it in float64."""

import numpy as np
import pandas as pd
from snakemake.iocontainers import Snakemake

from undue.arrays import write_arrays
from undue.budget import honest_accuracies
from undue.files import read_json
from undue.run.job import job
from undue.tables import write_table
from undue.valuation.calculator import load_exact_setting
from undue.valuation.evaluate import confirm
from undue.valuation.publish import (
    BY_STARTS_COLUMNS,
    PUBLISHED_COLUMNS,
    choose_by_starts,
    gather,
    judge_by_starts,
    publish,
)

snakemake: Snakemake  # put here by Snakemake

with job(snakemake) as log:
    cfg = snakemake.params.cfg
    setting = load_exact_setting(snakemake.input.features, snakemake.input.split, snakemake.input.model, cfg)
    targets = pd.concat(map(pd.read_parquet, snakemake.input.targets), ignore_index=True)
    blocks = len(snakemake.input.targets)
    runs = [(seed, block) for seed in cfg["seeds"] for block in range(blocks)]
    candidates = pd.concat(
        [
            pd.read_parquet(path).assign(seed=seed, run=run)
            for run, ((seed, _), path) in enumerate(zip(runs, snakemake.input.candidates, strict=True))
        ],
        ignore_index=True,
    )
    chosen = choose_by_starts(targets, candidates, cfg["seeds"])
    # One pass over the distinct iterates, most of which are published with several numbers of starts.
    chosen, theta = gather(chosen, snakemake.input.models)
    reached = chosen[chosen["reached"]].drop_duplicates("theta").sort_values("theta")
    rows = setting.train_index.searchsorted(reached["target"].to_numpy())
    log.info("%d models to check for %d claims", len(theta), chosen["reached"].sum())
    checked = confirm(setting.calculator, setting.basis, theta, np.asarray(rows))
    verdicts = judge_by_starts(
        chosen,
        checked,
        honest=honest_accuracies(read_json(snakemake.input.metadata)),
        budget=cfg["attack.accuracy_budget"],
    )
    published, by_starts, models = publish(verdicts)
    write_table(snakemake.output.published, PUBLISHED_COLUMNS, published)
    write_table(snakemake.output.by_starts, BY_STARTS_COLUMNS, by_starts)
    write_arrays(snakemake.output.models, {"theta": theta[:models]})
