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
from copy import copy
from dataclasses import dataclass, field, replace
from typing import Protocol

import torch
from torch import Tensor

# A chunk's (rows, k, L) temporaries hold about this many numbers: small enough for the cache,
# large enough for the matrix product.
CHUNK_NUMBERS = 1 << 19
CHUNK_ROWS = 256
# Below this many columns Xᵀz is several times slower than the transpose of zᵀX, for the library behind torch.
NARROW = 256
# Below this many the same holds of Xv, and reading X takes the time: a chunk then has this many bytes of
# features, so that a Hessian product reads them from memory once and from the cache once.
SLIM = 32
SLIM_BYTES = 1 << 22
# Xv of all rows at once takes up to half as long again as that of so many at a time, for the same library.
PRODUCT_ROWS = 512


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

    def correct(self, z: Tensor, y: Tensor) -> Tensor:
        """Whether the predicted label is right (rows, L); a tie between classes is not."""


def _each(y: Tensor) -> Tensor:
    return torch.arange(len(y), device=y.device)


def _right_side(z: Tensor, y: Tensor) -> Tensor:
    """Whether the one output is on its label's side of zero (rows, L), y ∈ {0, 1}."""
    return torch.where(y[:, None] == 1, z[:, 0] > 0, z[:, 0] < 0)


class Softmax:
    """Multi-class cross-entropy; labels 0 … k−1."""

    def outputs(self, classes: int) -> int:
        return classes

    def state(self, z: Tensor, y: Tensor) -> Tensor:
        # Not torch.softmax, which is several times slower along a dimension that is not the last.
        state = torch.sub(z, z.amax(dim=1, keepdim=True)).exp_()
        return state.div_(state.sum(dim=1, keepdim=True))

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

    def correct(self, z: Tensor, y: Tensor) -> Tensor:
        # Not by argmax, which is a hundred times slower along this dimension. Not "z >= own": an output that
        # is not a number is never right.
        return (~(z < z[_each(y), y][:, None])).sum(dim=1) == 1


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

    def correct(self, z: Tensor, y: Tensor) -> Tensor:
        return _right_side(z, y)


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
        # Not softplus, which becomes linear beyond 20: torch's curvature there would be zero, and ours isn't.
        return -self.temperature * torch.nn.functional.logsigmoid((margin - 1) / self.temperature)

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

    def correct(self, z: Tensor, y: Tensor) -> Tensor:
        return _right_side(z, y)


@dataclass(frozen=True)
class Projection:
    """A vector of parameters with its outputs on some data, so that the product is not made again.

    Attributes:
        vector: v (d, k, L).
        outputs: X v (n, k, L).
    """

    vector: Tensor
    outputs: Tensor


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

    def project(self, v: Tensor) -> Projection:
        """Compute the outputs X v of a vector (d, k, L) once, to pass it wherever a vector is taken."""
        outputs = v.new_empty(self.samples, *v.shape[1:])
        multiply(self.x, v.reshape(v.shape[0], -1), outputs.view(self.samples, -1))
        return Projection(v, outputs)

    def at(self, theta: Tensor) -> LinearPoint:
        """Evaluate the outputs of all samples once, for the operations at θ (d, k, L)."""
        return LinearPoint(self, theta)


def multiply(x: Tensor, columns: Tensor, into: Tensor) -> None:
    """Write X (n, d) times columns (d, m) into a tensor (n, m), so many rows at a time as is fastest."""
    for rows in _parts(len(x), len(x) if x.is_cuda else PRODUCT_ROWS):
        torch.mm(x[rows], columns, out=into[rows])


def _parts(samples: int, size: int) -> Iterator[slice]:
    for start in range(0, samples, size):
        yield slice(start, min(start + size, samples))


