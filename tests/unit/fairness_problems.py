"""A small fairness problem that several tests share, and independent arithmetic to compare with."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from undue.fairness.judge import Judge
from undue.fairness.logistic import Curvature, fit
from undue.fairness.metrics import Metric
from undue.fairness.pipeline import Pipeline
from undue.fairness.problem import Part, Problem, make_part

METRICS: tuple[Metric, ...] = ("demographic_parity", "equal_opportunity")


def make_problem(*, l2: float = 2.0, sizes: tuple[int, int, int] = (90, 60, 60), seed: int = 0) -> Problem:
    """Two groups that differ in a feature which the label depends on; noisy labels; no intercept."""
    random = np.random.default_rng(seed)
    n = sum(sizes)
    group = (random.random(n) < 0.55).astype(np.int64)
    x = random.normal(size=(n, 4)) @ random.normal(size=(4, 4))
    x = np.column_stack([x, group + 0.5 * random.normal(size=n), group])
    x = (x - x.mean(axis=0)) / x.std(axis=0)
    score = x @ np.array([0.4, -0.3, 0.2, 0.1, 0.8, 0.3])
    label = (score + random.logistic(size=n) > 0).astype(np.int64)
    train, validation, test = (
        make_part(x[rows], label[rows], group[rows]) for rows in np.split(np.arange(n), np.cumsum(sizes)[:2])
    )
    return Problem(train, validation, test, l2)


def make_pipeline(
    problem: Problem, metric: Metric, *, beta: float = 0.4, gamma: float = 0.1, relax: bool = False
) -> Pipeline:
    """The reweighing pipeline on a problem."""
    base = fit(problem.objective()).theta
    curvature = Curvature.of(problem.objective(), problem.train.at(base))
    return Pipeline(problem, metric, beta, gamma, "code", relax, "clarabel", base, curvature)


def make_judge(problem: Problem, metric: Metric, **options: float) -> Judge:
    """A judge of base models on a problem."""
    return Judge.of(make_pipeline(problem, metric, **options), draws=200, seed=0)  # type: ignore[arg-type]


def probability(part: Part, theta: Tensor) -> Tensor:
    """p̂ (n,), written out."""
    return 1 / (1 + torch.exp(-(part.risk.x @ theta.reshape(-1))))


def losses(part: Part, theta: Tensor) -> Tensor:
    """The log-losses (n,), written out, for autograd."""
    p, y = probability(part, theta), part.risk.y
    return -(y * torch.log(p) + (1 - y) * torch.log(1 - p))
