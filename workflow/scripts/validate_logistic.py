"""A logistic head's influences: without their parts, where training stops early, summed over subsets."""

import pandas as pd
from snakemake.iocontainers import Snakemake

from undue.calculus.linear import Logistic
from undue.run.job import job
from undue.tables import write_result, write_table
from undue.validation.effects import PAIR_COLUMNS
from undue.validation.head import Head
from undue.validation.images import load_images
from undue.validation.logistic import (
    DATAMODELLING_COLUMNS,
    PARTS_COLUMNS,
    datamodelling,
    early_pairs,
    logistic_pairs,
    parts_table,
    pretty_datamodelling,
)

snakemake: Snakemake  # put here by Snakemake

with job(snakemake) as log:
    cfg = snakemake.params.cfg
    images = load_images(snakemake.input.features[0], snakemake.input.samples[0], cfg)
    dataset, count = cfg["validation.dataset"], cfg["validation.pair_samples"]
    first, second = cfg["validation.pair"]
    training, test, numbers, test_numbers = images.pair((first, second), Logistic())
    log.info("%d samples to train on, %d to test on; leaving out %d", training.samples, test.samples, count)
    head = Head.of(training, test, l2=cfg["validation.l2"], gradient_norm=cfg["validation.gradient_norm"])
    found = logistic_pairs(head, numbers, dataset=dataset, count=count)
    log.info("stopping early")
    early = early_pairs(head, numbers, dataset=dataset, stops=cfg["validation.early_steps"], count=count)
    write_table(snakemake.output.pairs, PAIR_COLUMNS, pd.concat([found, early], ignore_index=True))
    write_table(snakemake.output.parts, PARTS_COLUMNS, parts_table(head, numbers, test_numbers))
    log.info("%d models on random halves", cfg["validation.subsets"])
    table = datamodelling(
        head,
        dataset=dataset,
        subsets=cfg["validation.subsets"],
        quantities=cfg["validation.quantities"],
        seed=cfg["seed"],
    )
    write_result(snakemake.output.table, DATAMODELLING_COLUMNS, table, pretty_datamodelling(table))
