"""Turn a dataset into one feature matrix, with its samples and how it was made."""

from pathlib import Path

from snakemake.iocontainers import Snakemake

from undue.data.backbones import load_backbone
from undue.data.datasets import open_dataset
from undue.data.features import SAMPLE_COLUMNS, extract, samples_table
from undue.files import write_json
from undue.run.job import job
from undue.tables import write_table

snakemake: Snakemake  # put here by Snakemake

with job(snakemake):
    cfg = snakemake.params.cfg
    weights = next(map(Path, snakemake.input.weights), None)
    files = {role: Path(path) for role, path in snakemake.params.paths.items()}
    dataset = open_dataset(cfg["kind"], files, cfg["options"])
    backbone = load_backbone(cfg["backbone"], weights, cfg["image_size"])
    metadata = extract(
        dataset,
        backbone,
        Path(snakemake.output.features),
        batch_size=snakemake.resources.batch_size,
        device=snakemake.resources.device,
        threads=snakemake.threads,
    )
    write_table(snakemake.output.samples, SAMPLE_COLUMNS, samples_table(dataset.samples))
    write_json(snakemake.output.metadata, {**metadata, "files": dict(snakemake.params.paths)})
