"""What every experiment asks of a model: a risk, and the risk at one θ.

`linear.LinearRisk` answers in closed form, `module.ModuleRisk` for any network by `torch.func`. A
lane is one model; parameters θ are (d, k, L), the lane last. A linear head has d features and k
outputs; a network has its p parameters in one column, (p, 1, L).
"""

from __future__ import annotations

from typing import Protocol

import torch
from torch import Tensor

from undue.calculus.linear import Projection

Vector = Tensor | Projection


class Risk(Protocol):
    """The data losses ℓ_i(θ) of a model on fixed samples, without the regulariser."""

    @property
    def x(self) -> Tensor:
        """Inputs (n, …), floating point; their precision is that of θ."""

    @property
    def y(self) -> Tensor:
        """Labels (n, …)."""

    @property
    def samples(self) -> int:
        """n."""

    @property
    def shape(self) -> tuple[int, int]:
        """(d, k): the shape of one lane's parameters."""

    def to(self, target: torch.dtype | torch.device) -> Risk:
        """The same risk in another precision or on another device."""

    def rows(self, index: Tensor) -> Risk:
        """The risk on some of the samples, index (m,)."""

    def at(self, theta: Tensor) -> Point:
        """The operations at θ (d, k, L)."""


class Point(Protocol):
    """A risk at one θ: the operations of which influence, attacks and training are made.

    Sample weights w are (n,) or (n, L), vectors like θ are (d, k, L), with or without their outputs on the
    same risk. Nothing is averaged: pass w = 1/n for means; the regulariser is the caller's.
    """

    @property
    def risk(self) -> Risk:
        """Whose point this is."""

    @property
    def theta(self) -> Tensor:
        """θ (d, k, L)."""

    @property
    def lanes(self) -> int:
        """L."""

    def narrow(self, lanes: Tensor) -> Point:
        """The point of the chosen lanes alone, index (m,)."""

    def losses(self) -> Tensor:
        """ℓ_i (n, L)."""

    def correct(self) -> Tensor:
        """Whether the predicted label is right (n, L)."""

    def accuracy(self) -> Tensor:
        """Share of right predictions (L,), float64."""

    def grad(self, w: Tensor) -> Tensor:
        """Σ_i w_i ∇ℓ_i (d, k, L)."""

    def grad_dots(self, v: Vector) -> Tensor:
        """∇ℓ_iᵀ v for every i (n, L)."""

    def hvp(self, v: Vector, w: Tensor) -> Tensor:
        """Σ_i w_i ∇²ℓ_i v (d, k, L)."""

    def curvature_grad(self, a: Vector, b: Vector, w: Tensor) -> Tensor:
        """∇_θ Σ_i w_i aᵀ ∇²ℓ_i(θ) b, with a and b held fixed (d, k, L)."""

    def bilinear_grad(self, a: Vector, b: Vector, u: Tensor, w: Tensor) -> Tensor:
        """∇_θ Σ_i (u_i ∇ℓ_iᵀ a − w_i aᵀ ∇²ℓ_i b), with a and b held fixed (d, k, L)."""

    def input_grad_dots(self, v: Tensor) -> Tensor:
        """∇_{x_i}(∇ℓ_iᵀ v) for every i (n, …, L): how perturbing an input moves its influence."""
