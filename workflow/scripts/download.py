"""Bring one file of the registry here: from a mirror, a package or its official address."""

from pathlib import Path

from snakemake.iocontainers import Snakemake

from undue.data.registry import Entry, fetch, mirror_folder
from undue.run.job import job

snakemake: Snakemake  # put here by Snakemake

with job(snakemake) as log:
    # The mirror is the one setting that is not among the params: where a file is found must not
    # matter to what it is, the checksum sees to that.
    mirror = mirror_folder(snakemake.config["data"].get("mirror"))
    source = fetch(Entry(**snakemake.params.cfg), Path(snakemake.output[0]), mirror=mirror)
    log.info("%s from %s", snakemake.output[0], source)
