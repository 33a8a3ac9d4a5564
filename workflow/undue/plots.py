"""Drawing: one look for all figures, written as SVG and PNG with equal bytes for equal content."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")

import matplotlib.pyplot as plt
from cycler import cycler
from matplotlib.figure import Figure

from undue.files import atomic

# Okabe & Ito's colours, told apart by colour-blind readers too.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")

STYLE: Any = {
    "font.size": 9,
    "axes.titlesize": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.prop_cycle": cycler(color=COLOURS),
    "legend.frameon": False,
    "figure.constrained_layout.use": True,
    # Names of SVG elements are random unless salted.
    "svg.hashsalt": "undue",
}


@contextmanager
def style() -> Iterator[None]:
    """Within the block, figures have the house's look; nothing outside it changes."""
    with plt.rc_context(STYLE):
        yield


def save(figure: Figure, paths: Sequence[str], *, dpi: int) -> None:
    """Write a figure to every path, in the format of its suffix, without dates."""
    for path in paths:
        metadata = {"Date": None} if Path(path).suffix == ".svg" else {"Software": None}
        with atomic(path) as temporary:
            figure.savefig(temporary, dpi=dpi, metadata=metadata, format=Path(path).suffix[1:])
    plt.close(figure)
