"""Success rates of the multi-target attack: a table, and Fig. 6 of the paper."""

from __future__ import annotations

from itertools import cycle

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from undue.formats import number, percent, share
from undue.plots import COLOURS
from undue.tables import BOOL, FLOAT, INT, TEXT, Columns

MULTI_TARGET_COLUMNS: Columns = {
    "dataset": (TEXT, "data set"),
    "size": (INT, "number of targets in a set, |T|"),
    "k": (INT, "the top k"),
    "constrained": (BOOL, "models within the accuracy budget only, or whatever their accuracy"),
    "radius": (FLOAT, "C"),
    "chosen": (BOOL, "the C that brings most targets into the top k on the shared half"),
    "sets": (INT, "number of sets, all counted"),
    "in_top": (FLOAT, "mean |T ∩ top-k| on the shared half"),
    "claimed": (FLOAT, "the same by the attack's own count, which float64 may not have confirmed"),
    "in_top_honest": (FLOAT, "the same under θ*: there already, without an attack"),
    "of_places": (FLOAT, "|T ∩ top-k| / min(k, |T|)"),
    "of_places_least": (FLOAT, "the same of the set with the fewest"),
    "of_places_most": (FLOAT, "the same of the set with the most"),
    "honest_of_places": (FLOAT, "|T ∩ top-k| / min(k, |T|) under θ*"),
    "of_targets": (FLOAT, "|T ∩ top-k| / |T|, the paper's words"),
    "of_top": (FLOAT, "|T ∩ top-k| / k"),
    "pristine_of_places": (FLOAT, "|T ∩ top-k| / min(k, |T|) on the pristine half"),
    "accuracy_lost_shared": (FLOAT, "mean accuracy lost on the shared half"),
    "accuracy_lost_pristine": (FLOAT, "mean accuracy lost on the pristine half"),
}


def multi_target(published: pd.DataFrame) -> pd.DataFrame:
    """One row for each data set, set size, k, regime and radius; a set without any published model counts 0.

    Of the radii with equally many targets in the top k the one that costs least accuracy on the shared half
    is `chosen`, then the smallest.

    Args:
        published: the tables of `attack_sets` with `dataset` and `radius`.
    """
    rows = []
    keys = ["dataset", "size", "k", "constrained", "radius"]
    for key, group in published.groupby(keys, sort=False):
        setup = dict(zip(keys, key, strict=True))
        size, k, sets = int(setup["size"]), int(setup["k"]), len(group)
        places = min(size, k)
        hits, honest = int(group["in_top_shared"].sum()), int(group["in_top_honest"].sum())
        rows.append(
            {
                **setup,
                "sets": sets,
                "in_top": hits / sets,
                "claimed": group["claimed"].mean(),
                "in_top_honest": honest / sets,
                "of_places": hits / (places * sets),
                "of_places_least": group["in_top_shared"].min() / places,
                "of_places_most": group["in_top_shared"].max() / places,
                "honest_of_places": honest / (places * sets),
                "of_targets": hits / (size * sets),
                "of_top": hits / (k * sets),
                "pristine_of_places": group["in_top_pristine"].sum() / (places * sets),
                "accuracy_lost_shared": group["accuracy_lost_shared"].mean(),
                "accuracy_lost_pristine": group["accuracy_lost_pristine"].mean(),
            }
        )
    table = pd.DataFrame(rows)
    order = table.sort_values(
        ["in_top", "accuracy_lost_shared", "radius"], ascending=[False, True, True]
    ).drop_duplicates(["dataset", "size", "k", "constrained"])
    table["chosen"] = table.index.isin(order.index)
    return table[list(MULTI_TARGET_COLUMNS)]


def pretty_multi_target(table: pd.DataFrame) -> pd.DataFrame:
    """The chosen radii, formatted."""
    rows = table[table["chosen"]].sort_values(
        ["dataset", "constrained", "size", "k"], ascending=[True, False, True, True]
    )
    return pd.DataFrame(
        {
            "data set": rows["dataset"],
            "targets": rows["size"],
            "k": rows["k"],
            "accuracy": np.where(rows["constrained"], "within the budget", "any"),
            "of the places (least – most)": share(rows["of_places"]) + _range(rows),
            "under θ*": share(rows["honest_of_places"]),
            "of the targets": share(rows["of_targets"]),
            "of the top k": share(rows["of_top"]),
            "pristine, of the places": share(rows["pristine_of_places"]),
            "accuracy lost": percent(rows["accuracy_lost_pristine"]),
            "C": number(rows["radius"]),
            "sets": rows["sets"],
        }
    )


def _range(rows: pd.DataFrame) -> pd.Series:
    """From the least successful set to the most; nothing of a single one."""
    ends = " (" + share(rows["of_places_least"]) + " – " + share(rows["of_places_most"]) + ")"
    return ends.where(rows["sets"] > 1, "")


def success_of_sets(table: pd.DataFrame) -> Figure:
    """Fig. 6: success against k by size of the set, at the chosen C, within the accuracy budget."""
    rows = table[table["chosen"] & table["constrained"]]
    datasets = list(dict.fromkeys(rows["dataset"]))
    sizes = sorted(rows["size"].unique())
    ks = sorted(rows["k"].unique())
    figure, axes = plt.subplots(1, len(datasets), figsize=(3.4 * len(datasets) + 1.2, 3.0), squeeze=False)
    for axis, dataset in zip(axes[0], datasets, strict=True):
        for colour, size in zip(cycle(COLOURS), sizes, strict=False):
            line = rows[(rows["dataset"] == dataset) & (rows["size"] == size)].sort_values("k")
            axis.plot(line["k"], line["of_places"], color=colour, marker="o", ms=3.5)
            # From the least successful set to the most: no width where there is one.
            ends = line["of_places_least"], line["of_places_most"]
            axis.fill_between(line["k"], *ends, color=colour, alpha=0.12, lw=0)
            axis.plot(line["k"], line["pristine_of_places"], color=colour, ls="--", lw=1)
            axis.plot(line["k"], line["honest_of_places"], color=colour, ls=":", lw=1)
        axis.set_xscale("log")
        axis.set_xticks(ks, [str(k) for k in ks])
        axis.minorticks_off()
        axis.set_ylim(-0.03, 1.03)
        axis.set_xlabel("k")
        axis.set_title(dataset, loc="left")
    axes[0][0].set_ylabel("|T ∩ top-k| / min(k, |T|)")
    colours = [colour for colour, _ in zip(cycle(COLOURS), sizes, strict=False)]
    handles = [Line2D([], [], color=colour, marker="o", ms=3.5) for colour in colours]
    handles += [Line2D([], [], color="0.3", ls=style, lw=1) for style in ("-", "--", ":")]
    labels = [f"|T| = {size}" for size in sizes] + ["shared half", "pristine half", "without attack"]
    axes[0][-1].legend(handles, labels, loc="center left", bbox_to_anchor=(1.0, 0.5))
    return figure
