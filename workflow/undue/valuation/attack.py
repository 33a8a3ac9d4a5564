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
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any, TypeVar

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from undue.calculus.adam import Adam
from undue.calculus.basis import Eigenbasis
from undue.calculus.influence import rank_of
from undue.calculus.lanes import dot, norm
from undue.calculus.linear import LinearPoint, Projection
from undue.calculus.solvers import Solution
from undue.errors import UserError
from undue.progress import Progress
from undue.randomness import AT_THETA, stream
from undue.tables import BOOL, FLOAT, INT, Columns
from undue.valuation.calculator import Calculator, packed
from undue.valuation.objectives import Weights, objective_weights

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
    "residual": (FLOAT, "worst relative residual of the step's two solves (monitoring not counted)"),
    "iterations": (INT, "products of these solves: with the Hessian, its coarse copy or a mini-batch"),
    "valid": (BOOL, "all these solves so far met their tolerance"),
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
    u1: Tensor | Projection,
    weights: Tensor,
    *,
    tolerance: float,
    start: Projection | None = None,
    draw: tuple[str | int, ...] = (),
) -> Gradient:
    """The exact gradient of Σ_i weights_i score_i(θ), the weights held fixed.

    Args:
        calculator: the calculator.
        train, test: the training risk and the shared test half at θ.
        score: scores at θ (n, L).
        u1: H_δ⁻¹v₁ (d, k, L), from the solve behind the scores.
        weights: ∂ℓ_attack/∂score (n, L).
        tolerance: relative residual of the solve for u₂.
        start, draw: of that solve, see `Calculator.solve`.
    """
    u = calculator.rank_sign * weights
    second = calculator.solve(train, train.grad(u), tolerance=tolerance, start=start, draw=draw)
    each = score.new_full((train.risk.samples,), 1 / train.risk.samples)
    gradient = train.bilinear_grad(u1, second.projection or second.x, u, each)
    gradient -= test.hvp(second.x, score.new_ones(test.risk.samples))
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
        ranks: the k for which an iterate with rank ≤ k is kept.
        tolerance: relative residual of the solves.
        monitor_every: the pristine half is ranked on every so many steps, at the last, and at a lane's first
            rank ≤ min(ranks).
        memory: bytes that lanes attacked side by side may take.
        first_hit: keep the iterate of the published code, its first with rank ≤ min(ranks) or else its last,
            in place of the most accurate one.
    """

    weights: Weights
    radius: float
    steps: int
    drop_at: float
    ranks: tuple[int, ...]
    tolerance: float
    monitor_every: int
    memory: float
    first_hit: bool = False

    @classmethod
    def of(cls, settings: Mapping[str, Any], *, objective: str, radius: float, ranks: Sequence[int]) -> Plan:
        """The plan that the config's section `attack` makes for an objective, a radius and the k.

        What only some attacks need may be missing: attack.suppressed_ranks, attack.publish.
        """
        return cls(
            weights=objective_weights(objective, suppressed_ranks=settings.get("attack.suppressed_ranks")),
            radius=radius,
            steps=settings["attack.steps"],
            drop_at=settings["attack.drop_at"],
            ranks=tuple(ranks),
            tolerance=settings["attack.tolerance"],
            monitor_every=settings["attack.monitor_every"],
            memory=settings["attack.memory_gb"] * 1e9,
            first_hit=settings.get("attack.publish") == "first_hit",
        )


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
    """The iterates that may be published, of each lane and k: with rank ≤ k, and the most accurate such one.

    Accuracy is that on the shared half; among equals the earliest counts. Under `Plan.first_hit` a lane has
    one iterate for all k.

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
    radius, the learning rate or the lanes beside it. Start `AT_THETA` is θ* itself.

    Args:
        theta: θ* (d, k, 1).
        radius: C.
        rows: the targets' training rows.
        seed: the config's root seed.
        start: the number of the start.

    Returns:
        (d, k, len(rows)).
    """
    if start == AT_THETA:
        return theta.repeat(1, 1, len(rows))
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
        UserError: more than one lane, and more than 1 % of them, had a solve that missed its tolerance; or θ*
            is zero.
    """
    x = calculator.problem.train.x
    theta, begin = theta.to(x), begin.to(x)
    target = torch.tensor([[lane.row for lane in lanes]], device=x.device)
    rates = torch.tensor([lane.learning_rate for lane in lanes], device=x.device, dtype=x.dtype)
    packs = list(packed(calculator.problem, len(lanes), plan.memory, kept=len(plan.ranks)))
    progress = Progress(logger, len(packs) * (plan.steps + 1), "steps")
    parts: list[tuple[Trajectories, Candidates]] = []
    invalid = 0
    for pack in packs:
        walk = Walk(calculator, basis, theta, begin[..., pack], target[:, pack], rates[pack], plan)
        kept = _Kept(plan, begin[..., pack])
        iterates = []
        for step in range(plan.steps + 1):
            last = step == plan.steps
            iterate = walk.take(monitor=last or step % plan.monitor_every == 0, last=last)
            kept.offer(iterate, last=last)
            iterates.append(iterate.record())
            refuse_invalid(invalid + int((~walk.valid).sum()), len(lanes), plan.tolerance)
            progress.update(len(parts) * (plan.steps + 1) + step + 1, kept.describe())
        joined = {name: np.stack([record[name] for record in iterates]) for name in iterates[0]}
        parts.append((Trajectories(**joined), kept.candidates(walk.valid, offset=pack.start)))
        invalid += int((~walk.valid).sum())
    trajectories = _join([part for part, _ in parts], axis=1)
    warn_of_invalid(invalid, len(lanes))
    return trajectories, _join([part for _, part in parts], axis=0)


