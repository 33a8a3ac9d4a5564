"""Tables of the fairness experiments: data sets, parameters, and what the attacks did."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from undue.budget import least_accuracy
from undue.fairness.direct import DIRECT_COLUMNS
from undue.fairness.scaling import SCALE_COLUMNS
from undue.formats import interval
from undue.tables import FLOAT, INT, TEXT, Columns

PAPER_MAXIMUM = 0.16
"""The paper's "maximum difference of 16 % in the DP gap" (§6.2): on test, over data sets and scales."""

_RUN: Columns = {"dataset": (TEXT, "data set"), "metric": (TEXT, "notion of fairness")}

TABLE3_COLUMNS: Columns = {
    "dataset": (TEXT, "data set"),
    "train": (INT, "training samples"),
    "validation": (INT, "validation samples, which everyone sees"),
    "test": (INT, "untouched test samples"),
    "features": (INT, "d"),
    "privileged": (TEXT, "who is in the privileged group"),
    "positive": (TEXT, "the favourable label"),
    "privileged_share": (FLOAT, "share of the privileged, training part"),
    "positive_rate_privileged": (FLOAT, "share of favourable labels among them, training part"),
    "positive_rate_other": (FLOAT, "and among the others"),
    "left_out": (INT, "rows left out for a missing value"),
}

TABLE4_COLUMNS: Columns = {
    **_RUN,
    "l2": (FLOAT, "l2 of Σ loss + (l2/2)‖θ‖²"),
    "beta": (FLOAT, "β: share of the unfairness"),
    "gamma": (FLOAT, "γ: share of the attainable fall of the loss"),
    "bound": (TEXT, "code: unfairness to fall by β; paper: by 1 - β"),
    "theta_norm": (FLOAT, "‖θ*‖"),
    "gradient_norm": (FLOAT, "‖∇R(θ*)‖"),
    "accuracy_validation": (FLOAT, "of θ*"),
    "accuracy_test": (FLOAT, "of θ*"),
    "gap_validation": (FLOAT, "absolute gap of θ*"),
    "gap_test": (FLOAT, "absolute gap of θ*"),
}

SCALES_COLUMNS: Columns = {**_RUN, **SCALE_COLUMNS}
DIRECT_TABLE_COLUMNS: Columns = {
    **_RUN,
    **DIRECT_COLUMNS,
    "scaling_scale": (FLOAT, "the scale within the same budget with the largest gap on validation"),
    "scaling_gap_validation": (FLOAT, "its downstream gap"),
    "scaling_gap_test": (FLOAT, "its downstream gap"),
    "scaling_excess_test": (FLOAT, "its downstream gap - the gap without attack"),
}

ATTACK_COLUMNS: Columns = {
    **_RUN,
    "base_gap_test": (FLOAT, "gap of θ* itself, not reweighed"),
    "base_accuracy_test": (FLOAT, "its accuracy"),
    "honest_status": (TEXT, "of the program at θ*"),
    "honest_gap_test": (FLOAT, "gap of the downstream model without attack"),
    "honest_gap_test_low": (FLOAT, "95 % bootstrap interval"),
    "honest_gap_test_high": (FLOAT, "95 % bootstrap interval"),
    "honest_accuracy_test": (FLOAT, "its accuracy"),
    "scale": (FLOAT, "the scale chosen on the validation part"),
    "status": (TEXT, "of its program"),
    "gap_test": (FLOAT, "gap of its downstream model"),
    "gap_test_low": (FLOAT, "95 % bootstrap interval"),
    "gap_test_high": (FLOAT, "95 % bootstrap interval"),
    "accuracy_test": (FLOAT, "its accuracy"),
    "excess": (FLOAT, "gap_test - honest_gap_test"),
    "excess_low": (FLOAT, "95 % paired bootstrap interval"),
    "excess_high": (FLOAT, "95 % paired bootstrap interval"),
    "test_maximum_scale": (FLOAT, "the scale with the largest gap on the test part: chosen on it"),
    "test_maximum_excess": (FLOAT, "its excess, too large by that choice"),
    "carry_over_excess": (
        FLOAT,
        "what the published loop shows: its largest gap on test - its own gap at scale 1",
    ),
    "carry_over_at_one": (FLOAT, "its gap at scale 1, which it calls the gap without attack"),
    "paper_maximum": (FLOAT, "the paper's figure, over its three data sets; nan for other metrics"),
    "scales": (INT, "listed scales tried"),
    "infeasible": (INT, "of these with an infeasible program"),
    "relaxed": (INT, "of these answered by a relaxed program"),
}