class LinearPoint:
    """A linear risk at one θ (d, k, L): the operations that every experiment is made of.

    Sample weights w are (n,) or (n, L). Vectors like θ have shape (d, k, L); where their outputs are known
    already, pass a `Projection` on the same risk. Nothing is averaged: pass w = 1/n for means; the
    regulariser is the caller's.
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
            self._correct[rows] = risk.link.correct(z, y)
            self._state[rows] = risk.link.state(z, y)

    def _chunks(self) -> Iterator[slice]:
        x, width = self.risk.x, self.risk.shape[1] * self.lanes
        size = max(CHUNK_ROWS, CHUNK_NUMBERS // width // CHUNK_ROWS * CHUNK_ROWS)
        if width < SLIM and not x.is_cuda:
            size = max(CHUNK_ROWS, min(size, SLIM_BYTES // (x.shape[1] * x.element_size())))
        return _parts(self.risk.samples, size)

    def _outputs(self, rows: slice, v: Tensor | Projection) -> Tensor:
        if isinstance(v, Projection):
            if len(v.outputs) != self.risk.samples:
                raise ValueError(
                    f"a projection on {len(v.outputs)} samples is used with {self.risk.samples} samples"
                )
            return v.outputs[rows]
        x, columns = self.risk.x[rows], v.reshape(v.shape[0], -1)
        z = x @ columns if columns.shape[1] >= SLIM else (columns.T.contiguous() @ x.T).T
        return z.reshape(len(x), *v.shape[1:])

    def _add_features(self, total: Tensor, rows: slice, coefficients: Tensor) -> None:
        """total += X[rows]ᵀ coefficients."""
        into, x = total.view(total.shape[0], -1), self.risk.x[rows]
        z = coefficients.reshape(coefficients.shape[0], -1)
        if z.shape[1] < NARROW:
            into += (z.T @ x).T
        else:
            into.addmm_(x.T, z)

    def _weights(self, rows: slice, w: Tensor) -> Tensor:
        """w as (rows, 1, 1 or L)."""
        part = w[rows]
        return part[:, None, None] if part.dim() == 1 else part[:, None, :]

    def narrow(self, lanes: Tensor) -> LinearPoint:
        """The point of the chosen lanes alone, index (m,); nothing is evaluated anew."""
        point = copy(self)
        point.theta, point.lanes = self.theta[..., lanes], len(lanes)
        point._state, point._losses = self._state[..., lanes], self._losses[:, lanes]
        point._correct = self._correct[:, lanes]
        return point

    def last(self, features: int) -> LinearPoint:
        """The point as a function of the last features' parameters alone; the others' stay as they are."""
        point = copy(self)
        point.risk = replace(self.risk, x=self.risk.x[:, -features:])
        point.theta = self.theta[-features:]
        return point

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

    def grad_dots(self, v: Tensor | Projection) -> Tensor:
        """∇ℓ_iᵀ v for every i (n, L)."""
        dots = torch.empty_like(self._losses)
        for rows in self._chunks():
            slope = self.risk.link.slope(self._state[rows], self.risk.y[rows])
            dots[rows] = slope.mul_(self._outputs(rows, v)).sum(dim=1)
        return dots

    def hvp(self, v: Tensor | Projection, w: Tensor) -> Tensor:
        """Σ_i w_i ∇²ℓ_i v (d, k, L)."""
        total = torch.zeros_like(self.theta)
        for rows in self._chunks():
            curve = self.risk.link.curve(self._state[rows], self.risk.y[rows], self._outputs(rows, v))
            self._add_features(total, rows, curve.mul_(self._weights(rows, w)))
        return total

    def coarse(self, copies: Bfloat16) -> CoarsePoint:
        """The same point with Hessian products of low precision.

        Args:
            copies: the risk's features in bfloat16.
        """
        return CoarsePoint(self, copies)

    def mean_curvature(self, w: Tensor) -> Tensor:
        """Σ_i w_i times the diagonal of ∂²ℓ_i/∂z², of each output (1, k, L)."""
        total = self.theta.new_zeros(1, *self.theta.shape[1:])
        for rows in self._chunks():
            curvature = self.risk.link.curvature(self._state[rows], self.risk.y[rows])
            total += curvature.mul_(self._weights(rows, w)).sum(dim=0, keepdim=True)
        return total

    def curvature_grad(self, a: Tensor | Projection, b: Tensor | Projection, w: Tensor) -> Tensor:
        """∇_θ Σ_i w_i aᵀ ∇²ℓ_i(θ) b, with a and b held fixed (d, k, L)."""
        total = torch.zeros_like(self.theta)
        for rows in self._chunks():
            twist = self.risk.link.twist(
                self._state[rows], self.risk.y[rows], self._outputs(rows, a), self._outputs(rows, b)
            )
            self._add_features(total, rows, twist.mul_(self._weights(rows, w)))
        return total

    def bilinear_grad(self, a: Tensor | Projection, b: Tensor | Projection, u: Tensor, w: Tensor) -> Tensor:
        """∇_θ Σ_i (u_i ∇ℓ_iᵀ a − w_i aᵀ ∇²ℓ_i b), with a and b held fixed (d, k, L).

        The same as `hvp(a, u) - curvature_grad(a, b, w)` in one walk over the data: the training part of
        the attack gradient.
        """
        total = torch.zeros_like(self.theta)
        for rows in self._chunks():
            state, y = self._state[rows], self.risk.y[rows]
            a_rows = self._outputs(rows, a)
            part = self.risk.link.curve(state, y, a_rows).mul_(self._weights(rows, u))
            twist = self.risk.link.twist(state, y, a_rows, self._outputs(rows, b))
            self._add_features(total, rows, part.sub_(twist.mul_(self._weights(rows, w))))
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


@dataclass(frozen=True)
class Bfloat16:
    """Features in bfloat16, in both orders, for products on matrix units: as much memory as in float32.

    Attributes:
        x: X (n, d).
        transposed: Xᵀ (d, n), contiguous: several times faster than a view of the other.
    """

    x: Tensor
    transposed: Tensor

    @classmethod
    def of(cls, risk: LinearRisk) -> Bfloat16:
        """Round a risk's features to eight bits."""
        x = risk.x.bfloat16()
        return cls(x, x.T.contiguous())

    def last(self, features: int) -> Bfloat16:
        """The last features alone, in the same memory."""
        return Bfloat16(self.x[:, -features:], self.transposed[-features:])


