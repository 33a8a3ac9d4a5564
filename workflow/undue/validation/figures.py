"""Pictures of predicted and actual effects."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from undue.plots import COLOURS
from undue.validation.effects import DAMPING_VARIED, GROUPS

PART_TITLES = {
    "without_loss": "without the training loss",
    "without_hessian": "without the Hessian",
    "without_both": "without both",
}
PLACES = {"first": COLOURS[1], "last": COLOURS[0], "random": "0.6"}


def scatters(pairs: pd.DataFrame, agreements: pd.DataFrame) -> Figure:
    """Predicted against actual effects: a panel for each predictor, in its own scale, with the diagonal.

    Args:
        pairs: table of PAIR_COLUMNS of one experiment.
        agreements: the table `validation`.
    """
    groups = list(pairs.groupby(GROUPS, sort=False, dropna=False))
    figure, axes = plt.subplots(1, len(groups), figsize=(2.6 * len(groups), 2.9), squeeze=False)
    found = {_key(row): row for row in agreements.to_dict("records")}
    for axis, (key, part) in zip(axes[0], groups, strict=True):
        row = found[_key(dict(zip(GROUPS, key, strict=True)))]
        _diagonal(axis, part["actual"], part["predicted"])
        axis.plot(part["actual"], part["predicted"], "o", ms=2.5, alpha=0.6, mew=0)
        name = key[2] if math.isnan(key[3]) else f"{key[2]} = {key[3]:.3g}"
        # The experiment's details, after its comma, on a line of their own: panels are narrow.
        experiment = str(key[1]).replace(", ", ",\n")
        axis.set_title(
            f"{experiment}\n{name}\nR = {row['pearson']:.3f}, ρ = {row['spearman']:.3f}", fontsize=8
        )
        axis.set_xlabel("actual change of the test loss")
    axes[0][0].set_ylabel("predicted, −I/n")
    return figure


def _key(row: Mapping[str, object]) -> tuple[str, ...]:
    """What identifies a group, with an empty level equal to itself."""
    return tuple(str(row[name]) for name in GROUPS)


def _diagonal(axis: Axes, actual: pd.Series, predicted: pd.Series) -> None:
    low = min(actual.min(), predicted.min())
    high = max(actual.max(), predicted.max())
    axis.plot([low, high], [low, high], "-", color="0.75", lw=1, zorder=0)


def harmful_twin(parts: pd.DataFrame) -> int:
    """The training sample with the test image's label that raises its loss most."""
    same = parts[parts["same_label"] == 1]
    return int(same.loc[same["influence"].idxmax(), "sample"])


def influence_parts(parts: pd.DataFrame, shown: Mapping[str, np.ndarray]) -> Figure:
    """Influence against what is left of it without its parts (Koh & Liang 2017, Fig. 1).

    Args:
        parts: table of PARTS_COLUMNS.
        shown: title → pixels (d,) in [0, 1]; what is no square image is not shown.
    """
    pictures = {
        title: pixels for title, pixels in shown.items() if math.isqrt(len(pixels)) ** 2 == len(pixels)
    }
    panels = len(PART_TITLES)
    figure = plt.figure(figsize=(2.5 * (panels + 0.7), 2.9))
    grid = figure.add_gridspec(2, panels + 1, width_ratios=[1] * panels + [0.6])
    for place, (name, title) in enumerate(PART_TITLES.items()):
        axis = figure.add_subplot(grid[:, place])
        for same, colour, label in (
            (0, COLOURS[1], "other label"),
            (1, COLOURS[2], "the test image's label"),
        ):
            part = parts[parts["same_label"] == same]
            # As pixels in the .svg, too: there may be 100,000 of them.
            look: dict[str, Any] = {"ms": 2, "alpha": 0.6, "mew": 0, "rasterized": True}
            axis.plot(part[name], part["influence"], "o", color=colour, label=label, **look)
        axis.set_xlabel(title)
        if place == 0:
            axis.set_ylabel("influence")
            axis.legend(fontsize=7, markerscale=2)
    for line, (title, pixels) in enumerate(pictures.items()):
        axis = figure.add_subplot(grid[line, panels])
        side = math.isqrt(len(pixels))
        axis.imshow(pixels.reshape(side, side), cmap="gray_r", vmin=0, vmax=1)
        axis.set_axis_off()
        axis.set_title(title.replace(": ", ":\n"), fontsize=7)
    return figure


def early_stopping(agreements: pd.DataFrame) -> Figure:
    """Correlations where training stops early, against the steps that it was given.

    Args:
        agreements: the table `validation`.
    """
    table = agreements[agreements["predictor"] == "steps"]
    figure, axis = plt.subplots(figsize=(4.2, 3.0))
    for experiment, part in table.groupby("experiment", sort=False):
        label = str(experiment).removeprefix("stopped early, ")
        _curve(axis, part.sort_values("level"), label=label)
    axis.set_xscale("log")
    axis.set_xlabel("steps of gradient descent")
    axis.set_ylabel("Pearson's R with the actual effects")
    axis.legend()
    return figure


