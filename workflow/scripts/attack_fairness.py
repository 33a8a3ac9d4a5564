"""The direct attack: base models found by the gradient of the downstream gap, within budgets."""

import numpy as np
from snakemake.iocontainers import Snakemake

from undue.arrays import write_arrays
from undue.fairness.direct import DIRECT_COLUMNS, Budget, Smoothing, attack_directly
from undue.fairness.judge import load_judge
from undue.run.job import job
from undue.tables import write_table

snakemake: Snakemake  # put here by Snakemake

with job(snakemake) as log:
    cfg = snakemake.params.cfg
    judge = load_judge(snakemake.input.problem, snakemake.input.model, snakemake.wildcards.metric, cfg)
    radii = sorted(cfg["fairness.direct_radii"])
    budgets = [
        *(Budget(radius, np.inf) for radius in radii),
        *(Budget(radii[-1], log_loss) for log_loss in cfg["fairness.log_loss_budgets"]),
    ]
    rows, models = attack_directly(
        judge,
        budgets,
        steps=cfg["fairness.direct_steps"],
        smoothing=Smoothing(cfg["fairness.smoothing"], cfg["fairness.sharpness"]),
        accuracy_budget=cfg["fairness.downstream_budget"],
    )
    write_table(snakemake.output.direct, DIRECT_COLUMNS, rows)
    write_arrays(snakemake.output.models, {"theta": models.numpy()})
    for row in rows.itertuples():
        log.info("C = %g, log-loss %+g: gap %.4f on test", row.radius, row.log_loss_budget, row.gap_test)
