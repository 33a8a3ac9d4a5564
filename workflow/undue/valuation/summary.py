"""Success rates: from verdicts on single targets to the tables of the paper."""

from __future__ import annotations

import math
import os
from collections.abc import Collection, Iterable, Mapping
from typing import Any

import pandas as pd

from undue.budget import percents, within_budget
from undue.formats import interval, number, percent, share
from undue.intervals import wilson
from undue.tables import FLOAT, INT, TEXT, Columns
from undue.valuation.paper import BASELINE, reported_success
from undue.valuation.publish import PUBLISHED_COLUMNS

# The published code leaves a target out of the denominator if no run brings it below this rank.
UNRANKED = 1000

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
    "transfer_low": (FLOAT, "95 % Wilson interval"),
    "transfer_high": (FLOAT, "95 % Wilson interval"),
    "best_success": (FLOAT, "share of targets with a published model, whatever its accuracy"),
    "best_success_low": (FLOAT, "95 % Wilson interval"),
    "best_success_high": (FLOAT, "95 % Wilson interval"),
    "best_accuracy_lost_shared": (FLOAT, "mean accuracy lost on the shared half, over those"),
    "best_accuracy_lost_pristine": (FLOAT, "mean accuracy lost on the pristine half, over those"),
    "best_transfer": (FLOAT, "share of all targets that rank ≤ k on the pristine half too"),
    "best_transfer_low": (FLOAT, "95 % Wilson interval"),
    "best_transfer_high": (FLOAT, "95 % Wilson interval"),
    "unconfirmed": (INT, "claims that the float64 check refused; they count as failures"),
}

AS_PUBLISHED_COLUMNS: Columns = {
    "drop_unranked_targets": (
        INT,
        f"targets that some iterate ranks below {UNRANKED}: what the paper's code counts",
    ),
    "drop_unranked_success": (FLOAT, "share of these within the accuracy budget; missing if there are none"),
    "drop_unranked_best_success": (FLOAT, "share of these whatever the accuracy"),
    "pristine_success": (FLOAT, "share of all targets within the accuracy budget on the pristine half"),
    "pristine_accuracy_lost": (FLOAT, "mean accuracy lost there, over these"),
}

ATTACK_SUCCESS_COLUMNS: Columns = {**SUCCESS_COLUMNS, **AS_PUBLISHED_COLUMNS}

ATTACKS_COLUMNS: Columns = {
    "dataset": (TEXT, "data set"),
    "objective": (TEXT, "attack objective"),
    "radius": (FLOAT, "C"),
    **PUBLISHED_COLUMNS,
}

# What Tables 1 and 2 say of several radii, and the paper's numbers beside it.
BEST_RADII_COLUMNS: Columns = {
    "k": (INT, "success is rank ≤ k"),
    "targets": (INT, "number of targets, all counted"),
    "success": (FLOAT, "share within the accuracy budget"),
    "success_low": (FLOAT, "95 % Wilson interval"),
    "success_high": (FLOAT, "95 % Wilson interval"),
    "accuracy_lost": (FLOAT, "mean accuracy lost on the pristine half, over these successes"),
    "transfer": (FLOAT, "share of all targets that succeed and rank ≤ k on the pristine half too"),
    "transfer_low": (FLOAT, "95 % Wilson interval"),
    "transfer_high": (FLOAT, "95 % Wilson interval"),
    "radius": (FLOAT, "the C of these: the most successful on the shared half; the baseline has none"),
    "best_success": (FLOAT, "share whatever the accuracy"),
    "best_success_low": (FLOAT, "95 % Wilson interval"),
    "best_success_high": (FLOAT, "95 % Wilson interval"),
    "best_accuracy_lost": (FLOAT, "mean accuracy lost on the pristine half, over those"),
    "best_transfer": (FLOAT, "share of all targets that rank ≤ k on the pristine half too"),
    "best_transfer_low": (FLOAT, "95 % Wilson interval"),
    "best_transfer_high": (FLOAT, "95 % Wilson interval"),
    "best_radius": (FLOAT, "the C of those"),
    "unconfirmed": (INT, "claims at all radii that the float64 check refused; they count as failures"),
    "paper_success": (FLOAT, "the paper's share within 3 % on its data set of this name; missing if none"),
    "paper_best_success": (FLOAT, "the paper's share whatever the accuracy"),
    "paper_best_accuracy_lost": (FLOAT, "the paper's accuracy lost for that"),
}

