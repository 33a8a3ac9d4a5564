"""Pictures of the fairness experiments."""

from __future__ import annotations

from collections.abc import Sequence

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from undue.fairness.metrics import METRIC_TITLES
from undue.plots import COLOURS

ATTACK, LOOP, HONEST, BASE = COLOURS[0], COLOURS[1], "0.25", COLOURS[2]
DIRECT = COLOURS[3]


def gap_against_scale(scales: pd.DataFrame, attacks: pd.DataFrame) -> Figure:
    """Fig. 7 of Yadav et al. 2024: gap and accuracy of the downstream model against the scale, on test.

    Args:
        scales: rows of the table of scales, of one metric.
        attacks: rows of the table of attacks, of that metric.
    """
    figure, axes = _grid(scales, rows=2)
    for column, (dataset, part) in zip(axes.T, _datasets(scales), strict=True):
        row = attacks[attacks["dataset"] == dataset].iloc[0]
        base, loop = (_loop(part, name) for name in ("base", "carry_over"))
        honest = base[base["scale"] == 1].iloc[0]
        gap, accuracy = column
        gap.set_xscale("log")
        accuracy.set_xscale("log")
        gap.fill_between(
            base["scale"], base["gap_test_low"], base["gap_test_high"], color=ATTACK, alpha=0.15, lw=0
        )
        for axis, name, of_base in (
            (gap, "gap_test", row["base_gap_test"]),
            (accuracy, "accuracy_test", row["base_accuracy_test"]),
        ):
            axis.plot(base["scale"], base[name], color=ATTACK, marker="o", ms=3, lw=1.4)
            axis.plot(loop["scale"], loop[name], color=LOOP, marker=".", ms=3, lw=1, ls="--")
            axis.axhline(honest[name], color=HONEST, lw=1.2, ls="--")
            axis.axhline(of_base, color=BASE, lw=1, ls=":")
            _infeasible(axis, base)
        chosen = base[base["scale"] == row["scale"]].iloc[0]
        gap.plot(chosen["scale"], chosen["gap_test"], "o", ms=9, mfc="none", mec=ATTACK)
        gap.set_title(dataset)
        gap.set_ylim(bottom=0)
        accuracy.set_xlabel("scale of the base model")
    metric = str(scales["metric"].iloc[0])
    axes[0][0].set_ylabel(f"{METRIC_TITLES[metric]}, test")
    axes[1][0].set_ylabel("accuracy, test")
    _legend(
        figure,
        [
            Line2D([], [], color=ATTACK, marker="o", ms=3, label="scaled base model (95 % band)"),
            Line2D(
                [], [], color=ATTACK, marker="o", ms=9, mfc="none", ls="", label="scale chosen on validation"
            ),
            Line2D([], [], color=HONEST, ls="--", label="without attack"),
            Line2D([], [], color=BASE, ls=":", label="θ*, not reweighed"),
            Line2D([], [], color=LOOP, marker=".", ls="--", lw=1, label="published loop"),
            Line2D([], [], color="0.4", marker="x", ls="", label="program infeasible"),
        ],
    )
    return figure