class CoarsePoint:
    """Hessian products of a linear risk from products in bfloat16: right to about three digits, and fast.

    Only the products with X are coarse; the link's derivatives stay in the point's precision, where small
    curvatures of confident samples are differences of large numbers.
    """

    def __init__(self, point: LinearPoint, copies: Bfloat16) -> None:
        self._point, self._copies = point, copies
        width = point.risk.shape[1] * point.lanes
        self._coefficients = copies.x.new_empty(point.risk.samples, width)

    def narrow(self, lanes: Tensor) -> CoarsePoint:
        """The point of the chosen lanes alone."""
        return CoarsePoint(self._point.narrow(lanes), self._copies)

    def last(self, features: int) -> CoarsePoint:
        """The point as a function of the last features' parameters alone; the others' stay as they are."""
        return CoarsePoint(self._point.last(features), self._copies.last(features))

    def hvp(self, v: Tensor, w: Tensor) -> Tensor:
        """Σ_i w_i ∇²ℓ_i v (d, k, L)."""
        point, link = self._point, self._point.risk.link
        # The coefficients take the place of the outputs, a chunk at a time: memory, and wide products.
        torch.mm(self._copies.x, v.reshape(v.shape[0], -1).to(torch.bfloat16), out=self._coefficients)
        for rows in point._chunks():
            coefficients = self._coefficients[rows]
            outputs = coefficients.to(v.dtype).view(-1, *v.shape[1:])
            curve = link.curve(point._state[rows], point.risk.y[rows], outputs)
            coefficients.copy_(curve.mul_(point._weights(rows, w)).view_as(coefficients))
        return torch.mm(self._copies.transposed, self._coefficients).to(v.dtype).view_as(v)
