"""Turn a table of people into standardised features, labels, groups and a split."""

from pathlib import Path

import numpy as np
from snakemake.iocontainers import Snakemake

from undue.fairness.encode import describe, encode
from undue.fairness.problem import write_problem
from undue.fairness.tables import read_table
from undue.files import write_json
from undue.randomness import stream
from undue.run.job import job

snakemake: Snakemake  # put here by Snakemake

with job(snakemake) as log:
    cfg = snakemake.params.cfg
    options = cfg["table"]
    files = {role: Path(path) for role, path in snakemake.input.items()}
    table = read_table(options["kind"], files, options)
    order = None
    if cfg["fairness.order"] == "shuffled":
        order = stream(cfg["seed"], "fairness", "order").permutation(len(table.label)).astype(np.int64)
    encoded = encode(table, name=snakemake.wildcards.dataset, categorical=options["categorical"], order=order)
    metadata = describe(encoded, table)
    write_problem(snakemake.output.problem, encoded)
    write_json(snakemake.output.metadata, metadata)
    sizes = ", ".join(f"{part['samples']} {name}" for name, part in metadata["parts"].items())
    log.info("%s, %d features; privileged: %s", sizes, metadata["features"], table.privileged)
