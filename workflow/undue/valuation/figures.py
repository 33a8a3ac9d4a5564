"""Pictures of attacks on data valuation."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from undue.plots import COLOURS


def success_against_accuracy(rates: pd.DataFrame, *, budget: float) -> Figure:
    """Fig. 4 of Yadav et al. 2024: what success costs in accuracy as the radius C grows.

    Solid: success and accuracy on the shared half. Dashed: the same models on the pristine half.
    Each published model counts, whatever its accuracy; the budget is the dotted line.

    Args:
        rates: the table `attack_success`, of one or several data sets and objectives.
        budget: the accuracy that may be lost.
    """
    panels = list(rates.groupby(["dataset", "objective"], sort=False))
    figure, axes = plt.subplots(
        1, len(panels), figsize=(4.2 * len(panels) + 0.6, 3.6), sharey=True, squeeze=False
    )
    several = rates["objective"].nunique() > 1
    for axis, ((dataset, objective), panel) in zip(axes[0], panels, strict=True):
        for colour, (_, rows) in zip(COLOURS, panel.groupby("k"), strict=False):
            line = rows.sort_values("radius")
            _curve(axis, line, "best_accuracy_lost_shared", "best_success", colour, "-")
            _curve(axis, line, "best_accuracy_lost_pristine", "best_transfer", colour, "--")
            whisker = (
                (line["best_success"] - line["best_success_low"]).clip(lower=0),
                (line["best_success_high"] - line["best_success"]).clip(lower=0),
            )
            axis.errorbar(
                100 * line["best_accuracy_lost_shared"],
                line["best_success"],
                yerr=whisker,
                fmt="none",
                ecolor=colour,
                alpha=0.35,
                lw=1,
            )
        axis.axvline(100 * budget, color="0.5", lw=0.8, ls=":")
        axis.set_title(f"{dataset}, {objective}" if several else str(dataset))
        axis.set_xlabel("accuracy lost (percentage points)")
        axis.set_ylim(-0.03, 1.03)
    axes[0][0].set_ylabel("success rate")
    ks = sorted(rates["k"].unique())
    handles = [
        *[Line2D([], [], color=colour, label=f"k = {k}") for colour, k in zip(COLOURS, ks, strict=False)],
        Line2D([], [], color="0.3", marker="o", ms=4, label="shared half (attacker sees it)"),
        Line2D([], [], color="0.3", marker="o", ms=4, ls="--", mfc="white", label="pristine half (transfer)"),
    ]
    figure.legend(handles=handles, loc="outside lower center", ncols=len(handles), fontsize=8)
    return figure


def _curve(axis: Axes, line: pd.DataFrame, x: str, y: str, colour: str, style: str) -> None:
    fill = colour if style == "-" else "white"
    axis.plot(100 * line[x], line[y], style, color=colour, marker="o", ms=4, mfc=fill, lw=1.4)
    if style == "-":
        for _, point in line.iterrows():
            if not np.isnan(point[x]):
                axis.annotate(
                    f"C={point['radius']:g}",
                    (100 * point[x], point[y]),
                    textcoords="offset points",
                    xytext=(4, -9),
                    fontsize=6,
                    color=colour,
                )


@dataclass(frozen=True)
class TopRanked:
    """One model's ten highest ranked training samples.

    Attributes:
        title: what model this is.
        samples: sample numbers, highest rank first.
        target: the sample to mark.
        target_rank: its rank.
    """

    title: str
    samples: np.ndarray
    target: int
    target_rank: int


def top_ranked(rows: Sequence[TopRanked], images: dict[int, np.ndarray], classes: dict[int, str]) -> Figure:
    """The top of rankings as pictures: a row for each model, the attacked target framed.

    Args:
        rows: the rankings.
        images: pixels (height, width) or (height, width, 3) of the samples, empty if there are none.
        classes: class name of each sample.
    """
    width = len(rows[0].samples) + 1
    figure, axes = plt.subplots(len(rows), width, figsize=(0.86 * width, 1.12 * len(rows)), squeeze=False)
    for line, row in zip(axes, rows, strict=True):
        _sample(line[0], row.target, images, classes, framed=True)
        line[0].set_title(f"target\nrank {row.target_rank:,}", fontsize=7)
        line[0].set_ylabel(row.title, fontsize=8, rotation=0, ha="right", va="center", labelpad=8)
        for place, (axis, sample) in enumerate(zip(line[1:], row.samples, strict=True), start=1):
            _sample(axis, int(sample), images, classes, framed=sample == row.target)
            axis.set_title(f"{place}", fontsize=7)
    return figure


def _sample(
    axis: Axes, sample: int, images: dict[int, np.ndarray], classes: dict[int, str], *, framed: bool
) -> None:
    if sample in images:
        pixels = images[sample]
        axis.imshow(pixels, cmap="gray" if pixels.ndim == 2 else None, interpolation="nearest")
    else:
        axis.text(0.5, 0.5, f"{sample}", ha="center", va="center", fontsize=8, transform=axis.transAxes)
    axis.set_xticks([])
    axis.set_yticks([])
    axis.set_xlabel(classes[sample], fontsize=7, labelpad=2)
    for spine in axis.spines.values():
        spine.set_visible(framed)
        spine.set_color(COLOURS[1])
        spine.set_linewidth(2.5)
