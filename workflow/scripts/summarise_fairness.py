"""Tables 3 and 4 of the paper, and what the attacks on the reweighing did."""

import pandas as pd
from snakemake.iocontainers import Snakemake

from undue.fairness import summary
from undue.files import read_json
from undue.run.job import job
from undue.tables import write_result

snakemake: Snakemake  # put here by Snakemake

with job(snakemake) as log:
    cfg = snakemake.params.cfg
    datasets, metrics, budget = cfg["datasets"], cfg["fairness.metrics"], cfg["fairness.downstream_budget"]
    runs = [(dataset, metric) for dataset in datasets for metric in metrics]
    descriptions, bases = (
        dict(zip(datasets, map(read_json, paths), strict=True))
        for paths in (snakemake.input.problems, snakemake.input.bases)
    )
    scales, direct = (
        dict(zip(runs, map(pd.read_parquet, paths), strict=True))
        for paths in (snakemake.input.scales, snakemake.input.direct)
    )

    def stacked(tables: dict[tuple[str, str], pd.DataFrame]) -> pd.DataFrame:
        """One table of all runs, a run's name in front of its rows."""
        named = [table.assign(dataset=run[0], metric=run[1]) for run, table in tables.items()]
        return pd.concat(named, ignore_index=True)

    attack = pd.DataFrame(
        [summary.attack_row(*run, scales[run], bases[run[0]], accuracy_budget=budget) for run in runs]
    )
    beside = {run: summary.direct_rows(direct[run], scales[run], accuracy_budget=budget) for run in runs}
    audit = {
        run: summary.audit_rows(
            direct[run], scales[run], cfg["fairness.log_loss_budgets"], accuracy_budget=budget
        )
        for run in runs
    }
    table3 = summary.table3(descriptions)
    table4 = summary.table4(cfg["tables"], bases, metrics, cfg["fairness.bound"])
    for outputs, columns, table, pretty in (
        (snakemake.output.table3, summary.TABLE3_COLUMNS, table3, summary.pretty_table3),
        (snakemake.output.table4, summary.TABLE4_COLUMNS, table4, summary.pretty_table4),
        (snakemake.output.attack, summary.ATTACK_COLUMNS, attack, summary.pretty_attack),
        (snakemake.output.scales, summary.SCALES_COLUMNS, stacked(scales), summary.pretty_scales),
        (snakemake.output.direct, summary.DIRECT_TABLE_COLUMNS, stacked(beside), summary.pretty_direct),
        (snakemake.output.audit, summary.AUDIT_COLUMNS, stacked(audit), summary.pretty_audit),
    ):
        write_result(outputs, columns, table, pretty(table))
    log.info("\n%s", summary.pretty_attack(attack).to_string(index=False))
