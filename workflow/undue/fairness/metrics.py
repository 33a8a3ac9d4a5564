"""What is reported of a model: its gap between groups, accuracy, log-loss, calibration, with intervals."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from undue.errors import UserError
from undue.fairness.problem import Part

Metric = Literal["demographic_parity", "equal_opportunity"]

METRIC_TITLES = {
    "demographic_parity": "demographic parity gap",
    "equal_opportunity": "equal opportunity gap",
}
CALIBRATION_BINS = 10

Floats = npt.NDArray[np.float64]


def compared(part: Part, metric: Metric) -> Tensor:
    """Whom a metric compares (n,) bool: everyone, or those with the favourable label.

    Raises:
        UserError: one of the groups has none of them.
    """
    whom = torch.ones_like(part.group) if metric == "demographic_parity" else part.risk.y == 1
    for name, group in (("privileged", part.group), ("other", ~part.group)):
        if not bool((whom & group).any()):
            raise UserError(
                f"the {name} group has no one with the favourable label in one of the parts",
                where="fairness.metrics: equal_opportunity",
                remedy="leave this metric out, give more rows, or set fairness.order: shuffled",
            )
    return whom


def contrast(part: Part, metric: Metric) -> Tensor:
    """c (n,) with Σ c_i v_i = mean of v over the privileged compared − mean over the others."""
    whom = compared(part, metric)
    privileged, other = (whom & part.group).double(), (whom & ~part.group).double()
    return privileged / privileged.sum() - other / other.sum()


def signed_gap(part: Part, theta: Tensor, metric: Metric) -> float:
    """Rate of favourable predictions among the privileged − among the others."""
    predicted = part.risk.link.predict(part.scores(theta)[:, None, None])[:, 0].double()
    return float(contrast(part, metric) @ predicted)


def accuracy(part: Part, theta: Tensor) -> float:
    """Share of right predictions."""
    return float(part.at(theta).accuracy())


def log_loss(part: Part, theta: Tensor) -> float:
    """Mean log-loss."""
    return float(part.at(theta).losses().mean())


def calibration_error(part: Part, theta: Tensor, bins: int = CALIBRATION_BINS) -> float:
    """Expected calibration error (Guo et al. 2017): mean |observed − predicted| rate, bins of equal width."""
    probability = torch.sigmoid(part.scores(theta))
    place = (probability * bins).long().clamp(max=bins - 1)
    off = torch.zeros(bins, dtype=torch.float64).index_add_(0, place, part.risk.y.double() - probability)
    return float(off.abs().sum() / len(probability))


@dataclass(frozen=True)
class Interval:
    """A 95 % percentile interval."""

    low: float
    high: float


def bootstrap(
    part: Part,
    theta: Tensor,
    metric: Metric,
    generator: np.random.Generator,
    *,
    draws: int,
    reference: Tensor | None = None,
) -> tuple[Interval, Interval]:
    """Intervals of the absolute gap, and of its excess over that of a reference model on the same rows.

    A gap keeps the sign that it has on the rows themselves: absolute values of draws around zero would lie
    above the gap that they are drawn around. So a gap's interval reaches below zero where it may favour the
    other side.

    Rows are drawn with replacement. The gaps depend on the draw only through the counts of (group, both
    predictions) among those compared, so the counts are drawn: the same distribution, at no cost.

    Args:
        part: the rows.
        theta: the model (d, 1, 1).
        metric: which gap.
        generator: draws the rows.
        draws: how many times.
        reference: another model, θ itself if not given (the excess is then 0).
    """
    link = part.risk.link
    one, other = (
        link.predict(part.scores(model)[:, None, None])[:, 0].numpy()
        for model in (theta, theta if reference is None else reference)
    )
    cell = part.group.numpy() * 4 + one * 2 + other
    # The ninth cell: those not compared.
    cell = np.where(compared(part, metric).numpy(), cell, 8)
    share = np.bincount(cell, minlength=9) / len(cell)
    drawn = generator.multinomial(len(cell), share, size=draws)[:, :8].reshape(draws, 2, 2, 2)
    # A draw without anyone of a group says nothing.
    drawn = drawn[(drawn.sum(axis=(2, 3)) > 0).all(axis=1)]
    size = drawn.sum(axis=(2, 3))
    rates = (drawn[:, :, 1, :].sum(axis=2) / size, drawn[:, :, :, 1].sum(axis=2) / size)
    sides = (
        -1.0 if signed_gap(part, model, metric) < 0 else 1.0
        for model in (theta, theta if reference is None else reference)
    )
    gap, reference_gap = (side * (rate[:, 1] - rate[:, 0]) for side, rate in zip(sides, rates, strict=True))
    return _interval(gap), _interval(gap - reference_gap)


def _interval(values: Floats) -> Interval:
    low, high = np.quantile(values, [0.025, 0.975])
    return Interval(float(low), float(high))
