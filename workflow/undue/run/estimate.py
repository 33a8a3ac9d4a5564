"""What a run will cost, before anything of it runs: `python -m undue.run.estimate --help`."""

from __future__ import annotations

import argparse
import sys
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from undue.errors import UserError
from undue.run.cost import (
    TABLE,
    Model,
    core_speed,
    costs,
    held_out_errors,
    held_out_runs,
    measure,
    read_measured,
    setting_of,
    write_measured,
)
from undue.run.history import History, plan

GPU_RULES = frozenset({"extract_features", "attack", "attack_sets", "reweigh_loss", "compute_gradient_norms"})
"""Rules whose work a GPU takes over, all but their start."""

MB_TO_GB = 1e-3


@dataclass(frozen=True)
class RuleCost:
    """What the jobs of a rule will cost together.

    Attributes:
        rule: its name.
        jobs: how many.
        core_hours: of all jobs, on cores as fast as the given one.
        memory: MB of the largest job.
        disk: MB that all jobs write.
        longest: core-hours of the longest job.
        measured: whether jobs like these were ever measured; if not, some of their cost is missing here.
    """

    rule: str
    jobs: int
    core_hours: float
    memory: float
    disk: float
    longest: float
    measured: bool


def estimate(history: History, model: Model, *, gflops: float) -> list[RuleCost]:
    """The cost of a plan by rule, the dearest first; rules that only collect files are left out.

    Args:
        history: a dry run.
        model: fitted.
        gflops: speed of the cores that it will run on.

    Raises:
        UserError: the size of a data set isn't known.
    """
    setting = setting_of(history)
    predicted: dict[str, list[dict[str, float]]] = defaultdict(list)
    unmeasured = set()
    for job in history.jobs.values():
        if job.outputs:
            wanted = costs(job, setting)
            predicted[job.rule].append(model.predict(job.rule, wanted, gflops=gflops))
            if not model.measured(job.rule, wanted):
                unmeasured.add(job.rule)
    found = [
        RuleCost(
            rule=rule,
            jobs=len(jobs),
            core_hours=sum(job["core_seconds"] for job in jobs) / 3600,
            memory=max(job["memory_mb"] for job in jobs),
            disk=sum(job["disk_mb"] for job in jobs),
            longest=max(job["core_seconds"] for job in jobs) / 3600,
            measured=rule not in unmeasured,
        )
        for rule, jobs in predicted.items()
    ]
    return sorted(found, key=lambda cost: -cost.core_hours)


def errors_by_rule(measured: pd.DataFrame) -> dict[str, float]:
    """Rule → median relative error of predicting its jobs from those of other sizes."""
    held_out = held_out_errors(measured)
    off = (held_out["predicted"] / held_out["measured"] - 1).abs()
    return {str(rule): float(error) for rule, error in off.groupby(held_out["rule"]).median().items()}