@dataclass(frozen=True)
class Iterate:
    """What a step finds at its iterate, m targets a lane.

    Attributes:
        theta: the iterate (d, k, L), in the original basis.
        objective: ℓ_attack, not a number at the last (L,).
        distance: ‖θ − θ*‖ / ‖θ*‖ (L,).
        rank_shared: the targets' ranks on the shared half (m, L).
        rank_pristine: on the pristine half, 0 where not monitored (m, L).
        accuracy_shared, accuracy_pristine: of the iterate (L,).
        residual: worst relative residual of the step's two solves, monitoring not counted (L,).
        iterations: their products (L,).
        valid: all these solves so far met their tolerance (L,).
    """

    theta: Tensor
    objective: Tensor
    distance: Tensor
    rank_shared: Tensor
    rank_pristine: Tensor
    accuracy_shared: Tensor
    accuracy_pristine: Tensor
    residual: Tensor
    iterations: Tensor
    valid: Tensor

    def record(self) -> dict[str, np.ndarray]:
        """Everything but θ, for a lane of one target: (L,) each."""
        columns = {f.name: getattr(self, f.name) for f in fields(self) if f.name != "theta"}
        return {name: (x[0] if x.dim() == 2 else x).cpu().numpy() for name, x in columns.items()}


class Walk:
    """Lanes on their way, step by step; everything that one step leaves to the next.

    Args:
        calculator, basis: as for `attack`.
        centre: θ* (d, k, 1).
        begin: starting points (d, k, L); those outside the ball are moved to its sphere.
        target: training rows that are to rise (m, L); the objective is summed over a lane's targets.
        rates: learning rates (L,).
        plan: the settings.

    Raises:
        UserError: θ* is zero.

    Attributes:
        u1, u2: the solutions of the latest step's two solves.
        valid: whether all solves so far met their tolerance (L,).
    """

    def __init__(
        self,
        calculator: Calculator,
        basis: Eigenbasis,
        centre: Tensor,
        begin: Tensor,
        target: Tensor,
        rates: Tensor,
        plan: Plan,
    ) -> None:
        self._calculator, self._basis, self._plan = calculator, basis.to(centre.dtype), plan
        if not bool((norm(centre) > 0).all()):
            raise UserError(
                "θ* is zero, so that a ball of C‖θ*‖ around it is a point",
                where="model.l2",
                remedy="lower it, or check that the features tell the classes apart",
            )
        self._centre, self._target, self._rates = centre, target, rates
        self._radius = plan.radius * norm(centre)
        self._theta = project(begin, centre, self._radius)
        self._adam = Adam(self._theta)
        self._step = 0
        self.u1: Projection | None = None
        self.u2: Projection | None = None
        self._pristine: Projection | None = None
        self._hit = torch.zeros_like(rates, dtype=torch.bool)
        self.valid = torch.ones_like(self._hit)

    def take(self, *, monitor: bool, last: bool = False) -> Iterate:
        """Evaluate the present iterate and, unless it is the last, move on.

        Args:
            monitor: rank on the pristine half too, and not only where a lane hits for the first time.
            last: stay here.
        """
        plan, problem, theta = self._plan, self._calculator.problem, self._theta
        rotated = self._basis.to_basis(theta)
        train = problem.train.at(rotated)
        shared, pristine = problem.shared.at(rotated), problem.pristine.at(rotated)
        score, first = self._calculator.score(
            train, shared, tolerance=plan.tolerance, start=self.u1, draw=("u1", self._step)
        )
        self.u1 = first.projection
        self.valid = self.valid & first.converged
        rank = _ranks_of(score, self._target)
        hit = self.valid & (rank <= min(plan.ranks)).any(dim=0)
        newly = hit & ~self._hit
        self._hit |= hit
        residual, iterations = first.residual, first.iterations
        value = torch.full_like(residual, torch.nan)
        if not last:
            gradient = self._gradient(train, shared, score, first)
            value, solution = gradient.value, gradient.solution
            self.u2 = solution.projection
            self.valid = self.valid & solution.converged
            residual = torch.maximum(residual, solution.residual)
            iterations = iterations + solution.iterations
            self._move(gradient.gradient)
        found = Iterate(
            theta=theta,
            objective=value,
            distance=norm(theta - self._centre) / norm(self._centre),
            rank_shared=rank,
            rank_pristine=self._rank_on_pristine(train, pristine, newly | monitor),
            accuracy_shared=shared.accuracy(),
            accuracy_pristine=pristine.accuracy(),
            residual=residual,
            iterations=iterations,
            valid=self.valid,
        )
        self._step += 1
        return found

    def _gradient(self, train: LinearPoint, shared: LinearPoint, score: Tensor, first: Solution) -> Gradient:
        weights = torch.zeros_like(score)
        for row in self._target:
            weights += self._plan.weights(score, row)
        return attack_gradient(
            self._calculator,
            train,
            shared,
            score,
            first.projection or first.x,
            weights,
            tolerance=self._plan.tolerance,
            start=self.u2,
            draw=("u2", self._step),
        )

    def _move(self, gradient: Tensor) -> None:
        plan = self._plan
        rates = self._rates * (0.1 if self._step >= plan.drop_at * plan.steps else 1.0)
        moved = self._theta + self._adam.step(self._basis.from_basis(gradient), rates)
        self._theta = project(moved, self._centre, self._radius)

    def _rank_on_pristine(self, train: LinearPoint, pristine: LinearPoint, wanted: Tensor) -> Tensor:
        """Ranks (m, L) on the pristine half of the lanes that are wanted, 0 of the others."""
        ranks = torch.zeros_like(self._target)
        if not bool(wanted.any()):
            return ranks
        lanes = torch.nonzero(wanted)[:, 0]
        everyone = len(lanes) == len(wanted)
        start = self._pristine
        if not everyone:
            train, pristine = train.narrow(lanes), pristine.narrow(lanes)
            start = start and Projection(start.vector[..., lanes], start.outputs[..., lanes])
        score, solution = self._calculator.score(
            train, pristine, tolerance=self._plan.tolerance, start=start, draw=("pristine", self._step)
        )
        if everyone:
            self._pristine = solution.projection
        # Not monitored, rather than wrong, where the solve missed its tolerance.
        found = _ranks_of(score, self._target[:, lanes])
        ranks[:, lanes] = torch.where(solution.converged, found, 0)
        return ranks