def why_it_works(scales: pd.DataFrame) -> Figure:
    """How the weights, and what is predicted of them, change with the scale, with the limits at 0 and ∞.

    Args:
        scales: rows of the table of scales, of one metric.
    """
    figure, axes = _grid(scales, rows=4)
    for column, (dataset, part) in zip(axes.T, _datasets(scales), strict=True):
        base, limit = _loop(part, "base"), _loop(part, "limit")
        removed, overlap, fairness, utility = column
        removed.plot(base["scale"], base["removed"], color=ATTACK, marker="o", ms=3)
        overlap.plot(base["scale"], base["overlap"], color=ATTACK, marker="o", ms=3)
        for axis, name in ((fairness, "fairness"), (utility, "utility")):
            axis.axhline(0, color="0.8", lw=0.8)
            axis.plot(base["scale"], base[f"predicted_{name}"], color=LOOP, marker="o", ms=3)
            axis.plot(base["scale"], base[f"realised_{name}"], color=ATTACK, marker="o", ms=3)
        asked = base[np.isfinite(base["asked"])]
        fairness.plot(asked["scale"], asked["asked"], color="0.5", lw=1, ls=":")
        # Influences on losses grow with the scale without end; what is realised is what matters.
        largest = max(1e-3, float(np.nanmax(np.abs(base["realised_fairness"].to_numpy()), initial=0)))
        fairness.set_ylim(-4 * largest, 2 * largest)
        at_zero = limit[limit["scale"] == 0].iloc[0]
        for axis, name in (
            (removed, "removed"),
            (overlap, "overlap"),
            (fairness, "realised_fairness"),
            (utility, "realised_utility"),
        ):
            axis.set_xscale("log")
            low, high = float(base["scale"].min()), float(base["scale"].max())
            axis.axvline(1, color=HONEST, lw=0.8, ls="--")
            axis.plot(low / 3, at_zero[name], marker="<", color=ATTACK, ms=6, clip_on=False)
            axis.set_xlim(low / 3, high * 3)
            _infeasible(axis, base, beyond=high * 3)
        removed.set_yscale("symlog", linthresh=1)
        removed.set_ylim(bottom=0)
        overlap.set_ylim(-0.03, 1.03)
        removed.set_title(dataset)
        utility.set_xlabel("scale of the base model")
    for axis, label in zip(
        axes[:, 0],
        (
            "samples removed",
            "overlap with\nhonest weights",
            "change of\nunfairness f",
            "change of\nvalidation loss",
        ),
        strict=True,
    ):
        axis.set_ylabel(label)
    _legend(
        figure,
        [
            Line2D([], [], color=ATTACK, marker="o", ms=3, label="realised"),
            Line2D([], [], color=LOOP, marker="o", ms=3, label="predicted by the influences"),
            Line2D([], [], color="0.5", ls=":", label="asked for"),
            Line2D([], [], color=HONEST, ls="--", lw=0.8, label="without attack"),
            Line2D([], [], color=ATTACK, marker="<", ls="", ms=6, label="limit at scale 0"),
            Line2D([], [], color="0.4", marker="x", ls="", label="infeasible (right edge: limit at ∞)"),
        ],
    )
    return figure


def what_an_auditor_sees(scales: pd.DataFrame, audit: pd.DataFrame) -> Figure:
    """What scaling leaves alone and what it doesn't; and the harm left within budgets of log-loss.

    Args:
        scales: rows of the table of scales, of one metric.
        audit: rows of the audit table, of that metric.
    """
    figure, axes = _grid(scales, rows=2)
    for column, (dataset, part) in zip(axes.T, _datasets(scales), strict=True):
        base = _loop(part, "base")
        seen, harm = column
        # Log-loss grows with the scale without end, the two others don't.
        seen.plot(base["scale"], base["base_log_loss"].clip(upper=1.5), color=ATTACK)
        seen.plot(base["scale"], base["base_calibration_error"], color=LOOP)
        seen.plot(base["scale"], base["base_accuracy_validation"], color=BASE)
        seen.axvline(1, color=HONEST, lw=0.8, ls="--")
        seen.set_xscale("log")
        seen.set_ylim(0, 1.5)
        seen.set_xlabel("scale of the base model")
        seen.set_title(dataset)
        rows = audit[audit["dataset"] == dataset]
        budgets = sorted(rows["log_loss_budget"].unique())
        for offset, (attack, colour) in enumerate((("scaling", ATTACK), ("direct", DIRECT))):
            bars = rows[rows["attack"] == attack].set_index("log_loss_budget")
            place = np.array([budgets.index(budget) for budget in bars.index]) + 0.38 * offset - 0.19
            excess = bars["excess_test"].to_numpy()
            harm.bar(place, excess, width=0.36, color=colour)
            harm.vlines(place, bars["excess_test_low"], bars["excess_test_high"], color="0.2", lw=1)
        harm.axhline(0, color="0.4", lw=0.8)
        harm.set_xticks(range(len(budgets)), [f"{budget:+.0%}" for budget in budgets])
        harm.set_xlabel("log-loss of the base model at most")
    axes[0][0].set_ylabel("base model, validation")
    axes[1][0].set_ylabel("gap, test, more than\nwithout attack")
    _legend(
        figure,
        [
            Line2D([], [], color=ATTACK, label="log-loss (cut at 1.5)"),
            Line2D([], [], color=LOOP, label="calibration error"),
            Line2D([], [], color=BASE, label="accuracy"),
            Line2D([], [], color=ATTACK, lw=6, label="harm by scaling"),
            Line2D([], [], color=DIRECT, lw=6, label="harm by the direct attack"),
        ],
    )
    return figure


