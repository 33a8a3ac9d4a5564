"""A training sample that no model can rank among the top K, and where that stops holding.

Yadav et al. 2024, Theorem 1 and App. A.1.3: logistic regression in d dimensions without a bias, labels ±1.
Training samples are the target (e₁, +1), K duplicates of (−e₁, +1) and (e_i, y_i) for i = 2 … d; the only
test sample is (e₁, +1), the target's twin. Then at every θ and every ridge λ + δ ≥ 0

    I(target)     = −σ(−θ₁)² / h < 0
    I(duplicate)  = +σ(−θ₁) σ(θ₁) / h > 0,      h = (K + 1)/n σ(θ₁) σ(−θ₁) + λ + δ
    I(e_i, y_i)   = 0,

so that the target is the last of all. (The paper prints the product σ(−θ₁) σ(θ₁) for the target, too; the
conclusion is the same.)

**With other features.** Let x_t, x_d be the features of target and duplicate after any scaling and with
any bias, and k(a, b) = x_aᵀ H_δ⁻¹ x_b. The target is in the top K only if the duplicates rank below it, that
is if σ(−z_d) k(t, d) > σ(−z_t) k(t, t), and so only if k(t, d) > 0. As a function of the curvatures
r_i = σ(z_i) σ(−z_i) of the other d − 1 samples, k is the posterior covariance of a Gaussian process with
prior covariance G = X diag(ridge)⁻¹ Xᵀ after an observation of each sample with variance n / r_i. Its sign
at (t, d) does not depend on r_t and r_d, its numerator is linear in each r_i, and the others are alike: so
it is largest where j of them have r_i = ¼ and the rest 0, and as

    c_j = G(t,d) − j G(t,o) G(d,o) / (G(o,o) + 4n + (j − 1) G(o,o′))

is monotone in j, `reach` = max(c₀, c_{d−1}) ≤ 0 proves the impossibility. With a bias, the outputs z of all
distinct samples can be chosen freely; `reach` > 0 then gives models where the duplicates fall below
the target, however many they are: r → 0, z_t → ∞, z_d → −∞.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from decimal import Decimal, localcontext
from itertools import product
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from undue.calculus.basis import Eigenbasis
from undue.calculus.lanes import norm
from undue.calculus.linear import LinearRisk, Logistic
from undue.data.problem import Problem
from undue.randomness import stream
from undue.tables import BOOL, FLOAT, INT, TEXT, Columns
from undue.training import train
from undue.valuation.attack import Lane, Plan, attack, starts
from undue.valuation.calculator import Calculator
from undue.valuation.objectives import OBJECTIVES, Weights, objective_weights

SCALINGS = ("none", "centre", "standardise", "standardise_sample")
"""As `features.scaling`; the last divides by the deviation with n − 1, as `torch.std` does."""

BIASES = ("none", "regularised", "free")
"""No column of ones; one with the ridge λ + δ of all parameters; one with δ alone."""

DIGITS = 100
NEGLIGIBLE = Decimal("1e-60")
"""What 100 digits leave of a zero."""

DEPTH = 40.0
"""Largest output of the random search: there float64 no longer tells σ(z) from 1."""

GRADIENT_NORM = 1e-9
"""θ* is trained to this."""

CHECKED = 10
"""Of a search or an attack, models are ranked again with all digits, the best first, until so many hold."""

IMPOSSIBILITY_COLUMNS: Columns = {
    "scaling": (TEXT, "of the features"),
    "bias": (TEXT, "none, regularised (ridge λ + δ like all parameters), free (ridge δ)"),
    "dimension": (INT, "d"),
    "duplicates": (INT, "K; the theorem says that the target's rank is above K"),
    "samples": (INT, "n = d + K"),
    "l2": (FLOAT, "λ"),
    "damping": (FLOAT, "δ"),
    "reach": (FLOAT, "largest attainable k(t, d), up to its positive denominator; ≤ 0 proves impossibility"),
    "possible": (BOOL, "reach > 0, beyond rounding"),
    "attacks": (INT, "attacks: objectives, radii, starts, learning rates"),
    "attack_rank": (INT, "the target's best rank in any step of any attack"),
    "models": (INT, "models of the random search"),
    "search_rank": (INT, "the target's best rank under any of them"),
    "best_rank": (INT, "the smaller of the two"),
    "refuted": (INT, "models ranked ≤ K in float64 that 100 digits put back above K: rounding, no finding"),
    "theta": (
        TEXT,
        "counterexample: a θ with rank ≤ K by 100 digits, the bias last; empty if none was found",
    ),
    "theta_accuracy": (FLOAT, "share of the training samples that it classifies right"),
    "theta_margin": (FLOAT, "under it, (I_target − largest influence below) / |I_target|"),
}


@dataclass(frozen=True)
class Construction:
    """The theorem's data, with features scaled or a bias appended; all labels y_i are +1.

    The paper leaves y_i free; the theorem doesn't need them, and +1 is what suits the attacker.

    Attributes:
        dimension: d ≥ 1.
        duplicates: K ≥ 1.
        scaling: one of `SCALINGS`.
        bias: one of `BIASES`.
        l2: λ.
        damping: δ.
    """

    dimension: int
    duplicates: int
    scaling: str = "none"
    bias: str = "none"
    l2: float = 0.0
    damping: float = 0.0

    def __post_init__(self) -> None:
        if self.scaling not in SCALINGS or self.bias not in BIASES:
            raise ValueError(f"no scaling {self.scaling} or no bias {self.bias}")

    @property
    def samples(self) -> int:
        """n: the target, row 0, then the duplicates, then the others."""
        return self.dimension + self.duplicates

    @property
    def counts(self) -> list[int]:
        """How often each distinct sample occurs: target, duplicate, others."""
        return [1, self.duplicates] + [1] * (self.dimension - 1)

    def ridge(self) -> list[float]:
        """What is added to the diagonal of the mean Hessian."""
        ridge = [self.l2 + self.damping] * self.dimension
        if self.bias == "none":
            return ridge
        return [*ridge, self.l2 + self.damping if self.bias == "regularised" else self.damping]


def distinct(case: Construction) -> list[list[Decimal]]:
    """Features of the distinct samples (target, duplicate, others), with `DIGITS` digits."""
    d, counts, n = case.dimension, case.counts, case.samples
    with localcontext(prec=DIGITS):
        rows = [[Decimal(int(i == j)) for j in range(d)] for i in range(d)]
        rows.insert(1, [-value for value in rows[0]])
        columns = [list(column) for column in zip(*rows, strict=True)]
        if case.scaling != "none":
            columns = [_scaled(column, counts, n, case.scaling) for column in columns]
        if case.bias != "none":
            columns.append([Decimal(1)] * len(rows))
        return [list(row) for row in zip(*columns, strict=True)]


def _scaled(column: list[Decimal], counts: Sequence[int], n: int, scaling: str) -> list[Decimal]:
    mean = _dot(column, counts) / n
    centred = [value - mean for value in column]
    if scaling == "centre":
        return centred
    squares = _dot([value * value for value in centred], counts)
    deviation = (squares / (n - (scaling == "standardise_sample"))).sqrt()
    return [value / deviation for value in centred]


def _dot(a: Sequence[Decimal], b: Sequence[Decimal | int]) -> Decimal:
    return sum((x * y for x, y in zip(a, b, strict=True)), start=Decimal(0))


def _rows(case: Construction) -> Tensor:
    """Features of the distinct samples (d + 1, p), float64."""
    return torch.tensor([[float(value) for value in row] for row in distinct(case)], dtype=torch.float64)


def problem(case: Construction) -> Problem:
    """The construction as a problem, float64; both test halves are its one test sample."""
    x = _rows(case).repeat_interleave(torch.tensor(case.counts), dim=0)
    whole = LinearRisk(x, torch.ones(case.samples, dtype=torch.int64), 2, Logistic())
    test = whole.rows(torch.tensor([0]))
    return Problem(whole, test, test, np.arange(case.samples))


def calculator(case: Construction) -> Calculator:
    """The honest calculator of the construction, rank 1 the highest influence."""
    data = problem(case)
    return Calculator(
        problem=data,
        moments=data.train.x.square().mean(dim=0),
        l2=case.l2,
        regularise_bias=case.bias != "free",
        damping=case.damping,
        rank_sign=1,
    )


def reach(case: Construction) -> Decimal:
    """max(c₀, c_{d−1}), see above: ≤ 0 proves that no model has the target in the top K.

    Raises:
        ValueError: a parameter has no ridge, so that there is no prior covariance.
    """
    ridge = [Decimal(value) for value in case.ridge()]
    if not all(ridge):
        raise ValueError("every parameter needs a ridge")
    rows = distinct(case)

    with localcontext(prec=DIGITS):

        def prior(a: int, b: int) -> Decimal:
            return _dot([x / weight for x, weight in zip(rows[a], ridge, strict=True)], rows[b])

        first = prior(0, 1)
        others = case.dimension - 1
        if not others:
            return first
        between = prior(2, 3) if others > 1 else Decimal(0)
        noise = 4 * case.samples
        last = first - others * prior(0, 2) * prior(1, 2) / (prior(2, 2) + noise + (others - 1) * between)
        return max(first, last)


def influences(case: Construction, theta: Tensor) -> Tensor:
    """Influence of the distinct samples by a dense solve for each model, accurate at saturated ones.

    Args:
        case: the construction.
        theta: models (p, L), float64.

    Returns:
        (d + 1, L): target, duplicate, others.
    """
    x = _rows(case)
    z = x @ theta
    # Labels are +1, so the slope σ(z) − 1 is −σ(−z): no cancellation.
    slope = -torch.sigmoid(-z)
    weight = torch.tensor(case.counts, dtype=torch.float64)[:, None] / case.samples
    curvature = weight * torch.sigmoid(z) * torch.sigmoid(-z)
    hessian = torch.einsum("rl,ri,rj->lij", curvature, x, x) + torch.diag(
        torch.tensor(case.ridge(), dtype=torch.float64)
    )
    toward = torch.linalg.solve(hessian, x[0].expand(len(hessian), -1))
    values: Tensor = -slope[0] * slope * (x @ toward.T)
    return values


def exact_influences(case: Construction, theta: Sequence[float]) -> list[Decimal]:
    """The same for one model, with `DIGITS` digits throughout: no rounding noise to mistake for a rank."""
    rows = distinct(case)
    with localcontext(prec=DIGITS):
        model = [Decimal(value) for value in theta]
        slopes = [-1 / (1 + _dot(row, model).exp()) for row in rows]
        hessian = [[Decimal(0)] * len(model) for _ in model]
        for i, ridge in enumerate(case.ridge()):
            hessian[i][i] = Decimal(ridge)
        for row, slope, count in zip(rows, slopes, case.counts, strict=True):
            curvature = count * -slope * (1 + slope) / case.samples
            for line, a in zip(hessian, row, strict=True):
                for j, b in enumerate(row):
                    line[j] += curvature * a * b
        toward = _solve(hessian, rows[0])
        return [-slopes[0] * slope * _dot(row, toward) for slope, row in zip(slopes, rows, strict=True)]


def _solve(matrix: list[list[Decimal]], b: Sequence[Decimal]) -> list[Decimal]:
    """Gauss elimination; no pivoting, the matrix is positive definite."""
    lines = [[*row, value] for row, value in zip(matrix, b, strict=True)]
    size = len(lines)
    for i, pivot in enumerate(lines):
        for line in lines[i + 1 :]:
            factor = line[i] / pivot[i]
            line[i:] = [value - factor * above for value, above in zip(line[i:], pivot[i:], strict=True)]
    solution = [Decimal(0)] * size
    for i in reversed(range(size)):
        known = _dot(lines[i][i + 1 : size], solution[i + 1 :])
        solution[i] = (lines[i][size] - known) / lines[i][i]
    return solution


def target_rank(case: Construction, values: Sequence[Decimal]) -> int:
    """The target's rank, ties against it, from influences of the distinct samples."""
    return sum(count for count, value in zip(case.counts, values, strict=True) if value >= values[0])


