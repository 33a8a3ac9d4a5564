"""Which targets are easy to manipulate, and why: those of extreme rank (Fig. 5 of Yadav et al. 2024)."""

from __future__ import annotations

from typing import Any

import pandas as pd

from undue.agreement import spearman_fisher
from undue.formats import interval, share
from undue.tables import FLOAT, INT, TEXT, Columns

EASY_COLUMNS: Columns = {
    "dataset": (TEXT, "data set"),
    "objective": (TEXT, "attack objective"),
    "k": (INT, "success is rank ≤ k"),
    "easy": (INT, "targets that reach the top k at some C, whatever the accuracy"),
    "hard": (INT, "targets that never do"),
    "easy_extremeness": (
        FLOAT,
        "median over the easy of |rank − middle| / (middle − 1), at most 1",
    ),
    "hard_extremeness": (FLOAT, "the same over the hard"),
    "samples": (INT, "training samples whose gradient norm was computed, targets and others"),
    "rank_correlation": (FLOAT, "Spearman's, of |rank − middle| with the norm of the influence's gradient"),
    "rank_correlation_low": (FLOAT, "95 % interval (Bonett & Wright 2000)"),
    "rank_correlation_high": (FLOAT, "95 % interval (Bonett & Wright 2000)"),
    "influence_correlation": (FLOAT, "Spearman's, of |influence| with the norm of the influence's gradient"),
    "influence_correlation_low": (FLOAT, "95 % interval (Bonett & Wright 2000)"),
    "influence_correlation_high": (FLOAT, "95 % interval (Bonett & Wright 2000)"),
}


def easy_targets(attacks: pd.DataFrame, *, objective: str, k: int) -> pd.DataFrame:
    """Whether each target is easy: some radius has a confirmed success, whatever the accuracy.

    Args:
        attacks: the table `attacks`.
        objective: the attack to go by.
        k: success is rank ≤ k.

    Returns:
        Rows (dataset, target, original_rank, easy), one for each target.
    """
    chosen = attacks[(attacks["objective"] == objective) & (attacks["k"] == k)]
    grouped = chosen.groupby(["dataset", "target", "original_rank"], sort=False)["confirmed"]
    return grouped.any().rename("easy").reset_index()


def extremeness(rank: pd.Series, samples: int) -> pd.Series:
    """How far ranks 1 … n are from the middle: 0 there, 1 at either end."""
    middle = (samples + 1) / 2
    return (rank - middle).abs() / (middle - 1)


def easy_summary(
    targets: pd.DataFrame, gradients: pd.DataFrame, *, dataset: str, objective: str, k: int, samples: int
) -> dict[str, Any]:
    """A row of the table `easy_targets`.

    Args:
        targets: of one data set, from `easy_targets`.
        gradients: the data set's table of gradient norms.
        samples: number of training samples n.
    """
    places = extremeness(targets["original_rank"], samples)
    sizes = gradients["gradient_norm"].to_numpy()
    correlations = {
        "rank_correlation": spearman_fisher(extremeness(gradients["rank"], samples).to_numpy(), sizes),
        "influence_correlation": spearman_fisher(gradients["influence"].abs().to_numpy(), sizes),
    }
    return {
        "dataset": dataset,
        "objective": objective,
        "k": k,
        "easy": int(targets["easy"].sum()),
        "hard": int((~targets["easy"]).sum()),
        "easy_extremeness": float(places[targets["easy"]].median()),
        "hard_extremeness": float(places[~targets["easy"]].median()),
        "samples": len(gradients),
        **correlations["rank_correlation"].columns("rank_correlation"),
        **correlations["influence_correlation"].columns("influence_correlation"),
    }


def pretty_easy(table: pd.DataFrame) -> pd.DataFrame:
    """The table `easy_targets` for reading."""
    return pd.DataFrame(
        {
            "data set": table["dataset"],
            "objective": table["objective"],
            "k": table["k"],
            "easy targets": table["easy"],
            "their distance from the middle rank": share(table["easy_extremeness"]),
            "hard targets": table["hard"],
            "theirs": share(table["hard_extremeness"]),
            "gradient norm and that distance [95 %]": interval(table, "rank_correlation"),
            "gradient norm and size of influence [95 %]": interval(table, "influence_correlation"),
            "samples": table["samples"],
        }
    )