def _curve(axis: Axes, part: pd.DataFrame, *, label: str, statistic: str = "pearson", **look: Any) -> None:
    (line,) = axis.plot(part["level"], part[statistic], marker="o", ms=3, label=label, **look)
    axis.fill_between(
        part["level"], part[f"{statistic}_low"], part[f"{statistic}_high"], alpha=0.15, color=line.get_color()
    )


def damping_curves(agreements: pd.DataFrame, *, dampings: Mapping[str, float]) -> Figure:
    """How well −I/n predicts at each δ, on the heads of the attack: correlation, and the size of the effects.

    A line of panels for each data set.

    Args:
        agreements: the table `validation`.
        dampings: data set → the δ that its ranking has, marked.
    """
    table = agreements[agreements["experiment"].str.endswith(DAMPING_VARIED)]
    datasets = list(table["dataset"].unique())
    size = (8.4, 0.6 + 2.4 * len(datasets))
    figure, axes = plt.subplots(len(datasets), 3, figsize=size, sharex=True, squeeze=False)
    positive = table.loc[table["level"] > 0, "level"]
    for line, dataset in zip(axes, datasets, strict=True):
        left, middle, right = line
        for experiment, part in table[table["dataset"] == dataset].groupby("experiment", sort=False):
            part = part.sort_values("level")
            chosen = str(experiment).removesuffix(DAMPING_VARIED)
            look = {"color": COLOURS[0], "ls": "-" if chosen != "random" else "--"}
            _curve(left, part, label=chosen, **look)
            _curve(middle, part, label=chosen, statistic="spearman", **look)
            # A prediction of the wrong direction has no size on this scale.
            sizes = part["slope"].where(part["slope"] > 0)
            right.plot(part["level"], sizes, marker="o", ms=3, label=chosen, **look)
        for axis in line:
            axis.axvline(dampings[dataset], color="0.8", lw=1, zorder=0)
            axis.set_xscale("symlog", linthresh=float(positive.min()) if len(positive) else 1.0)
            axis.set_xlim(left=0)
        right.set_yscale("log")
        left.set_ylabel(dataset)
    for axis, title in zip(
        axes[0], ("Pearson's R", "Spearman's ρ", "slope of predicted on actual"), strict=True
    ):
        axis.set_title(title)
    for axis in axes[-1]:
        axis.set_xlabel("damping δ")
    figure.legend(*axes[0, 0].get_legend_handles_labels(), loc="outside lower center", ncols=2)
    return figure


def removals(removed: pd.DataFrame) -> Figure:
    """Predicted against actual effects of removing what a ranking puts first and last.

    A line of panels for each data set: as θ* ranks, and as the manipulated models rank, together, with their
    targets circled. Damping shrinks predictions, so that there is no diagonal: only order and sign count.

    Args:
        removed: tables of REMOVED_COLUMNS.
    """
    datasets = list(removed["dataset"].unique())
    titles = {"honest": "ranked by θ*", "manipulated": "ranked by manipulated models"}
    figure, axes = plt.subplots(len(datasets), 2, figsize=(7.2, 3.0 * len(datasets)), squeeze=False)
    for line, dataset in zip(axes, datasets, strict=True):
        for axis, (model, title) in zip(line, titles.items(), strict=True):
            part = removed[(removed["dataset"] == dataset) & (removed["model"] == model)]
            for place, colour in PLACES.items():
                points = part[part["place"] == place]
                axis.plot(
                    points["actual"],
                    points["predicted"],
                    "o",
                    ms=3,
                    alpha=0.6,
                    mew=0,
                    color=colour,
                    label=place,
                )
            targets = part[part["sample"] == part["target"]]
            if len(targets):
                axis.plot(targets["actual"], targets["predicted"], "o", ms=5, mfc="none", mec="k", mew=0.7,
                          label="target")  # fmt: skip
            axis.axhline(0, color="0.9", lw=0.8, zorder=0)
            axis.axvline(0, color="0.9", lw=0.8, zorder=0)
            note = f" ({part['target'].nunique()})" if model == "manipulated" else ""
            axis.set_title(f"{dataset}:\n{title}{note}")
            axis.set_xlabel("actual change of the summed loss")
        line[0].set_ylabel("predicted, −I/n")
    # Every place and the target: of all panels, each label once.
    labelled = {
        label: handle
        for axis in axes.flat
        for handle, label in zip(*axis.get_legend_handles_labels(), strict=True)
    }
    figure.legend(labelled.values(), labelled.keys(), loc="outside lower center", ncols=len(labelled))
    return figure
