"""Attack the influence ranks of one block of targets: all learning rates, one start, one radius."""

import pandas as pd
import torch
from snakemake.iocontainers import Snakemake

from undue.arrays import write_arrays
from undue.device import choose_device
from undue.run.job import job
from undue.tables import write_table
from undue.valuation.attack import (
    CANDIDATE_COLUMNS,
    TRAJECTORY_COLUMNS,
    Lane,
    Plan,
    attack,
    candidate_table,
    starts,
    trajectory_table,
)
from undue.valuation.calculator import load_setting
from undue.valuation.objectives import objective_weights

snakemake: Snakemake  # put here by Snakemake

with job(snakemake):
    cfg = snakemake.params.cfg
    setting = load_setting(
        snakemake.input.features,
        snakemake.input.split,
        snakemake.input.model,
        cfg,
        dtype=torch.float32,
        device=choose_device(cfg["attack.device"], key="attack.device"),
    )
    plan = Plan(
        weights=objective_weights(
            snakemake.wildcards.objective, suppressed_ranks=cfg["attack.suppressed_ranks"]
        ),
        radius=float(snakemake.wildcards.radius),
        steps=cfg["attack.steps"],
        drop_at=cfg["attack.drop_at"],
        ranks=tuple(cfg["attack.ranks"]),
        tolerance=cfg["attack.tolerance"],
        monitor_every=cfg["attack.monitor_every"],
        memory=cfg["attack.memory_gb"] * 1e9,
    )
    targets = pd.read_parquet(snakemake.input.targets)["index"].unique()
    rows = setting.train_index.searchsorted(targets)
    lanes = [Lane(int(row), rate) for row in rows for rate in cfg["attack.learning_rates"]]
    begin = starts(
        setting.theta,
        plan.radius,
        [lane.row for lane in lanes],
        seed=cfg["seed"],
        start=int(snakemake.wildcards.seed),
    )
    trajectories, candidates = attack(setting.calculator, setting.basis, setting.theta, begin, lanes, plan)
    target = setting.train_index[[lane.row for lane in lanes]]
    rate = [lane.learning_rate for lane in lanes]
    write_table(snakemake.output.trajectory, TRAJECTORY_COLUMNS, trajectory_table(trajectories, target, rate))
    write_table(
        snakemake.output.candidates,
        CANDIDATE_COLUMNS,
        candidate_table(candidates, trajectories, target, rate),
    )
    write_arrays(snakemake.output.models, {"theta": candidates.theta})
