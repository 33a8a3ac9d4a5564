"""Influence by smooth hinges against exact refits of a support vector machine (Koh & Liang 2017, Fig. 3)."""

from snakemake.iocontainers import Snakemake

from undue.calculus.linear import Logistic
from undue.progress import Progress
from undue.run.job import job
from undue.tables import write_table
from undue.validation.effects import PAIR_COLUMNS
from undue.validation.hinge import hinge_pairs
from undue.validation.images import load_images

snakemake: Snakemake  # put here by Snakemake

with job(snakemake) as log:
    cfg = snakemake.params.cfg
    images = load_images(snakemake.input.features[0], snakemake.input.samples[0], cfg)
    first, second = cfg["validation.pair"]
    training, test, numbers, _ = images.pair((first, second), Logistic())
    log.info("%d samples to train on, %d to test on", training.samples, test.samples)
    progress = Progress(log, min(cfg["validation.pair_samples"], training.samples), "machines")
    pairs = hinge_pairs(
        training,
        test,
        numbers,
        dataset=cfg["validation.dataset"],
        l2=cfg["validation.hinge_l2"],
        temperatures=cfg["validation.hinge_temperatures"],
        count=cfg["validation.pair_samples"],
        gradient_norm=cfg["validation.gradient_norm"],
        progress=progress.update,
    )
    write_table(snakemake.output.pairs, PAIR_COLUMNS, pairs)