TABLE1_COLUMNS: Columns = {
    "dataset": (TEXT, "data set"),
    "objective": (TEXT, f"attack objective, or {BASELINE}: the loss of the target reweighed"),
    **BEST_RADII_COLUMNS,
    "drop_unranked_targets": (INT, f"targets that some iterate at `radius` ranks below {UNRANKED}"),
    "drop_unranked_success": (FLOAT, "share of these, in place of `success`: the paper's code counts so"),
    "best_drop_unranked_targets": (INT, f"targets that some iterate at `best_radius` ranks below {UNRANKED}"),
    "best_drop_unranked_success": (FLOAT, "share of these, in place of `best_success`"),
    "highest_success": (FLOAT, "share within the budget on the pristine half, the highest over C"),
    "highest_accuracy_lost": (FLOAT, "mean accuracy lost on the pristine half, over these"),
    "highest_radius": (FLOAT, "the C of these"),
    "highest_transfer": (FLOAT, "the highest `transfer` over C"),
    "best_highest_transfer": (FLOAT, "the highest `best_transfer` over C"),
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


def success(published: pd.DataFrame) -> dict[str, float]:
    """Success rates of one data set, objective, radius and k; all targets count.

    Args:
        published: the `published` rows of one k.

    Returns:
        The columns of the table `attack_success` from `targets` on.
    """
    within, confirmed = published["within_budget"], published["confirmed"]
    return {
        "targets": len(published),
        "successes": int(within.sum()),
        **_rate("success", within),
        "accuracy_lost_shared": float(published.loc[within, "accuracy_lost_shared"].mean()),
        "accuracy_lost_pristine": float(published.loc[within, "accuracy_lost_pristine"].mean()),
        **_rate("transfer", within & published["transfers"]),
        **_rate("best_success", confirmed),
        "best_accuracy_lost_shared": float(published.loc[confirmed, "accuracy_lost_shared"].mean()),
        "best_accuracy_lost_pristine": float(published.loc[confirmed, "accuracy_lost_pristine"].mean()),
        **_rate("best_transfer", published["transfers"]),
        "unconfirmed": int((published["reached"] & ~confirmed).sum()),
    }


def _rate(name: str, verdicts: pd.Series) -> dict[str, float]:
    """The share of true verdicts, and its interval."""
    low, high = wilson(int(verdicts.sum()), len(verdicts))
    return {name: float(verdicts.mean()), f"{name}_low": low, f"{name}_high": high}


def best_ranks(trajectories: Iterable[str | os.PathLike[str]]) -> pd.Series:
    """The best rank on the shared half of every target, over all valid iterates of some runs.

    Args:
        trajectories: the runs' trajectory files, read one after the other.

    Returns:
        target → rank; a target without a valid iterate is not in it.
    """
    best = []
    for path in trajectories:
        steps = pd.read_parquet(path, columns=["target", "rank_shared", "valid"])
        best.append(steps[steps["valid"]].groupby("target")["rank_shared"].min())
    return pd.concat(best).groupby(level=0).min()


def count_invalid(trajectories: Iterable[str | os.PathLike[str]]) -> tuple[int, int]:
    """How many attacks had a solve that missed its tolerance, and how many attacks there were."""
    invalid = attacks = 0
    for path in trajectories:
        steps = pd.read_parquet(path, columns=["target", "learning_rate", "step", "valid"])
        last = steps[steps["step"] == steps["step"].max()]
        invalid, attacks = invalid + int((~last["valid"]).sum()), attacks + len(last)
    return invalid, attacks


def rates_as_published(published: pd.DataFrame, best_rank: pd.Series, *, budget: float) -> pd.DataFrame:
    """What the paper's own ways of counting would report, one row for each k.

    Args:
        published: the `published` table of one radius.
        best_rank: from `best_ranks`, of the same radius.
        budget: the accuracy that may be lost, here on the pristine half.

    Returns:
        Rows with k and AS_PUBLISHED_COLUMNS.
    """
    rows = []
    for k, verdicts in published.groupby("k"):
        counted = verdicts["target"].map(best_rank) < UNRANKED
        cheap = verdicts["confirmed"] & within_budget(verdicts["accuracy_lost_pristine"], budget)
        rows.append(
            {
                "k": int(k),
                "drop_unranked_targets": int(counted.sum()),
                "drop_unranked_success": float(verdicts.loc[counted, "within_budget"].mean()),
                "drop_unranked_best_success": float(verdicts.loc[counted, "confirmed"].mean()),
                "pristine_success": float(cheap.mean()),
                "pristine_accuracy_lost": float(verdicts.loc[cheap, "accuracy_lost_pristine"].mean()),
            }
        )
    return pd.DataFrame(rows)


def table1(
    rates: pd.DataFrame,
    models: Mapping[str, Mapping[str, Any]],
    *,
    damping: Mapping[str, float],
    variants: Collection[str] = (),
) -> pd.DataFrame:
    """Table 1 of the paper: each attack and k of a data set at its most successful radius.

    Success is counted on the shared half; of equally successful radii the one that costs least
    accuracy there is taken, then the smallest. What that radius gives on the pristine half is then
    reported, not chosen; the columns `highest_` have the highest over all radii, as the paper reports.

    Args:
        rates: rows with ATTACK_SUCCESS_COLUMNS; the baseline's have the objective `baseline` and no radius.
        models: data set → its model.json.
        damping: data set → δ, for the record.
        variants: the data sets that are variants, see `paper_dataset`.

    Returns:
        Rows with TABLE1_COLUMNS, by data set and k, otherwise in the order of `rates`.
    """
    rows = []
    by_k = rates.sort_values("k", kind="stable")
    for dataset in rates["dataset"].unique():
        for (k, objective), radii in by_k[by_k["dataset"] == dataset].groupby(["k", "objective"], sort=False):
            within, best = most_successful(radii, ""), most_successful(radii, "best_")
            highest = _highest(radii, "pristine_success", "pristine_accuracy_lost")
            model = models[dataset]
            paper = reported_success(dataset, k, objective, variants)
            rows.append(
                {
                    "dataset": dataset,
                    "objective": objective,
                    "k": k,
                    **at_best_radii(within, best),
                    "unconfirmed": radii["unconfirmed"].sum(),
                    "paper_success": paper.success,
                    "paper_best_success": paper.best_success,
                    "paper_best_accuracy_lost": paper.best_accuracy_lost,
                    "drop_unranked_targets": within["drop_unranked_targets"],
                    "drop_unranked_success": within["drop_unranked_success"],
                    "best_drop_unranked_targets": best["drop_unranked_targets"],
                    "best_drop_unranked_success": best["drop_unranked_best_success"],
                    "highest_success": highest["pristine_success"],
                    "highest_accuracy_lost": highest["pristine_accuracy_lost"],
                    "highest_radius": highest["radius"],
                    "highest_transfer": radii["transfer"].max(),
                    "best_highest_transfer": radii["best_transfer"].max(),
                    "honest_accuracy": model["accuracy_pristine"],
                    "l2": model["l2"],
                    "damping": damping[dataset],
                    "theta_norm": model["theta_norm"],
                }
            )
    return pd.DataFrame(rows)


def at_best_radii(within: pd.Series, best: pd.Series) -> dict[str, float]:
    """What Tables 1 and 2 say of several radii.

    Args:
        within: the row of the radius most successful within the accuracy budget.
        best: that of the one most successful whatever the accuracy.
    """
    ends = ("", "_low", "_high")
    rates = {f"{name}{end}": within[f"{name}{end}"] for name in ("success", "transfer") for end in ends}
    highest = {f"best_{name}": best[f"best_{name}"] for name in rates}
    return {
        "targets": within["targets"],
        **rates,
        "accuracy_lost": within["accuracy_lost_pristine"],
        "radius": within["radius"],
        **highest,
        "best_accuracy_lost": best["best_accuracy_lost_pristine"],
        "best_radius": best["radius"],
    }


def most_successful(rates: pd.DataFrame, regime: str) -> pd.Series:
    """The row, of several radii, with the highest success in a regime ("" or "best_") on the shared half.

    Of equals the one that costs least accuracy there is taken, then the smallest radius.
    """
    return _highest(rates, f"{regime}success", f"{regime}accuracy_lost_shared")


def _highest(rates: pd.DataFrame, rate: str, cost: str) -> pd.Series:
    """The row, of several radii, with the highest rate; of equals the cheapest, then the smallest radius."""
    return rates.sort_values([rate, cost, "radius"], ascending=[False, True, True]).iloc[0]


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
            "rank": _whole(attacks["rank_shared"]),
            "rank, pristine": _whole(attacks["rank_pristine"]),
            "accuracy lost": percent(attacks["accuracy_lost_shared"]),
            "accuracy lost, pristine": percent(attacks["accuracy_lost_pristine"]),
            "success": attacks["within_budget"].map({True: "yes", False: "no"}),
        }
    )


