"""Picture of the impossibility theorem and of its limits."""

from __future__ import annotations

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

from undue.plots import COLOURS

SCALING_TITLES = {
    "none": "features as they are",
    "centre": "centred",
    "standardise": "standardised (by n)",
    "standardise_sample": "standardised (by n − 1)",
}
LOWEST = 0.7
BIAS_TITLES = {"none": "no bias", "regularised": "bias, ridge λ + δ", "free": "bias, ridge δ"}


def best_rank_panels(table: pd.DataFrame) -> Figure:
    """The target's best rank under any model, against K: a column for each scaling, a row for each bias.

    Shaded: the top K. A filled point is a case that the proof excludes from it, an empty one a case that it
    doesn't exclude; the first panel is the theorem's own setting.

    Args:
        table: the table `impossibility`.
    """
    figure, axes = plt.subplots(
        len(BIAS_TITLES), len(SCALING_TITLES), figsize=(8.4, 6.2), sharex=True, sharey=True
    )
    sizes = sorted(table["duplicates"].unique())
    places = np.arange(len(sizes))
    dimensions = sorted(table["dimension"].unique())
    for line, (bias, bias_title) in zip(axes, BIAS_TITLES.items(), strict=True):
        for axis, (scaling, title) in zip(line, SCALING_TITLES.items(), strict=True):
            panel = table[(table["bias"] == bias) & (table["scaling"] == scaling)]
            axis.bar(places, np.array(sizes) + 0.5 - LOWEST, bottom=LOWEST, width=0.6, color="0.9")
            for shift, dimension in enumerate(dimensions):
                part = panel[panel["dimension"] == dimension].sort_values("duplicates")
                offset = 0.16 * (shift - (len(dimensions) - 1) / 2)
                _points(axis, places + offset, part, COLOURS[shift % len(COLOURS)])
            axis.set_yscale("log")
            axis.yaxis.set_major_formatter("{x:g}")
            axis.set_xlim(-0.5, len(sizes) - 0.5)
            axis.set_ylim(bottom=LOWEST)
            axis.set_xticks(places, [str(k) for k in sizes])
            if bias == next(iter(BIAS_TITLES)):
                axis.set_title(title)
        line[0].set_ylabel(f"{bias_title}\nbest rank of the target")
    for axis in axes[-1]:
        axis.set_xlabel("duplicates K")
    handles = [
        *[
            Line2D(
                [], [], color=COLOURS[shift % len(COLOURS)], marker="o", ms=5, ls="", label=f"d = {dimension}"
            )
            for shift, dimension in enumerate(dimensions)
        ],
        Line2D([], [], color="0.3", marker="o", ms=5, ls="", label="top K proved impossible"),
        Line2D([], [], color="0.3", marker="o", ms=5, ls="", mfc="white", label="not excluded"),
        Patch(color="0.9", label="top K"),
    ]
    figure.legend(handles=handles, loc="outside lower center", ncols=len(handles))
    return figure


def _points(axis: Axes, places: np.ndarray, part: pd.DataFrame, colour: str) -> None:
    for place, rank, possible in zip(places, part["best_rank"], part["possible"], strict=True):
        axis.plot(place, rank, "o", ms=5, color=colour, mfc="white" if possible else colour)
