"""From many runs to the one model that the attacker ships for each target, and how well it does.

The publication rule (`best_iterate`): of all runs and iterates of a radius in which the target has
rank ≤ k, the one most accurate on the shared half. It counts as a success within the accuracy budget
if it loses no more than that, and as a success of the regime "best" in any case. Selection sees the
shared half only. The rule is applied to all starts, and to the first 1, 2, … of them alone: what several
starts gain is read off without attacking again.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from undue.arrays import read_rows
from undue.budget import within_budget
from undue.tables import BOOL, FLOAT, INT, Columns

PUBLISHED_COLUMNS: Columns = {
    "target": (INT, "training sample attacked"),
    "k": (INT, "the k that this row is scored on"),
    "original_rank": (INT, "rank under θ* on the shared half"),
    "reached": (BOOL, "some iterate had rank ≤ k; if none, what follows is empty, −1 or false"),
    "seed": (INT, "the start that the published iterate comes from"),
    "learning_rate": (FLOAT, "its learning rate"),
    "step": (INT, "its iterate"),
    "rank_shared": (FLOAT, "its rank on the shared half, in float64"),
    "rank_pristine": (FLOAT, "its rank on the pristine half, in float64"),
    "accuracy_lost_shared": (FLOAT, "accuracy lost against θ* on the shared half"),
    "accuracy_lost_pristine": (FLOAT, "accuracy lost against θ* on the pristine half"),
    "confirmed": (BOOL, "the float64 rank is ≤ k too; a claim that fails this counts as a failure"),
    "within_budget": (BOOL, "confirmed, and loses at most attack.accuracy_budget on the shared half"),
    "transfers": (BOOL, "confirmed, and has rank ≤ k on the pristine half"),
    "theta": (INT, "row of its parameters in the safetensors file beside"),
}

BY_STARTS_COLUMNS: Columns = {
    "starts": (INT, "only the first so many of attack.seeds count; the last number is all of them"),
    **PUBLISHED_COLUMNS,
    "theta": (INT, "row of its parameters in published.safetensors, −1 if they aren't in it"),
}


def choose(targets: pd.DataFrame, candidates: pd.DataFrame) -> pd.DataFrame:
    """The published iterate of every target and k.

    Args:
        targets: rows (index, k, rank); every one of them is kept.
        candidates: rows (target, k, seed, run, learning_rate, step, accuracy_shared, theta) of all runs.

    Returns:
        One row for each target and k: target, k, original_rank, reached, and of the chosen candidate
        seed, run, learning_rate, step, theta (missing if no iterate had rank ≤ k). Among equally accurate
        candidates the lowest seed, then the lowest learning rate is chosen.
    """
    best = (
        candidates.sort_values(["accuracy_shared", "seed", "learning_rate"], ascending=[False, True, True])
        .drop_duplicates(["target", "k"])
        .drop(columns="accuracy_shared")
    )
    wanted = targets.rename(columns={"index": "target", "rank": "original_rank"})
    merged = wanted[["target", "k", "original_rank"]].merge(best, on=["target", "k"], how="left")
    return merged.assign(reached=merged["step"].notna())


def choose_by_starts(targets: pd.DataFrame, candidates: pd.DataFrame, seeds: Sequence[int]) -> pd.DataFrame:
    """The published iterates if only the first m starts had been made, for every m.

    Args:
        targets, candidates: as for `choose`.
        seeds: the starts, in the order in which they are made.

    Returns:
        The rows of `choose`, with m as `starts`; those of all starts come first, so that `gather` numbers
        their models first.
    """
    parts = [
        choose(targets, candidates[candidates["seed"].isin(seeds[:count])]).assign(starts=count)
        for count in range(len(seeds), 0, -1)
    ]
    return pd.concat(parts, ignore_index=True)


def gather(chosen: pd.DataFrame, models: Sequence[str | Path]) -> tuple[pd.DataFrame, np.ndarray]:
    """Collect the parameters of the chosen candidates, each once.

    Args:
        chosen: from `choose`; candidate row `theta` of run `run`.
        models: the file of each run's candidates, `theta` (m, d, outputs); only the chosen rows are read.

    Returns:
        `chosen` with `theta` now the row of the collected parameters, and these (distinct, d, outputs).
        Two k of one target often have the same iterate.
    """
    iterate = ["target", "run", "learning_rate", "step"]
    reached = chosen[chosen["reached"]].drop_duplicates(iterate)
    theta = [
        read_rows(models[int(run)], "theta", [int(row)])
        for run, row in zip(reached["run"], reached["theta"], strict=True)
    ]
    numbered = reached[iterate].assign(theta=np.arange(len(reached), dtype=float))
    merged = chosen.drop(columns="theta").merge(numbered, on=iterate, how="left")
    return merged, np.concatenate(theta) if theta else read_rows(models[0], "theta", [])


def judge(
    chosen: pd.DataFrame, checked: pd.DataFrame, *, honest: Mapping[str, float], budget: float
) -> pd.DataFrame:
    """The `published` table: every target's verdict.

    Args:
        chosen: from `choose`.
        checked: from `confirm`, row i for the model with theta = i.
        honest: accuracy of θ* on the "shared" and the "pristine" half.
        budget: the accuracy that may be lost on the shared half.
    """
    table = chosen.merge(checked, left_on="theta", right_index=True, how="left")
    lost = {half: honest[half] - table[f"accuracy_{half}"] for half in ("shared", "pristine")}
    confirmed = table["reached"] & (table["rank_shared"] <= table["k"])
    return pd.DataFrame(
        {
            "target": table["target"],
            "k": table["k"],
            "original_rank": table["original_rank"],
            "reached": table["reached"],
            "seed": table["seed"].fillna(-1),
            "learning_rate": table["learning_rate"],
            "step": table["step"].fillna(-1),
            "rank_shared": table["rank_shared"],
            "rank_pristine": table["rank_pristine"],
            "accuracy_lost_shared": lost["shared"],
            "accuracy_lost_pristine": lost["pristine"],
            "confirmed": confirmed,
            "within_budget": confirmed & within_budget(lost["shared"], budget),
            "transfers": confirmed & (table["rank_pristine"] <= table["k"]),
            "theta": table["theta"].fillna(-1),
        }
    )


def judge_by_starts(
    chosen: pd.DataFrame, checked: pd.DataFrame, *, honest: Mapping[str, float], budget: float
) -> pd.DataFrame:
    """The verdicts for every number of starts, fewest first.

    Args:
        chosen: from `choose_by_starts`, its models gathered.
        checked, honest, budget: as for `judge`.

    Returns:
        The columns of the table `published`, and `starts`; `theta` counts the gathered models.
    """
    parts = [
        judge(part, checked, honest=honest, budget=budget).assign(starts=count)
        for count, part in chosen.groupby("starts")
    ]
    return pd.concat(parts, ignore_index=True)


def publish(verdicts: pd.DataFrame) -> tuple[pd.DataFrame, pd.DataFrame, int]:
    """What is written of all verdicts.

    Args:
        verdicts: from `judge_by_starts`.

    Returns:
        The table `published`, of all starts; the table of every number of starts, without the row of a
        model that is not published; how many of the gathered models are: the first ones.
    """
    every = verdicts["starts"] == verdicts["starts"].max()
    published = verdicts[every].drop(columns="starts").reset_index(drop=True)
    models = int(published["theta"].max()) + 1
    known = verdicts["theta"].where(verdicts["theta"] < models, -1)
    return published, verdicts.assign(theta=known), models