def _whole(numbers: pd.Series) -> pd.Series:
    return numbers.map(lambda number: "–" if math.isnan(number) else f"{number:.0f}")


def pretty_success(rates: pd.DataFrame) -> pd.DataFrame:
    """The table `attack_success` for reading."""
    return pd.DataFrame(
        {
            "data set": rates["dataset"],
            "objective": rates["objective"],
            "k": rates["k"],
            "C": rates["radius"].map("{:g}".format),
            "success [95 %]": interval(rates, "success"),
            "accuracy lost": percent(rates["accuracy_lost_pristine"]),
            "transfer [95 %]": interval(rates, "transfer"),
            "best success [95 %]": interval(rates, "best_success"),
            "its accuracy lost": percent(rates["best_accuracy_lost_pristine"]),
            "its transfer [95 %]": interval(rates, "best_transfer"),
            "unconfirmed": rates["unconfirmed"],
            "targets": rates["targets"],
        }
    )


def pretty_table1(first: pd.DataFrame, budget: float) -> pd.DataFrame:
    """Table 1 for reading."""
    paper_best = share(first["paper_best_success"]) + " (" + percent(first["paper_best_accuracy_lost"]) + ")"
    return pd.DataFrame(
        {
            "data set": first["dataset"],
            "k": first["k"],
            "attack": first["objective"],
            f"success, loss ≤ {percents(budget)} [95 %]": interval(first, "success"),
            "paper": share(first["paper_success"]),
            "accuracy lost": percent(first["accuracy_lost"]),
            "transfer [95 %]": interval(first, "transfer"),
            "C": number(first["radius"]),
            "best success [95 %]": interval(first, "best_success"),
            "paper, best": paper_best.where(first["paper_best_success"].notna(), "–"),
            "its accuracy lost": percent(first["best_accuracy_lost"]),
            "its transfer [95 %]": interval(first, "best_transfer"),
            "its C": number(first["best_radius"]),
            "highest, pristine": _by_the_paper_s_rule(first),
            "unconfirmed": first["unconfirmed"],
            "targets": first["targets"],
            "unranked dropped": _dropped(first, ""),
            "unranked dropped, best": _dropped(first, "best_"),
        }
    )


def _by_the_paper_s_rule(first: pd.DataFrame) -> pd.Series:
    """Budget and C by the pristine half: success (accuracy lost, C)."""
    lost, radius = percent(first["highest_accuracy_lost"]), number(first["highest_radius"])
    return share(first["highest_success"]) + " (" + lost + ", C = " + radius + ")"


def _dropped(first: pd.DataFrame, regime: str) -> pd.Series:
    counted = first[f"{regime}drop_unranked_targets"].astype(str)
    return share(first[f"{regime}drop_unranked_success"]) + " of " + counted