@dataclass(frozen=True)
class Found:
    """What an attack or a search found.

    Attributes:
        tried: attacks, or models.
        rank: the target's best rank; if at most K, by all digits.
        refuted: models that had rank ≤ K in float64 only.
        theta: a model of that rank, if it is at most K, else empty.
        accuracy: share of the training samples that it classifies right.
        margin: under it, (I_target − largest influence below) / |I_target|.
    """

    tried: int
    rank: int
    refuted: int = 0
    theta: tuple[float, ...] = ()
    accuracy: float = math.nan
    margin: float = math.nan

    def preference(self) -> tuple[float, ...]:
        """The smaller, the better: rank, then accuracy, then margin."""
        return (self.rank, -self.accuracy, -self.margin) if self.theta else (self.rank, 1.0, 0.0)


def confirm(case: Construction, tried: int, thetas: Tensor, ranks: Tensor, *, otherwise: int) -> Found:
    """Rank the best models again with all digits.

    Args:
        case: the construction.
        tried: how many there were.
        thetas: models (m, p).
        ranks: their ranks in float64 (m,).
        otherwise: the best rank above K.
    """
    best, refuted, confirmed = Found(tried, otherwise), 0, 0
    claims = [place for place in ranks.argsort(stable=True).tolist() if ranks[place] <= case.duplicates]
    for place in claims:
        if confirmed == CHECKED:
            break
        model = examine(case, tried, tuple(thetas[place].tolist()))
        if model.rank > case.duplicates:
            refuted += 1
        else:
            confirmed += 1
            best = min(best, model, key=Found.preference)
    return replace(best, refuted=refuted)


