"""Influence of every training sample at θ*, and the ranking that follows from it."""

import pandas as pd
from snakemake.iocontainers import Snakemake

from undue.calculus.influence import ranks
from undue.run.job import job
from undue.tables import write_table
from undue.valuation.calculator import INFLUENCE_COLUMNS, load_exact_setting

snakemake: Snakemake  # put here by Snakemake

with job(snakemake) as log:
    cfg = snakemake.params.cfg
    tolerance = cfg["influence.tolerance"]
    setting = load_exact_setting(snakemake.input.features, snakemake.input.split, snakemake.input.model, cfg)
    calculator, problem = setting.calculator, setting.calculator.problem
    theta = setting.basis.to_basis(setting.theta)
    train = calculator.at(theta)
    columns = {"index": setting.train_index}
    for suffix, half in (("", problem.shared), ("_pristine", problem.pristine)):
        score, solution = calculator.score(train, half.at(theta), tolerance=tolerance)
        solution.require("influence.tolerance", "influence.damping", "model.l2", what="the influence solve")
        columns[f"influence{suffix}"] = (calculator.rank_sign * score[:, 0]).numpy()
        columns[f"rank{suffix}"] = ranks(score)[:, 0].numpy()
        log.info("%d products, relative residual %.1e", solution.iterations, solution.residual)
    write_table(snakemake.output.influence, INFLUENCE_COLUMNS, pd.DataFrame(columns))
