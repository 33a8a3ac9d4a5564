"""Fig. 7 of the paper, why scaling works, what an auditor sees, and the direct attack, for each metric."""

import pandas as pd
from snakemake.iocontainers import Snakemake

from undue.fairness import figures
from undue.plots import save, style
from undue.run.job import job

snakemake: Snakemake  # put here by Snakemake

with job(snakemake), style():
    cfg = snakemake.params.cfg
    attack, scales, direct, audit = (
        pd.read_parquet(snakemake.input[name]) for name in ("attack", "scales", "direct", "audit")
    )
    for metric, names in cfg["names"].items():
        rows = {
            name: table[table["metric"] == metric]
            for name, table in (("attack", attack), ("scales", scales), ("direct", direct), ("audit", audit))
        }
        drawn = {
            "figure7": figures.gap_against_scale(rows["scales"], rows["attack"]),
            "fairness_why": figures.why_it_works(rows["scales"]),
            "fairness_audit": figures.what_an_auditor_sees(rows["scales"], rows["audit"]),
            "fairness_direct": figures.direct_against_scaling(rows["direct"]),
        }
        for name, figure in drawn.items():
            save(figure, snakemake.output[names[name]], dpi=cfg["figures.dpi"])