def _ranks_of(score: Tensor, target: Tensor) -> Tensor:
    return torch.stack([rank_of(score, row) for row in target])


class _Kept:
    """The iterates of a pack that may be published."""

    def __init__(self, plan: Plan, like: Tensor) -> None:
        self._plan = plan
        self._best = {k: Best(like) for k in plan.ranks}
        self._gone = torch.zeros(like.shape[2], dtype=torch.bool, device=like.device)

    def offer(self, iterate: Iterate, *, last: bool) -> None:
        """Look at the next iterate."""
        rank = iterate.rank_shared[0]
        eligible = iterate.valid
        if self._plan.first_hit:
            hit = rank <= min(self._plan.ranks)
            eligible = eligible & ~self._gone & (hit | last)
            self._gone = self._gone | hit
        for k, best in self._best.items():
            best.offer(iterate.theta, iterate.accuracy_shared, eligible & (rank <= k))

    def describe(self) -> str:
        """Success so far, for the progress line."""
        k = min(self._plan.ranks)
        reached = self._best[k].step >= 0
        return f"rank ≤ {k} reached by {int(reached.sum())} of {len(reached)} attacks"

    def candidates(self, valid: Tensor, offset: int) -> Candidates:
        """The kept iterates of the lanes that stayed valid; lanes are numbered from `offset`."""
        parts = []
        for k, best in self._best.items():
            lanes = torch.nonzero(valid & (best.step >= 0))[:, 0]
            parts.append(
                Candidates(
                    lane=offset + lanes.cpu().numpy(),
                    k=np.full(len(lanes), k, dtype=np.int64),
                    step=best.step[lanes].cpu().numpy(),
                    theta=best.theta[..., lanes].permute(2, 0, 1).contiguous().cpu().numpy(),
                )
            )
        return _join(parts, axis=0)


