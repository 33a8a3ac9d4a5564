"""The loss-reweighing baseline: which reweighed model the attacker would publish, and how well it does.

The baseline is judged as the attack is: for every target and k, of the weights ω whose model ranks the
target among the top k, the model that is most accurate on the shared half is published; it counts as a
success within the accuracy budget if it loses no more than that there.
"""

from __future__ import annotations

from collections.abc import Mapping

import pandas as pd

from undue.formats import interval, percent
from undue.tables import BOOL, FLOAT, INT, TEXT, Columns
from undue.valuation.publish import PUBLISHED_COLUMNS, choose, judge
from undue.valuation.summary import success

BASELINE_COLUMNS: Columns = {
    "target": PUBLISHED_COLUMNS["target"],
    "k": PUBLISHED_COLUMNS["k"],
    "original_rank": PUBLISHED_COLUMNS["original_rank"],
    "reached": (BOOL, "some ω gave rank ≤ k; if none, what the published model has is empty or false"),
    "best_rank": (INT, "best rank on the shared half over all ω"),
    "weight": (FLOAT, "the ω of the published model"),
    **{
        name: PUBLISHED_COLUMNS[name]
        for name in (
            "rank_shared",
            "rank_pristine",
            "accuracy_lost_shared",
            "accuracy_lost_pristine",
            "confirmed",
            "within_budget",
            "transfers",
        )
    },
}

BY_WEIGHT_COLUMNS: Columns = {
    "dataset": (TEXT, "data set"),
    "weight": (FLOAT, "ω"),
    "k": (INT, "success is rank ≤ k"),
    "targets": (INT, "number of targets, all counted"),
    "success": (FLOAT, "share with rank ≤ k within the accuracy budget"),
    "success_low": (FLOAT, "95 % Wilson interval"),
    "success_high": (FLOAT, "95 % Wilson interval"),
    "best_success": (FLOAT, "share with rank ≤ k, whatever the accuracy"),
    "best_success_low": (FLOAT, "95 % Wilson interval"),
    "best_success_high": (FLOAT, "95 % Wilson interval"),
    "accuracy_lost_shared": (FLOAT, "mean accuracy lost on the shared half, over all targets"),
    "accuracy_lost_pristine": (FLOAT, "mean accuracy lost on the pristine half, over all targets"),
    "median_rank": (FLOAT, "median of the targets' ranks on the shared half"),
    "best_rank": (INT, "the best of them"),
}

RATES = [name for name in BY_WEIGHT_COLUMNS if name == "targets" or "success" in name]


def publish_baseline(
    targets: pd.DataFrame, trials: pd.DataFrame, *, honest: Mapping[str, float], budget: float
) -> pd.DataFrame:
    """Every target's verdict.

    Args:
        targets: rows (index, k, rank); every one of them is kept.
        trials: rows with TRIAL_COLUMNS of `undue.valuation.reweighing`.
        honest: accuracy of θ* on the "shared" and the "pristine" half.
        budget: the accuracy that may be lost on the shared half.

    Returns:
        One row for each target and k, with BASELINE_COLUMNS. Of equally accurate models that of the
        smallest ω is published.
    """
    ordered = trials.sort_values("weight", ignore_index=True)
    # To the rule of publication a model is one more candidate: one run, one start, one iterate.
    models = ordered[["target", "weight", "accuracy_shared", "rank_shared"]].assign(
        seed=0, run=0, learning_rate=ordered["weight"], step=0, theta=ordered.index
    )
    candidates = models.merge(targets[["k"]].drop_duplicates(), how="cross").query("rank_shared <= k")
    chosen = choose(targets, candidates.drop(columns="rank_shared"))
    verdicts = judge(chosen, ordered.drop(columns=["target", "weight"]), honest=honest, budget=budget)
    best = trials.groupby("target")["rank_shared"].min()
    added = {"weight": chosen["weight"], "best_rank": verdicts["target"].map(best)}
    return verdicts.assign(**added)[list(BASELINE_COLUMNS)]


def rates_by_weight(
    targets: pd.DataFrame,
    trials: pd.DataFrame,
    dataset: str,
    *,
    honest: Mapping[str, float],
    budget: float,
) -> pd.DataFrame:
    """What each ω does, for every k on that k's targets: rows with BY_WEIGHT_COLUMNS.

    Args:
        targets, trials, honest, budget: as for `publish_baseline`.
        dataset: the data set's name.
    """
    rows = []
    for weight, models in trials.groupby("weight"):
        verdicts = publish_baseline(targets, models, honest=honest, budget=budget)
        for k, part in verdicts.groupby("k"):
            rates = success(part)
            own = models[models["target"].isin(part["target"])]
            rows.append(
                {
                    "dataset": dataset,
                    "weight": weight,
                    "k": k,
                    **{name: rates[name] for name in RATES},
                    "accuracy_lost_shared": honest["shared"] - own["accuracy_shared"].mean(),
                    "accuracy_lost_pristine": honest["pristine"] - own["accuracy_pristine"].mean(),
                    "median_rank": own["rank_shared"].median(),
                    "best_rank": own["rank_shared"].min(),
                }
            )
    return pd.DataFrame(rows, columns=list(BY_WEIGHT_COLUMNS))


def pretty_by_weight(rates: pd.DataFrame) -> pd.DataFrame:
    """The table `baseline` for reading."""
    return pd.DataFrame(
        {
            "data set": rates["dataset"],
            "k": rates["k"],
            "ω": rates["weight"].map("{:g}".format),
            "success [95 %]": interval(rates, "success"),
            "best success [95 %]": interval(rates, "best_success"),
            "mean accuracy lost": percent(rates["accuracy_lost_pristine"]),
            "median rank": rates["median_rank"].map("{:g}".format),
            "best rank": rates["best_rank"],
            "targets": rates["targets"],
        }
    )
