"""The scaling attack: the model trainer hands in s θ* for θ*, with the same predictions and accuracy."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd

from undue.fairness.judge import NAN, VERDICT_COLUMNS, Judge, same_predictions
from undue.fairness.metrics import log_loss, signed_gap
from undue.fairness.program import Floats, Program
from undue.tables import BOOL, FLOAT, TEXT, Columns

SCALE_COLUMNS: Columns = {
    "loop": (
        TEXT,
        "base: scales of θ*; carry_over: of the previous round's downstream model; limit: of 0 and ∞",
    ),
    "scale": (FLOAT, "s"),
    "listed": (BOOL, "whether fairness.scales has it; others are there for budgets of log-loss and radii"),
    **VERDICT_COLUMNS,
}

BETWEEN = 2
"""Scales tried within the budget on either side of 1."""
SMALL = 1e-6
"""Stands for a scale of 0."""
FARTHEST = 1e3
"""Budgets are looked for within this factor of 1."""


def scale_base(
    judge: Judge, scales: Sequence[float], *, budgets: Sequence[float], radii: Sequence[float]
) -> tuple[pd.DataFrame, Floats]:
    """Hand in s θ* for every listed scale, for 1, and for some within each budget of log-loss and radius.

    Returns:
        The rows of `SCALE_COLUMNS` with the loop 'base', by scale, and the removed shares of each (rows, n);
        nan where the program was infeasible.

    Raises:
        RuntimeError: a scale changed a prediction: θ* and its multiples would not be alike.
    """
    listed = {float(scale) for scale in scales}
    extra = {scale for budget in budgets for scale in _within_budget(judge, budget)}
    # ‖s θ* − θ*‖ = |s − 1| ‖θ*‖.
    extra |= {1 + share * radius for radius in radii for share in (-1, -0.5, 0.5, 1) if share * radius > -1}
    rows, shares = [], []
    for scale in sorted(listed | extra | {1.0}):
        theta = scale * judge.pipeline.base
        if not same_predictions(judge.pipeline, theta):
            raise RuntimeError(f"scaling θ* by {scale:g} changed a prediction")
        reweighed = judge.honest if scale == 1 else judge.pipeline.reweigh(theta)
        verdict = judge.verdict(theta, reweighed)
        rows.append({"loop": "base", "scale": scale, "listed": scale in listed, **verdict})
        n = judge.pipeline.problem.train.risk.samples
        shares.append(np.full(n, NAN) if reweighed.answer.x is None else reweighed.answer.x)
    return pd.DataFrame(rows), np.stack(shares)


def carry_over(judge: Judge, scales: Sequence[float]) -> pd.DataFrame:
    """The published loop: every round scales the downstream model of the round before, θ* in the first.

    In the order given. A round whose program is infeasible hands its unscaled model on (the published code
    stops there).
    """
    rows = []
    model = judge.pipeline.base
    for scale in scales:
        theta = scale * model
        reweighed = judge.pipeline.reweigh(theta)
        rows.append({"loop": "carry_over", "scale": scale, "listed": True, **judge.verdict(theta, reweighed)})
        model = model if reweighed.downstream is None else reweighed.downstream
    return pd.DataFrame(rows)


def limits(judge: Judge) -> pd.DataFrame:
    """What the attack tends to as the scale goes to 0 and to infinity.

    Towards 0 f vanishes, so that nothing is asked of fairness; what is left of the program is its demand on
    the loss (the limit is computed at `SMALL`: at 0 itself f has no sign to orient the groups by).

    Towards infinity p(1−p) vanishes but on the decision boundary. Then the influences on soft predictions
    vanish while the gap to be removed does not; those on losses stay bounded while the loss gap grows with
    the scale. Either way the program becomes infeasible, unless there is no gap.
    """
    pipeline = judge.pipeline
    small = SMALL * pipeline.base
    # A multiple of θ* predicts what θ* does however small or large it is.
    honest = judge.verdict(pipeline.base, judge.honest)
    accuracies = {name: honest[name] for name in ("base_accuracy_validation", "base_accuracy_test")}
    problem, metric = pipeline.problem, pipeline.metric
    gap = abs(signed_gap(problem.validation, pipeline.base, metric))
    unfair, attainable = (gap, 0.0) if metric == "demographic_parity" else (float("inf"), NAN)
    at_zero = {**judge.verdict(small, pipeline.reweigh(small)), **accuracies}
    at_infinity = {
        **dict.fromkeys(VERDICT_COLUMNS, NAN),
        "status": "infeasible",
        "groups": judge.honest.influences.sign,
        "unfairness": unfair,
        "asked": -Program.share(pipeline.beta, pipeline.bound) * unfair,
        "attainable": attainable,
        "fractional": 0,
        "distance": float("inf"),
        **accuracies,
    }
    return pd.DataFrame(
        [
            {"loop": "limit", "scale": scale, "listed": False, **verdict}
            for scale, verdict in ((0.0, at_zero), (float("inf"), at_infinity))
        ]
    )


def _within_budget(judge: Judge, budget: float) -> list[float]:
    """Scales whose log-loss is at most (1 + budget) that of θ*: the outermost two and some between.

    The log-loss of s θ* is convex in s, so they are an interval around 1.
    """
    validation, base = judge.pipeline.problem.validation, judge.pipeline.base
    limit = (1 + budget) * log_loss(validation, base)

    def edge(farthest: float) -> float:
        inside, outside = 0.0, np.log(farthest)
        if log_loss(validation, float(np.exp(outside)) * base) <= limit:
            return farthest
        for _ in range(50):
            middle = (inside + outside) / 2
            within = log_loss(validation, float(np.exp(middle)) * base) <= limit
            inside, outside = (middle, outside) if within else (inside, middle)
        return float(np.exp(inside))

    low, high = edge(1 / FARTHEST), edge(FARTHEST)
    sides = (np.geomspace(low, 1, BETWEEN + 1)[:-1], np.geomspace(high, 1, BETWEEN + 1)[:-1])
    return sorted({float(scale) for side in sides for scale in side})
