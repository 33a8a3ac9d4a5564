"""Training again without some of the samples, many times side by side.

Leaving sample i out of R(θ) = (1/n) Σ ℓ_j + (λ/2)‖θ‖² keeps 1/n and λ: only its weight becomes zero. Then
−I_i/n at δ = 0 is the first-order prediction of what happens. All models start at θ*, where the answer is
near, and stop at a stated gradient norm: strong convexity puts them within ‖∇R‖/λ of the true minimum. At θ*
the gradient of a model without sample i is −∇ℓ_i/n, which may be less than that already: each model therefore
goes on to a small share of its own, as far as rounding lets it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Protocol

import torch
from torch import Tensor

from undue.calculus.functional import Functional
from undue.calculus.koh_liang import sample_gradients
from undue.calculus.lanes import norm
from undue.calculus.linear import LinearRisk
from undue.calculus.newton import Minimum, newton
from undue.calculus.objective import Objective


class Minimise(Protocol):
    """Trains models side by side."""

    def __call__(self, objective: Objective[LinearRisk], start: Tensor, *, gradient_norm: Tensor) -> Minimum:
        """From where they begin (d, k, L) to ‖∇R‖ at most as given (L,)."""


# A frozen Hessian must shorten a lane's gradient by this factor a step; else Newton's method takes over.
CONTRACTION = 0.7
# A model without a sample is trained until its gradient is this share of what the sample's removal made it.
SHARE = 1e-4
# No gradient norm below this is asked for: sums over samples are no better than that in float64.
ATTAINABLE = 1e-13


@dataclass(frozen=True)
class Effects:
    """What leaving samples out did.

    Attributes:
        change: of the functional against θ* (m,), float64.
        gradient_norm: ‖∇R‖ that each model was trained to (m,).
    """

    change: Tensor
    gradient_norm: Tensor


def leave_one_out(
    objective: Objective[LinearRisk],
    theta: Tensor,
    rows: Tensor,
    functional: Functional,
    minimise: Minimise,
    *,
    gradient_norm: float,
    lanes: int,
    l2_key: str = "validation.l2",
    progress: Callable[[int], None] = lambda done: None,
) -> Effects:
    """Train again without each of the samples in turn.

    Args:
        objective: what θ* minimises, weights (n,).
        theta: θ* (d, k, 1), refined where single samples need it.
        rows: the samples (m,).
        functional: what to measure.
        minimise: trains the models.
        gradient_norm: ‖∇R‖ to train to, less for samples whose removal changes the gradient little.
        lanes: so many models side by side.
        l2_key: the config key of λ, for the error.
        progress: told how many models are done.

    Raises:
        UserError: a model missed the gradient norm.
    """
    targets = training_targets(objective, theta, rows, gradient_norm)
    # What all effects are differences to: an error here would be one of each.
    whole = replace(objective, weights=objective.weights[:, None])
    theta = minimise(whole, theta, gradient_norm=targets.min()[None]).theta
    before = functional.value(theta)
    changes, norms = [], []
    done = 0
    for part, target in zip(torch.split(rows, lanes), torch.split(targets, lanes), strict=True):
        weights = objective.weights[:, None].repeat(1, len(part))
        weights[part, torch.arange(len(part))] = 0
        start = theta.repeat(1, 1, len(part))
        found = minimise(replace(objective, weights=weights), start, gradient_norm=target)
        found.require(
            gradient_norm,
            what="training again without a sample",
            key="validation.gradient_norm",
            l2_key=l2_key,
        )
        changes.append(functional.value(found.theta) - before)
        norms.append(found.gradient_norm)
        done += len(part)
        progress(done)
    return Effects(torch.cat(changes), torch.cat(norms))


def training_targets(
    objective: Objective[LinearRisk], theta: Tensor, rows: Tensor, gradient_norm: float
) -> Tensor:
    """‖∇R‖ that the models without each of the samples are trained to (m,): never above `gradient_norm`."""
    removed = norm(sample_gradients(objective.risk.at(theta), rows)) * objective.weights[rows]
    return (SHARE * removed).clamp(min=min(ATTAINABLE, gradient_norm), max=gradient_norm)


def frozen_newton(
    objective: Objective[LinearRisk],
    start: Tensor,
    *,
    divide: Callable[[Tensor], Tensor],
    gradient_norm: float | Tensor,
    max_steps: int = 100,
) -> Minimum:
    """Newton's method with the Hessian of another, near objective: θ ← θ − H⁻¹∇R(θ), lanes side by side.

    One factorised Hessian serves all models and steps. It contracts by the share of the Hessian that differs,
    a few per cent for one sample of thousands. Lanes where it doesn't are handed over to `newton`.

    Args:
        objective: what to minimise, L lanes.
        start: where to begin (d, k, L).
        divide: b ↦ H⁻¹b for any number of right-hand sides.
        gradient_norm: ‖∇R‖ to reach, one number or one per lane (L,).
        max_steps: give up after so many steps; the result then says so by its gradient norm.
    """
    theta = start.clone()
    size = torch.full_like(theta[0, 0], torch.inf)
    target = torch.as_tensor(gradient_norm).to(size).expand_as(size)
    going = torch.arange(theta.shape[-1], device=theta.device)
    left: list[Tensor] = []
    steps = 0
    for _ in range(max_steps):
        here = replace(objective, weights=objective.weights[:, going])
        gradient = here.gradient(objective.risk.at(theta[..., going]))
        reached = norm(gradient)
        unfinished = reached > target[going]
        contracts = reached < CONTRACTION * size[going]
        left.append(going[unfinished & ~contracts])
        on = unfinished & contracts
        size[going] = reached
        going = going[on]
        if not len(going):
            break
        theta[..., going] -= divide(gradient[..., on])
        steps += 1
    slow = torch.cat([*left, going])
    if len(slow):
        rest = newton(
            replace(objective, weights=objective.weights[:, slow]),
            theta[..., slow],
            moments=objective.risk.x.square().mean(dim=0),
            gradient_norm=target[slow],
        )
        theta[..., slow], size[slow] = rest.theta, rest.gradient_norm
        steps += rest.steps
    return Minimum(theta, size, steps)