AUDIT_COLUMNS: Columns = {
    **_RUN,
    "log_loss_budget": (FLOAT, "share by which the base model's validation log-loss may rise"),
    "attack": (TEXT, "scaling or direct"),
    "scale": (FLOAT, "s, nan for direct"),
    "radius": (FLOAT, "C, nan for scaling"),
    "gap_validation": (FLOAT, "downstream gap, by which the model was chosen"),
    "gap_test": (FLOAT, "downstream gap"),
    "excess_test": (FLOAT, "that - the gap without attack"),
    "excess_test_low": (FLOAT, "95 % paired bootstrap interval"),
    "excess_test_high": (FLOAT, "95 % paired bootstrap interval"),
    "accuracy_test": (FLOAT, "of the downstream model"),
    "base_accuracy_validation": (FLOAT, "of the base model"),
    "base_log_loss_change": (FLOAT, "its relative rise of log-loss"),
    "base_calibration_error": (FLOAT, "of the base model"),
    "honest_calibration_error": (FLOAT, "of θ*"),
}


def table3(descriptions: Mapping[str, Mapping[str, Any]]) -> pd.DataFrame:
    """Table 3: the data sets, from their metadata files."""
    rows = []
    for dataset, made in descriptions.items():
        train = made["parts"]["train"]
        others = train["samples"] - train["privileged"]
        rows.append(
            {
                "dataset": dataset,
                **{name: part["samples"] for name, part in made["parts"].items()},
                "features": made["features"],
                "privileged": made["privileged"],
                "positive": made["positive"],
                "privileged_share": train["privileged"] / train["samples"],
                "positive_rate_privileged": train["privileged_positives"] / train["privileged"],
                "positive_rate_other": (train["positives"] - train["privileged_positives"]) / others,
                "left_out": made["left_out"],
            }
        )
    return pd.DataFrame(rows)


def table4(
    tables: Mapping[str, Mapping[str, Any]],
    bases: Mapping[str, Mapping[str, Any]],
    metrics: Sequence[str],
    bound: str,
) -> pd.DataFrame:
    """Table 4: the parameters, and the base models that they give."""
    return pd.DataFrame(
        [
            {
                "dataset": dataset,
                "metric": metric,
                "l2": tables[dataset]["l2"],
                "beta": tables[dataset][metric]["beta"],
                "gamma": tables[dataset][metric]["gamma"],
                "bound": bound,
                **{name: base[name] for name in ("theta_norm", "gradient_norm")},
                **{name: base[name] for name in ("accuracy_validation", "accuracy_test")},
                **{f"gap_{part}": base["gaps"][metric][part] for part in ("validation", "test")},
            }
            for dataset, base in bases.items()
            for metric in metrics
        ]
    )


def chosen(rows: pd.DataFrame, *, honest: pd.Series, accuracy_budget: float) -> pd.Series | None:
    """The row an attacker chooses: the largest gap on validation among those whose downstream model loses
    at most `accuracy_budget` of validation accuracy against the honest one. None if there is none."""
    known = honest["accuracy_validation"]
    least = -np.inf if np.isnan(known) else least_accuracy(known, accuracy_budget)
    allowed = rows[rows["accuracy_validation"] >= least]
    if allowed.empty:
        return None
    # Of equal gaps the model nearest to θ*.
    return allowed.sort_values(["gap_validation", "distance"], ascending=[False, True]).iloc[0]


def attack_row(
    dataset: str, metric: str, scales: pd.DataFrame, base: Mapping[str, Any], *, accuracy_budget: float
) -> dict[str, Any]:
    """The row of `ATTACK_COLUMNS` of one data set and metric, from its table of scales."""
    base_loop = scales[scales["loop"] == "base"]
    honest = base_loop[base_loop["scale"] == 1].iloc[0]
    listed = base_loop[base_loop["listed"]]
    found = chosen(listed, honest=honest, accuracy_budget=accuracy_budget)
    taken = honest if found is None else found
    maximum = listed.loc[listed["gap_test"].idxmax()] if listed["gap_test"].notna().any() else honest
    loop = scales[scales["loop"] == "carry_over"].set_index("scale")["gap_test"]
    at_one = float(loop.get(1.0, np.nan))
    return {
        "dataset": dataset,
        "metric": metric,
        "base_gap_test": base["gaps"][metric]["test"],
        "base_accuracy_test": base["accuracy_test"],
        "honest_status": honest["status"],
        "honest_gap_test": honest["gap_test"],
        "honest_gap_test_low": honest["gap_test_low"],
        "honest_gap_test_high": honest["gap_test_high"],
        "honest_accuracy_test": honest["accuracy_test"],
        "scale": taken["scale"],
        "status": taken["status"],
        "gap_test": taken["gap_test"],
        "gap_test_low": taken["gap_test_low"],
        "gap_test_high": taken["gap_test_high"],
        "accuracy_test": taken["accuracy_test"],
        "excess": taken["excess_test"],
        "excess_low": taken["excess_test_low"],
        "excess_high": taken["excess_test_high"],
        "test_maximum_scale": maximum["scale"],
        "test_maximum_excess": maximum["excess_test"],
        "carry_over_excess": float(loop.max()) - at_one,
        "carry_over_at_one": at_one,
        "paper_maximum": PAPER_MAXIMUM if metric == "demographic_parity" else np.nan,
        "scales": len(listed),
        "infeasible": int((listed["status"] == "infeasible").sum()),
        "relaxed": int((listed["status"] == "relaxed").sum()),
    }


