"""The accuracy that an attacker may lose, and still count as not having hurt the model."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

ROUNDING = 1e-9
"""Accuracies are shares of a few hundred samples; a loss of just the budget must not depend on rounding."""


def honest_accuracies(model: Mapping[str, Any]) -> dict[str, float]:
    """θ*'s accuracy on the "shared" and on the "pristine" half, from its model.json."""
    return {half: model[f"accuracy_{half}"] for half in ("shared", "pristine")}


def percents(budget: float) -> str:
    """A budget for reading: 0.025 is 2.5 %."""
    return f"{100 * budget:g} %"


def within_budget(lost: float, budget: float) -> bool:
    """Whether so much accuracy may be lost, also of a whole column of losses.

    Args:
        lost: accuracy without the attack − accuracy with it.
        budget: what may be lost, 0.03 for 3 points.
    """
    return lost <= budget + ROUNDING


def least_accuracy(honest: float, budget: float) -> float:
    """The lowest accuracy within the budget.

    Args:
        honest: accuracy without the attack.
        budget: what may be lost of it, 0.03 for 3 points.
    """
    return honest - budget - ROUNDING
