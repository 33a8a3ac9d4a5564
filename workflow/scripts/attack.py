"""Attack the influence ranks of one block of targets: all learning rates, one start, one radius."""

import pandas as pd
from snakemake.iocontainers import Snakemake

from undue.arrays import write_arrays
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
from undue.valuation.calculator import load_attack_setting, machine_settings

snakemake: Snakemake  # put here by Snakemake

with job(snakemake):
    cfg = {**snakemake.params.cfg, **machine_settings(snakemake.resources)}
    files = (snakemake.input.features, snakemake.input.split, snakemake.input.model)
    setting = load_attack_setting(*files, cfg, *snakemake.wildcards)
    plan = Plan.of(
        cfg,
        objective=snakemake.wildcards.objective,
        radius=float(snakemake.wildcards.radius),
        ranks=cfg["attack.ranks"],
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
