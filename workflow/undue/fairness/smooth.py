"""The reweighing program made smooth, so that its solution has a derivative.

    minimise Σ x_i + (ε/2)‖x‖²  over x ∈ [0, 1]ⁿ  such that  rows x ≤ limits

The linear program's solution sits at a vertex and stays there while the influences change a little; here
it moves. With two constraints the dual is a concave function of two multipliers, which Newton's method
maximises in milliseconds whatever n is; the derivative follows from the optimality conditions.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from undue.fairness.program import Floats, Program

MAX_STEPS = 200
TOLERANCE = 1e-11
# Multipliers of rows scaled to largest entry 1 beyond this mean that nothing satisfies the constraints.
UNBOUNDED = 1e8


@dataclass(frozen=True)
class Smooth:
    """A smoothed program's solution.

    Attributes:
        program: the program, with scaled rows.
        x: (n,).
        multipliers: (2,) ≥ 0.
        smoothing: ε.
        residual: largest violation of the dual's optimality, relative to the rows.
    """

    program: Program
    x: Floats
    multipliers: Floats
    smoothing: float
    residual: float

    def pull_back(self, gradient: Floats) -> tuple[Floats, Floats]:
        """From ∂J/∂x (n,) to ∂J/∂rows (2, n) and ∂J/∂limits (2,), of the scaled program.

        The implicit function theorem on the optimality conditions: entries at 0 or 1 and constraints
        that don't bind stay as they are.
        """
        free = (self.x > 0) & (self.x < 1)
        bind = self.multipliers > 0
        rows = self.program.rows[np.ix_(bind, free)]
        price = np.linalg.lstsq(rows @ rows.T, rows @ gradient[free], rcond=None)[0]
        step = np.zeros_like(self.x)
        step[free] = (gradient[free] - price @ rows) / self.smoothing
        limits = np.zeros(2)
        limits[bind] = price
        return -np.outer(self.multipliers, step) - np.outer(limits, self.x), limits


def solve_smooth(program: Program, smoothing: float) -> Smooth | None:
    """Solve a smoothed program; None if nothing satisfies its constraints.

    Args:
        program: the program, with scaled rows.
        smoothing: ε > 0.
    """
    rows, limits = program.rows, program.limits
    multipliers = np.zeros(2)
    value, x = _dual(program, smoothing, multipliers)
    for _ in range(MAX_STEPS):
        slope = rows @ x - limits
        # A multiplier of 0 that would fall is at its bound.
        moving = (multipliers > 0) | (slope > 0)
        scale = np.maximum(np.abs(rows) @ x, np.abs(limits)) + 1e-300
        residual = float((np.abs(slope) * moving / scale).max())
        if residual <= TOLERANCE:
            return Smooth(program, x, multipliers, smoothing, residual)
        if multipliers.max() > UNBOUNDED:
            return None
        free = rows[np.ix_(moving, (x > 0) & (x < 1))]
        bend = free @ free.T / smoothing
        # Where no entry is free the dual is linear: a ridge makes the step long, not infinite.
        bend += (1e-12 * np.trace(bend) + 1e-9) * np.eye(len(bend))
        direction = np.zeros(2)
        direction[moving] = np.linalg.solve(bend, slope[moving])
        # Steps longer than this leave the piece on which the model of the dual holds.
        direction *= min(1.0, 10 * (1 + multipliers.max()) / np.abs(direction).max())
        length = 1.0
        while True:
            trial = np.maximum(multipliers + length * direction, 0)
            trial_value, trial_x = _dual(program, smoothing, trial)
            if trial_value >= value + 1e-4 * slope @ (trial - multipliers) - 1e-15 * abs(value):
                break
            length /= 2
            if length < 1e-12:
                return None if residual > 1e-6 else Smooth(program, x, multipliers, smoothing, residual)
        multipliers, value, x = trial, trial_value, trial_x
    return None


def _dual(program: Program, smoothing: float, multipliers: Floats) -> tuple[float, Floats]:
    """The dual's value and the x (n,) that attains it."""
    reduced = 1 + multipliers @ program.rows
    x = np.clip(-reduced / smoothing, 0, 1)
    return float(reduced @ x + smoothing / 2 * x @ x - multipliers @ program.limits), x
