"""Pictures of what lies behind the success rates: objectives, starts, targets, training sets."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import cycle

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

from undue.budget import percents
from undue.plots import COLOURS

OBJECTIVE_COLOURS = {"max_target": COLOURS[4], "min_topk": COLOURS[1], "min_higher": COLOURS[0]}
EASY, HARD, OTHER = COLOURS[2], COLOURS[1], "0.75"
REGIMES = {"success": "loss ≤ {budget}", "best_success": "whatever the accuracy"}
BINS = 20


def objectives_against_steps(curves: pd.DataFrame) -> Figure:
    """Objective (left) and rank (right) against the step, a row for each data set.

    Args:
        curves: rows of `convergence.quartiles` with columns dataset and objective.
    """
    figure, axes = _rows(curves["dataset"].nunique(), 2)
    for (left, right), (dataset, panel) in zip(axes, curves.groupby("dataset", sort=False), strict=True):
        for objective, curve in panel.groupby("objective", sort=False):
            colour = OBJECTIVE_COLOURS[str(objective)]
            _quartiles(left, curve, "objective", colour)
            _quartiles(right, curve, "rank", colour)
        left.set_yscale("symlog", linthresh=1)
        left.yaxis.set_major_formatter("{x:g}")
        left.axhline(0, color="0.5", lw=0.8, ls=":")
        right.set_yscale("log")
        right.yaxis.set_major_formatter("{x:,.0f}")
        right.invert_yaxis()
        left.set_title(str(dataset), loc="left")
        left.set_ylabel("objective / spread at θ*")
        right.set_ylabel("rank of the target")
        left.set_xlabel("step")
        right.set_xlabel("step")
    _legend(
        figure,
        [Line2D([], [], color=OBJECTIVE_COLOURS[name], label=name) for name in curves["objective"].unique()],
    )
    return figure


def success_against_starts(rates: pd.DataFrame, *, budget: float) -> Figure:
    """Success against the number of starts, by radius: within the budget, and whatever the accuracy.

    Args:
        rates: rows of the table `attack_starts`, of one objective and k.
        budget: the accuracy that may be lost.
    """
    figure, axes = _rows(rates["dataset"].nunique(), 2, sharey=True)
    radii = sorted(rates["radius"].unique())
    # Nested radii in shades from light to dark: an order, not kinds.
    shades = dict(zip(radii, plt.get_cmap("viridis_r")(np.linspace(0.15, 0.95, len(radii))), strict=True))
    for row, (dataset, panel) in zip(axes, rates.groupby("dataset", sort=False), strict=True):
        for axis, (rate, regime) in zip(row, REGIMES.items(), strict=True):
            for number, (radius, curve) in enumerate(panel.sort_values("starts").groupby("radius")):
                # Side by side, so that intervals can be told apart.
                shift = 0.04 * (number - (len(radii) - 1) / 2)
                _interval(axis, curve["starts"] + shift, curve, rate, shades[radius])
            axis.set_ylim(-0.03, 1.03)
            axis.xaxis.set_major_locator(MaxNLocator(integer=True))
            axis.set_xlabel("number of starts")
            axis.set_title(f"{dataset}, {regime.format(budget=percents(budget))}", loc="left")
        row[0].set_ylabel("success rate")
    _legend(figure, [Line2D([], [], color=shades[r], marker="o", ms=4, label=f"C = {r:g}") for r in radii])
    return figure


def easy_and_hard(targets: pd.DataFrame, gradients: pd.DataFrame, samples: Mapping[str, int]) -> Figure:
    """Fig. 5 of Yadav et al. 2024: original ranks of easy and hard targets, and gradient norm against rank.

    Args:
        targets: from `easy.easy_targets`.
        gradients: the tables of gradient norms, with a column dataset.
        samples: data set → number of training samples.
    """
    figure, axes = _rows(len(samples), 3)
    for row, (dataset, n) in zip(axes, samples.items(), strict=True):
        chosen = targets[targets["dataset"] == dataset]
        bins = np.linspace(1, n, BINS + 1)
        for axis, part, colour, label in (
            (row[0], chosen[chosen["easy"]], EASY, "easy"),
            (row[1], chosen[~chosen["easy"]], HARD, "hard"),
        ):
            axis.hist(part["original_rank"], bins=bins, color=colour, ec="white", lw=0.5)
            axis.set_title(f"{dataset}: {label} targets ({len(part)})", loc="left")
            axis.set_ylabel("targets")
            axis.yaxis.set_major_locator(MaxNLocator(integer=True))
        row[1].sharey(row[0])
        _scatter(row[2], gradients[gradients["dataset"] == dataset], chosen)
        for axis in row:
            axis.set_xlim(1 - 0.02 * n, 1.02 * n)
            axis.set_xlabel("original rank")
    handles = [
        Line2D([], [], color=colour, marker="o", ms=ms, ls="", label=label)
        for colour, ms, label in (
            (EASY, 4, "easy target"),
            (HARD, 4, "hard target"),
            (OTHER, 3, "other sample"),
        )
    ]
    _legend(figure, handles)
    return figure


def success_against_size(rates: pd.DataFrame, samples: Mapping[str, int], *, budget: float) -> Figure:
    """Success within the accuracy budget against the number of training samples, a line for each k.

    Args:
        rates: rows of Table 1, of one objective.
        samples: data set → number of training samples.
        budget: the accuracy that may be lost.
    """
    figure, axes = plt.subplots(figsize=(4.6, 3.4))
    ks = sorted(rates["k"].unique())
    placed = rates.assign(samples=rates["dataset"].map(samples)).sort_values("samples")
    for number, (colour, k) in enumerate(zip(cycle(COLOURS), ks, strict=False)):
        # Side by side, so that intervals at one size can be told apart.
        shift = 1 + 0.02 * (number - (len(ks) - 1) / 2)
        curve = placed[placed["k"] == k]
        _interval(axes, curve["samples"] * shift, curve, "success", colour)
    axes.set_xscale("log")
    names = {int(n): ", ".join(sorted(d for d in samples if samples[d] == n)) for n in samples.values()}
    axes.set_xticks(sorted(names), [f"{n:,}\n{names[n]}" for n in sorted(names)])
    axes.minorticks_off()
    axes.margins(x=0.15)
    axes.set_ylim(-0.03, 1.03)
    axes.set_xlabel("training samples")
    axes.set_ylabel(f"success rate, loss ≤ {percents(budget)}")
    _legend(
        figure,
        [
            Line2D([], [], color=colour, marker="o", ms=4, label=f"k = {k}")
            for colour, k in zip(cycle(COLOURS), ks, strict=False)
        ],
    )
    return figure


def _rows(rows: int, columns: int, *, sharey: bool = False) -> tuple[Figure, np.ndarray]:
    size = (3.8 * columns if columns < 3 else 3.2 * columns, 2.7 * rows + 0.5)
    figure, axes = plt.subplots(rows, columns, figsize=size, squeeze=False, sharey=sharey)
    return figure, axes


def _legend(figure: Figure, handles: Sequence[Line2D]) -> None:
    figure.legend(handles=handles, loc="outside lower center", ncols=min(5, len(handles)))


def _quartiles(axis: Axes, curve: pd.DataFrame, name: str, colour: str) -> None:
    axis.plot(curve["step"], curve[f"{name}_median"], color=colour, lw=1.4)
    axis.fill_between(
        curve["step"], curve[f"{name}_low"], curve[f"{name}_high"], color=colour, alpha=0.15, lw=0
    )


def _interval(axis: Axes, x: pd.Series, rates: pd.DataFrame, name: str, colour: object) -> None:
    below, above = rates[name] - rates[f"{name}_low"], rates[f"{name}_high"] - rates[name]
    # An interval may end a rounding error inside its own rate.
    errors = np.clip([below, above], 0, None)
    axis.errorbar(x, rates[name], errors, color=colour, marker="o", ms=4, lw=1.4, elinewidth=0.8, capsize=2)


def _scatter(axis: Axes, gradients: pd.DataFrame, targets: pd.DataFrame) -> None:
    easy = gradients["index"].map(targets.set_index("target")["easy"].astype(object))
    for part, colour, size in (
        (gradients[easy.isna()], OTHER, 6),
        (gradients[easy.eq(False)], HARD, 14),
        (gradients[easy.eq(True)], EASY, 14),
    ):
        axis.scatter(part["rank"], part["gradient_norm"], s=size, color=colour, lw=0)
    axis.set_yscale("log")
    axis.set_ylabel("gradient norm of influence")
