"""The attack on data valuation: move θ within a ball around θ* until chosen samples rank high.

Yadav et al. 2024, §4 and Alg. 1, with the exact gradient. A lane is one attack: a target and a
learning rate. Lanes share the data and walk in lock-step.

With u = ∂ℓ_attack/∂I held fixed, v₁ = −Σ_j ∇ℓ_test,j and v₂ = Σ_i u_i ∇ℓ_i, the attack objective is
v₂ᵀ H_δ⁻¹ v₁, and with u₁ = H_δ⁻¹v₁, u₂ = H_δ⁻¹v₂ its gradient is

    Σ_i u_i ∇²ℓ_i u₁ − Σ_j ∇²ℓ_test,j u₂ − ∇_θ (1/n) Σ_i u₁ᵀ ∇²ℓ_i u₂ :

two solves, the first of which is the forward pass's own.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields, replace
from typing import TypeVar

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from undue.calculus.basis import Eigenbasis
from undue.calculus.influence import rank_of
from undue.calculus.lanes import dot, norm
from undue.calculus.linear import LinearPoint
from undue.calculus.solvers import Solution
from undue.data.problem import Problem
from undue.errors import UserError
from undue.randomness import stream
from undue.run.job import Progress
from undue.tables import BOOL, FLOAT, INT, Columns
from undue.valuation.calculator import Calculator
from undue.valuation.objectives import Weights

logger = logging.getLogger(__name__)

INVALID_LANES_ALLOWED = 0.01

TRAJECTORY_COLUMNS: Columns = {
    "target": (INT, "training sample attacked"),
    "learning_rate": (FLOAT, "Adam's learning rate before it drops"),
    "step": (INT, "iterate, 0 is the start"),
    "objective": (FLOAT, "attack objective; missing at the last iterate"),
    "distance": (FLOAT, "‖θ' − θ*‖ / ‖θ*‖"),
    "rank_shared": (INT, "the target's rank on the shared half"),
    "rank_pristine": (INT, "the target's rank on the pristine half; 0 where not monitored or not solved"),
    "accuracy_shared": (FLOAT, "accuracy on the shared half"),
    "accuracy_pristine": (FLOAT, "accuracy on the pristine half"),
    "residual": (FLOAT, "worst relative residual of the step's solves"),
    "iterations": (INT, "Hessian products of the step's solves"),
    "valid": (BOOL, "all solves so far met their tolerance"),
}

CANDIDATE_COLUMNS: Columns = {
    "target": (INT, "training sample attacked"),
    "learning_rate": (FLOAT, "Adam's learning rate before it drops"),
    "k": (INT, "the iterate has rank ≤ k"),
    "step": (INT, "the iterate: of those, the most accurate on the shared half"),
    "accuracy_shared": (FLOAT, "its accuracy on the shared half"),
    "theta": (INT, "row of its parameters in the safetensors file beside"),
}


@dataclass(frozen=True)
class Gradient:
    """The attack objective and its gradient at one θ, S frozen.

    Attributes:
        value: ℓ_attack (L,).
        gradient: ∇_θ ℓ_attack (d, k, L).
        solution: the second solve, u₂.
    """

    value: Tensor
    gradient: Tensor
    solution: Solution


def attack_gradient(
    calculator: Calculator,
    train: LinearPoint,
    test: LinearPoint,
    score: Tensor,
    u1: Tensor,
    weights: Tensor,
    *,
    tolerance: float,
    start: Tensor | None = None,
) -> Gradient:
    """The exact gradient of Σ_i weights_i score_i(θ), the weights held fixed.

    Args:
        calculator: the calculator.
        train, test: the training risk and the shared test half at θ.
        score: scores at θ (n, L).
        u1: H_δ⁻¹v₁ (d, k, L), from the solve behind the scores.
        weights: ∂ℓ_attack/∂score (n, L).
        tolerance: relative residual of the solve for u₂.
        start: where that solve begins.
    """
    u = calculator.rank_sign * weights
    second = calculator.solve(train, train.grad(u), tolerance=tolerance, start=start)
    u2 = second.x
    each = score.new_full((train.risk.samples,), 1 / train.risk.samples)
    gradient = train.hvp(u1, u)
    gradient -= test.hvp(u2, score.new_ones(test.risk.samples))
    gradient -= train.curvature_grad(u1, u2, each)
    return Gradient(dot(weights, score), gradient, second)


@dataclass(frozen=True)
class Lane:
    """One attack: which training row is to rise, at which learning rate."""

    row: int
    learning_rate: float


@dataclass(frozen=True)
class Plan:
    """The settings of an attack.

    Attributes:
        weights: the objective, as weights on the scores.
        radius: C; ‖θ' − θ*‖ ≤ C‖θ*‖.
        steps: number of Adam steps T; iterates 0 … T are evaluated.
        drop_at: share of the steps after which learning rates are divided by ten.
        ranks: the k for which the most accurate iterate with rank ≤ k is kept.
        tolerance: relative residual of the solves.
        monitor_every: the pristine half is ranked on every so many steps, and at the last.
        memory: bytes that lanes attacked side by side may take.
    """

    weights: Weights
    radius: float
    steps: int
    drop_at: float
    ranks: tuple[int, ...]
    tolerance: float
    monitor_every: int
    memory: float


@dataclass(frozen=True)
class Trajectories:
    """What happened at each iterate 0 … T of each lane: arrays (T + 1, L).

    `rank_pristine` is 0 where it was not monitored; `objective` is not a number at iterate T.
    """

    objective: np.ndarray
    distance: np.ndarray
    rank_shared: np.ndarray
    rank_pristine: np.ndarray
    accuracy_shared: np.ndarray
    accuracy_pristine: np.ndarray
    residual: np.ndarray
    iterations: np.ndarray
    valid: np.ndarray


@dataclass(frozen=True)
class Candidates:
    """The iterates that may be published: of each lane and k, the most accurate one with rank ≤ k.

    Accuracy is that on the shared half; among equals the earliest counts.

    Attributes:
        lane, k, step: which lane, which k, which iterate (m,).
        theta: the iterates (m, d, outputs), in the original basis.
    """

    lane: np.ndarray
    k: np.ndarray
    step: np.ndarray
    theta: np.ndarray


def starts(theta: Tensor, radius: float, rows: Sequence[int], *, seed: int, start: int) -> Tensor:
    """Starting points uniform on the sphere of relative radius C around θ*, one for each row.

    A row's starting direction depends on the seed, the start's number and the row alone, not on the
    radius, the learning rate or the lanes beside it.

    Args:
        theta: θ* (d, k, 1).
        radius: C.
        rows: the targets' training rows.
        seed: the config's root seed.
        start: the number of the start.

    Returns:
        (d, k, len(rows)).
    """
    directions = {}
    for row in dict.fromkeys(rows):
        normal = stream(seed, "start", start, "row", row).standard_normal(theta.shape[:2])
        directions[row] = torch.from_numpy(normal / np.linalg.norm(normal))
    stacked = torch.stack([directions[row] for row in rows], dim=2).to(theta)
    return theta + radius * norm(theta) * stacked


def project(theta: Tensor, centre: Tensor, radius: Tensor) -> Tensor:
    """The nearest point of the ball ‖θ − centre‖ ≤ radius, lane by lane (d, k, L)."""
    offset = theta - centre
    distance = norm(offset)
    return torch.where(distance > radius, centre + offset * (radius / distance), theta)


class Adam:
    """Adam (Kingma & Ba 2015, Alg. 1) with a learning rate for each lane."""

    def __init__(self, like: Tensor, *, betas: tuple[float, float] = (0.9, 0.999), eps: float = 1e-8) -> None:
        self._betas, self._eps, self._step = betas, eps, 0
        self._mean = torch.zeros_like(like)
        self._square = torch.zeros_like(like)

    def step(self, gradient: Tensor, learning_rate: Tensor) -> Tensor:
        """The change of θ (d, k, L) for this gradient; learning_rate (L,)."""
        self._step += 1
        first, second = self._betas
        self._mean.lerp_(gradient, 1 - first)
        self._square.mul_(second).addcmul_(gradient, gradient, value=1 - second)
        spread = (self._square / (1 - second**self._step)).sqrt_().add_(self._eps)
        return -(learning_rate / (1 - first**self._step)) * self._mean / spread


def attack(
    calculator: Calculator, basis: Eigenbasis, theta: Tensor, begin: Tensor, lanes: Sequence[Lane], plan: Plan
) -> tuple[Trajectories, Candidates]:
    """Attack every lane.

    Args:
        calculator: the calculator, its problem rotated into `basis`, float32 for speed.
        basis: the basis of the calculator's problem.
        theta: θ* (d, k, 1) in the original basis.
        begin: starting points (d, k, L) in the original basis.
        lanes: the attacks, in the order of `begin`.
        plan: the settings.

    Returns:
        Every lane's trajectory, and the iterates of it that may be published.

    Raises:
        UserError: more than 1 % of the lanes had a solve that missed its tolerance.
    """
    x = calculator.problem.train.x
    theta, begin = theta.to(x), begin.to(x)
    packs = list(_packs(calculator.problem, len(lanes), plan.memory))
    progress = Progress(logger, len(packs) * (plan.steps + 1), "steps")
    parts = []
    for number, pack in enumerate(packs):
        walk = _Walk(calculator, basis, theta, begin[..., pack], lanes[pack], plan)
        for step in range(plan.steps + 1):
            walk.take(step)
            progress.update(number * (plan.steps + 1) + step + 1, walk.describe())
        parts.append((walk.trajectories(), walk.candidates(offset=pack.start)))
    trajectories = _join([part for part, _ in parts], axis=1)
    _check(trajectories, plan)
    return trajectories, _join([part for _, part in parts], axis=0)


def _packs(problem: Problem, lanes: int, memory: float) -> Iterator[slice]:
    """Slices of lanes whose working tensors fit into `memory` bytes."""
    d, k = problem.train.shape
    samples = problem.train.samples + problem.shared.samples + problem.pristine.samples
    # Per lane: the softmax state of every sample, scores and weights, and the vectors of the solves,
    # of Adam and of the candidates, about twenty of θ's size; four bytes each.
    per_lane = 4 * (samples * (k + 6) + 20 * d * k)
    size = max(1, int(memory // per_lane))
    # As few packs as fit, of nearly equal size: a last pack of one lane would be slow.
    count = -(-lanes // size)
    for number in range(count):
        yield slice(lanes * number // count, lanes * (number + 1) // count)


class _Walk:
    """The lanes of one pack on their way; everything that one step leaves to the next."""

    def __init__(
        self,
        calculator: Calculator,
        basis: Eigenbasis,
        centre: Tensor,
        begin: Tensor,
        lanes: Sequence[Lane],
        plan: Plan,
    ) -> None:
        self._calculator, self._basis, self._plan, self._centre = calculator, basis, plan, centre
        device = centre.device
        self._target = torch.tensor([lane.row for lane in lanes], device=device)
        self._rates = torch.tensor([lane.learning_rate for lane in lanes], dtype=centre.dtype, device=device)
        self._radius = plan.radius * norm(centre)
        self._theta = project(begin, centre, self._radius)
        self._adam = Adam(self._theta)
        self._u1: Tensor | None = None
        self._u2: Tensor | None = None
        self._pristine_u1: Tensor | None = None
        self._valid = torch.ones(len(lanes), dtype=torch.bool, device=device)
        self._records: list[dict[str, np.ndarray]] = []
        self._best = {k: _Best(self._theta) for k in plan.ranks}

    def take(self, step: int) -> None:
        """Evaluate the present iterate and, unless it is the last, move on."""
        calculator, plan, problem = self._calculator, self._plan, self._calculator.problem
        rotated = self._basis.to_basis(self._theta)
        train = problem.train.at(rotated)
        shared, pristine = problem.shared.at(rotated), problem.pristine.at(rotated)
        score, first = calculator.score(train, shared, tolerance=plan.tolerance, start=self._u1)
        self._u1 = first.x
        rank = rank_of(score, self._target)
        last = step == plan.steps
        residual, iterations = first.residual, first.iterations
        value = torch.full_like(residual, torch.nan)
        self._valid &= first.converged
        for k, best in self._best.items():
            best.offer(self._theta, step, shared.accuracy(), self._valid & (rank <= k))
        monitored = torch.zeros_like(rank)
        if last or step % plan.monitor_every == 0:
            monitored = self._rank_on(train, pristine)
        accuracies = shared.accuracy(), pristine.accuracy()
        distance = norm(self._theta - self._centre) / norm(self._centre)
        if not last:
            gradient = attack_gradient(
                calculator,
                train,
                shared,
                score,
                self._u1,
                plan.weights(score, self._target),
                tolerance=plan.tolerance,
                start=self._u2,
            )
            value, self._u2 = gradient.value, gradient.solution.x
            self._valid &= gradient.solution.converged
            residual = torch.maximum(residual, gradient.solution.residual)
            iterations = iterations + gradient.solution.iterations
            rates = self._rates * (0.1 if step >= plan.drop_at * plan.steps else 1.0)
            moved = self._theta + self._adam.step(self._basis.from_basis(gradient.gradient), rates)
            self._theta = project(moved, self._centre, self._radius)
        self._records.append(
            {
                name: array.cpu().numpy()
                for name, array in {
                    "objective": value,
                    "distance": distance,
                    "rank_shared": rank,
                    "rank_pristine": monitored,
                    "accuracy_shared": accuracies[0],
                    "accuracy_pristine": accuracies[1],
                    "residual": residual,
                    "iterations": iterations,
                    "valid": self._valid.clone(),
                }.items()
            }
        )

    def _rank_on(self, train: LinearPoint, pristine: LinearPoint) -> Tensor:
        score, solution = self._calculator.score(
            train, pristine, tolerance=self._plan.tolerance, start=self._pristine_u1
        )
        self._pristine_u1 = solution.x
        # Not monitored, rather than wrong, where the solve missed its tolerance.
        return torch.where(solution.converged, rank_of(score, self._target), 0)

    def describe(self) -> str:
        """Success so far, for the progress line."""
        k = min(self._plan.ranks)
        reached = torch.stack([self._best[k].step >= 0, self._valid]).all(dim=0)
        return f"rank ≤ {k} reached by {int(reached.sum())} of {len(reached)} attacks"

    def trajectories(self) -> Trajectories:
        """The records of all steps."""
        return Trajectories(**{name: np.stack([r[name] for r in self._records]) for name in self._records[0]})

    def candidates(self, offset: int) -> Candidates:
        """The kept iterates of the lanes that stayed valid; lanes are numbered from `offset`."""
        parts = []
        for k, best in self._best.items():
            lanes = torch.nonzero(self._valid & (best.step >= 0))[:, 0]
            parts.append(
                Candidates(
                    lane=offset + lanes.cpu().numpy(),
                    k=np.full(len(lanes), k, dtype=np.int64),
                    step=best.step[lanes].cpu().numpy(),
                    theta=best.theta[..., lanes].permute(2, 0, 1).contiguous().cpu().numpy(),
                )
            )
        return _join(parts, axis=0)


class _Best:
    """The most accurate iterate offered so far, lane by lane."""

    def __init__(self, like: Tensor) -> None:
        lanes = like.shape[2]
        self.accuracy = torch.full((lanes,), -1.0, dtype=torch.float64, device=like.device)
        self.step = torch.full((lanes,), -1, dtype=torch.int64, device=like.device)
        self.theta = torch.zeros_like(like)

    def offer(self, theta: Tensor, step: int, accuracy: Tensor, eligible: Tensor) -> None:
        """Keep the lanes of an iterate that are eligible and more accurate than what is kept."""
        better = eligible & (accuracy > self.accuracy)
        self.accuracy[better] = accuracy[better]
        self.step[better] = step
        self.theta[..., better] = theta[..., better]


Arrays = TypeVar("Arrays", Trajectories, Candidates)


def _join(parts: Sequence[Arrays], *, axis: int) -> Arrays:
    """Concatenate dataclasses of arrays field by field."""
    joined = {f.name: np.concatenate([getattr(p, f.name) for p in parts], axis) for f in fields(parts[0])}
    return replace(parts[0], **joined)


def _check(trajectories: Trajectories, plan: Plan) -> None:
    invalid = ~trajectories.valid[-1]
    share = float(invalid.mean())
    if invalid.any():
        logger.warning("%d of %d lanes are invalid and count as failures", invalid.sum(), len(invalid))
    if share > INVALID_LANES_ALLOWED:
        raise UserError(
            f"{share:.0%} of the attacks had a solve that missed the relative residual {plan.tolerance:g}",
            where="attack.tolerance",
            remedy="raise influence.damping or model.l2 (both make the solves easier), or attack.tolerance",
        )


def trajectory_table(
    trajectories: Trajectories, target: np.ndarray, learning_rate: Sequence[float]
) -> pd.DataFrame:
    """Trajectories as rows, lane by lane; target and learning rate of each lane are given."""
    steps, lanes = trajectories.objective.shape
    columns = {field.name: getattr(trajectories, field.name).T.reshape(-1) for field in fields(trajectories)}
    return pd.DataFrame(
        {
            "target": np.repeat(target, steps),
            "learning_rate": np.repeat(learning_rate, steps),
            "step": np.tile(np.arange(steps), lanes),
            **columns,
        }
    )


def candidate_table(
    candidates: Candidates, trajectories: Trajectories, target: np.ndarray, learning_rate: Sequence[float]
) -> pd.DataFrame:
    """Candidates as rows; target and learning rate of each lane are given."""
    lane = candidates.lane
    return pd.DataFrame(
        {
            "target": target[lane],
            "learning_rate": np.asarray(learning_rate)[lane],
            "k": candidates.k,
            "step": candidates.step,
            "accuracy_shared": trajectories.accuracy_shared[candidates.step, lane],
            "theta": np.arange(len(lane)),
        }
    )
