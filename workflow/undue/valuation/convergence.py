"""How attacks get on, step by step: objectives and ranks, read off stored trajectories."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import pandas as pd

COLUMNS = ("target", "learning_rate", "step", "objective", "rank_shared", "valid")
QUARTILES = {"low": 0.25, "median": 0.5, "high": 0.75}


def better_runs(trajectory: pd.DataFrame) -> pd.DataFrame:
    """Of each target's runs the one that gets to the lowest rank, step by step.

    Of runs that get to the same rank the first one there counts, then the lower learning rate. Steps
    whose solves missed their tolerance are left out.

    Args:
        trajectory: rows with COLUMNS; runs of one target differ in their learning rates.
    """
    valid = trajectory[trajectory["valid"]]
    ordered = valid.sort_values(["rank_shared", "step", "learning_rate"], kind="stable")
    better = ordered.drop_duplicates("target")[["target", "learning_rate"]]
    return valid.merge(better, on=["target", "learning_rate"])


def quartiles(paths: Iterable[str | Path], *, spread: float) -> pd.DataFrame:
    """Objective and rank against step: quartiles over targets, each with its better run.

    Args:
        paths: trajectories of one data set, objective, radius and start; read one after the other.
        spread: what objectives are divided by.

    Returns:
        A row for each step: step, {objective, rank}_{low, median, high}; no objective at the last step.
    """
    runs = pd.concat(
        [better_runs(pd.read_parquet(path, columns=list(COLUMNS))) for path in paths], ignore_index=True
    )
    # A sample that is a target of two k may be in two blocks, with the same run in both.
    steps = runs.drop_duplicates(["target", "step"]).groupby("step")
    columns = {
        f"{name}_{quartile}": values.quantile(share)
        for name, values in (
            ("objective", steps["objective"]),
            ("rank", steps["rank_shared"]),
        )
        for quartile, share in QUARTILES.items()
    }
    table = pd.DataFrame(columns).reset_index()
    scaled = [f"objective_{quartile}" for quartile in QUARTILES]
    return table.assign(**{name: table[name] / spread for name in scaled})
