"""The accuracy that an attacker may lose, and still count as not having hurt the model."""

from __future__ import annotations

ROUNDING = 1e-9
"""Accuracies are shares of a few hundred samples; a loss of just the budget must not depend on rounding."""


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
