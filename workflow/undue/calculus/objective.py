"""The regularised risk R(θ) = Σ w_i ℓ_i(θ) + (λ/2)‖θ‖² and its damped Hessian H_δ."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Generic, Protocol, TypeVar

import torch
from torch import Tensor

from undue.calculus.lanes import dot
from undue.calculus.linear import CoarsePoint, LinearPoint, LinearRisk, Projection
from undue.calculus.risk import Point, Risk

R = TypeVar("R", bound=Risk, covariant=True)


class Curved(Protocol):
    """What has Hessian products: a point of a risk, exact or coarse."""

    def hvp(self, v: Any, w: Tensor) -> Tensor:
        """Σ_i w_i ∇²ℓ_i v."""

    def narrow(self, lanes: Tensor) -> Curved:
        """The point of the chosen lanes alone."""


@dataclass(frozen=True)
class Hessian:
    """v ↦ (Σ w_i ∇²ℓ_i + ridge) v at a point, on vectors (d, k, L) with or without their outputs.

    Attributes:
        point: where, exact or coarse.
        weights: w, (n,) or (n, L).
        ridge: λ + δ of each feature's parameters, (d, 1, 1) or (d, 1, L).
    """

    point: Curved
    weights: Tensor
    ridge: Tensor

    def __call__(self, v: Tensor | Projection) -> Tensor:
        vector = v.vector if isinstance(v, Projection) else v
        return self.point.hvp(v, self.weights).addcmul_(vector, self.ridge)

    def narrow(self, lanes: Tensor) -> Hessian:
        """The Hessian of the chosen lanes alone."""
        weights = self.weights if self.weights.dim() == 1 else self.weights[:, lanes]
        ridge = self.ridge if self.ridge.shape[-1] == 1 else self.ridge[..., lanes]
        return Hessian(self.point.narrow(lanes), weights, ridge)


@dataclass(frozen=True)
class Objective(Generic[R]):
    """What a model is trained on.

    Args:
        risk: the data losses.
        l2: λ ≥ 0, one number or one per lane (L,).
        weights: w, (n,) or (n, L); 1/n for every sample if not given.
        regularise_bias: whether λ applies to the last feature's parameters, the bias, too.
    """

    risk: R
    l2: float | Tensor
    weights: Tensor = field(default=None)  # type: ignore[assignment]  # set below
    regularise_bias: bool = True

    def __post_init__(self) -> None:
        if not self.regularise_bias and not isinstance(self.risk, LinearRisk):
            raise ValueError("only linear heads have a bias that λ can spare")
        if self.weights is None:
            n = self.risk.samples
            object.__setattr__(self, "weights", self.risk.x.new_full((n,), 1 / n))

    def ridge(self) -> Tensor:
        """λ of each feature's parameters, (d, 1, 1) or (d, 1, L)."""
        l2 = torch.as_tensor(self.l2, dtype=self.risk.x.dtype, device=self.risk.x.device)
        ridge = l2.expand(self.risk.shape[0], 1, l2.numel()).clone()
        if not self.regularise_bias:
            ridge[-1] = 0
        return ridge

    def value(self, point: Point) -> Tensor:
        """R(θ) of each lane (L,)."""
        weights = self.weights if self.weights.dim() == 2 else self.weights[:, None]
        return dot(weights, point.losses()) + dot(self.ridge() * point.theta, point.theta) / 2

    def gradient(self, point: Point) -> Tensor:
        """∇R(θ) (d, k, L)."""
        return point.grad(self.weights) + self.ridge() * point.theta

    def hessian(self, point: Curved, damping: float = 0.0) -> Hessian:
        """v ↦ H_δ v on vectors (d, k, L), H_δ = Σ w_i ∇²ℓ_i + λ + δ."""
        return Hessian(point, self.weights, self.ridge() + damping)

    def last_block(self, point: LinearPoint | CoarsePoint, features: int, damping: float = 0.0) -> Hessian:
        """The block of H_δ that belongs to the last features, on vectors (features, k, L)."""
        return Hessian(point.last(features), self.weights, (self.ridge() + damping)[-features:])

    def preconditioner(self, point: LinearPoint, moments: Tensor, damping: float = 0.0) -> Tensor:
        """An approximation of the diagonal of H_δ (d, k, L), to divide residuals by.

        Takes features and curvature as independent: moments (d,), the mean squares of the features,
        times each output's mean curvature. Good where the features are uncorrelated, see `Eigenbasis`.
        """
        curvature = point.mean_curvature(self.weights)
        return moments.to(curvature)[:, None, None] * curvature + self.ridge() + damping