def direct_rows(direct: pd.DataFrame, scales: pd.DataFrame, *, accuracy_budget: float) -> pd.DataFrame:
    """The direct attack beside the best scaling within the same radius and budget of log-loss."""
    base_loop = scales[scales["loop"] == "base"]
    honest = base_loop[base_loop["scale"] == 1].iloc[0]
    beside = []
    for row in direct.itertuples():
        within = base_loop[
            (base_loop["distance"] <= row.radius * (1 + 1e-9))
            & (base_loop["base_log_loss_change"] <= row.log_loss_budget + 1e-9)
        ]
        best = chosen(within, honest=honest, accuracy_budget=accuracy_budget)
        best = honest if best is None else best
        beside.append(
            {f"scaling_{name}": best[name] for name in ("scale", "gap_validation", "gap_test", "excess_test")}
        )
    return pd.concat([direct.reset_index(drop=True), pd.DataFrame(beside)], axis=1)


def audit_rows(
    direct: pd.DataFrame, scales: pd.DataFrame, budgets: Sequence[float], *, accuracy_budget: float
) -> pd.DataFrame:
    """The harm possible within each budget of log-loss: by scaling, whatever the distance, and directly."""
    base_loop = scales[scales["loop"] == "base"]
    honest = base_loop[base_loop["scale"] == 1].iloc[0]
    rows = []
    for budget in budgets:
        scaled = base_loop[base_loop["base_log_loss_change"] <= budget + 1e-9].assign(radius=np.nan)
        moved = direct[direct["log_loss_budget"] == budget].assign(scale=np.nan)
        for attack, candidates in (("scaling", scaled), ("direct", moved)):
            best = chosen(candidates, honest=honest, accuracy_budget=accuracy_budget)
            if best is None:
                continue
            rows.append(
                {
                    "log_loss_budget": budget,
                    "attack": attack,
                    **{name: best[name] for name in AUDIT_COLUMNS if name in best.index},
                    "honest_calibration_error": honest["base_calibration_error"],
                }
                | {"log_loss_budget": budget}
            )
    return pd.DataFrame(rows, columns=[name for name in AUDIT_COLUMNS if name not in _RUN])


# For reading ------------------------------------------------------------------------------------------------


def pretty_table3(table: pd.DataFrame) -> pd.DataFrame:
    """Table 3 for reading."""
    return pd.DataFrame(
        {
            "data set": table["dataset"],
            **{name: table[name].map("{:,}".format) for name in ("train", "validation", "test")},
            "d": table["features"],
            "privileged": table["privileged"],
            "their share": table["privileged_share"].map("{:.1%}".format),
            "label 1": table["positive"],
            "its rate, privileged": table["positive_rate_privileged"].map("{:.1%}".format),
            "its rate, others": table["positive_rate_other"].map("{:.1%}".format),
        }
    )


def pretty_table4(table: pd.DataFrame) -> pd.DataFrame:
    """Table 4 for reading."""
    return pd.DataFrame(
        {
            "data set": table["dataset"],
            "metric": _words(table["metric"]),
            "l2": table["l2"].map("{:g}".format),
            "β": table["beta"].map("{:g}".format),
            "γ": table["gamma"].map("{:g}".format),
            "asked": np.where(table["bound"] == "code", "β (code)", "1 − β (paper)"),
            "‖θ*‖": table["theta_norm"].map("{:.2f}".format),
            "accuracy of θ*, validation / test": _pair(table, "accuracy"),
            "gap of θ*, validation / test": _pair(table, "gap"),
        }
    )


