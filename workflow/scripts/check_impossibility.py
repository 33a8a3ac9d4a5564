"""Theorem 1 of the paper: a sample that no model ranks among the top K, and where that stops holding."""

import logging

import pandas as pd
from snakemake.iocontainers import Snakemake

from undue.progress import Progress
from undue.run.job import job
from undue.tables import write_result
from undue.valuation.impossibility import (
    IMPOSSIBILITY_COLUMNS,
    Effort,
    cases,
    check,
    pretty_impossibility,
    summary,
)

snakemake: Snakemake  # put here by Snakemake

with job(snakemake) as log:
    cfg = snakemake.params.cfg
    section = cfg["impossibility"]
    effort = Effort(
        radii=tuple(section["radii"]),
        starts=section["starts"],
        learning_rates=tuple(section["learning_rates"]),
        steps=section["steps"],
        seed=cfg["seed"],
    )
    todo = list(
        cases(section["dimensions"], section["duplicates"], l2=section["l2"], damping=section["damping"])
    )
    # Each case is several short attacks, which would each report their progress.
    logging.getLogger("undue.valuation.attack").setLevel(logging.WARNING)
    progress = Progress(log, len(todo), "cases")
    rows = []
    for case in todo:
        rows.append(check(case, effort, section["models"]))
        progress.update(len(rows))
    table = pd.DataFrame(rows)
    write_result(snakemake.output.table, IMPOSSIBILITY_COLUMNS, table, pretty_impossibility(table))
    log.info("%s", ", ".join(f"{name}: {count}" for name, count in summary(table).items()))
