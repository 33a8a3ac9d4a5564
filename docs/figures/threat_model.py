"""Draws the threat model: python docs/figures/threat_model.py writes threat_model.svg and .png beside it."""

from __future__ import annotations

import sys
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Circle, FancyArrowPatch, FancyBboxPatch

FOLDER = Path(__file__).resolve().parent
sys.path.insert(0, str(FOLDER.parents[1] / "workflow"))

import matplotlib.pyplot as plt  # noqa: E402  # after the library's folder is known

from undue.plots import COLOURS, save, style  # noqa: E402

HONEST, ADVERSARY, DATA = COLOURS[0], COLOURS[1], "0.35"


def threat_model() -> Figure:
    """Who holds what, who is honest, and what the adversary can change: θ alone."""
    figure, axis = plt.subplots(figsize=(7.2, 4.3))
    axis.set_xlim(0, 100)
    axis.set_ylim(3, 61)
    axis.axis("off")
    _box(
        axis,
        2,
        36,
        24,
        18,
        DATA,
        "Data vendors",
        "training samples zᵢ,\nfixed once delivered;\npaid by influence rank",
    )
    _box(
        axis,
        37,
        36,
        27,
        18,
        ADVERSARY,
        "Model trainer (adversary)",
        "is to deliver θ*,\ndelivers θ′ near it that puts\na chosen z among the top k",
    )
    _box(
        axis,
        75,
        36,
        23,
        18,
        HONEST,
        "Influence calculator",
        "honest: I(z) under the\ndelivered model,\nthen ranks all samples",
    )
    _box(axis, 37, 5, 27, 15, DATA, "Test data, fixed", "shared half   |   pristine half")
    _box(axis, 75, 5, 23, 15, HONEST, "Buyer, auditor", "pays by rank;\nchecks the accuracy")
    _arrow(axis, (26, 45), (37, 45), DATA, "", (0, 0))
    _arrow(axis, (64, 45), (75, 45), ADVERSARY, "θ′", (69.5, 47.2))
    _arrow(axis, (86.5, 36), (86.5, 20), HONEST, "ranks", (91, 28))
    _arrow(axis, (46, 20), (46, 36), DATA, "shared:\ntrainer sees it", (36.5, 28))
    _arrow(axis, (58, 20), (76.5, 36), DATA, "shared:\nranks", (62.5, 29.5))
    _arrow(axis, (64, 10), (75, 10), DATA, "", (0, 0))
    axis.text(69.5, 5.4, "pristine:\njudges", ha="center", va="center", fontsize=8, color=DATA)
    _arrow(axis, (14, 54), (86.5, 54), DATA, "the same training data", (50, 59.3), bend=-0.06)
    _ball(axis)
    return figure


def _box(
    axis: Axes, x: float, y: float, width: float, height: float, colour: str, title: str, text: str
) -> None:
    axis.add_patch(
        FancyBboxPatch(
            (x, y),
            width,
            height,
            boxstyle="round,pad=0,rounding_size=1.5",
            fc=colour,
            ec="none",
            alpha=0.1,
        )
    )
    axis.add_patch(
        FancyBboxPatch(
            (x, y), width, height, boxstyle="round,pad=0,rounding_size=1.5", fc="none", ec=colour, lw=1.4
        )
    )
    centre = x + width / 2
    axis.text(centre, y + height - 3.2, title, ha="center", va="center", weight="bold", color=colour)
    axis.text(centre, y + (height - 4) / 2, text, ha="center", va="center", fontsize=8.5, linespacing=1.35)


def _arrow(
    axis: Axes,
    start: tuple[float, float],
    end: tuple[float, float],
    colour: str,
    label: str,
    at: tuple[float, float],
    *,
    bend: float = 0.0,
) -> None:
    axis.add_patch(
        FancyArrowPatch(
            start,
            end,
            arrowstyle="-|>",
            mutation_scale=12,
            color=colour,
            lw=1.4,
            shrinkA=2,
            shrinkB=2,
            connectionstyle=f"arc3,rad={bend}",
        )
    )
    if label:
        axis.text(*at, label, ha="center", va="center", fontsize=8.5, color=colour)


def _ball(axis: Axes) -> None:
    """The ball around θ* that θ′ must stay in."""
    x, y, radius = 8.5, 12.5, 6.0
    axis.add_patch(Circle((x, y), radius, fc=ADVERSARY, alpha=0.08, ec="none"))
    axis.add_patch(Circle((x, y), radius, fc="none", ec=ADVERSARY, lw=1.2, ls="--"))
    axis.plot(x, y, "o", ms=5, color=HONEST)
    axis.text(x - 1, y + 1.8, "θ*", ha="center", va="center", color=HONEST)
    axis.plot(x + 3.3, y - 3.2, "o", ms=5, color=ADVERSARY)
    axis.text(x + 2.6, y - 0.8, "θ′", ha="center", va="center", color=ADVERSARY)
    axis.text(
        16.2,
        y,
        "‖θ′ − θ*‖ ≤ C ‖θ*‖,\nabout as accurate\non the shared half",
        va="center",
        fontsize=8.5,
        linespacing=1.35,
    )
    axis.text(2, 22.3, "All that the adversary may change", fontsize=8.5, color=ADVERSARY, weight="bold")


def main(folder: Path = FOLDER) -> None:
    """Write the figure as SVG and PNG."""
    with style():
        save(threat_model(), [str(folder / f"threat_model.{suffix}") for suffix in ("svg", "png")], dpi=150)


if __name__ == "__main__":
    main()
