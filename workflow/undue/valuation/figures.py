"""Pictures of attacks on data valuation."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import cycle

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from undue.plots import COLOURS


def success_against_accuracy(rates: pd.DataFrame, *, budget: float) -> Figure:
    """Fig. 4 of Yadav et al. 2024: success as the radius C grows, and what it costs in accuracy.

    Solid: the shared half, on which the attack selects; dashed: the same models on the pristine half.
    Every published model counts, whatever its accuracy. A row for each data set and objective: left,
    success against C with 95 % Wilson intervals, of each C side by side; right, success against accuracy
    lost, where C grows along each line and a radius without any success has no point.

    Args:
        rates: the table `attack_success`.
        budget: the accuracy that may be lost, drawn as a line.
    """
    panels = list(rates.groupby(["dataset", "objective"], sort=False))
    figure, axes = plt.subplots(
        len(panels), 2, figsize=(7.6, 2.9 * len(panels) + 0.7), sharey=True, squeeze=False
    )
    ks = sorted(rates["k"].unique())
    several = rates["objective"].nunique() > 1
    for (left, right), ((dataset, objective), panel) in zip(axes, panels, strict=True):
        for number, (colour, k) in enumerate(zip(cycle(COLOURS), ks, strict=False)):
            line = panel[panel["k"] == k].sort_values("radius")
            place = line["radius"] * (1 + 0.05 * (number - (len(ks) - 1) / 2))
            for rate, pristine in (("best_success", False), ("best_transfer", True)):
                _line(left, place, line[rate], colour, pristine=pristine)
                left.vlines(place, line[f"{rate}_low"], line[f"{rate}_high"], color=colour, lw=0.7, alpha=0.7)
            _line(
                right, 100 * line["best_accuracy_lost_shared"], line["best_success"], colour, pristine=False
            )
            _line(
                right, 100 * line["best_accuracy_lost_pristine"], line["best_transfer"], colour, pristine=True
            )
        left.set_xscale("log")
        radii = sorted(panel["radius"].unique())
        left.set_xticks(radii, [f"{radius:g}" for radius in radii])
        left.minorticks_off()
        left.set_xlabel("radius C")
        left.set_ylabel("success rate")
        left.set_ylim(-0.03, 1.03)
        left.set_title(f"{dataset}, {objective}" if several else str(dataset), loc="left")
        right.axvline(100 * budget, color="0.5", lw=0.8, ls=":")
        right.set_xlabel("accuracy lost (percentage points)")
    handles = [
        *[Line2D([], [], color=c, label=f"k = {k}") for c, k in zip(cycle(COLOURS), ks, strict=False)],
        Line2D([], [], color="0.3", marker="o", ms=4, label="shared half"),
        Line2D([], [], color="0.3", marker="o", ms=4, ls="--", mfc="white", label="pristine half (transfer)"),
        Line2D([], [], color="0.5", lw=0.8, ls=":", label="accuracy budget"),
    ]
    figure.legend(handles=handles, loc="outside lower center", ncols=(len(handles) + 1) // 2)
    return figure


def _line(axis: Axes, x: pd.Series, y: pd.Series, colour: str, *, pristine: bool) -> None:
    axis.plot(
        x,
        y,
        "--" if pristine else "-",
        color=colour,
        marker="o",
        ms=4,
        mfc="white" if pristine else colour,
        lw=1.4,
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
