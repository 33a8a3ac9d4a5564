"""More than scaling: an attack on the downstream gap by its gradient.

The base model θ' moves within a ball around θ*, uphill on the soft gap of the downstream model that the
reweighing pipeline makes of it: through the influences, a smoothed program and the refit. What it finds
is judged through the true program.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from undue.budget import least_accuracy
from undue.calculus.lanes import dot, norm
from undue.fairness.influence import effects, removal
from undue.fairness.judge import VERDICT_COLUMNS, Judge
from undue.fairness.logistic import Curvature, fit
from undue.fairness.metrics import accuracy, log_loss, signed_gap
from undue.fairness.pipeline import Pipeline
from undue.fairness.problem import Part
from undue.fairness.program import Program
from undue.fairness.smooth import solve_smooth
from undue.fairness.surrogates import soft_gap, soft_rate
from undue.tables import FLOAT, INT, Columns

DIRECT_COLUMNS: Columns = {
    "radius": (FLOAT, "C: ‖θ' - θ*‖ / ‖θ*‖ at most"),
    "log_loss_budget": (FLOAT, "the base model's validation log-loss may rise by this share; inf: by any"),
    "candidates": (INT, "iterates as accurate as θ* with a downstream model within the accuracy budget"),
    "soft_gap": (FLOAT, "what was climbed: the soft gap by the smoothed program"),
    **VERDICT_COLUMNS,
}

FIRST_STEP = 0.15
LAST_STEP = 0.01
"""Lengths of the first and the last step, as a share of the radius."""
HALVINGS = 8
TRANSIENT = 0.005
"""Base accuracy that a step may cost; the next one turns back."""
ACCURACY_SHARPNESS = 20.0
JUDGED = 3
"""How many of the iterates with the largest soft gap go through the true program."""


@dataclass(frozen=True)
class Budget:
    """What an attacked base model may look like; its validation accuracy must be that of θ* at least.

    Args:
        radius: ‖θ′ − θ*‖ / ‖θ*‖ at most.
        log_loss: its validation log-loss may be higher than that of θ* by this share, inf for any.
    """

    radius: float
    log_loss: float = float("inf")


@dataclass(frozen=True)
class Smoothing:
    """How the attack makes the pipeline differentiable.

    Args:
        program: ε of the smoothed program.
        gap: κ of the soft gap.
    """

    program: float
    gap: float


@dataclass(frozen=True)
class Slope:
    """The smoothed pipeline at a base model.

    Attributes:
        value: soft gap of the downstream model.
        gradient: its gradient in the base model (d, 1, 1).
        downstream: the downstream model (d, 1, 1).
    """

    value: float
    gradient: Tensor
    downstream: Tensor


def slope_at(pipeline: Pipeline, theta: Tensor, smoothing: Smoothing, side: int) -> Slope | None:
    """The soft gap that a base model θ' (d, 1, 1) leads to, with its gradient.

    Args:
        pipeline: data, metric and program.
        theta: θ'.
        smoothing: how soft.
        side: 1 to measure the gap in favour of the privileged, −1 of the others.

    Returns:
        None where the program is infeasible.
    """
    problem = pipeline.problem
    influences = removal(problem, pipeline.metric, theta)
    program = Program.of(influences, beta=pipeline.beta, gamma=pipeline.gamma, bound=pipeline.bound)
    answer = solve_smooth(program.scaled(), smoothing.program)
    if answer is None:
        return None
    objective = problem.objective(torch.from_numpy(answer.x))
    downstream = fit(objective, pipeline.base, curvature=pipeline.curvature).theta
    gap = soft_gap(problem.validation, pipeline.metric, smoothing.gap)
    point = problem.train.at(downstream)
    by_share = effects(point, Curvature.of(objective, point), side * gap.gradient(downstream))
    by_rows, by_limits = answer.pull_back(by_share.numpy())
    # Dividing a constraint by a number leaves the solution alone, so the scaling of the rows counts as
    # fixed although it follows θ'.
    size = program.sizes()
    by_rows, by_limits = by_rows / size[:, None], by_limits / size
    # limits = (−share f, γ Σ min(utility, 0)) follow θ', too.
    by_rows[1] += by_limits[1] * pipeline.gamma * (program.rows[1] < 0)
    share = Program.share(pipeline.beta, pipeline.bound)
    gradient = influences.pull_back(
        torch.from_numpy(by_rows[0]), torch.from_numpy(by_rows[1]), -share * float(by_limits[0])
    )
    return Slope(side * float(gap.value(downstream)), gradient, downstream)


def ascend(
    pipeline: Pipeline, budget: Budget, *, steps: int, smoothing: Smoothing, side: int, least: float
) -> list[tuple[Tensor, Slope]]:
    """Walk uphill from θ*, by steps that shorten from `FIRST_STEP` to `LAST_STEP`.

    A step that leaves the budget is drawn back towards θ*; one that costs too much accuracy, of the base or
    of the downstream model, or leads to where the program is infeasible is halved (a calculator that is
    handed such a model stops and says so).

    Args:
        pipeline: data, metric and program.
        budget: how far from θ*.
        steps: at most so many.
        smoothing: how soft.
        side: see `slope_at`.
        least: validation accuracy that downstream models must have.

    Returns:
        The base models (d, 1, 1) on the way, θ* first; empty if its own program is infeasible.
    """
    validation, base = pipeline.problem.validation, pipeline.base
    lowest = accuracy(validation, base) - TRANSIENT
    theta, here = base, slope_at(pipeline, base, smoothing, side)
    path = [] if here is None else [(base, here)]
    for length in budget.radius * float(norm(base)) * np.linspace(FIRST_STEP, LAST_STEP, steps):
        if here is None or not bool(here.gradient.any()):
            break
        direction = guarded(validation, theta, here.gradient, accuracy(validation, base))
        there = None
        for halving in range(HALVINGS):
            trial = within(validation, base, theta + length / 2**halving * direction, budget)
            if accuracy(validation, trial) < lowest:
                continue
            there = slope_at(pipeline, trial, smoothing, side)
            if there is not None and accuracy(validation, there.downstream) >= least:
                break
            there = None
        if there is None:
            break
        theta, here = trial, there
        path.append((theta, here))
    return path


def guarded(validation: Part, theta: Tensor, gradient: Tensor, least: float) -> Tensor:
    """A direction (d, 1, 1) of length about 1 that climbs without costing accuracy.

    What of the gradient would lower the soft accuracy is taken out; where accuracy has been lost all the
    same, the way back up is added.
    """
    right = (2 * validation.risk.y - 1).double() / validation.risk.samples
    upward = soft_rate(validation, right, ACCURACY_SHARPNESS).gradient(theta)
    upward = upward / norm(upward).clamp(min=1e-300)
    direction = gradient / norm(gradient)
    direction = direction - upward * dot(direction, upward).clamp(max=0)
    direction = direction / norm(direction).clamp(min=1e-300)
    return direction + upward if accuracy(validation, theta) < least else direction


def within(validation: Part, base: Tensor, theta: Tensor, budget: Budget) -> Tensor:
    """The last point on the way from θ* to θ that keeps the budget; log-loss is convex on that line."""
    move = theta - base
    move = move * min(1.0, budget.radius * float(norm(base)) / max(float(norm(move)), 1e-300))
    limit = (1 + budget.log_loss) * log_loss(validation, base)
    if log_loss(validation, base + move) <= limit:
        return base + move
    low, high = 0.0, 1.0
    for _ in range(40):
        middle = (low + high) / 2
        low, high = (middle, high) if log_loss(validation, base + middle * move) <= limit else (low, middle)
    return base + low * move


def attack_directly(
    judge: Judge,
    budgets: Sequence[Budget],
    *,
    steps: int,
    smoothing: Smoothing,
    accuracy_budget: float,
) -> tuple[pd.DataFrame, Tensor]:
    """Attack within each budget and judge what was found through the true program.

    Chosen on the validation part: of the base models on the way that are as accurate as θ*, and whose
    downstream models lose at most `accuracy_budget` against the honest one, the `JUDGED` with the largest
    soft gaps are judged and the one with the largest gap is taken. What a walk finds counts for every budget
    that it keeps. Where the honest downstream model favours the other side than θ*, either is tried.

    Returns:
        A row of `DIRECT_COLUMNS` for each budget, and the base models (budgets, d).
    """
    pipeline = judge.pipeline
    validation, base = pipeline.problem.validation, pipeline.base
    honest = judge.honest.downstream
    least = 0.0 if honest is None else least_accuracy(accuracy(validation, honest), accuracy_budget)
    models = [base] if honest is None else [base, honest]
    sides = {-1 if signed_gap(validation, model, pipeline.metric) < 0 else 1 for model in models}
    # By value: all walks begin at θ*, and some part ways only after a few steps.
    found: dict[bytes, tuple[Tensor, Slope]] = {}
    for side in sorted(sides):
        for path in _walks(pipeline, budgets, steps=steps, smoothing=smoothing, side=side, least=least):
            for theta, slope in path:
                known = found.get(_key(theta))
                if known is None or slope.value > known[1].value:
                    found[_key(theta)] = (theta, slope)
    lowest = accuracy(validation, base)
    candidates = [step for step in found.values() if accuracy(validation, step[0]) >= lowest]
    # The honest model is always there to fall back on.
    judged = {_key(base): {"soft_gap": float("nan"), **judge.verdict(base, judge.honest)}}
    rows, chosen = [], []
    for budget in budgets:
        within_budget = [step for step in candidates if keeps(validation, base, step[0], budget)]
        best = sorted(within_budget, key=lambda step: -step[1].value)[:JUDGED]
        for theta, slope in best:
            if _key(theta) not in judged:
                verdict = judge.verdict(theta, pipeline.reweigh(theta))
                judged[_key(theta)] = {"soft_gap": slope.value, **verdict}
        verdicts = [(theta, judged[_key(theta)]) for theta, _ in best]
        allowed = [(theta, verdict) for theta, verdict in verdicts if verdict["accuracy_validation"] >= least]
        taken, verdict = max(
            [(base, judged[_key(base)]), *allowed],
            key=lambda one: np.nan_to_num(one[1]["gap_validation"], nan=-1),
        )
        rows.append(
            {
                "radius": budget.radius,
                "log_loss_budget": budget.log_loss,
                "candidates": len(within_budget),
                **verdict,
            }
        )
        chosen.append(taken[:, 0, 0])
    return pd.DataFrame(rows), torch.stack(chosen)


def _key(theta: Tensor) -> bytes:
    return theta.numpy().tobytes()


def keeps(validation: Part, base: Tensor, theta: Tensor, budget: Budget) -> bool:
    """Whether a base model is within a budget, but for rounding."""
    near = float(norm(theta - base)) <= budget.radius * float(norm(base)) * (1 + 1e-9)
    return near and log_loss(validation, theta) <= (1 + budget.log_loss) * log_loss(validation, base) + 1e-12


def _walks(
    pipeline: Pipeline,
    budgets: Sequence[Budget],
    *,
    steps: int,
    smoothing: Smoothing,
    side: int,
    least: float,
) -> list[list[tuple[Tensor, Slope]]]:
    """A walk for each budget, but where one of the same radius that was allowed more never made use of it."""
    validation, base = pipeline.problem.validation, pipeline.base
    walks: list[tuple[Budget, list[tuple[Tensor, Slope]]]] = []
    for budget in sorted(budgets, key=lambda budget: -budget.log_loss):
        spared = any(
            other.radius == budget.radius and all(keeps(validation, base, theta, budget) for theta, _ in path)
            for other, path in walks
        )
        if not spared:
            path = ascend(pipeline, budget, steps=steps, smoothing=smoothing, side=side, least=least)
            walks.append((budget, path))
    return [path for _, path in walks]