def pretty_attack(table: pd.DataFrame) -> pd.DataFrame:
    """The scaling attack for reading."""
    return pd.DataFrame(
        {
            "data set": table["dataset"],
            "metric": _words(table["metric"]),
            "gap of θ*": _three(table["base_gap_test"]),
            "gap without attack [95 %]": interval(table, "honest_gap_test", digits=3),
            "scale (by validation)": table["scale"].map("{:g}".format) + _mark(table["status"]),
            "gap [95 %]": interval(table, "gap_test", digits=3),
            "more by [95 %]": interval(table, "excess", digits=3),
            "accuracy without / with": [
                f"{honest:.1%} / {attacked:.1%}"
                for honest, attacked in zip(
                    table["honest_accuracy_test"], table["accuracy_test"], strict=True
                )
            ],
            "test maximum (chosen on test)": _three(table["test_maximum_excess"]),
            "published loop": _three(table["carry_over_excess"]),
            "paper": table["paper_maximum"].map(lambda value: "–" if np.isnan(value) else f"≤ {value:g}"),
            "infeasible": [f"{a} of {b}" for a, b in zip(table["infeasible"], table["scales"], strict=True)],
        }
    )


def pretty_scales(table: pd.DataFrame) -> pd.DataFrame:
    """Every scale for reading."""
    return pd.DataFrame(
        {
            "data set": table["dataset"],
            "metric": _words(table["metric"]),
            "loop": table["loop"],
            "scale": table["scale"].map("{:g}".format),
            "program": table["status"],
            "asked": _three(table["asked"]),
            "attainable": _three(table["attainable"]),
            "removed": table["removed"].map(lambda value: "–" if np.isnan(value) else f"{value:.1f}"),
            "gap, validation": _three(table["gap_validation"]),
            "gap, test [95 %]": interval(table, "gap_test", digits=3),
            "accuracy": _three(table["accuracy_test"]),
            "log-loss of the base": _change(table["base_log_loss_change"]),
            "its calibration error": _three(table["base_calibration_error"]),
        }
    )


def pretty_direct(table: pd.DataFrame) -> pd.DataFrame:
    """The direct attack for reading."""
    return pd.DataFrame(
        {
            "data set": table["dataset"],
            "metric": _words(table["metric"]),
            "C": table["radius"].map("{:g}".format),
            "log-loss": table["log_loss_budget"].map(lambda b: "any" if np.isinf(b) else f"≤ {b:+.0%}"),
            "gap without attack": _three(table["gap_test"] - table["excess_test"]),
            "gap by scaling": _three(table["scaling_gap_test"]),
            "gap, directly [95 %]": interval(table, "gap_test", digits=3),
            "accuracy": _three(table["accuracy_test"]),
            "base accuracy, validation / test": _pair(table, "base_accuracy"),
            "log-loss of the base": _change(table["base_log_loss_change"]),
        }
    )


def pretty_audit(table: pd.DataFrame) -> pd.DataFrame:
    """The harm within budgets of log-loss for reading."""
    return pd.DataFrame(
        {
            "data set": table["dataset"],
            "metric": _words(table["metric"]),
            "log-loss": table["log_loss_budget"].map("≤ {:+.0%}".format),
            "attack": table["attack"],
            "scale": table["scale"].map(lambda value: "–" if np.isnan(value) else f"{value:.3g}"),
            "gap": _three(table["gap_test"]),
            "more by [95 %]": interval(table, "excess_test", digits=3),
            "accuracy": _three(table["accuracy_test"]),
            "calibration error (of θ*)": [
                f"{value:.3f} ({honest:.3f})"
                for value, honest in zip(
                    table["base_calibration_error"], table["honest_calibration_error"], strict=True
                )
            ],
        }
    )


def _words(values: pd.Series) -> pd.Series:
    return values.str.replace("_", " ")


def _three(values: pd.Series) -> pd.Series:
    return values.map(lambda value: "–" if np.isnan(value) else f"{value:.3f}")


def _change(values: pd.Series) -> pd.Series:
    return values.map(lambda value: "–" if np.isnan(value) else f"{value:+.1%}")


def _mark(status: pd.Series) -> pd.Series:
    return status.map(lambda value: " (relaxed)" if value == "relaxed" else "")


def _pair(table: pd.DataFrame, name: str) -> list[str]:
    ends = zip(table[f"{name}_validation"], table[f"{name}_test"], strict=True)
    return [f"{validation:.4f} / {test:.4f}" for validation, test in ends]
