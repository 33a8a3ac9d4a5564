"""One attack step as published: LiSSA, autograd, per-sample gradients, one target at a time.

Yadav et al. 2024: Alg. 2 (influences by a stochastic inverse-Hessian-vector product and each sample's
gradient), Alg. 1 with line 5 as in the main text, v₁ᵀu₂ + u₁ᵀv₂ − u₁ᵀHu₂, and Alg. 3 (backward, Adam).
LiSSA's settings are the published code's, and so is its pace: influences, and the training part of the
objective, go through the samples one by one, which is what makes a step at 50,000 samples as slow as measured
with that code. Kinder than that code: rows are drawn from memory, without a data loader. `chunk` makes it
kinder still: vectorised gradients of so many samples at a time. Nothing here uses the library's derivatives.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from bench import engine, problems
from undue.calculus.lissa import PUBLISHED
from undue.data.problem import Problem
from undue.valuation.attack import starts
from undue.valuation.objectives import min_higher

# Samples at a time of the variant that is kinder than published.
KIND_CHUNK = 32


@dataclass(frozen=True)
class Lissa:
    """The published settings.

    Attributes:
        depth: iterations.
        batch: rows of each, drawn with replacement.
        scale: divides the Hessian.
        timed: iterations that are run; with fewer than `depth` the time of a solve is extrapolated and
            its answer is not to be used.
    """

    depth: int = PUBLISHED.depth
    batch: int = PUBLISHED.batch
    scale: float = PUBLISHED.scale
    timed: int = PUBLISHED.depth


@dataclass(frozen=True)
class Data:
    """Features (n, d) with a column of ones, and labels (n,)."""

    x: Tensor
    y: Tensor

    def chunks(self, size: int) -> Iterator[Data]:
        """The same in parts of so many rows."""
        for x, y in zip(torch.split(self.x, size), torch.split(self.y, size), strict=True):
            yield Data(x, y)


Solve = Callable[[Tensor, Data, Tensor], Tensor]
"""(θ, training data, b) ↦ H_δ⁻¹ b, all but the data (d, k)."""


@dataclass(frozen=True)
class Step:
    """What a step computes and how long it takes.

    Attributes:
        scores: influences on the shared half (n,).
        weights: ∂ℓ_attack/∂score (n,).
        value: the objective, Σ weights·scores.
        gradient: its gradient (d, k).
        seconds: by part: solve_shared, scores_shared, solve_weights, backward, update, and with
            monitoring solve_pristine, scores_pristine. Solves that were cut short are extrapolated.
        u1: the solve for the shared half (d, k).
    """

    scores: Tensor
    weights: Tensor
    value: float
    gradient: Tensor
    seconds: dict[str, float]
    u1: Tensor

    @property
    def unmonitored(self) -> float:
        """Seconds without ranking on the pristine half."""
        return sum(seconds for part, seconds in self.seconds.items() if "pristine" not in part)

    @property
    def monitored(self) -> float:
        """Seconds with it."""
        return sum(self.seconds.values())


class Attack:
    """The published attack on one target.

    Args:
        problem: the data.
        theta: where it starts (d, k).
        centre: θ* (d, k).
        radius: C.
        target: training row that is to rise.
        learning_rate: Adam's.
        damping: δ + λ: the published Hessian has no λ, which changes no cost.
        lissa: the solver's settings.
        generator: draws its mini-batches.
        chunk: training samples at a time, in the influences and in the objective.
        solve: what stands in for LiSSA, in tests and where its time is known already.
    """

    def __init__(
        self,
        problem: Problem,
        theta: Tensor,
        centre: Tensor,
        *,
        radius: float,
        target: int,
        learning_rate: float,
        damping: float,
        lissa: Lissa,
        generator: torch.Generator,
        chunk: int = 1,
        solve: Solve | None = None,
    ) -> None:
        self._train, self._shared, self._pristine = (
            Data(risk.x, risk.y) for risk in (problem.train, problem.shared, problem.pristine)
        )
        self._centre, self._radius, self._target = centre, radius * centre.norm(), target
        self._damping, self._lissa, self._generator, self._chunk = damping, lissa, generator, chunk
        self._solve = solve or self._run_lissa
        self.theta = theta.clone().requires_grad_()
        self._adam = torch.optim.Adam([self.theta], lr=learning_rate)
        self._seconds: dict[str, float] = {}

    def take(self, *, monitor: bool) -> Step:
        """One step of Alg. 3, timed part by part."""
        self._seconds = {}
        theta, train = self.theta.detach(), self._train
        u1, scores = self._influence(self._shared, "shared")
        weights = min_higher(scores[:, None], torch.tensor([self._target]))[:, 0]
        if monitor:
            self._influence(self._pristine, "pristine")

        with self._timed("solve_weights"):
            v2 = _gradient(theta, train, weights)
            u2 = self._solve(theta, train, v2)
        with self._timed("backward"):
            gradient = self._objective_gradient(u1, u2, weights)
        self.theta.grad = gradient.clone()
        with self._timed("update"), torch.no_grad():
            self._adam.step()
            offset = self.theta - self._centre
            self.theta.copy_(self._centre + offset * (self._radius / offset.norm()).clamp(max=1))
        return Step(scores, weights, float(weights @ scores), gradient, dict(self._seconds), u1)

    def _objective_gradient(self, u1: Tensor, u2: Tensor, weights: Tensor) -> Tensor:
        """∇_θ of v₁ᵀu₂ + u₁ᵀv₂ − u₁ᵀHu₂ with u₁ and u₂ frozen; δ's part does not depend on θ."""
        v1 = -_gradient(self.theta, self._shared, None, create_graph=True)
        total: Tensor = torch.autograd.grad((v1 * u2).sum(), self.theta)[0]
        each = torch.full_like(weights, 1 / len(weights))
        parts = self._train.chunks(self._chunk), *(torch.split(w, self._chunk) for w in (weights, each))
        for part, u, w in zip(*parts, strict=True):
            v2 = _gradient(self.theta, part, u, create_graph=True)
            product = _hvp(self.theta, part, u2, w, create_graph=True)
            total += torch.autograd.grad((u1 * v2).sum() - (u1 * product).sum(), self.theta)[0]
        return total

    def warm_up(self) -> None:
        """Run a little of everything, so that what libraries do once is not timed."""
        theta, some = self.theta.detach(), Data(self._train.x[:KIND_CHUNK], self._train.y[:KIND_CHUNK])
        for _ in range(3):
            _hvp(theta, some, theta, torch.full_like(some.x[:, 0], 1 / len(some.y)))
        _per_sample_dots(theta, some, theta, self._chunk)

    def _influence(self, test: Data, name: str) -> tuple[Tensor, Tensor]:
        """Alg. 2 with Eq. 1's minus: u₁ = −H_δ⁻¹∇ℓ_test (d, k) and the scores u₁ᵀ∇ℓ_i (n,)."""
        theta = self.theta.detach()
        with self._timed(f"solve_{name}"):
            u1 = self._solve(theta, self._train, -_gradient(theta, test, None))
        with self._timed(f"scores_{name}"):
            scores = _per_sample_dots(theta, self._train, u1, self._chunk)
        return u1, scores

    def _run_lissa(self, theta: Tensor, train: Data, b: Tensor) -> Tensor:
        """h ← b + h − (H_batch + δ) h / scale, `depth` times; H_δ⁻¹b ≈ h / scale."""
        lissa = self._lissa
        h, begun = b.clone(), time.perf_counter()
        for _ in range(lissa.timed):
            rows = torch.randint(len(train.y), (lissa.batch,), generator=self._generator)
            batch = Data(train.x[rows], train.y[rows])
            product = _hvp(theta, batch, h, torch.full_like(batch.x[:, 0], 1 / lissa.batch))
            h = b + h - (product + self._damping * h) / lissa.scale
        self._extrapolated += (time.perf_counter() - begun) * (lissa.depth / lissa.timed - 1)
        return h / lissa.scale

    @contextmanager
    def _timed(self, part: str) -> Iterator[None]:
        self._extrapolated = 0.0
        begun = time.perf_counter()
        yield
        self._seconds[part] = time.perf_counter() - begun + self._extrapolated


