"""LiSSA: solving H u = b by a truncated Neumann series over mini-batches (Agarwal et al. 2017, Alg. 1).

Koh & Liang 2017, §3, use it as their stochastic estimation. With s the scale and H_j the damped Hessian
of the j-th mini-batch,

    v_0 = b,   v_j = b + (I − H_j/s) v_{j−1},   u ≈ v_t/s.

In expectation that is the series Σ_j (I − H_δ/s)ʲ b/s → H_δ⁻¹ b. Two things are commonly got wrong:

* Damping. Here δ is inside H_j, so that the scale cannot change what is solved. The recursion
  (1 − δ')v − Hv/s of the published implementations solves with H + s·δ' instead.
* The scale. Every H_j must lie between 0 and 2s, not only their mean: rows of large curvature come in
  mini-batches of their own. `curvature_bound` gives a scale that holds for every mini-batch.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from undue.calculus.lanes import dot, norm, norm_or_one
from undue.calculus.linear import LinearRisk
from undue.calculus.objective import Objective
from undue.calculus.risk import Risk
from undue.calculus.solvers import Operator, Solution
from undue.errors import UserError

# Rows of a mini-batch (m,) ↦ v ↦ H_j v: the damped Hessian of the mini-batch.
MiniBatches = Callable[[Tensor], Operator]

# How far beyond its bound an iterate must be before it counts as diverging: rounding, generously.
SLACK = 1e-3


@dataclass(frozen=True)
class Recipe:
    """How long and how finely LiSSA estimates.

    Attributes:
        batch: rows of a mini-batch; all rows make it the deterministic Neumann series.
        depth: mini-batches t of one estimate.
        repeats: independent estimates r that are averaged.
        scale: s, at least half the largest eigenvalue of any mini-batch's damped Hessian.
    """

    batch: int
    depth: int
    repeats: int
    scale: float


# The attack's published code: 1,000,000 rows.
PUBLISHED = Recipe(batch=1024, depth=977, repeats=1, scale=25.0)


def mini_batches(objective: Objective[Risk], theta: Tensor, damping: float = 0.0) -> MiniBatches:
    """The mini-batch Hessians of an objective at θ (d, k, L), with λ and δ; their mean is H_δ."""
    risk: Risk = objective.risk
    diagonal = objective.ridge() + damping

    def operator(rows: Tensor) -> Operator:
        point = risk.rows(rows).at(theta)
        weights = objective.weights[rows] * (risk.samples / len(rows))

        def product(v: Tensor) -> Tensor:
            return point.hvp(v, weights).addcmul_(v, diagonal)

        return product

    return operator


def curvature_bound(risk: LinearRisk, theta: Tensor, batch: int) -> float:
    """An upper bound on the largest eigenvalue of any mini-batch's mean Hessian, without λ and δ.

    A row's Hessian is x xᵀ ⊗ C with C positive semi-definite, so ‖x‖² tr C bounds its largest eigenvalue,
    and the mean of the `batch` largest of these that of every mini-batch.

    Args:
        risk: a linear head's risk with a convex link, its rows weighted alike.
        theta: θ (d, k, L).
        batch: rows of a mini-batch.

    Returns:
        The bound for all lanes; add λ + δ for LiSSA's scale.
    """
    worst = theta.new_zeros(0, theta.shape[2])
    for rows in torch.split(torch.arange(risk.samples, device=theta.device), 4096):
        x, y = risk.x[rows], risk.y[rows]
        z = (x @ theta.reshape(theta.shape[0], -1)).view(len(x), *theta.shape[1:])
        trace = risk.link.curvature(risk.link.state(z, y), y).sum(dim=1)
        bounds = torch.cat([worst, x.square().sum(dim=1, keepdim=True) * trace])
        worst = bounds.topk(min(batch, len(bounds)), dim=0).values
    return float(worst.mean(dim=0).max())


def lissa(
    operator: Operator,
    batches: MiniBatches,
    b: Tensor,
    *,
    samples: int,
    recipe: Recipe,
    generator: np.random.Generator,
    tolerance: float | Tensor,
    start: Tensor | None = None,
    key: str = "scale",
) -> Solution:
    """Estimate H⁻¹b.

    Mini-batches are drawn uniformly, without replacement within one, independently of each other; all
    lanes see the same.

    Args:
        operator: v ↦ H v on (d, k, L), for the residual of the answer.
        batches: the mini-batches' operators, whose mean is H; `mini_batches` makes them.
        b: right-hand sides (d, k, L).
        samples: the number of rows n that mini-batches are drawn from.
        recipe: batch, depth, repeats and scale.
        generator: draws the mini-batches.
        tolerance: the relative residual that the answer is held to, one number or one per lane (L,).
        start: where each estimate begins (d, k, L); b/s if not given.
        key: where the scale was set, for the error.

    Returns:
        The mean of the estimates with its true residual; iterations are mini-batch products.

    Raises:
        UserError: an iterate grew as it cannot where the scale bounds the mini-batches' Hessians.
        FloatingPointError: a product is not finite.
    """
    total = torch.zeros_like(b)
    first = b if start is None else recipe.scale * start
    for repeat in range(recipe.repeats):
        v = first.clone()
        for step in range(1, recipe.depth + 1):
            rows = generator.choice(samples, size=min(recipe.batch, samples), replace=False, shuffle=False)
            product = batches(torch.from_numpy(rows).to(b.device))
            before, hv = v, product(v)
            v = b + before - hv / recipe.scale
            if not bool(torch.isfinite(v).all()):
                raise FloatingPointError("a mini-batch's Hessian product is not finite")
            # Where 0 ≤ H_j ≤ 2s, I − H_j/s lengthens nothing: ‖v_t‖ ≤ ‖v_0‖ + t‖b‖.
            grown = norm(v) > (norm(first) + step * norm(b)) * (1 + SLACK)
            if bool(grown.any()):
                place = f"mini-batch {step} of estimate {repeat + 1}"
                raise _diverged(before[..., grown], hv[..., grown], place, recipe.scale, key)
        total += v / recipe.scale
    x = total / recipe.repeats
    residual = norm(b - operator(x)) / norm_or_one(b)
    iterations = torch.full_like(residual, recipe.depth * recipe.repeats, dtype=torch.int64)
    return Solution(x, residual, iterations, tolerance)


def _diverged(v: Tensor, hv: Tensor, place: str, scale: float, key: str) -> UserError:
    """The error for iterates v (d, k, lanes) that a mini-batch's Hessian H, hv = H v, has lengthened."""
    what = f"LiSSA diverged at {place}, with scale {scale:g}"
    quotient = dot(v, hv)
    lowest = float((quotient / dot(v, v)).min())
    if lowest < 0:
        return UserError(
            f"{what}: its damped Hessian has an eigenvalue of {lowest:.2g} or less",
            where=key,
            remedy=f"raise the damping by more than {-lowest:.2g}; no scale helps here",
        )
    # ‖Hv‖²/vᵀHv, the Rayleigh quotient of H½v: at most the largest eigenvalue of H, at least 2s here.
    highest = float((dot(hv, hv) / quotient).max())
    return UserError(
        f"{what}: its damped Hessian has an eigenvalue of {highest:.2g} or more, or negative ones",
        where=key,
        remedy="raise the scale to a bound on the mini-batches' Hessians (that of their mean is too low), "
        "or enlarge the mini-batches",
    )