def direct_against_scaling(direct: pd.DataFrame) -> Figure:
    """The downstream gap that each attack reaches within a radius, at the base accuracy of θ*.

    Args:
        direct: rows of the table of direct attacks, of one metric.
    """
    rows = direct[np.isinf(direct["log_loss_budget"])]
    figure, axes = _grid(rows, rows=1)
    for axis, (dataset, part) in zip(axes[0], _datasets(rows), strict=True):
        line = part.sort_values("radius")
        axis.plot(line["radius"], line["gap_test"], color=DIRECT, marker="o", ms=4)
        axis.fill_between(
            line["radius"], line["gap_test_low"], line["gap_test_high"], color=DIRECT, alpha=0.15, lw=0
        )
        axis.plot(line["radius"], line["scaling_gap_test"], color=ATTACK, marker="o", ms=4)
        axis.axhline((line["gap_test"] - line["excess_test"]).iloc[0], color=HONEST, ls="--", lw=1.2)
        axis.set_title(dataset)
        axis.set_xlabel("C = ‖θ' − θ*‖ / ‖θ*‖")
        axis.set_ylim(bottom=0)
    metric = str(rows["metric"].iloc[0])
    axes[0][0].set_ylabel(f"{METRIC_TITLES[metric]},\ntest")
    _legend(
        figure,
        [
            Line2D([], [], color=DIRECT, marker="o", ms=4, label="direct attack (95 % band)"),
            Line2D([], [], color=ATTACK, marker="o", ms=4, label="best scaling within C"),
            Line2D([], [], color=HONEST, ls="--", label="without attack"),
        ],
    )
    return figure


def _grid(table: pd.DataFrame, *, rows: int) -> tuple[Figure, np.ndarray]:
    columns = table["dataset"].nunique()
    figure, axes = plt.subplots(
        rows, columns, figsize=(3.1 * columns + 0.9, 1.75 * rows + 0.9), sharex=False, squeeze=False
    )
    return figure, axes


def _datasets(table: pd.DataFrame) -> list[tuple[str, pd.DataFrame]]:
    return [(str(dataset), part) for dataset, part in table.groupby("dataset", sort=False)]


def _loop(part: pd.DataFrame, name: str) -> pd.DataFrame:
    return part[part["loop"] == name].sort_values("scale")


def _infeasible(axis: Axes, base: pd.DataFrame, *, beyond: float | None = None) -> None:
    """A cross at the foot of the axis for every scale with an infeasible program."""
    where = base.loc[base["status"] == "infeasible", "scale"].tolist()
    where += [] if beyond is None else [beyond]
    if not where:  # an artist without a place would spoil the layout
        return
    foot = np.zeros(len(where))
    axis.plot(where, foot, "x", color="0.4", ms=5, transform=axis.get_xaxis_transform(), clip_on=False)


def _legend(figure: Figure, handles: Sequence[Line2D]) -> None:
    columns = 3 if len(figure.axes) > 1 else 1
    figure.legend(handles=handles, loc="outside lower center", ncols=columns, fontsize=8)