def examine(case: Construction, tried: int, theta: tuple[float, ...]) -> Found:
    """One model, judged with all digits."""
    values = exact_influences(case, theta)
    rows, counts = distinct(case), case.counts
    with localcontext(prec=DIGITS):
        model = [Decimal(value) for value in theta]
        right = [int(_dot(row, model) > 0) for row in rows]
        below = [value for value in values if value < values[0]]
        margin = float((values[0] - max(below)) / abs(values[0])) if below else 0.0
    accuracy = sum(count * hit for count, hit in zip(counts, right, strict=True)) / case.samples
    return Found(tried, target_rank(case, values), 0, theta, accuracy, margin)


def search(case: Construction, models: int, generator: np.random.Generator) -> Found:
    """Look for a model with the target in the top K among random ones, most of them saturated.

    Outputs of the distinct samples are drawn evenly from boxes of sizes up to `DEPTH`, and the models are
    those that come closest to them (with a bias, exactly). The first is one that the proof points to: sure
    of everything and right, and surest of the target.
    """
    x = _rows(case)
    size = DEPTH ** generator.uniform(0, 1, size=models)
    z = torch.from_numpy(size * generator.uniform(-1, 1, size=(len(x), models)))
    z[:, 0] = DEPTH / 4
    z[0, 0] = DEPTH / 2
    thetas = torch.linalg.pinv(x) @ z
    values = influences(case, thetas)
    counts = torch.tensor(case.counts)
    ranks = (counts[:, None] * ~(values < values[0])).sum(dim=0)
    return confirm(case, models, thetas.T, ranks, otherwise=_least_above(case, ranks))


