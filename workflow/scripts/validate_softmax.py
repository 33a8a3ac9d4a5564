"""A softmax head's influences against training again without a sample (Koh & Liang 2017, Fig. 2)."""

from snakemake.iocontainers import Snakemake

from undue.progress import Progress
from undue.run.job import job
from undue.tables import write_table
from undue.validation.effects import PAIR_COLUMNS
from undue.validation.images import load_images
from undue.validation.softmax import softmax_pairs

snakemake: Snakemake  # put here by Snakemake

with job(snakemake) as log:
    cfg = snakemake.params.cfg
    images = load_images(snakemake.input.features[0], snakemake.input.samples[0], cfg)
    progress = Progress(log, min(cfg["validation.samples"], len(images.train)), "models")
    pairs = softmax_pairs(
        images,
        dataset=cfg["validation.dataset"],
        l2=cfg["validation.l2"],
        count=cfg["validation.samples"],
        repeats=cfg["validation.lissa_repeats"],
        batch=cfg["validation.lissa_batch"],
        depth=cfg["validation.lissa_depth"],
        gradient_norm=cfg["validation.gradient_norm"],
        seed=cfg["seed"],
        say=lambda text: log.info("%s", text),
        progress=progress.update,
    )
    write_table(snakemake.output.pairs, PAIR_COLUMNS, pairs)
