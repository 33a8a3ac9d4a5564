"""Minimising convex risks, many lanes at once, by damped Newton steps."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from undue.calculus.lanes import dot, norm
from undue.calculus.linear import LinearRisk
from undue.calculus.objective import Objective
from undue.calculus.solvers import Preconditioner, conjugate_gradient
from undue.errors import UserError

# Sufficient decrease of the backtracking line search (Nocedal & Wright 2006, Eq. 3.6a).
ARMIJO = 1e-4
MAX_HALVINGS = 30


@dataclass(frozen=True)
class Minimum:
    """Where a minimisation ended.

    Attributes:
        theta: (d, k, L).
        gradient_norm: ‖∇R(θ)‖ of each lane (L,).
        steps: Newton steps taken.
    """

    theta: Tensor
    gradient_norm: Tensor
    steps: int

    def require(self, gradient_norm: float, *, what: str, key: str, l2_key: str) -> None:
        """Insist on the gradient norm in all lanes; one that is not a number misses it.

        Args:
            gradient_norm: ‖∇R‖ at most.
            what: what was trained.
            key: the config key of the gradient norm.
            l2_key: that of λ.

        Raises:
            UserError: a lane missed it.
        """
        if not bool((self.gradient_norm <= gradient_norm).all()):
            raise UserError(
                f"{what} stopped at a gradient norm of {float(self.gradient_norm.max()):.2e}, "
                f"above the {gradient_norm:.0e} asked for",
                where=key,
                remedy=f"raise {key}, or {l2_key} (a larger l2 makes the problem easier to solve)",
            )


def newton(
    objective: Objective[LinearRisk],
    start: Tensor,
    *,
    moments: Tensor,
    gradient_norm: float | Tensor,
    preconditioner: Preconditioner | None = None,
    max_steps: int = 100,
) -> Minimum:
    """Minimise a convex objective of every lane until ‖∇R‖ ≤ `gradient_norm`.

    Each step solves H s = −∇R by conjugate gradients to a tolerance that tightens with the gradient
    (Nocedal & Wright 2006, Alg. 7.1) and halves the step until R has decreased enough. Lanes that
    have arrived stand still, and so do those that rounding lets get no further.

    Args:
        objective: what to minimise.
        start: where to begin (d, k, L).
        moments: mean squares of the features (d,), for the preconditioner.
        gradient_norm: ‖∇R‖ to reach, one number or one per lane (L,).
        preconditioner: a better one, for all steps.
        max_steps: give up after so many steps; the result then says so by its gradient norm.
    """
    point = objective.risk.at(start)
    value = objective.value(point)
    gradient = objective.gradient(point)
    size = norm(gradient)
    steps = 0
    stuck = torch.zeros_like(size, dtype=torch.bool)
    while steps < max_steps and bool((active := (size > gradient_norm) & ~stuck).any()):
        solution = conjugate_gradient(
            objective.hessian(point),
            -gradient * active,
            tolerance=torch.clamp(torch.sqrt(size), max=0.1),
            preconditioner=preconditioner or objective.preconditioner(point, moments),
        )
        direction = solution.x
        slope = dot(gradient, direction)
        length = active.to(value.dtype)
        for _ in range(MAX_HALVINGS):
            trial = objective.risk.at(point.theta + length * direction)
            trial_value = objective.value(trial)
            # Near the minimum the decrease drowns in rounding: allow for it.
            slack = 4 * torch.finfo(value.dtype).eps * value.abs()
            short = trial_value > value + ARMIJO * length * slope + slack
            if not bool(short.any()):
                break
            length = torch.where(short, length / 2, length)
        gradient = objective.gradient(trial)
        before, size = size, norm(gradient)
        stuck |= active & (value - trial_value <= slack) & (size >= before)
        point, value = trial, trial_value
        steps += 1
    return Minimum(point.theta, size, steps)