def _least_above(case: Construction, ranks: Tensor) -> int:
    """The best of the ranks above K; n if there is none."""
    above = ranks[ranks > case.duplicates]
    return int(above.min()) if len(above) else case.samples


@dataclass(frozen=True)
class Effort:
    """How hard the real attack tries; every objective is tried.

    Attributes:
        radii: C of the balls around θ*, or around a random model of norm 1 where θ* is zero.
        starts: random starts on each sphere.
        learning_rates: of Adam.
        steps: of Adam.
        seed: the config's root seed.
    """

    radii: tuple[float, ...]
    starts: int
    learning_rates: tuple[float, ...]
    steps: int
    seed: int


def attacked(case: Construction, effort: Effort) -> Found:
    """Attack the target's rank with the real attack, in float64: all objectives, from many starts.

    Raises:
        UserError: θ* was not reached, or more than 1 % of the attacks had a solve that failed.
    """
    judge = calculator(case)
    p, _ = judge.problem.train.shape
    basis = Eigenbasis(torch.eye(p, dtype=torch.float64), judge.moments)
    centre = _centre(case, judge.problem.train, effort.seed)
    objectives = [objective_weights(name, suppressed_ranks=case.duplicates) for name in OBJECTIVES]
    # Lanes side by side cost next to nothing at this size, so that they differ in the objective, too.
    runs = list(product(range(len(objectives)), effort.learning_rates, range(effort.starts)))
    lanes = [Lane(0, rate) for _, rate, _ in runs]
    thetas, ranks, reached = [], [], []
    for radius in effort.radii:
        plan = Plan(
            weights=_lane_by_lane(objectives, torch.tensor([objective for objective, _, _ in runs])),
            radius=radius,
            steps=effort.steps,
            drop_at=0.5,
            ranks=tuple(sorted({1, case.duplicates})),
            tolerance=1e-9,
            monitor_every=effort.steps,
            memory=1e9,
        )
        begin = [starts(centre, radius, [0], seed=effort.seed, start=start) for _, _, start in runs]
        walked, kept = attack(judge, basis, centre, torch.cat(begin, dim=2), lanes, plan)
        thetas.append(torch.from_numpy(kept.theta[..., 0]))
        ranks.append(torch.from_numpy(walked.rank_shared[kept.step, kept.lane]))
        reached.append(torch.from_numpy(walked.rank_shared[walked.valid]))
    return confirm(
        case,
        len(effort.radii) * len(lanes),
        torch.cat(thetas),
        torch.cat(ranks),
        otherwise=_least_above(case, torch.cat(reached)),
    )


