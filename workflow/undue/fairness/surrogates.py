"""Smooth stand-ins for a model's utility and fairness, the functionals that influence is measured on."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from undue.calculus.functional import Substitute, WeightedSum, summed_loss
from undue.fairness.metrics import Metric, contrast
from undue.fairness.problem import Part


@dataclass(frozen=True)
class SoftPrediction(Substitute):
    """σ(κz) in place of a binary model's loss: its prediction made smooth.

    Attributes:
        sharpness: κ; predictions are hard as it grows.
    """

    sharpness: float

    def state(self, z: Tensor, y: Tensor) -> Tensor:
        return torch.sigmoid(self.sharpness * z)

    def loss(self, z: Tensor, y: Tensor) -> Tensor:
        return self.state(z, y)[:, 0]

    def slope(self, state: Tensor, y: Tensor) -> Tensor:
        return self.sharpness * state * (1 - state)

    def curve(self, state: Tensor, y: Tensor, a: Tensor) -> Tensor:
        return self.curvature(state, y) * a

    def twist(self, state: Tensor, y: Tensor, a: Tensor, b: Tensor) -> Tensor:
        spread = state * (1 - state)
        return self.sharpness**3 * spread * (1 - 6 * spread) * a * b

    def curvature(self, state: Tensor, y: Tensor) -> Tensor:
        return self.sharpness**2 * state * (1 - state) * (1 - 2 * state)


def soft_rate(part: Part, weights: Tensor, sharpness: float = 1.0) -> WeightedSum:
    """Σ c_i σ(κ z_i), a weighted sum of soft predictions.

    Args:
        part: the samples.
        weights: c (n,), of either sign.
        sharpness: κ.
    """
    return WeightedSum(replace(part.risk, link=SoftPrediction(part.risk.link, sharpness)), weights)


def utility(part: Part) -> WeightedSum:
    """Σ log-loss: less is more useful."""
    return summed_loss(part.risk)


def unfairness(part: Part, metric: Metric) -> WeightedSum:
    """The published stand-in for a metric's gap; more is less fair to the unprivileged.

    Demographic parity: mean p̂ of the privileged − of the others. Equal opportunity: mean log-loss of the
    others − of the privileged, among those with the favourable label.
    """
    weights = contrast(part, metric)
    return soft_rate(part, weights) if metric == "demographic_parity" else WeightedSum(part.risk, -weights)


def soft_gap(part: Part, metric: Metric, sharpness: float) -> WeightedSum:
    """The gap itself with soft predictions, of either metric: close to the hard one for a large sharpness."""
    return soft_rate(part, contrast(part, metric), sharpness)
