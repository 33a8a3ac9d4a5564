"""Attack the influence ranks of sets of training samples: all sets of one size, one radius."""

import numpy as np
import pandas as pd
import torch
from snakemake.iocontainers import Snakemake

from undue.arrays import write_arrays
from undue.budget import honest_accuracies, least_accuracy
from undue.files import read_json
from undue.run.job import job
from undue.tables import write_table
from undue.valuation.attack import Plan, starts
from undue.valuation.calculator import load_attack_setting, load_exact_setting, machine_settings
from undue.valuation.evaluate import evaluate
from undue.valuation.sets import (
    SET_PUBLISHED_COLUMNS,
    SET_TRAJECTORY_COLUMNS,
    SetLane,
    attack_sets,
    choose_lanes,
    draw_sets,
    judge_sets,
)

snakemake: Snakemake  # put here by Snakemake

with job(snakemake) as log:
    cfg = {**snakemake.params.cfg, **machine_settings(snakemake.resources)}
    size, radius = int(snakemake.wildcards.size), float(snakemake.wildcards.radius)
    files = (snakemake.input.features, snakemake.input.split, snakemake.input.model)
    setting = load_attack_setting(*files, cfg, "sets", *snakemake.wildcards)
    honest = honest_accuracies(read_json(snakemake.input.metadata))
    plan = Plan.of(cfg, objective=cfg["objective"], radius=radius, ranks=cfg["multi_target.ranks"])
    samples = len(setting.train_index)
    influence = pd.read_parquet(snakemake.input.influence).set_index("index")
    honest_rank = influence.loc[setting.train_index, "rank"].to_numpy()
    rows = draw_sets(samples, size=size, sets=cfg["multi_target.sets"], seed=cfg["seed"])
    lanes = [
        SetLane(number, seed, rate)
        for number in range(len(rows))
        for seed in cfg["attack.seeds"]
        for rate in cfg["attack.learning_rates"]
    ]
    # A set's starts are those of its first member.
    begin = torch.cat(
        [
            starts(setting.theta, radius, [int(rows[lane.set, 0])], seed=cfg["seed"], start=lane.seed)
            for lane in lanes
        ],
        dim=2,
    )
    trajectories, choices = attack_sets(
        setting.calculator,
        setting.basis,
        setting.theta,
        begin,
        rows,
        lanes,
        plan,
        least_accuracy=least_accuracy(honest["shared"], cfg["attack.accuracy_budget"]),
    )
    chosen = choose_lanes(choices, lanes, sets=len(rows))
    reached = chosen[chosen["reached"]]
    theta = np.stack(
        [choices[row.choice].theta[row.lane] for row in reached.itertuples()]
        or [np.empty(setting.theta.shape[:2], dtype=np.float32)]
    )[: len(reached)]
    exact = load_exact_setting(*files, cfg)
    checked = evaluate(exact.calculator, exact.basis, theta, rows[reached["set"].to_numpy(dtype=int)])
    published = judge_sets(
        chosen,
        choices,
        lanes,
        checked,
        honest_rank=honest_rank[rows],
        honest=honest,
        budget=cfg["attack.accuracy_budget"],
    )
    write_table(snakemake.output.trajectory, SET_TRAJECTORY_COLUMNS, trajectories)
    write_table(snakemake.output.published, SET_PUBLISHED_COLUMNS, published)
    write_arrays(snakemake.output.models, {"theta": theta})
    best = published[published["constrained"]].groupby("k")["in_top_shared"].mean()
    log.info("targets in the top k, within the accuracy budget: %s", best.to_dict())
