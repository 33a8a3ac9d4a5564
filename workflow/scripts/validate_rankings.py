"""What removing the first and last samples of a ranking really does, before and after an attack."""

from functools import partial

import pandas as pd
import torch
from snakemake.iocontainers import Snakemake

from undue.arrays import read_arrays
from undue.progress import Progress
from undue.run.job import job
from undue.tables import write_table
from undue.validation.effects import PAIR_COLUMNS
from undue.validation.rankings import (
    RANKING_COLUMNS,
    REMOVED_COLUMNS,
    damping_pairs,
    draw_random,
    rank,
    ranking_table,
    removed_table,
    retrain_without,
    rows_to_remove,
)
from undue.valuation.calculator import load_exact_setting

snakemake: Snakemake  # put here by Snakemake

with job(snakemake) as log:
    cfg = snakemake.params.cfg
    dataset, samples = snakemake.wildcards.dataset, cfg["validation.ranking_samples"]
    setting = load_exact_setting(snakemake.input.features, snakemake.input.split, snakemake.input.model, cfg)
    ranking = partial(rank, setting, samples=samples, tolerance=cfg["influence.tolerance"])
    rankers = [ranking(setting.theta, radius=0, target=-1)]
    (published,), (models,) = map(list, (snakemake.input.published, snakemake.input.models))
    verdicts = pd.read_parquet(published)
    # The models that an attacker would dare to publish, of the smallest k.
    shown = verdicts[(verdicts["k"] == verdicts["k"].min()) & verdicts["within_budget"]]
    theta = read_arrays(models)["theta"]
    for row in shown.itertuples():
        manipulated = torch.from_numpy(theta[row.theta])[..., None]
        radius = float(cfg["radius"])
        rankers.append(ranking(manipulated, radius=radius, target=row.target))
    drawn = draw_random(len(setting.train_index), samples, cfg["seed"])
    rows = rows_to_remove(rankers, drawn)
    log.info("%d rankings; training again without each of %d samples", len(rankers), len(rows))
    truth = retrain_without(
        setting,
        rows,
        gradient_norm=cfg["validation.gradient_norm"],
        progress=Progress(log, len(rows), "models").update,
    )
    write_table(
        snakemake.output.rankings,
        RANKING_COLUMNS,
        ranking_table(rankers, truth, drawn, dataset=dataset, seed=cfg["seed"]),
    )
    write_table(
        snakemake.output.removed,
        REMOVED_COLUMNS,
        removed_table(setting, rankers, truth, drawn, dataset=dataset),
    )
    dampings = sorted({*cfg["validation.dampings"], cfg["influence.damping"]})
    pairs = damping_pairs(setting, rankers[0], truth, drawn, dampings, dataset=dataset, warn=log.warning)
    write_table(snakemake.output.pairs, PAIR_COLUMNS, pairs)
