"""Memory and time of one attack gradient: naive backward passes against the backward-friendly route.

Yadav et al. 2024, §4.2: backward through the influences was impossible for lack of memory. Two naive ways:
`hessian` builds H_δ with autograd and goes backward through the dense solve; `unrolled` goes backward through
the iterations of a stochastic solve, whose depth is set below the published one and said so.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence

import numpy as np
import torch
from scipy.optimize import nnls
from torch import Tensor
from torch.nn.functional import cross_entropy

from bench import engine
from bench.problems import SIZES, Size, draw
from undue.calculus.linear import LinearRisk
from undue.calculus.lissa import PUBLISHED
from undue.data.problem import Problem
from undue.valuation.calculator import Calculator
from undue.valuation.objectives import min_higher

CLASSES = 10
# Iterations that are unrolled; the published recipe has 977 of them.
DEPTH = 100
PUBLISHED_DEPTH, BATCH, SCALE = PUBLISHED.depth, PUBLISHED.batch, PUBLISHED.scale
L2, DAMPING = 1e-3, 0.25
BYTES = 4
# (n, d): d grows, then n.
GRID: Sequence[tuple[int, int]] = (
    *((1_000, d) for d in (16, 32, 64, 128, 256)),
    *((n, 32) for n in (500, 2_000, 4_000, 8_000)),
)


def problem_of(n: int, d: int, *, seed: int) -> tuple[Calculator, Tensor]:
    """A calculator on standardised made-up data, float32, and some θ (d + 1, k, 1)."""
    size = Size(n, max(n // 4, CLASSES), d, CLASSES)
    features, labels = draw(size, seed=seed)
    x = torch.from_numpy((features - features.mean(0)) / features.std(0))
    x = torch.cat([x, torch.ones(len(x), 1)], dim=1)
    y = torch.from_numpy(labels)
    halves = [n, size.half, size.half]
    train, shared, pristine = (
        LinearRisk(part, label, CLASSES)
        for part, label in zip(torch.split(x, halves), torch.split(y, halves), strict=True)
    )
    calculator = Calculator(
        problem=Problem(train, shared, pristine, np.arange(n)),
        moments=train.x.double().square().mean(dim=0),
        l2=L2,
        regularise_bias=True,
        damping=DAMPING,
        rank_sign=1,
    )
    theta = torch.randn(d + 1, CLASSES, 1, generator=torch.Generator().manual_seed(seed)) / d**0.5
    return calculator, theta


def ours(calculator: Calculator, theta: Tensor, target: int) -> Tensor:
    """The attack's gradient by our route (d, k); θ (d, k, 1)."""
    return engine.gradient(calculator, theta, torch.tensor([target]), tolerance=1e-4)[..., 0]


def by_hessian(calculator: Calculator, theta: Tensor, target: int) -> Tensor:
    """The same by autograd through the Hessian and the dense solve."""
    risk = calculator.problem.train

    def mean(parameters: Tensor) -> Tensor:
        return cross_entropy(risk.x @ parameters, risk.y)

    def solve(parameters: Tensor, b: Tensor) -> Tensor:
        hessian = torch.func.hessian(mean)(parameters).reshape(b.numel(), b.numel())
        damping = (calculator.l2 + calculator.damping) * torch.eye(b.numel(), dtype=b.dtype)
        solution: Tensor = torch.linalg.solve(hessian + damping, b.reshape(-1))
        return solution.view_as(b)

    return _backward(calculator, theta, target, solve)


def by_unrolling(calculator: Calculator, theta: Tensor, target: int) -> Tensor:
    """The same by autograd through `DEPTH` iterations of LiSSA: as far as those converge."""
    risk = calculator.problem.train
    generator = torch.Generator().manual_seed(0)
    damping = calculator.l2 + calculator.damping

    def solve(parameters: Tensor, b: Tensor) -> Tensor:
        h = b
        for _ in range(DEPTH):
            rows = torch.randint(risk.samples, (min(BATCH, risk.samples),), generator=generator)
            loss = cross_entropy(risk.x[rows] @ parameters, risk.y[rows])
            gradient = torch.autograd.grad(loss, parameters, create_graph=True)[0]
            product = torch.autograd.grad(gradient, parameters, h, create_graph=True)[0]
            h = b + h - (product + damping * h) / SCALE
        return h / SCALE

    return _backward(calculator, theta, target, solve)


def _backward(
    calculator: Calculator, theta: Tensor, target: int, solve: Callable[[Tensor, Tensor], Tensor]
) -> Tensor:
    """∇_θ of the objective through everything, its weights held fixed."""
    train, shared = calculator.problem.train, calculator.problem.shared
    parameters = theta[..., 0].clone().requires_grad_()
    loss = cross_entropy(shared.x @ parameters, shared.y, reduction="sum")
    u1 = -solve(parameters, torch.autograd.grad(loss, parameters, create_graph=True)[0])
    slope = torch.softmax(train.x @ parameters, dim=1)
    slope = slope - torch.nn.functional.one_hot(train.y, train.classes)
    scores = ((train.x @ u1) * slope).sum(dim=1)
    weights = min_higher(scores.detach()[:, None], torch.tensor([target]))[:, 0]
    gradient: Tensor = torch.autograd.grad(weights @ scores, parameters)[0]
    return gradient


ROUTES: Mapping[str, Callable[[Calculator, Tensor, int], Tensor]] = {
    "ours": ours,
    "hessian": by_hessian,
    "unrolled": by_unrolling,
}


def measure(*, route: str, n: int, d: int, seed: int) -> dict[str, object]:
    """One gradient's additional memory and time, in a process of its own."""
    calculator, theta = problem_of(n, d, seed=seed)
    small, small_theta = problem_of(20, 3, seed=seed)
    ROUTES[route](small, small_theta, 0)  # what libraries allocate once
    before, begun = engine.rss(), time.perf_counter()
    ROUTES[route](calculator, theta, 0)
    seconds = time.perf_counter() - begun
    bytes_ = max(engine.peak_rss() - before, 0)
    return {"route": route, "n": n, "d": d, "k": CLASSES, "bytes": bytes_, "seconds": seconds}


def predict(rows: Sequence[Mapping[str, object]]) -> list[dict[str, object]]:
    """Memory at the paper's sizes, from what fits the grid best; p = (d + 1)·k parameters.

    `hessian`: n·k·p and p² (a pass over the data for each parameter; the matrix and its factors).
    `unrolled`: batch·d, batch·k and p for each iteration, and at the published depth.
    `ours`: n·k and p. All with a constant.
    """
    predictions = []
    for route in ROUTES:
        part = [row for row in rows if row["route"] == route]
        known = np.array([_terms(route, int(r["n"]), int(r["d"]), int(r["k"]), DEPTH) for r in part])  # type: ignore[call-overload]
        measured = np.array([float(r["bytes"]) for r in part])  # type: ignore[arg-type]
        # Relative errors count: the grid spans decades.
        scale = np.maximum(measured, 1e6)
        factors = nnls(known / scale[:, None], measured / scale)[0]
        for name, size in SIZES.items():
            terms = _terms(route, size.train, size.features, size.classes, PUBLISHED_DEPTH)
            predictions.append(
                {"size": name, "route": route, "bytes": float(np.dot(terms, factors)), "predicted": True}
            )
    return predictions


def _terms(route: str, n: int, d: int, k: int, depth: int) -> list[float]:
    p, batch = (d + 1) * k, min(BATCH, n)
    if route == "hessian":
        return [1.0, n * k * p, p**2]
    if route == "unrolled":
        return [1.0, depth * batch * d, depth * batch * k, depth * p]
    return [1.0, n * k, p]