def _loss(theta: Tensor, data: Data, weights: Tensor | None) -> Tensor:
    losses = cross_entropy(data.x @ theta, data.y, reduction="none")
    return losses.sum() if weights is None else (weights * losses).sum()


def _gradient(theta: Tensor, data: Data, weights: Tensor | None, *, create_graph: bool = False) -> Tensor:
    """∇ Σ w_i ℓ_i (d, k) by autograd."""
    theta = theta if theta.requires_grad else theta.clone().requires_grad_()
    gradient: Tensor = torch.autograd.grad(_loss(theta, data, weights), theta, create_graph=create_graph)[0]
    return gradient


def _hvp(theta: Tensor, data: Data, v: Tensor, weights: Tensor, *, create_graph: bool = False) -> Tensor:
    """Σ w_i ∇²ℓ_i v (d, k) by autograd, twice backward."""
    theta = theta if theta.requires_grad else theta.clone().requires_grad_()
    gradient = _gradient(theta, data, weights, create_graph=True)
    product: Tensor = torch.autograd.grad(gradient, theta, v, create_graph=create_graph)[0]
    return product


def _per_sample_dots(theta: Tensor, data: Data, v: Tensor, chunk: int) -> Tensor:
    """∇ℓ_iᵀ v (n,): each sample's gradient in full, then the product."""
    if chunk == 1:
        return torch.stack([(_gradient(theta, sample, None) * v).sum() for sample in data.chunks(1)])

    def loss(parameters: Tensor, x: Tensor, y: Tensor) -> Tensor:
        return cross_entropy(x @ parameters, y)

    gradients = torch.func.vmap(torch.func.grad(loss), in_dims=(None, 0, 0))
    return torch.cat(
        [gradients(theta, part.x, part.y).flatten(1) @ v.flatten() for part in data.chunks(chunk)]
    )


