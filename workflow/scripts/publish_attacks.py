"""Choose the model that the attacker publishes for each target, and judge it in float64."""

import numpy as np
import pandas as pd
import torch
from snakemake.iocontainers import Snakemake

from undue.arrays import write_arrays
from undue.files import read_json
from undue.run.job import job
from undue.tables import write_table
from undue.valuation.calculator import load_setting
from undue.valuation.publish import PUBLISHED_COLUMNS, choose, confirm, gather, judge

snakemake: Snakemake  # put here by Snakemake

with job(snakemake) as log:
    cfg = snakemake.params.cfg
    setting = load_setting(
        snakemake.input.features,
        snakemake.input.split,
        snakemake.input.model,
        cfg,
        dtype=torch.float64,
        device=torch.device("cpu"),
    )
    metadata = read_json(snakemake.input.metadata)
    targets = pd.concat(map(pd.read_parquet, snakemake.input.targets), ignore_index=True)
    blocks = len(snakemake.input.targets)
    runs = [(seed, block) for seed in cfg["attack.seeds"] for block in range(blocks)]
    candidates = pd.concat(
        [
            pd.read_parquet(path).assign(seed=seed, run=run)
            for run, ((seed, _), path) in enumerate(zip(runs, snakemake.input.candidates, strict=True))
        ],
        ignore_index=True,
    )
    chosen = choose(targets, candidates)
    chosen, theta = gather(chosen, snakemake.input.models)
    reached = chosen[chosen["reached"]].drop_duplicates("theta").sort_values("theta")
    rows = setting.train_index.searchsorted(reached["target"].to_numpy())
    log.info("%d of %d claims to check", chosen["reached"].sum(), len(chosen))
    checked = confirm(setting.calculator, setting.basis, theta, np.asarray(rows))
    published = judge(
        chosen,
        checked,
        honest={half: metadata[f"accuracy_{half}"] for half in ("shared", "pristine")},
        budget=cfg["attack.accuracy_budget"],
    )
    write_table(snakemake.output.published, PUBLISHED_COLUMNS, published)
    write_arrays(snakemake.output.models, {"theta": theta})
