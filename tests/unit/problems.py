"""Small problems that several tests share, and their losses written independently of the library.

The oracles differentiate `loss` with autograd; nothing here uses the library's derivatives.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import logsigmoid, one_hot

from undue.calculus.basis import Eigenbasis
from undue.calculus.linear import LinearRisk, Link, Logistic, SmoothHinge, Softmax
from undue.data.problem import Problem
from undue.valuation.calculator import Calculator

LINKS: tuple[Link, ...] = (Softmax(), Logistic(), SmoothHinge(0.3))


def generator(seed: int) -> torch.Generator:
    """A seeded generator."""
    return torch.Generator().manual_seed(seed)


def normal(*shape: int, seed: int) -> Tensor:
    """Standard normal numbers, float64."""
    return torch.randn(*shape, dtype=torch.float64, generator=generator(seed))


def make_risk(link: Link, *, n: int = 23, d: int = 4, classes: int = 3, seed: int = 0) -> LinearRisk:
    """A risk with noisy labels on correlated features of different sizes, a column of ones last."""
    if not isinstance(link, Softmax):
        classes = 2
    x = normal(n, d - 1, seed=seed) @ normal(d - 1, d - 1, seed=seed + 1) + 0.3
    scores = x @ normal(d - 1, classes, seed=seed + 2) + 1.5 * normal(n, classes, seed=seed + 3)
    y = scores.argmax(dim=1)
    # Every class occurs.
    y[:classes] = torch.arange(classes)
    return LinearRisk(torch.cat([x, torch.ones(n, 1, dtype=torch.float64)], dim=1), y, classes, link)


def make_theta(risk: LinearRisk, lanes: int, *, seed: int = 10, scale: float = 0.7) -> Tensor:
    """Parameters (d, k, lanes) away from any optimum."""
    return scale * normal(*risk.shape, lanes, seed=seed)


def loss(link: Link, z: Tensor, y: Tensor) -> Tensor:
    """The losses (...) of outputs z (..., k) and labels y (...), for autograd."""
    if isinstance(link, Softmax):
        return torch.logsumexp(z, dim=-1) - (z * one_hot(y, z.shape[-1])).sum(dim=-1)
    sign = 2.0 * y - 1.0
    if isinstance(link, Logistic):
        return -logsigmoid(sign * z[..., 0])
    assert isinstance(link, SmoothHinge)
    return -link.temperature * logsigmoid(-(1 - sign * z[..., 0]) / link.temperature)


def losses(risk: LinearRisk) -> Callable[[Tensor], Tensor]:
    """θ (d, k) ↦ every sample's loss (n,), for autograd."""

    def each(theta: Tensor) -> Tensor:
        return loss(risk.link, risk.x @ theta, risk.y)

    return each


def make_problem(
    link: Link | None = None, *, n: int = 60, m: int = 40, d: int = 5, classes: int = 3, seed: int = 0
) -> Problem:
    """Training data and two test halves drawn alike, float64."""
    pool = make_risk(link or Softmax(), n=n + 2 * m, d=d, classes=classes, seed=seed)
    train, shared, pristine = (
        pool.rows(rows) for rows in torch.arange(n + 2 * m).split_with_sizes([n, m, m])
    )
    return Problem(train, shared, pristine, np.arange(n))


def make_calculator(
    problem: Problem,
    basis: Eigenbasis | None = None,
    *,
    l2: float = 0.01,
    regularise_bias: bool = True,
    damping: float = 0.05,
    rank_sign: int = 1,
) -> Calculator:
    """A calculator on the problem, rotated into the basis if one is given."""
    moments = basis.moments if basis else problem.train.x.double().square().mean(dim=0)
    rotated = problem.rotated(basis) if basis else problem
    return Calculator(rotated, moments, l2, regularise_bias, damping, rank_sign)


def exact_hessian(calculator: Calculator, theta: Tensor) -> Tensor:
    """H_δ (p, p) of the calculator's training risk at θ (d, k), differentiable, p = d·k."""
    risk = calculator.problem.train

    def mean(parameters: Tensor) -> Tensor:
        return losses(risk)(parameters).mean()

    hessian: Tensor = torch.func.hessian(mean)(theta).reshape(theta.numel(), -1)
    ridge = torch.full_like(theta, calculator.l2 + calculator.damping)
    if not calculator.regularise_bias:
        ridge[-1] = calculator.damping
    return hessian + torch.diag(ridge.reshape(-1))


def exact_influence(calculator: Calculator, theta: Tensor, test: LinearRisk) -> Tensor:
    """Influence (n,) by its definition, with autograd and a dense solve; differentiable in θ (d, k)."""
    train = calculator.problem.train
    gradients = torch.func.jacrev(losses(train))(theta).reshape(train.samples, -1)

    def total(parameters: Tensor) -> Tensor:
        return losses(test)(parameters).sum()

    test_gradient = torch.func.grad(total)(theta).reshape(-1)
    influence: Tensor = -gradients @ torch.linalg.solve(exact_hessian(calculator, theta), test_gradient)
    return influence
