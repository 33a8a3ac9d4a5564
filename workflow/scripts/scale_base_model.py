"""The scaling attack: the downstream models that multiples of θ* lead to."""

import pandas as pd
from snakemake.iocontainers import Snakemake

from undue.arrays import write_arrays
from undue.fairness.judge import load_judge
from undue.fairness.scaling import SCALE_COLUMNS, carry_over, limits, scale_base
from undue.run.job import job
from undue.tables import write_table

snakemake: Snakemake  # put here by Snakemake

with job(snakemake) as log:
    cfg = snakemake.params.cfg
    judge = load_judge(snakemake.input.problem, snakemake.input.model, snakemake.wildcards.metric, cfg)
    rows, removed = scale_base(
        judge,
        cfg["fairness.scales"],
        budgets=cfg["fairness.log_loss_budgets"],
        radii=cfg["fairness.direct_radii"],
    )
    for row in rows[rows["status"] != "optimal"].itertuples():
        log.warning(
            "scale %g: the program is infeasible: asks unfairness to change by %.4g, attainable is %.4g%s",
            row.scale,
            row.asked,
            row.attainable,
            "; relaxed to that" if row.status == "relaxed" else "",
        )
    loops = [rows, limits(judge)]
    if cfg["fairness.carry_over"]:
        loops.append(carry_over(judge, cfg["fairness.scales"]))
    write_table(snakemake.output.scales, SCALE_COLUMNS, pd.concat(loops, ignore_index=True))
    write_arrays(snakemake.output.removed, {"scale": rows["scale"].to_numpy(), "removed": removed})
    log.info("%d scales, gap %.4f to %.4f on test", len(rows), rows["gap_test"].min(), rows["gap_test"].max())