def _centre(case: Construction, risk: LinearRisk, seed: int) -> Tensor:
    """The model that attacks start around (p, 1, 1): θ*, or a random one of norm 1 where θ* is zero.

    All labels are alike, so that centred features without a bias teach nothing. With a bias that λ spares R
    has no minimiser, and θ* is where the gradient is small enough.
    """
    theta = train(risk, l2=case.l2, regularise_bias=case.bias != "free", gradient_norm=GRADIENT_NORM).theta
    # R is λ-convex: θ* is no farther from the minimiser than that.
    if float(norm(theta)) > GRADIENT_NORM / case.l2:
        return theta
    normal = torch.from_numpy(stream(seed, "impossibility", "centre").standard_normal(theta.shape))
    return normal / norm(normal)


def _lane_by_lane(objectives: Sequence[Weights], choice: Tensor) -> Weights:
    """One objective for each lane, choice (L,)."""

    def weights(score: Tensor, target: Tensor) -> Tensor:
        each = torch.stack([objective(score, target) for objective in objectives])
        return each[choice, :, torch.arange(score.shape[1])].T.contiguous()

    return weights


def cases(
    dimensions: Sequence[int], duplicates: Sequence[int], *, l2: float, damping: float
) -> Iterator[Construction]:
    """The theorem's construction in every size, under every scaling and bias."""
    for scaling in SCALINGS:
        for bias in BIASES:
            for d in dimensions:
                for k in duplicates:
                    yield Construction(d, k, scaling, bias, l2, damping)


def check(case: Construction, effort: Effort, models: int) -> dict[str, Any]:
    """One row of the table: what the proof says, what attacks and random search reach."""
    attainable = reach(case)
    name = (case.scaling, case.bias, case.dimension, case.duplicates)
    attacks = attacked(case, effort)
    drawn = search(case, models, stream(effort.seed, "impossibility", *name))
    best = min(attacks, drawn, key=Found.preference)
    return {
        "scaling": case.scaling,
        "bias": case.bias,
        "dimension": case.dimension,
        "duplicates": case.duplicates,
        "samples": case.samples,
        "l2": case.l2,
        "damping": case.damping,
        "reach": float(attainable),
        "possible": attainable > NEGLIGIBLE,
        "attacks": attacks.tried,
        "attack_rank": attacks.rank,
        "models": drawn.tried,
        "search_rank": drawn.rank,
        "best_rank": best.rank,
        "refuted": attacks.refuted + drawn.refuted,
        "theta": json.dumps(best.theta) if best.theta else "",
        "theta_accuracy": best.accuracy,
        "theta_margin": best.margin,
    }


def pretty_impossibility(table: pd.DataFrame) -> pd.DataFrame:
    """The table for reading."""
    return pd.DataFrame(
        {
            "features": table["scaling"],
            "bias": table["bias"],
            "d": table["dimension"],
            "K": table["duplicates"],
            "top K by the proof": table["possible"].map({True: "not excluded", False: "impossible"}),
            "best rank, attacks": table["attack_rank"],
            "best rank, random search": table["search_rank"],
            "of n": table["samples"],
            "top K reached": (table["best_rank"] <= table["duplicates"]).map({True: "yes", False: "no"}),
            "refuted": table["refuted"],
            "θ": table["theta"].map(short_theta),
        }
    )


def short_theta(theta: str) -> str:
    """A θ of the table for reading, four digits."""
    return ", ".join(f"{value:.4g}" for value in json.loads(theta)) if theta else "–"


def summary(table: pd.DataFrame) -> Mapping[str, int]:
    """Counts for the log: cases, those proved impossible, those where the top K was reached."""
    reached = table["best_rank"] <= table["duplicates"]
    return {
        "cases": len(table),
        "proved impossible": int((~table["possible"]).sum()),
        "top K reached": int(reached.sum()),
        "reached against the proof": int((reached & ~table["possible"]).sum()),
    }
