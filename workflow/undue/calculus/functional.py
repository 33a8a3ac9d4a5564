"""What influence is measured on: a number that depends on θ, with its derivatives.

A functional is a weighted sum over the samples of a risk. What the risk's "loss" is decides the rest:
the test loss itself, or a margin. A gap between groups is a sum with weights of both signs.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Protocol

import torch
from torch import Tensor

from undue.calculus.lanes import dot
from undue.calculus.linear import LinearRisk, Link, Softmax
from undue.calculus.module import ModuleRisk
from undue.calculus.risk import Risk


class Functional(Protocol):
    """A number of θ (d, k, L) for each lane, with derivatives."""

    def value(self, theta: Tensor) -> Tensor:
        """f(θ) (L,)."""

    def gradient(self, theta: Tensor) -> Tensor:
        """∇f(θ) (d, k, L)."""

    def hvp(self, theta: Tensor, v: Tensor) -> Tensor:
        """∇²f(θ) v (d, k, L)."""


@dataclass(frozen=True)
class WeightedSum:
    """Σ_j w_j ℓ_j(θ) over the samples of a risk.

    Attributes:
        risk: whose losses.
        weights: w (n,), of any sign.
    """

    risk: Risk
    weights: Tensor

    def value(self, theta: Tensor) -> Tensor:
        """Σ w ℓ (L,)."""
        return dot(self.weights[:, None], self.risk.at(theta).losses())

    def gradient(self, theta: Tensor) -> Tensor:
        """Σ w ∇ℓ (d, k, L)."""
        return self.risk.at(theta).grad(self.weights)

    def hvp(self, theta: Tensor, v: Tensor) -> Tensor:
        """Σ w ∇²ℓ v (d, k, L)."""
        return self.risk.at(theta).hvp(v, self.weights)


def summed_loss(test: Risk) -> WeightedSum:
    """The summed loss of a test set, which data valuation uses (Yadav et al. 2024, Eq. 2)."""
    return WeightedSum(test, test.x.new_ones(test.samples))


def one_loss(test: Risk, index: int) -> WeightedSum:
    """The loss of one test sample (Koh & Liang 2017, Eq. 2)."""
    return summed_loss(test.rows(torch.tensor([index], device=test.x.device)))


def margin(test: LinearRisk | ModuleRisk, index: int) -> WeightedSum:
    """The log-odds of the right label of one test sample, log p_y − log(1 − p_y).

    Unlike the loss it does not flatten where the model is confident, and unlike the gap to the
    runner-up it is smooth. With two classes it is the signed output ±z (for a hinge, its s).
    """
    alone = test.rows(torch.tensor([index], device=test.x.device))
    if isinstance(alone, LinearRisk):
        return summed_loss(replace(alone, link=MarginLink(alone.link)))
    return summed_loss(replace(alone, loss=margin_loss))


def margin_loss(output: Tensor, label: Tensor) -> Tensor:
    """The log-odds of the label, for one sample's outputs (k,) — or (1,), of a binary model."""
    if len(output) == 1:
        return (2 * label - 1).to(output.dtype) * output[0]
    right = torch.arange(len(output), device=output.device) == label
    others = torch.logsumexp(torch.where(right, -torch.inf, output), dim=0)
    return torch.where(right, output, 0).sum() - others


@dataclass(frozen=True)
class Substitute:
    """What else than its loss a linear head has: the head stays what it is. Not convex, for functionals only.

    Attributes:
        link: the head's own link, which says how many outputs it has and what it predicts.
    """

    link: Link

    def outputs(self, classes: int) -> int:
        return self.link.outputs(classes)

    def predict(self, z: Tensor) -> Tensor:
        return self.link.predict(z)

    def correct(self, z: Tensor, y: Tensor) -> Tensor:
        return self.link.correct(z, y)


@dataclass(frozen=True)
class MarginLink(Substitute):
    """The margin of a linear head in place of its loss.

    With several outputs the margin is z_y − log Σ_{c ≠ y} exp z_c, whose derivatives are those of a
    softmax over the other classes; `state` is that softmax.
    """

    def _right(self, z: Tensor, y: Tensor) -> Tensor:
        """Which output is the label's (rows, k, 1)."""
        return (torch.arange(z.shape[1], device=z.device) == y[:, None])[..., None]

    def _sign(self, z: Tensor, y: Tensor) -> Tensor:
        return (2 * y - 1).to(z.dtype)[:, None, None].expand_as(z)

    def state(self, z: Tensor, y: Tensor) -> Tensor:
        if z.shape[1] == 1:
            return torch.zeros_like(z)
        return Softmax().state(torch.where(self._right(z, y), -torch.inf, z), y)

    def loss(self, z: Tensor, y: Tensor) -> Tensor:
        if z.shape[1] == 1:
            return (self._sign(z, y) * z)[:, 0]
        right = self._right(z, y)
        others = torch.logsumexp(torch.where(right, -torch.inf, z), dim=1)
        return torch.where(right, z, 0).sum(dim=1) - others

    def slope(self, state: Tensor, y: Tensor) -> Tensor:
        if state.shape[1] == 1:
            return self._sign(state, y).clone()
        return self._right(state, y).to(state.dtype) - state

    def curve(self, state: Tensor, y: Tensor, a: Tensor) -> Tensor:
        return -Softmax().curve(state, y, a)

    def twist(self, state: Tensor, y: Tensor, a: Tensor, b: Tensor) -> Tensor:
        return -Softmax().twist(state, y, a, b)

    def curvature(self, state: Tensor, y: Tensor) -> Tensor:
        return -Softmax().curvature(state, y)
