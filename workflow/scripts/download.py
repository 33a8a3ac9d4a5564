"""Bring one file of the registry here: from a mirror, a package or its official address."""

from pathlib import Path

from snakemake.iocontainers import Snakemake

from undue.data.registry import fetch, mirror_folder, read_registry
from undue.run.job import job

snakemake: Snakemake  # put here by Snakemake

REGISTRY = Path("data/registry.tsv")

with job(snakemake) as log:
    # The mirror and the registry's addresses are not among the params: where a file is found must not
    # matter to what it is, the checksum sees to that.
    entry = read_registry(REGISTRY)[snakemake.params.cfg["name"]]
    mirror = mirror_folder(snakemake.config["data"].get("mirror"))
    source = fetch(entry, Path(snakemake.output[0]), mirror=mirror)
    log.info("%s from %s", snakemake.output[0], source)
