"""Linear heads in closed form: many models at once, no autograd graph, no loop over samples.

Shapes used throughout: n samples, d features, k outputs, L lanes. A lane is one model; lanes share
the data X (n, d) and stand side by side in one tensor of parameters θ (d, k, L), so that every
operation is one wide matrix product with X. Lanes come last: the reductions over outputs then run
along contiguous memory.

ℓ_i is the data loss of sample i, without the regulariser. Samples are walked in chunks of rows, so
that temporaries stay small whatever n is.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Protocol

import torch
from torch import Tensor

# A chunk's (rows, k, L) temporaries hold about this many numbers: small enough for the cache,
# large enough for the matrix product.
CHUNK_NUMBERS = 1 << 18
CHUNK_ROWS = 256


class Link(Protocol):
    """How a sample's outputs z (rows, k, L) and its label become a loss, with derivatives in z.

    `state` is whatever the derivatives need of z, in one tensor of z's shape.
    """

    def outputs(self, classes: int) -> int:
        """The number k of outputs for this number of classes."""

    def state(self, z: Tensor, y: Tensor) -> Tensor:
        """What the derivatives need of z."""

    def loss(self, z: Tensor, y: Tensor) -> Tensor:
        """ℓ (rows, L)."""

    def slope(self, state: Tensor, y: Tensor) -> Tensor:
        """∂ℓ/∂z (rows, k, L)."""

    def curve(self, state: Tensor, y: Tensor, a: Tensor) -> Tensor:
        """∂²ℓ/∂z² a (rows, k, L)."""

    def twist(self, state: Tensor, y: Tensor, a: Tensor, b: Tensor) -> Tensor:
        """∂³ℓ/∂z³ [a, b] (rows, k, L)."""

    def curvature(self, state: Tensor, y: Tensor) -> Tensor:
        """The diagonal of ∂²ℓ/∂z² (rows, k, L)."""

    def predict(self, z: Tensor) -> Tensor:
        """The predicted label (rows, L)."""


def _each(y: Tensor) -> Tensor:
    return torch.arange(len(y), device=y.device)


class Softmax:
    """Multi-class cross-entropy; labels 0 … k−1."""

    def outputs(self, classes: int) -> int:
        return classes

    def state(self, z: Tensor, y: Tensor) -> Tensor:
        return torch.softmax(z, dim=1)

    def loss(self, z: Tensor, y: Tensor) -> Tensor:
        return torch.logsumexp(z, dim=1) - z[_each(y), y]

    def slope(self, state: Tensor, y: Tensor) -> Tensor:
        slope = state.clone()
        slope[_each(y), y] -= 1
        return slope

    def curve(self, state: Tensor, y: Tensor, a: Tensor) -> Tensor:
        weighted = state * a
        return weighted.addcmul_(state, weighted.sum(dim=1, keepdim=True), value=-1)

    def twist(self, state: Tensor, y: Tensor, a: Tensor, b: Tensor) -> Tensor:
        mean_a = (state * a).sum(dim=1, keepdim=True)
        mean_b = (state * b).sum(dim=1, keepdim=True)
        product = (a - mean_a) * (b - mean_b)
        return state * (product - (state * product).sum(dim=1, keepdim=True))

    def curvature(self, state: Tensor, y: Tensor) -> Tensor:
        return state * (1 - state)

    def predict(self, z: Tensor) -> Tensor:
        return z.argmax(dim=1)


class Logistic:
    """Binary logistic loss; labels 0 and 1, one output."""

    def outputs(self, classes: int) -> int:
        return 1

    def state(self, z: Tensor, y: Tensor) -> Tensor:
        return torch.sigmoid(z)

    def loss(self, z: Tensor, y: Tensor) -> Tensor:
        # Not softplus(z) − yz: the difference would lose the small losses of confident outputs.
        sign = (1 - 2 * y[:, None]).to(z.dtype)
        return -torch.nn.functional.logsigmoid(-sign * z[:, 0])

    def slope(self, state: Tensor, y: Tensor) -> Tensor:
        return state - y[:, None, None].to(state.dtype)

    def curve(self, state: Tensor, y: Tensor, a: Tensor) -> Tensor:
        return state * (1 - state) * a

    def twist(self, state: Tensor, y: Tensor, a: Tensor, b: Tensor) -> Tensor:
        return state * (1 - state) * (1 - 2 * state) * a * b

    def curvature(self, state: Tensor, y: Tensor) -> Tensor:
        return state * (1 - state)

    def predict(self, z: Tensor) -> Tensor:
        return (z[:, 0] > 0).long()


@dataclass(frozen=True)
class SmoothHinge:
    """Hinge loss max(0, 1 − s) smoothed to t log(1 + exp((1 − s)/t)), s = ±z (Koh & Liang 2017, §4.3).

    Labels 0 and 1 stand for −1 and +1; one output.
    """

    temperature: float

    def outputs(self, classes: int) -> int:
        return 1

    def _sign(self, y: Tensor, like: Tensor) -> Tensor:
        return (2 * y[:, None, None] - 1).to(like.dtype)

    def state(self, z: Tensor, y: Tensor) -> Tensor:
        return torch.sigmoid((1 - self._sign(y, z) * z) / self.temperature)

    def loss(self, z: Tensor, y: Tensor) -> Tensor:
        margin = (self._sign(y, z) * z)[:, 0]
        return self.temperature * torch.nn.functional.softplus((1 - margin) / self.temperature)

    def slope(self, state: Tensor, y: Tensor) -> Tensor:
        return -self._sign(y, state) * state

    def curve(self, state: Tensor, y: Tensor, a: Tensor) -> Tensor:
        return state * (1 - state) / self.temperature * a

    def twist(self, state: Tensor, y: Tensor, a: Tensor, b: Tensor) -> Tensor:
        third = -self._sign(y, state) * state * (1 - state) * (1 - 2 * state) / self.temperature**2
        return third * a * b

    def curvature(self, state: Tensor, y: Tensor) -> Tensor:
        return state * (1 - state) / self.temperature

    def predict(self, z: Tensor) -> Tensor:
        return (z[:, 0] > 0).long()


@dataclass(frozen=True)
class LinearRisk:
    """The losses ℓ_i(θ) of a linear head on fixed data.

    Args:
        x: features (n, d); append a column of ones for a bias.
        y: labels (n,), int64.
        classes: number of classes.
        link: softmax, logistic or smooth hinge.
    """

    x: Tensor
    y: Tensor
    classes: int
    link: Link = field(default_factory=Softmax)

    @property
    def samples(self) -> int:
        """n."""
        return self.x.shape[0]

    @property
    def shape(self) -> tuple[int, int]:
        """(d, k): the shape of one lane's parameters."""
        return self.x.shape[1], self.link.outputs(self.classes)

    def to(self, target: torch.dtype | torch.device) -> LinearRisk:
        """The same risk in another precision or on another device."""
        y = self.y.to(target) if isinstance(target, torch.device) else self.y
        return LinearRisk(self.x.to(target), y, self.classes, self.link)

    def rows(self, index: Tensor) -> LinearRisk:
        """The risk on some of the samples, index (m,)."""
        return LinearRisk(self.x[index], self.y[index], self.classes, self.link)

    def at(self, theta: Tensor) -> LinearPoint:
        """Evaluate the outputs of all samples once, for the operations at θ (d, k, L)."""
        return LinearPoint(self, theta)


