"""The linear support vector machine, solved exactly.

θ minimises (λ/2)‖θ‖² + Σ c_i max(0, 1 − s_i), s_i = y_i θᵀx_i. The dual is a quadratic program over the box
0 ≤ α_i ≤ c_i, with θ = (1/λ) Σ α_i y_i x_i. A primal active-set method (Nocedal & Wright 2006, §16.5) holds
the samples off the margin at their bounds and solves for those on it, a few dozen, so that leaving a sample
out costs a few small systems. The duality gap certifies the answer: ‖θ − θ*‖² ≤ 2 gap/λ.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import scipy.linalg

from undue.errors import UserError

# Beside the diagonal of a system: keeps it regular where samples on the margin depend on each other.
JITTER = 1e-13


@dataclass(frozen=True)
class SupportVectors:
    """A solution.

    Attributes:
        alpha: the dual variables α (n,).
        theta: θ (d,).
        gap: duality gap, an upper bound on how far the objective is from its minimum.
    """

    alpha: np.ndarray
    theta: np.ndarray
    gap: float


def fit_svm(
    signed: np.ndarray,
    caps: np.ndarray,
    l2: float,
    start: np.ndarray,
    *,
    tolerance: float = 1e-12,
    max_changes: int = 5000,
) -> SupportVectors:
    """Solve from a guess of the dual variables.

    Args:
        signed: y_i x_i (n, d), y_i = ±1, float64.
        caps: c (n,); 1/n for the mean hinge loss, 0 for a sample that is left out.
        l2: λ > 0.
        start: a guess of α (n,), clipped to the box.
        tolerance: duality gap to reach.
        max_changes: give up after so many changes of the set of samples on the margin.

    Raises:
        UserError: the gap was not reached.
    """
    alpha = np.clip(start, 0, caps)
    free = (alpha > 0) & (alpha < caps)
    gap = np.inf
    for _ in range(max_changes):
        inner = np.flatnonzero(free)
        slope = signed @ (alpha @ signed / l2) - 1
        length = 1.0
        if len(inner):
            direction = _newton_direction(signed[inner], slope[inner], l2)
            length, blocked = _step(alpha[inner], caps[inner], direction)
            alpha[inner] += length * direction
            if length < 1:
                stopped = inner[blocked]
                alpha[stopped] = np.where(direction[blocked] > 0, caps[stopped], 0)
                free[stopped] = False
                continue
        theta = alpha @ signed / l2
        slope = signed @ theta - 1
        gap = float(l2 * theta @ theta + caps @ np.maximum(0, -slope) - alpha.sum())
        if gap <= tolerance:
            return SupportVectors(alpha, theta, gap)
        # How much the objective falls for each unit that a sample at a bound moves into the box.
        fall = np.where(alpha <= 0, -slope, slope)
        fall[free | (caps == 0)] = 0
        worst = int(fall.argmax())
        if fall[worst] > 0:
            free[worst] = True
    raise UserError(
        f"the support vector machine stopped at a duality gap of {gap:.1e}, above {tolerance:.0e}",
        where="validation.hinge_l2",
        remedy="raise validation.hinge_l2, which makes the problem easier",
    )


def _newton_direction(signed: np.ndarray, slope: np.ndarray, l2: float) -> np.ndarray:
    """The step of the free α to where all their slopes are zero."""
    gram = signed @ signed.T / l2
    gram.flat[:: len(gram) + 1] += JITTER * np.trace(gram)
    direction: np.ndarray = scipy.linalg.solve(gram, -slope, assume_a="pos")
    return direction


def _step(alpha: np.ndarray, caps: np.ndarray, direction: np.ndarray) -> tuple[float, np.ndarray]:
    """How far the free α can go along a direction, at most 1, and which of them then stand at a bound."""
    with np.errstate(divide="ignore", invalid="ignore"):
        room = np.where(direction > 0, (caps - alpha) / direction, -alpha / direction)
    room = np.where(direction == 0, np.inf, room)
    length = min(1.0, float(room.min()))
    return length, room <= length