def measure(folder: str, *, timed: int, seed: int) -> dict[str, object]:
    """The published recipe's part of a size's record; `problems.write` has filled the folder.

    Args:
        folder: the problem's.
        timed: LiSSA iterations that are run of the 977 of each solve; the rest is extrapolated.
        seed: of the start and the mini-batches.
    """
    problem, centre = problems.read_unrotated(Path(folder))
    target = engine.lanes_of(problem.train.samples, 1, seed=seed)[0]
    begin = starts(centre, engine.RADIUS, [target.row], seed=seed, start=0)
    prepare = partial(
        Attack,
        problem,
        begin[..., 0],
        centre[..., 0],
        radius=engine.RADIUS,
        target=target.row,
        learning_rate=target.learning_rate,
        damping=problems.DAMPING + problems.L2,
        lissa=Lissa(timed=timed),
        generator=torch.Generator().manual_seed(seed),
    )
    attack = prepare()
    attack.warm_up()
    step = attack.take(monitor=True)
    # The same solves with vectorised gradients.
    kind = prepare(chunk=KIND_CHUNK, solve=lambda theta, train, b: step.u1)
    kind.warm_up()
    solves = {part: seconds for part, seconds in step.seconds.items() if part.startswith("solve")}
    kinder = replace(step, seconds=kind.take(monitor=True).seconds | solves)
    b = -_gradient(begin[..., 0], Data(problem.shared.x, problem.shared.y), None)
    each = torch.full_like(step.weights, 1 / len(step.weights))
    product = _hvp(begin[..., 0], Data(problem.train.x, problem.train.y), step.u1, each)
    missing = b - product - (problems.DAMPING + problems.L2) * step.u1
    return {
        "published_step_s": step.unmonitored,
        "published_step_monitored_s": step.monitored,
        "published_parts_s": step.seconds,
        "published_vectorised_step_s": kinder.unmonitored,
        "published_vectorised_step_monitored_s": kinder.monitored,
        "published_vectorised_parts_s": kinder.seconds,
        "published_lissa": {"depth": Lissa.depth, "batch": Lissa.batch, "scale": Lissa.scale, "timed": timed},
        "extrapolated": timed < Lissa.depth,
        # Of a solve cut short it says nothing.
        "published_residual": float(missing.norm() / b.norm()) if timed >= Lissa.depth else None,
        "published_peak_rss_bytes": engine.peak_rss(),
    }
