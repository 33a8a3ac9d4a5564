"""Every kind of influence: of a training sample's weight, of its label, of its input, on itself.

Koh & Liang 2017, §2, with H_δ for H, of any functional with gradient g at θ (`functional`; the summed
test loss as a rule). I_up,loss (Eq. 2) of every sample is `influence.influence`. All are derivatives by
the weight ε in R(θ) + ε ℓ(z, θ), R = (1/n) Σ ℓ_i + (λ/2)‖θ‖²: times 1/n they are the first-order effect of
one sample, times −1/n that of leaving it out.

A solve b ↦ H_δ⁻¹b takes right-hand sides side by side: those of `solvers` one for each lane's own θ,
`factor.Factor.solve` any number for one θ.
"""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from undue.calculus.influence import Solve
from undue.calculus.lanes import dot
from undue.calculus.linear import LinearPoint
from undue.calculus.module import ModulePoint
from undue.calculus.risk import Point
from undue.calculus.solvers import Solution

# Bytes of gradients that are held at once where a risk doesn't say: a network's does.
MEMORY = 5e8
# A solve holds the gradients, their solutions and as much again of its own.
COPIES = 4


def sample_gradients(point: LinearPoint | ModulePoint, index: Tensor) -> Tensor:
    """∇ℓ_i of the samples index (m,), side by side as lanes (d, k, m), at a point of one lane.

    Raises:
        ValueError: the point has several lanes.
    """
    if isinstance(point, ModulePoint):
        return point.sample_grads(index)
    if point.lanes != 1:
        raise ValueError(f"gradients of single samples are taken of one lane, not of {point.lanes}")
    x, y, link = point.risk.x[index], point.risk.y[index], point.risk.link
    z = (x @ point.theta[..., 0])[..., None]
    return torch.einsum("md,mk->dkm", x, link.slope(link.state(z, y), y)[..., 0])


def parameter_influence(point: LinearPoint | ModulePoint, index: Tensor, solve: Solve) -> Solution:
    """I_up,params(z) = −H_δ⁻¹ ∇ℓ(z) (Koh & Liang 2017, Eq. 1) of the samples index (m,).

    Args:
        point: the training risk at one lane's θ.
        index: the samples.
        solve: b ↦ H_δ⁻¹b for m right-hand sides at that θ.

    Returns:
        The solve; its `x` has one sample's I_up,params in each lane (d, k, m).
    """
    return solve(-sample_gradients(point, index))


def self_influence(point: LinearPoint | ModulePoint, solve: Solve) -> tuple[Tensor, Tensor]:
    """I_up,loss(z_i, z_i) = −∇ℓ_iᵀ H_δ⁻¹ ∇ℓ_i of every training sample on its own loss.

    Never positive where H_δ is positive definite. −1/n times this predicts the loss of a sample that is
    left out (Koh & Liang 2017, §5.4, to find mislabelled samples): the largest are the most suspicious.

    Args:
        point: the training risk at one lane's θ.
        solve: b ↦ H_δ⁻¹b for any number of right-hand sides at that θ.

    Returns:
        The self-influences (n,) and the relative residual of each one's solve (n,).
    """
    parts, residuals = [], []
    for index in torch.split(torch.arange(point.risk.samples, device=point.theta.device), _at_once(point)):
        gradients = sample_gradients(point, index)
        solution = solve(gradients)
        parts.append(-dot(gradients, solution.x))
        residuals.append(solution.residual)
    return torch.cat(parts), torch.cat(residuals)


def _at_once(point: LinearPoint | ModulePoint) -> int:
    """So many samples whose gradients, and solves with them, fit into the risk's memory."""
    memory = point.risk.memory if isinstance(point, ModulePoint) else MEMORY
    return max(1, int(memory // (COPIES * point.theta.numel() * point.theta.element_size())))


def label_influence(
    point: LinearPoint | ModulePoint, gradient: Tensor, solve: Solve, *, classes: int
) -> tuple[Tensor, Solution]:
    """Influence of changing a sample's label: −gᵀ H_δ⁻¹ (∇ℓ(x_i, y') − ∇ℓ(x_i, y_i)).

    Weight moves from z = (x, y) to z_δ = (x, y') (Koh & Liang 2017, §2.2, Eq. 3, with a change of y). Times
    1/n it predicts what the functional changes by when sample i is trained on with label y'.

    Args:
        point: the training risk at θ, n samples and L lanes.
        gradient: g (d, k, L).
        solve: b ↦ H_δ⁻¹b.
        classes: number of labels, 0 … classes − 1.

    Returns:
        Influences (n, classes, L), zero at the present label, and the solve behind them.
    """
    solution = solve(-gradient)
    present = point.grad_dots(solution.x)
    changes = []
    for label in range(classes):
        y = torch.full_like(point.risk.y, label)
        other = replace(point.risk, y=y).at(point.theta)
        change = other.grad_dots(solution.x) - present
        # Exactly zero, not up to rounding.
        changes.append(torch.where((point.risk.y == label)[:, None], 0, change))
    return torch.stack(changes, dim=1), solution


def perturbation_influence(
    point: Point, gradient: Tensor, solve: Solve, *, per_sample: bool
) -> tuple[Tensor, Solution]:
    """Influence of perturbing a sample's input: I_pert,loss(z_i)ᵀ = −gᵀ H_δ⁻¹ ∇_x∇_θ ℓ(x_i, y_i).

    Args:
        point: the training risk at θ, n samples and L lanes.
        gradient: g (d, k, L).
        solve: b ↦ H_δ⁻¹b.
        per_sample: False as in Koh & Liang 2017, Eq. 5; True with the factor 1/n of their §3. Only with it is
            I_pertᵀδ the first-order change of the functional when x_i becomes x_i + δ in training.

    Returns:
        Gradients in the inputs (n, …, L), those of a bias feature included, and the solve behind them.
    """
    solution = solve(-gradient)
    values = point.input_grad_dots(solution.x)
    return values / point.risk.samples if per_sample else values, solution