def describe(
    found: Sequence[RuleCost], errors: dict[str, float], *, gflops: float, gpu_gflops: float, cores: int
) -> str:
    """The table that is printed.

    Args:
        found: costs by rule.
        errors: by rule, where known.
        gflops: speed of a core.
        gpu_gflops: of a GPU.
        cores: to state the duration for.
    """

    def on_gpu(cost: RuleCost) -> float:
        return cost.core_hours * gflops / gpu_gflops if cost.rule in GPU_RULES else 0.0

    rows = [
        [
            cost.rule + ("" if cost.measured else " *"),
            str(cost.jobs),
            _hours(cost.core_hours),
            _hours(on_gpu(cost)) if cost.rule in GPU_RULES else "",
            f"{cost.memory * MB_TO_GB:.1f}",
            f"{cost.disk:,.0f}",
            f"{errors[cost.rule]:.0%}" if cost.rule in errors else "",
        ]
        for cost in found
    ]
    core_hours = sum(cost.core_hours for cost in found)
    rest = sum(cost.core_hours for cost in found if cost.rule not in GPU_RULES)
    rows.append(
        [
            "total",
            str(sum(cost.jobs for cost in found)),
            _hours(core_hours),
            _hours(sum(map(on_gpu, found))),
            f"{max((cost.memory for cost in found), default=0) * MB_TO_GB:.1f}",
            f"{sum(cost.disk for cost in found):,.0f}",
            "",
        ]
    )
    header = ["rule", "jobs", "core-h", "GPU-h", "GB of memory", "MB of disk", "error"]
    widths = [max(len(row[column]) for row in [header, *rows]) for column in range(len(header))]
    lines = [
        "  ".join(
            cell.ljust(width) if column == 0 else cell.rjust(width)
            for column, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in [header, *rows[:-1], ["-" * width for width in widths], rows[-1]]
    ]
    longest = max((cost.longest for cost in found), default=0.0)
    notes = [
        "",
        f"core-h: on cores like those of this machine, {gflops:.0f} GFLOP/s in float32; on {cores} of them"
        f" about {_hours(max(core_hours / cores, longest))} h. The longest job takes {_hours(longest)}.",
        f"GPU-h: instead of core-h, at {gpu_gflops / 1000:g} TFLOP/s (--gpu-tflops), which isn't measured;"
        f" {_hours(rest)} core-h are left for the other rules.",
        "Memory: of the rule's largest job. Disk: what is written and kept.",
        f"Error: the median for jobs of sizes left out of the fit; the measurements are in {TABLE}.",
    ]
    if not all(cost.measured for cost in found):
        notes.append(
            "* Some of these jobs are like none that was measured, or more than ten times as large: part of"
            " their cost is missing or uncertain."
        )
    return "\n".join(lines + notes)


def describe_runs(measured: pd.DataFrame) -> str:
    """What each measured run took, and what the others alone foretell of it, as a table that is printed."""
    found = held_out_runs(measured).query("jobs > 0")
    table = pd.DataFrame(
        {
            "run": found["run"],
            "jobs": found["jobs"].astype(str) + " of " + found["of"].astype(str),
            "core-seconds": found["measured"].round().astype(int),
            "foretold": found["predicted"].round().astype(int),
            "error": (found["predicted"] / found["measured"] - 1).map("{:+.0%}".format),
        }
    )
    return (
        f"{table.to_string(index=False)}\n\n"
        "Foretold: by the measurements of the other runs, for the jobs like which one of those had some."
    )


def _hours(hours: float) -> str:
    return f"{hours:.0f}" if hours >= 100 else f"{hours:.1f}" if hours >= 1 else f"{hours:.2g}"


def add_measurements(folder: Path, histories: Sequence[History], *, gflops: float) -> int:
    """Put what jobs cost, by the benchmark files of runs in a folder, into the project's table; how many.

    Args:
        folder: where the runs' benchmark files and results are.
        histories: forced dry runs, one for each configuration that was run there.
        gflops: speed of a core there.
    """
    found = [measure(history, setting_of(history), folder, gflops=gflops) for history in histories]
    table = pd.concat([frame for frame in found if len(frame)] or found, ignore_index=True)
    if len(table):
        old = [read_measured(TABLE)] if TABLE.exists() else []
        write_measured(TABLE, pd.concat([*old, table], ignore_index=True))
    return len(table)


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line; what it prints goes to standard output."""
    parser = argparse.ArgumentParser(prog="python -m undue.run.estimate", description=__doc__)
    parser.add_argument(
        "--configfile", nargs="+", default=[], help="overlays on config.yaml, as for snakemake"
    )
    parser.add_argument("--all", action="store_true", help="as if nothing had been done yet")
    parser.add_argument("--cores", type=int, default=2, help="to state how long it takes on so many (2)")
    parser.add_argument("--gflops", type=float, help="speed of a core; measured on this machine if not given")
    parser.add_argument(
        "--gpu-tflops", type=float, default=10.0, help="speed of a GPU in float32 products (10)"
    )
    parser.add_argument(
        "--fit",
        nargs="?",
        const=".",
        type=Path,
        metavar="FOLDER",
        help="add the measurements of the run in a folder (this one) to the table instead",
    )
    options = parser.parse_args(arguments)
    overlay = ["--configfile", *options.configfile] if options.configfile else []
    forced = ["--forceall"] if options.all or options.fit else []
    try:
        history = plan([*forced, *overlay], Path())
        gflops = options.gflops or core_speed()
        if options.fit:
            count = add_measurements(options.fit, [history], gflops=gflops)
            print(f"{count} measured jobs put into {TABLE}", describe_runs(read_measured(TABLE)), sep="\n\n")
            return 0
        if not history.jobs:
            print("Nothing is to be done. With --all: what all of it would cost.")
            return 0
        measured = read_measured(TABLE)
        found = estimate(history, Model.of(measured), gflops=gflops)
    except UserError as error:
        print(error, file=sys.stderr)
        return 1
    print(
        describe(
            found,
            errors_by_rule(measured),
            gflops=gflops,
            gpu_gflops=1000 * options.gpu_tflops,
            cores=options.cores,
        )
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
