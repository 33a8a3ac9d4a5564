"""Success rates: from verdicts on single targets to the tables of the paper."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import pandas as pd
import scipy.stats

from undue.tables import FLOAT, INT, TEXT, Columns
from undue.valuation.publish import PUBLISHED_COLUMNS

SUCCESS_COLUMNS: Columns = {
    "dataset": (TEXT, "data set"),
    "objective": (TEXT, "attack objective"),
    "radius": (FLOAT, "C"),
    "k": (INT, "success is rank ≤ k"),
    "targets": (INT, "number of targets, all counted"),
    "successes": (INT, "targets with a published model within the accuracy budget"),
    "success": (FLOAT, "their share"),
    "success_low": (FLOAT, "95 % Wilson interval"),
    "success_high": (FLOAT, "95 % Wilson interval"),
    "accuracy_lost_shared": (FLOAT, "mean accuracy lost on the shared half, over these successes"),
    "accuracy_lost_pristine": (FLOAT, "mean accuracy lost on the pristine half, over these successes"),
    "transfer": (FLOAT, "share of all targets that succeed and rank ≤ k on the pristine half too"),
    "best_success": (FLOAT, "share of targets with a published model, whatever its accuracy"),
    "best_success_low": (FLOAT, "95 % Wilson interval"),
    "best_success_high": (FLOAT, "95 % Wilson interval"),
    "best_accuracy_lost_shared": (FLOAT, "mean accuracy lost on the shared half, over those"),
    "best_accuracy_lost_pristine": (FLOAT, "mean accuracy lost on the pristine half, over those"),
    "best_transfer": (FLOAT, "share of all targets that rank ≤ k on the pristine half too"),
    "unconfirmed": (INT, "claims that the float64 check refused"),
}

ATTACKS_COLUMNS: Columns = {
    "dataset": (TEXT, "data set"),
    "objective": (TEXT, "attack objective"),
    "radius": (FLOAT, "C"),
    **PUBLISHED_COLUMNS,
}

TABLE1_COLUMNS: Columns = {
    "dataset": (TEXT, "data set"),
    "objective": (TEXT, "attack objective"),
    "k": (INT, "success is rank ≤ k"),
    "targets": (INT, "number of targets, all counted"),
    "success": (FLOAT, "share within the accuracy budget"),
    "success_low": (FLOAT, "95 % Wilson interval"),
    "success_high": (FLOAT, "95 % Wilson interval"),
    "accuracy_lost": (FLOAT, "mean accuracy lost on the pristine half, over these successes"),
    "transfer": (FLOAT, "share of all targets that succeed and rank ≤ k on the pristine half too"),
    "radius": (FLOAT, "the C of these: the most successful on the shared half"),
    "best_success": (FLOAT, "share whatever the accuracy"),
    "best_success_low": (FLOAT, "95 % Wilson interval"),
    "best_success_high": (FLOAT, "95 % Wilson interval"),
    "best_accuracy_lost": (FLOAT, "mean accuracy lost on the pristine half, over those"),
    "best_transfer": (FLOAT, "share of all targets that rank ≤ k on the pristine half too"),
    "best_radius": (FLOAT, "the C of those"),
    "honest_accuracy": (FLOAT, "accuracy of θ* on the pristine half"),
    "l2": (FLOAT, "λ"),
    "damping": (FLOAT, "δ"),
    "theta_norm": (FLOAT, "‖θ*‖"),
}


def success_rates(published: pd.DataFrame, dataset: str, objective: str, radius: float) -> pd.DataFrame:
    """Rows of `attack_success`, one for each k, from the `published` table of one radius."""
    return pd.DataFrame(
        [
            {"dataset": dataset, "objective": objective, "radius": radius, "k": int(k), **success(rows)}
            for k, rows in published.groupby("k")
        ]
    )


def published_table(published: pd.DataFrame, dataset: str, objective: str, radius: float) -> pd.DataFrame:
    """Rows of the table `published`: which run and iterate each success rate counts."""
    return published.assign(dataset=dataset, objective=objective, radius=radius)


def success(published: pd.DataFrame) -> dict[str, float]:
    """Success rates of one data set, objective, radius and k; all targets count.

    Args:
        published: the `published` rows of one k.

    Returns:
        The columns of the table `attack_success` from `targets` on.
    """
    within, confirmed = published["within_budget"], published["confirmed"]
    low, high = wilson(int(within.sum()), len(published))
    best_low, best_high = wilson(int(confirmed.sum()), len(published))
    return {
        "targets": len(published),
        "successes": int(within.sum()),
        "success": float(within.mean()),
        "success_low": low,
        "success_high": high,
        "accuracy_lost_shared": float(published.loc[within, "accuracy_lost_shared"].mean()),
        "accuracy_lost_pristine": float(published.loc[within, "accuracy_lost_pristine"].mean()),
        "transfer": float((within & published["transfers"]).mean()),
        "best_success": float(confirmed.mean()),
        "best_success_low": best_low,
        "best_success_high": best_high,
        "best_accuracy_lost_shared": float(published.loc[confirmed, "accuracy_lost_shared"].mean()),
        "best_accuracy_lost_pristine": float(published.loc[confirmed, "accuracy_lost_pristine"].mean()),
        "best_transfer": float(published["transfers"].mean()),
        "unconfirmed": int((published["reached"] & ~confirmed).sum()),
    }


def wilson(successes: int, trials: int) -> tuple[float, float]:
    """95 % Wilson score interval of a rate."""
    interval = scipy.stats.binomtest(successes, trials).proportion_ci(method="wilson")
    return float(interval.low), float(interval.high)


def table1(rates: pd.DataFrame, models: Mapping[str, Mapping[str, Any]], *, damping: float) -> pd.DataFrame:
    """Table 1 of the paper: each data set, objective and k at its most successful radius.

    Success is counted on the shared half; of equally successful radii the one that costs least
    accuracy there is taken, then the smallest. What that radius gives on the pristine half is then
    reported, not chosen.

    Args:
        rates: the table `attack_success`.
        models: data set → its model.json.
        damping: δ, for the record.
    """
    rows = []
    for (dataset, objective, k), group in rates.groupby(["dataset", "objective", "k"], sort=False):
        within, best = _most_successful(group, ""), _most_successful(group, "best_")
        model = models[dataset]
        rows.append(
            {
                "dataset": dataset,
                "objective": objective,
                "k": k,
                "targets": within["targets"],
                "success": within["success"],
                "success_low": within["success_low"],
                "success_high": within["success_high"],
                "accuracy_lost": within["accuracy_lost_pristine"],
                "transfer": within["transfer"],
                "radius": within["radius"],
                "best_success": best["best_success"],
                "best_success_low": best["best_success_low"],
                "best_success_high": best["best_success_high"],
                "best_accuracy_lost": best["best_accuracy_lost_pristine"],
                "best_transfer": best["best_transfer"],
                "best_radius": best["radius"],
                "honest_accuracy": model["accuracy_pristine"],
                "l2": model["l2"],
                "damping": damping,
                "theta_norm": model["theta_norm"],
            }
        )
    return pd.DataFrame(rows)


def _most_successful(rates: pd.DataFrame, regime: str) -> pd.Series:
    order = [f"{regime}success", f"{regime}accuracy_lost_shared", "radius"]
    return rates.sort_values(order, ascending=[False, True, True]).iloc[0]


def metrics(first: pd.DataFrame, models: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """The few numbers that one run is compared with another by."""
    return {
        dataset: {
            "accuracy": (
                model["accuracy_shared"] * model["samples_shared"]
                + model["accuracy_pristine"] * model["samples_pristine"]
            )
            / (model["samples_shared"] + model["samples_pristine"]),
            "gradient_norm": model["gradient_norm"],
            "l2": model["l2"],
            "attack": {
                f"{row.objective}, k = {row.k}": {
                    "success": row.success,
                    "accuracy_lost": None if math.isnan(row.accuracy_lost) else row.accuracy_lost,
                    "transfer": row.transfer,
                }
                for row in first[first["dataset"] == dataset].itertuples()
            },
        }
        for dataset, model in models.items()
    }


def pretty_attacks(attacks: pd.DataFrame) -> pd.DataFrame:
    """The table `attacks` for reading: what each success is made of."""
    run = "seed " + attacks["seed"].astype(str) + ", rate " + attacks["learning_rate"].map("{:g}".format)
    return pd.DataFrame(
        {
            "data set": attacks["dataset"],
            "objective": attacks["objective"],
            "C": attacks["radius"].map("{:g}".format),
            "k": attacks["k"],
            "target": attacks["target"],
            "original rank": attacks["original_rank"],
            "published iterate": (run + ", step " + attacks["step"].astype(str)).where(
                attacks["reached"], "–"
            ),
            "rank": attacks["rank_shared"].astype(str).where(attacks["reached"], "–"),
            "rank, pristine": attacks["rank_pristine"].astype(str).where(attacks["reached"], "–"),
            "accuracy lost": _percent(attacks["accuracy_lost_shared"]),
            "accuracy lost, pristine": _percent(attacks["accuracy_lost_pristine"]),
            "success": attacks["within_budget"].map({True: "yes", False: "no"}),
        }
    )


def pretty_success(rates: pd.DataFrame) -> pd.DataFrame:
    """The table `attack_success` for reading."""
    return pd.DataFrame(
        {
            "data set": rates["dataset"],
            "objective": rates["objective"],
            "k": rates["k"],
            "C": rates["radius"].map("{:g}".format),
            "success [95 %]": _interval(rates, "success"),
            "accuracy lost": _percent(rates["accuracy_lost_pristine"]),
            "transfer": _share(rates["transfer"]),
            "best success [95 %]": _interval(rates, "best_success"),
            "its accuracy lost": _percent(rates["best_accuracy_lost_pristine"]),
            "its transfer": _share(rates["best_transfer"]),
            "targets": rates["targets"],
        }
    )


def pretty_table1(first: pd.DataFrame, budget: float) -> pd.DataFrame:
    """Table 1 for reading."""
    return pd.DataFrame(
        {
            "data set": first["dataset"],
            "objective": first["objective"],
            "k": first["k"],
            f"success, loss ≤ {budget:.0%} [95 %]": _interval(first, "success"),
            "accuracy lost": _percent(first["accuracy_lost"]),
            "C": first["radius"].map("{:g}".format),
            "best success [95 %]": _interval(first, "best_success"),
            "its accuracy lost": _percent(first["best_accuracy_lost"]),
            "its C": first["best_radius"].map("{:g}".format),
            "targets": first["targets"],
            "honest accuracy": _percent(first["honest_accuracy"]),
            "λ": first["l2"].map("{:g}".format),
            "δ": first["damping"].map("{:g}".format),
            "‖θ*‖": first["theta_norm"].map("{:.2f}".format),
        }
    )


def _share(values: pd.Series) -> pd.Series:
    return values.map("{:.2f}".format)


def _percent(values: pd.Series) -> pd.Series:
    return values.map(lambda value: "–" if pd.isna(value) else f"{100 * value:.1f} %")


def _interval(table: pd.DataFrame, name: str) -> pd.Series:
    ends = zip(table[name], table[f"{name}_low"], table[f"{name}_high"], strict=True)
    return pd.Series([f"{rate:.2f} [{low:.2f}, {high:.2f}]" for rate, low, high in ends], index=table.index)
