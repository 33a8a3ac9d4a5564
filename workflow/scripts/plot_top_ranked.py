"""The ten training samples ranked highest before and after an attack, the target framed."""

from pathlib import Path

import numpy as np
import pandas as pd
import torch
from snakemake.iocontainers import Snakemake

from undue.arrays import read_rows
from undue.data.datasets import ArrayDataset, open_dataset
from undue.plots import save, style
from undue.run.job import job
from undue.valuation.calculator import load_exact_setting, rank_samples
from undue.valuation.examples import choose_examples
from undue.valuation.figures import TopRanked, top_ranked

snakemake: Snakemake  # put here by Snakemake

SHOWN = 10

with job(snakemake) as log, style():
    cfg = snakemake.params.cfg
    setting = load_exact_setting(snakemake.input.features, snakemake.input.split, snakemake.input.model, cfg)
    published = pd.concat(
        [
            pd.read_parquet(path).assign(radius=radius, file=file)
            for file, (radius, path) in enumerate(
                zip(cfg["attack.radii"], snakemake.input.published, strict=True)
            )
        ],
        ignore_index=True,
    )
    examples = choose_examples(published, count=cfg["figures.gallery_targets"])
    rows: list[TopRanked] = []

    def add_row(title: str, theta: torch.Tensor, target: int) -> None:
        rank, _ = rank_samples(setting, theta, tolerance=cfg["influence.tolerance"])
        highest = setting.train_index[np.argsort(rank, kind="stable")[:SHOWN]]
        place = setting.train_index.searchsorted(target)
        rows.append(TopRanked(title, highest, target, int(rank[place])))

    for example in examples.itertuples():
        theta = read_rows(snakemake.input.models[example.file], "theta", [example.theta])[0]
        gained = -100 * example.accuracy_lost_pristine
        add_row("before", setting.theta, example.target)
        add_row(
            f"after, C = {example.radius:g}\naccuracy {gained:+.1f} points",
            torch.from_numpy(theta)[..., None],
            example.target,
        )
    if examples.empty:
        add_row("before\n(no attack succeeded)", setting.theta, int(published["target"].iloc[0]))
    samples = pd.read_parquet(snakemake.input.samples)
    shown = sorted({int(i) for row in rows for i in (*row.samples, row.target)})
    files = {role: Path(path) for role, path in snakemake.params.paths.items()}
    dataset = open_dataset(cfg["kind"], files, cfg["options"])
    images = {}
    if not isinstance(dataset, ArrayDataset):
        for index, image in dataset.images(shown):
            image.thumbnail((96, 96))
            images[index] = np.asarray(image)
    classes = dict(zip(samples["index"], samples["class"], strict=True))
    save(top_ranked(rows, images, classes), snakemake.output, dpi=cfg["figures.dpi"])
