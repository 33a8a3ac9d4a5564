"""Smooth stand-ins for a model's utility and fairness, the functionals that influence is measured on."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from undue.fairness.metrics import Metric, contrast
from undue.fairness.problem import Part


class Functional(Protocol):
    """A smooth function of θ (d, 1, 1)."""

    def value(self, theta: Tensor) -> float:
        """f(θ)."""

    def gradient(self, theta: Tensor) -> Tensor:
        """∇f(θ) (d, 1, 1)."""

    def hvp(self, theta: Tensor, v: Tensor) -> Tensor:
        """∇²f(θ) v (d, 1, 1)."""


@dataclass(frozen=True)
class Loss:
    """f(θ) = Σ c_i ℓ_i(θ): a weighted sum of log-losses.

    Args:
        part: the samples.
        weights: c (n,), of either sign.
    """

    part: Part
    weights: Tensor

    def value(self, theta: Tensor) -> float:
        return float(self.weights @ self.part.at(theta).losses()[:, 0])

    def gradient(self, theta: Tensor) -> Tensor:
        return self.part.at(theta).grad(self.weights)

    def hvp(self, theta: Tensor, v: Tensor) -> Tensor:
        return self.part.at(theta).hvp(v, self.weights)


@dataclass(frozen=True)
class Rate:
    """f(θ) = Σ c_i σ(κ z_i): a weighted sum of soft predictions, hard ones as κ grows.

    Args:
        part: the samples.
        weights: c (n,), of either sign.
        sharpness: κ.
    """

    part: Part
    weights: Tensor
    sharpness: float = 1.0

    def value(self, theta: Tensor) -> float:
        return float(self.weights @ self._soft(theta))

    def gradient(self, theta: Tensor) -> Tensor:
        soft = self._soft(theta)
        slope = self.weights * self.sharpness * soft * (1 - soft)
        return (self.part.risk.x.T @ slope)[:, None, None]

    def hvp(self, theta: Tensor, v: Tensor) -> Tensor:
        soft = self._soft(theta)
        bend = self.weights * self.sharpness**2 * soft * (1 - soft) * (1 - 2 * soft)
        return (self.part.risk.x.T @ (bend * self.part.scores(v)))[:, None, None]

    def _soft(self, theta: Tensor) -> Tensor:
        return torch.sigmoid(self.sharpness * self.part.scores(theta))


def utility(part: Part) -> Loss:
    """Σ log-loss: less is more useful."""
    return Loss(part, torch.ones(part.risk.samples, dtype=torch.float64))


def unfairness(part: Part, metric: Metric) -> Functional:
    """The published stand-in for a metric's gap; more is less fair to the unprivileged.

    Demographic parity: mean p̂ of the privileged − of the others. Equal opportunity: mean log-loss of the
    others − of the privileged, among those with the favourable label.
    """
    weights = contrast(part, metric)
    return Rate(part, weights) if metric == "demographic_parity" else Loss(part, -weights)


def soft_gap(part: Part, metric: Metric, sharpness: float) -> Rate:
    """The gap itself with soft predictions, of either metric: close to the hard one for a large sharpness."""
    return Rate(part, contrast(part, metric), sharpness)
