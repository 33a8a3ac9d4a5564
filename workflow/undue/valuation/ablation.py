"""What each part of the attack contributes: the terms of its objective, several starts (Table 2)."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

import pandas as pd

from undue.budget import percents
from undue.formats import interval, percent, share
from undue.tables import INT, TEXT, Columns
from undue.valuation.paper import reported_idea
from undue.valuation.summary import (
    BEST_RADII_COLUMNS,
    SUCCESS_COLUMNS,
    at_best_radii,
    most_successful,
    success,
)

STARTS_COLUMNS: Columns = {
    **{name: SUCCESS_COLUMNS[name] for name in ("dataset", "objective")},
    "starts": (INT, "only the first so many of attack.seeds count"),
    **{name: meaning for name, meaning in SUCCESS_COLUMNS.items() if name not in ("dataset", "objective")},
}

TABLE2_COLUMNS: Columns = {
    "dataset": (TEXT, "data set"),
    "idea": (TEXT, "what is added to the row above"),
    "objective": (TEXT, "attack objective"),
    "starts": (INT, "number of starts"),
    **BEST_RADII_COLUMNS,
}


@dataclass(frozen=True)
class Idea:
    """A row of Table 2.

    Attributes:
        label: what it adds to the row above.
        objective: the attack objective.
        every_start: whether all starts count, or the first alone.
    """

    label: str
    objective: str
    every_start: bool


IDEAS = (
    Idea("maximise target", "max_target", False),
    Idea("+ minimise top K", "min_topk", False),
    Idea("+ minimise all higher", "min_higher", False),
    Idea("+ several starts", "min_higher", True),
)


def starts_rates(by_starts: pd.DataFrame, dataset: str, objective: str, radius: float) -> pd.DataFrame:
    """Success rates by number of starts and k, of one radius.

    Args:
        by_starts: the table `published_by_starts` of that radius.

    Returns:
        Rows with STARTS_COLUMNS.
    """
    rows = [
        {
            "dataset": dataset,
            "objective": objective,
            "starts": int(starts),
            "radius": radius,
            "k": int(k),
            **success(verdicts),
        }
        for (starts, k), verdicts in by_starts.groupby(["starts", "k"])
    ]
    return pd.DataFrame(rows)[list(STARTS_COLUMNS)]


def table2(rates: pd.DataFrame, *, k: int, variants: Collection[str] = ()) -> pd.DataFrame:
    """Table 2 of the paper: each idea at the radius at which it succeeds most on the shared half.

    An idea whose objective was not run has no row, nor has "several starts" where there was one. The
    paper's numbers are for k = 10 and stand beside ours only there.

    Args:
        rates: the table `attack_starts`.
        k: the k to take.
        variants: the data sets that are variants, see `paper_dataset`.
    """
    rows = []
    for dataset, group in rates[rates["k"] == k].groupby("dataset", sort=False):
        every = group["starts"].max()
        for idea in IDEAS:
            starts = every if idea.every_start else 1
            radii = group[(group["objective"] == idea.objective) & (group["starts"] == starts)]
            if radii.empty or (idea.every_start and every == 1):
                continue
            reported = reported_idea(
                str(dataset), k, idea.objective, every_start=idea.every_start, variants=variants
            )
            rows.append(
                {
                    "dataset": dataset,
                    "idea": idea.label,
                    "objective": idea.objective,
                    "starts": starts,
                    "k": k,
                    **at_best_radii(most_successful(radii, ""), most_successful(radii, "best_")),
                    "unconfirmed": radii["unconfirmed"].sum(),
                    "paper_success": reported.success,
                    "paper_best_success": reported.best_success,
                    "paper_best_accuracy_lost": reported.best_accuracy_lost,
                }
            )
    return pd.DataFrame(rows, columns=list(TABLE2_COLUMNS))


def pretty_starts(rates: pd.DataFrame) -> pd.DataFrame:
    """The table `attack_starts` for reading."""
    return pd.DataFrame(
        {
            "data set": rates["dataset"],
            "objective": rates["objective"],
            "k": rates["k"],
            "C": rates["radius"].map("{:g}".format),
            "starts": rates["starts"],
            "success [95 %]": interval(rates, "success"),
            "accuracy lost": percent(rates["accuracy_lost_pristine"]),
            "best success [95 %]": interval(rates, "best_success"),
            "its accuracy lost": percent(rates["best_accuracy_lost_pristine"]),
            "targets": rates["targets"],
        }
    )


def pretty_table2(table: pd.DataFrame, budget: float) -> pd.DataFrame:
    """Table 2 for reading."""
    paper_best = share(table["paper_best_success"]) + " (" + percent(table["paper_best_accuracy_lost"]) + ")"
    known = table["paper_success"].notna()
    return pd.DataFrame(
        {
            "data set": table["dataset"],
            "attack": table["idea"],
            "starts": table["starts"],
            "k": table["k"],
            f"success, loss ≤ {percents(budget)} [95 %]": interval(table, "success"),
            "accuracy lost": percent(table["accuracy_lost"]),
            "transfer [95 %]": interval(table, "transfer"),
            "C": table["radius"].map("{:g}".format),
            "paper": share(table["paper_success"]),
            "best success [95 %]": interval(table, "best_success"),
            "its accuracy lost": percent(table["best_accuracy_lost"]),
            "its transfer [95 %]": interval(table, "best_transfer"),
            "its C": table["best_radius"].map("{:g}".format),
            "paper, best": paper_best.where(known, "–"),
            "targets": table["targets"],
        }
    )
