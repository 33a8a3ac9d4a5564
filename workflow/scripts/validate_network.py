"""A small network's influences against going on without a sample (Koh & Liang 2017, Fig. 2, right)."""

from dataclasses import asdict

from snakemake.iocontainers import Snakemake

from undue.files import write_json
from undue.progress import Progress
from undue.run.job import job
from undue.tables import write_table
from undue.validation.effects import PAIR_COLUMNS
from undue.validation.images import load_images
from undue.validation.network import Schedule, network_pairs

snakemake: Snakemake  # put here by Snakemake

with job(snakemake) as log:
    cfg = snakemake.params.cfg
    images = load_images(snakemake.input.features[0], snakemake.input.samples[0], cfg).fewer(
        cfg["validation.network_train_samples"], seed=cfg["split"]["seed"]
    )
    schedule = Schedule(
        steps=cfg["validation.network_steps"],
        more_steps=cfg["validation.network_more_steps"],
        batch=cfg["validation.network_batch"],
        learning_rate=cfg["validation.network_learning_rate"],
        l2=cfg["validation.network_l2"],
    )
    totals = {"steps of training": schedule.steps, "steps without a sample": schedule.more_steps}
    pairs, facts = network_pairs(
        images.risk(images.train),
        images.risk(images.test),
        images.train,
        dataset=cfg["validation.dataset"],
        schedule=schedule,
        count=cfg["validation.network_samples"],
        dampings=cfg["validation.network_dampings"],
        seed=cfg["seed"],
        say=lambda text: log.info("%s", text),
        progress=lambda unit: Progress(log, totals[unit], unit).update,
    )
    write_table(snakemake.output.pairs, PAIR_COLUMNS, pairs)
    write_json(snakemake.output.facts, asdict(facts))
