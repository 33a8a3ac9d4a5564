"""The same operations for any network, by `torch.func`: exact, no derivative written by hand.

A network's parameters are one column θ (p, 1, L), so that solvers, objectives and attacks take it
for a linear head with one output. Every operation is a composition of two: the gradient of the
weighted loss (reverse mode), and derivatives along directions (forward mode, which stores nothing):

    ∇ℓ_iᵀ v       the losses, along v: all samples in one forward pass, no per-sample gradient
    Σ w ∇²ℓ v     the gradient, along v
    ∇ Σ w aᵀ∇²ℓ b  the gradient, along a and b

Lanes run side by side by `vmap`; samples are walked in chunks whose activations fit into a stated
memory.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import torch
from torch import Tensor, nn
from torch.func import functional_call, grad, jvp, vmap
from torch.nn.functional import cross_entropy

from undue.calculus.linear import Link, Projection
from undue.calculus.risk import Vector

Loss = Callable[[Tensor, Tensor], Tensor]
Predict = Callable[[Tensor], Tensor]

# Each derivative holds about three times what the function that it is taken of does: on small convolutional
# networks a chunk's peak is then between a third below `memory` and a half above it.
GROWTH = 3


def predict_class(outputs: Tensor) -> Tensor:
    """The label (n,) with the largest of k outputs (n, k); of one output (n, 1), whether it is positive."""
    return outputs.argmax(dim=1) if outputs.shape[1] > 1 else (outputs[:, 0] > 0).long()


def link_loss(link: Link) -> Loss:
    """The loss of a linear head's link, for one sample's outputs (k,) and its label ()."""

    def loss(output: Tensor, label: Tensor) -> Tensor:
        return link.loss(output[None, :, None], label[None])[0, 0]

    return loss


@dataclass(frozen=True)
class ModuleRisk:
    """The losses ℓ_i(θ) of a network on fixed data.

    θ holds the parameters that require a gradient, in the order of `module.parameters()`; the others,
    and the buffers, stay what they are. The module itself is never changed. It must treat the samples
    of a batch independently of each other.

    Args:
        module: maps inputs (rows, …) to outputs (rows, …); in evaluation mode.
        x: inputs (n, …), floating point.
        y: labels (n, …).
        loss: (one sample's output, its label) ↦ its loss, twice differentiable (for attacks, thrice).
        predict: outputs (rows, …) ↦ labels (rows,), for `correct` and `accuracy`.
        memory: bytes that the activations of a chunk of samples may take, over all lanes.
        activations: how many numbers a backward pass keeps of one sample; measured if not given.

    Raises:
        ValueError: the module is in training mode, has nothing to train, or inputs aren't floating point.
    """

    module: nn.Module
    x: Tensor
    y: Tensor
    loss: Loss = cross_entropy
    predict: Predict = predict_class
    memory: float = 5e8
    activations: int = 0

    def __post_init__(self) -> None:
        if any(part.training for part in self.module.modules()):
            raise ValueError(
                "the module is in training mode, where dropout and batch norm make a sample's loss depend "
                "on chance or on other samples: call module.eval() first"
            )
        if not self._trained:
            raise ValueError("no parameter of the module requires a gradient: there is nothing to train")
        if not self.x.is_floating_point():
            raise ValueError(
                f"inputs are {self.x.dtype}, expected floating point: let the module convert them itself"
            )
        if len(self.x) != len(self.y):
            raise ValueError(f"{len(self.x)} inputs, but {len(self.y)} labels")
        if not self.activations:
            object.__setattr__(self, "activations", self._measure())

    @cached_property
    def _trained(self) -> list[nn.Parameter]:
        return [part for part in self.module.parameters() if part.requires_grad]

    @property
    def samples(self) -> int:
        """n."""
        return len(self.x)

    @property
    def shape(self) -> tuple[int, int]:
        """(p, 1): the shape of one lane's parameters."""
        return sum(part.numel() for part in self._trained), 1

    def to(self, target: torch.dtype | torch.device) -> ModuleRisk:
        """The same risk in another precision or on another device."""
        # Labels that are classes stay integers.
        moves = isinstance(target, torch.device) or self.y.is_floating_point()
        return replace(self, x=self.x.to(target), y=self.y.to(target) if moves else self.y)

    def rows(self, index: Tensor) -> ModuleRisk:
        """The risk on some of the samples, index (m,)."""
        return replace(self, x=self.x[index], y=self.y[index])

    def theta(self) -> Tensor:
        """The module's own parameters as θ (p, 1, 1), in the precision of the inputs."""
        flat = torch.cat([part.detach().reshape(-1) for part in self._trained])
        return flat.to(self.x)[:, None, None]

    def parameters(self, flat: Tensor) -> dict[str, Tensor]:
        """One lane's parameters (p,) by name, as `module.load_state_dict(…, strict=False)` takes them."""
        pieces = torch.split(flat, [part.numel() for part in self._trained])
        of: dict[Tensor, Tensor] = {
            part: piece.view(part.shape) for part, piece in zip(self._trained, pieces, strict=True)
        }
        return {name: of[part] for name, part in self._members() if part in of}

    def constants(self) -> dict[str, Tensor]:
        """What isn't trained by name, in the inputs' precision and on their device."""
        trained: set[Tensor] = set(self._trained)
        return {
            name: part.detach().to(self.x if part.is_floating_point() else self.x.device)
            for name, part in self._members()
            if part not in trained
        }

    def _members(self) -> Iterator[tuple[str, Tensor]]:
        """Every place that a parameter or a buffer stands in, by name.

        A tied parameter has several places, but a module that is used twice is named once: to replace its
        parameters under both names would leave the new ones behind in it (`functional_call` as it is).
        """
        for prefix, part in self.module.named_modules():
            yield from part.named_parameters(prefix, recurse=False, remove_duplicate=False)
            yield from part.named_buffers(prefix, recurse=False, remove_duplicate=False)

    def at(self, theta: Tensor) -> ModulePoint:
        """The operations at θ (p, 1, L)."""
        return ModulePoint(self, theta)

    def call(self, state: dict[str, Tensor], x: Tensor) -> Tensor:
        """Outputs (rows, …) for inputs x (rows, …), with these `parameters` and `constants`."""
        outputs: Tensor = functional_call(self.module, state, (x,), tie_weights=False)
        return outputs

    def _measure(self) -> int:
        """How many numbers a backward pass keeps of one sample in one lane, besides the parameters."""
        flat = self.x.new_zeros(self.shape[0], requires_grad=True)
        kept: dict[tuple[int, int], int] = {}

        def keep(part: Tensor) -> Tensor:
            storage = part.untyped_storage().data_ptr()
            if storage != flat.untyped_storage().data_ptr():
                kept[storage, part.numel()] = part.numel()
            return part

        one = self.x.new_zeros(1, *self.x.shape[1:])
        with torch.enable_grad(), torch.autograd.graph.saved_tensors_hooks(keep, lambda part: part):
            state = {**self.constants(), **self.parameters(flat)}
            outputs = self.call(state, one)
        return max(one.numel() + outputs.numel(), sum(kept.values()))


class ModulePoint:
    """A network's risk at one θ (p, 1, L): see `risk.Point` for the conventions.

    Raises:
        ValueError: θ has another shape, or another precision than the inputs.
    """

    def __init__(self, risk: ModuleRisk, theta: Tensor) -> None:
        if theta.shape[:2] != risk.shape or theta.dim() != 3:
            raise ValueError(f"θ has shape {tuple(theta.shape)}, expected ({risk.shape[0]}, 1, lanes)")
        if theta.dtype != risk.x.dtype:
            raise ValueError(f"θ is {theta.dtype}, the inputs are {risk.x.dtype}: expected the same")
        self.risk = risk
        self.theta = theta.detach()
        self.lanes = theta.shape[2]
        self._constants = risk.constants()

    def narrow(self, lanes: Tensor) -> ModulePoint:
        """The point of the chosen lanes alone, index (m,)."""
        return ModulePoint(self.risk, self.theta[..., lanes])

    def _outputs(self, flat: Tensor, x: Tensor) -> Tensor:
        """Outputs (rows, …) of one lane's parameters (p,)."""
        return self.risk.call({**self._constants, **self.risk.parameters(flat)}, x)

    def _losses(self, flat: Tensor, x: Tensor, y: Tensor) -> Tensor:
        """Losses (rows,) of one lane's parameters (p,)."""
        losses: Tensor = vmap(self.risk.loss)(self._outputs(flat, x), y)
        return losses

    def _rows_at_once(self, derivatives: int, lanes: int) -> int:
        numbers = self.risk.activations * GROWTH**derivatives * lanes
        return max(1, int(self.risk.memory // (numbers * self.theta.element_size())))

    def _chunks(self, derivatives: int) -> Iterator[slice]:
        """Slices of samples for an operation with so many derivatives of the losses."""
        size = self._rows_at_once(derivatives, self.lanes)
        for start in range(0, self.risk.samples, size):
            yield slice(start, min(start + size, self.risk.samples))

    def _over_lanes(self, function: Callable[..., Tensor], by_lane: Sequence[Tensor], rows: slice) -> Tensor:
        """function(θ, …, x, y) of every lane, stacked last; `by_lane` are further arguments (…, L)."""
        arguments = [self.theta[:, 0], *by_lane]
        data = self.risk.x[rows], self.risk.y[rows]
        if self.lanes == 1:
            # Not by vmap, which makes convolutions with a batch of one set of weights twice as slow.
            return function(*(part[..., 0] for part in arguments), *data)[..., None]
        in_dims = (*(-1 for _ in arguments), None, None)
        stacked: Tensor = vmap(function, in_dims=in_dims, out_dims=-1)(*arguments, *data)
        return stacked

    @cached_property
    def _evaluated(self) -> Tensor:
        losses = self.theta.new_empty(self.risk.samples, self.lanes)
        for rows in self._chunks(0):
            losses[rows] = self._over_lanes(self._losses, (), rows)
        return losses

    def losses(self) -> Tensor:
        """ℓ_i (n, L)."""
        return self._evaluated

    def correct(self) -> Tensor:
        """Whether the predicted label is right (n, L)."""
        correct = torch.empty(self.risk.samples, self.lanes, dtype=torch.bool, device=self.theta.device)
        for rows in self._chunks(0):
            outputs = self._over_lanes(lambda flat, x, y: self._outputs(flat, x), (), rows)
            for lane in range(self.lanes):
                correct[rows, lane] = self.risk.predict(outputs[..., lane]) == self.risk.y[rows]
        return correct

    def accuracy(self) -> Tensor:
        """Share of right predictions (L,), float64."""
        return self.correct().double().mean(dim=0)

    def _weighted(self, w: Tensor, *directions: Tensor) -> Tensor:
        """∇ Σ_i w_i ℓ_i, differentiated along each of the directions (p, 1, L)."""

        def one(flat: Tensor, weights: Tensor, *rest: Tensor) -> Tensor:
            *along, x, y = rest

            def weighted(parameters: Tensor) -> Tensor:
                return (weights * self._losses(parameters, x, y)).sum()

            derivative: Callable[[Tensor], Tensor] = grad(weighted)
            for direction in along:
                derivative = _along(derivative, direction)
            return derivative(flat)

        weights = w[:, None].expand(-1, self.lanes) if w.dim() == 1 else w
        vectors = [direction[:, 0] for direction in directions]
        total = torch.zeros_like(self.theta)
        for rows in self._chunks(1 + len(directions)):
            total[:, 0] += self._over_lanes(one, [weights[rows], *vectors], rows)
        return total

    def grad(self, w: Tensor) -> Tensor:
        """Σ_i w_i ∇ℓ_i (p, 1, L)."""
        return self._weighted(w)

    def hvp(self, v: Vector, w: Tensor) -> Tensor:
        """Σ_i w_i ∇²ℓ_i v (p, 1, L)."""
        return self._weighted(w, _plain(v))

    def curvature_grad(self, a: Vector, b: Vector, w: Tensor) -> Tensor:
        """∇_θ Σ_i w_i aᵀ ∇²ℓ_i(θ) b, with a and b held fixed (p, 1, L)."""
        return self._weighted(w, _plain(a), _plain(b))

    def bilinear_grad(self, a: Vector, b: Vector, u: Tensor, w: Tensor) -> Tensor:
        """∇_θ Σ_i (u_i ∇ℓ_iᵀ a − w_i aᵀ ∇²ℓ_i b), with a and b held fixed (p, 1, L)."""
        return self.hvp(a, u) - self.curvature_grad(a, b, w)

    def _dots(self, flat: Tensor, v: Tensor, x: Tensor, y: Tensor) -> Tensor:
        """∇ℓ_iᵀ v (rows,) of one lane."""
        return _along(lambda parameters: self._losses(parameters, x, y), v)(flat)

    def grad_dots(self, v: Vector) -> Tensor:
        """∇ℓ_iᵀ v for every i (n, L)."""
        dots = self.theta.new_empty(self.risk.samples, self.lanes)
        for rows in self._chunks(1):
            dots[rows] = self._over_lanes(self._dots, [_plain(v)[:, 0]], rows)
        return dots

    def input_grad_dots(self, v: Tensor) -> Tensor:
        """∇_{x_i}(∇ℓ_iᵀ v) for every i (n, …, L): how perturbing an input moves its influence."""

        def one(flat: Tensor, along: Tensor, x: Tensor, y: Tensor) -> Tensor:
            # A sample's input moves its own loss alone, so the sum has every sample's derivative.
            value: Tensor = grad(lambda inputs: self._dots(flat, along, inputs, y).sum())(x)
            return value

        grads = self.theta.new_empty(*self.risk.x.shape, self.lanes)
        for rows in self._chunks(2):
            grads[rows] = self._over_lanes(one, [v[:, 0]], rows)
        return grads

    def sample_grads(self, index: Tensor) -> Tensor:
        """∇ℓ_i of the samples index (m,), side by side as lanes (p, 1, m).

        Raises:
            ValueError: the point has several lanes.
        """
        if self.lanes != 1:
            raise ValueError(f"gradients of single samples are taken of one lane, not of {self.lanes}")

        def one(x: Tensor, y: Tensor) -> Tensor:
            value: Tensor = grad(lambda flat: self._losses(flat, x[None], y[None])[0])(self.theta[:, 0, 0])
            return value

        grads: Tensor = vmap(one, out_dims=-1, chunk_size=self._rows_at_once(1, lanes=1))(
            self.risk.x[index], self.risk.y[index]
        )
        return grads[:, None]


def _plain(v: Vector) -> Tensor:
    """The vector itself: a network's outputs are not linear in it, so that knowing them helps nothing."""
    return v.vector if isinstance(v, Projection) else v


def _along(function: Callable[[Tensor], Tensor], direction: Tensor) -> Callable[[Tensor], Tensor]:
    """The derivative of a function of θ (p,) along a fixed direction (p,)."""

    def derivative(flat: Tensor) -> Tensor:
        value: Tensor = jvp(function, (flat,), (direction,))[1]
        return value

    return derivative