class LinearPoint:
    """A linear risk at one θ (d, k, L): the operations that every experiment is made of.

    Sample weights w are (n,) or (n, L). Vectors like θ have shape (d, k, L). Nothing is averaged:
    pass w = 1/n for means; the regulariser is the caller's.
    """

    def __init__(self, risk: LinearRisk, theta: Tensor) -> None:
        d, k = risk.shape
        if theta.shape[:2] != (d, k) or theta.dim() != 3:
            raise ValueError(f"θ has shape {tuple(theta.shape)}, expected ({d}, {k}, lanes)")
        self.risk = risk
        self.theta = theta
        self.lanes = theta.shape[2]
        self._state = torch.empty(risk.samples, k, self.lanes, dtype=theta.dtype, device=theta.device)
        self._losses = torch.empty(risk.samples, self.lanes, dtype=theta.dtype, device=theta.device)
        self._correct = torch.empty(risk.samples, self.lanes, dtype=torch.bool, device=theta.device)
        for rows in self._chunks():
            y = risk.y[rows]
            z = self._outputs(rows, theta)
            self._losses[rows] = risk.link.loss(z, y)
            self._correct[rows] = risk.link.predict(z) == y[:, None]
            self._state[rows] = risk.link.state(z, y)

    def _chunks(self) -> Iterator[slice]:
        width = self.risk.shape[1] * self.lanes
        size = max(CHUNK_ROWS, CHUNK_NUMBERS // width)
        for start in range(0, self.risk.samples, size):
            yield slice(start, min(start + size, self.risk.samples))

    def _outputs(self, rows: slice, v: Tensor) -> Tensor:
        x = self.risk.x[rows]
        return (x @ v.reshape(v.shape[0], -1)).view(len(x), *v.shape[1:])

    def _add_features(self, total: Tensor, rows: slice, coefficients: Tensor) -> None:
        """total += X[rows]ᵀ coefficients."""
        total.view(total.shape[0], -1).addmm_(
            self.risk.x[rows].T, coefficients.reshape(coefficients.shape[0], -1)
        )

    def _weights(self, rows: slice, w: Tensor) -> Tensor:
        """w as (rows, 1, 1 or L)."""
        part = w[rows]
        return part[:, None, None] if part.dim() == 1 else part[:, None, :]

    def losses(self) -> Tensor:
        """ℓ_i (n, L)."""
        return self._losses

    def correct(self) -> Tensor:
        """Whether the predicted label is right (n, L)."""
        return self._correct

    def accuracy(self) -> Tensor:
        """Share of right predictions (L,), float64."""
        return self._correct.double().mean(dim=0)

    def grad(self, w: Tensor) -> Tensor:
        """Σ_i w_i ∇ℓ_i (d, k, L)."""
        total = torch.zeros_like(self.theta)
        for rows in self._chunks():
            slope = self.risk.link.slope(self._state[rows], self.risk.y[rows])
            self._add_features(total, rows, slope.mul_(self._weights(rows, w)))
        return total

    def grad_dots(self, v: Tensor) -> Tensor:
        """∇ℓ_iᵀ v for every i (n, L)."""
        dots = torch.empty_like(self._losses)
        for rows in self._chunks():
            slope = self.risk.link.slope(self._state[rows], self.risk.y[rows])
            dots[rows] = slope.mul_(self._outputs(rows, v)).sum(dim=1)
        return dots

    def hvp(self, v: Tensor, w: Tensor) -> Tensor:
        """Σ_i w_i ∇²ℓ_i v (d, k, L)."""
        total = torch.zeros_like(self.theta)
        for rows in self._chunks():
            curve = self.risk.link.curve(self._state[rows], self.risk.y[rows], self._outputs(rows, v))
            self._add_features(total, rows, curve.mul_(self._weights(rows, w)))
        return total

    def mean_curvature(self, w: Tensor) -> Tensor:
        """Σ_i w_i times the diagonal of ∂²ℓ_i/∂z², of each output (1, k, L)."""
        total = self.theta.new_zeros(1, *self.theta.shape[1:])
        for rows in self._chunks():
            curvature = self.risk.link.curvature(self._state[rows], self.risk.y[rows])
            total += curvature.mul_(self._weights(rows, w)).sum(dim=0, keepdim=True)
        return total

    def curvature_grad(self, a: Tensor, b: Tensor, w: Tensor) -> Tensor:
        """∇_θ Σ_i w_i aᵀ ∇²ℓ_i(θ) b, with a and b held fixed (d, k, L)."""
        total = torch.zeros_like(self.theta)
        for rows in self._chunks():
            twist = self.risk.link.twist(
                self._state[rows], self.risk.y[rows], self._outputs(rows, a), self._outputs(rows, b)
            )
            self._add_features(total, rows, twist.mul_(self._weights(rows, w)))
        return total

    def input_grad_dots(self, v: Tensor) -> Tensor:
        """∇_{x_i}(∇ℓ_iᵀ v) for every i (n, d, L): how perturbing an input moves its influence."""
        grads = torch.empty(
            self.risk.samples, *self.theta.shape[::2], dtype=self.theta.dtype, device=self.theta.device
        )
        for rows in self._chunks():
            state, y = self._state[rows], self.risk.y[rows]
            slope = self.risk.link.slope(state, y)
            curve = self.risk.link.curve(state, y, self._outputs(rows, v))
            grads[rows] = torch.einsum("nkl,dkl->ndl", slope, v) + torch.einsum(
                "nkl,dkl->ndl", curve, self.theta
            )
        return grads