class Best:
    """The iterate of the highest merit offered so far, lane by lane; of equals the first.

    Attributes:
        merit: (L,), float64.
        step: its number among the offers (L,), −1 before any was eligible.
        theta: (d, k, L).
    """

    def __init__(self, like: Tensor) -> None:
        lanes = like.shape[2]
        self.merit = torch.full((lanes,), -torch.inf, dtype=torch.float64, device=like.device)
        self.step = torch.full((lanes,), -1, dtype=torch.int64, device=like.device)
        self.theta = torch.zeros_like(like)
        self._offers = 0

    def offer(self, theta: Tensor, merit: Tensor, eligible: Tensor) -> None:
        """Keep the lanes of an iterate that are eligible and better than what is kept."""
        better = eligible & (merit > self.merit)
        self.merit[better] = merit[better].to(self.merit)
        self.step[better] = self._offers
        self.theta[..., better] = theta[..., better]
        self._offers += 1


Arrays = TypeVar("Arrays", Trajectories, Candidates)


def _join(parts: Sequence[Arrays], *, axis: int) -> Arrays:
    """Concatenate dataclasses of arrays field by field."""
    joined = {f.name: np.concatenate([getattr(p, f.name) for p in parts], axis) for f in fields(parts[0])}
    return replace(parts[0], **joined)


def warn_of_invalid(invalid: int, lanes: int) -> None:
    """Say how many lanes count as failures for a solve that missed its tolerance."""
    if invalid:
        logger.warning("%d of %d lanes are invalid and count as failures", invalid, lanes)


def refuse_invalid(invalid: int, lanes: int, tolerance: float) -> None:
    """Refuse more than 1 % of invalid lanes, as soon as there are; one is let pass however few there are.

    Raises:
        UserError: that many of the lanes are invalid already.
    """
    share = invalid / lanes
    if invalid > 1 and share > INVALID_LANES_ALLOWED:
        raise UserError(
            f"{share:.0%} of the attacks had a solve that missed the relative residual {tolerance:g}",
            where="attack.tolerance",
            remedy="raise influence.damping or model.l2 (both make the solves easier), or attack.tolerance; "
            "or set attack.products to float32; attack.solver: lissa needs a tolerance of 0.2 or so",
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
