"""The honest influence calculator, which attacker, buyer and judge all use."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from undue.arrays import read_arrays
from undue.calculus.basis import Eigenbasis
from undue.calculus.influence import influence, ranks
from undue.calculus.linear import Bfloat16, CoarsePoint, LinearPoint, LinearRisk, Projection
from undue.calculus.lissa import Recipe, lissa, mini_batches
from undue.calculus.objective import Objective
from undue.calculus.principal import Principal
from undue.calculus.solvers import COARSE_LIMIT, Preconditioner, Solution, conjugate_gradient, refine
from undue.data.problem import Problem, load_problem
from undue.device import choose_device, takes_bfloat16
from undue.files import read_json
from undue.packing import equal_packs, numbers_per_lane
from undue.randomness import stream
from undue.tables import FLOAT, INT, Columns

# Principal directions of the features are solved for apart, in so many steps: those whose mean square is this
# many times k (λ + δ) or more (an output's mean curvature is 1/k at most), but no more than a share of all.
# On real features this divides the number of whole products by three.
PRINCIPAL_MOMENT = 0.1
PRINCIPAL_SHARE = 1 / 16
PRINCIPAL_STEPS = 4
# The preconditioner takes features and curvature as independent, but samples far out are predicted with
# confidence: their curvature is small. This factor on the moments saves 10–20 % of the iterations.
DEPENDENCE = 0.3

INFLUENCE_COLUMNS: Columns = {
    "index": (INT, "training sample"),
    "influence": (FLOAT, "influence on the summed loss of the shared half; positive raises it"),
    "rank": (INT, "1 + number of other samples that score at least as high, on the shared half"),
    "influence_pristine": (FLOAT, "influence on the summed loss of the pristine half"),
    "rank_pristine": (INT, "rank on the pristine half"),
}


@dataclass(frozen=True)
class LissaSettings:
    """Solves by LiSSA instead of conjugate gradients, as published.

    Attributes:
        recipe: batch, depth, repeats and scale.
        seed: root of the random streams.
        name: of the streams that mini-batches are drawn from: each attack job has its own.
    """

    recipe: Recipe
    seed: int
    name: tuple[str | int, ...]


@dataclass(frozen=True)
class Calculator:
    """How training samples are valued: the honest calculator that attacker and buyer both use.

    Attributes:
        problem: the data, in any orthogonal basis.
        moments: mean squares of the training features (d,), for the preconditioner.
        l2: λ of the training objective.
        regularise_bias: whether λ applies to the bias.
        damping: δ, added to the Hessian.
        rank_sign: +1 ranks the highest influence first, −1 the lowest.
        copies: the training features in bfloat16, for faster solves to moderate tolerances.
        estimate: how solves are estimated, where they are.
    """

    problem: Problem
    moments: Tensor
    l2: float
    regularise_bias: bool
    damping: float
    rank_sign: int
    copies: Bfloat16 | None = None
    estimate: LissaSettings | None = None

    @property
    def principal(self) -> int:
        """How many of the last features are principal directions, the bias included."""
        d, k = self.problem.train.shape
        large = self.moments >= PRINCIPAL_MOMENT * k * (self.l2 + self.damping)
        return min(int(large.sum()), int(PRINCIPAL_SHARE * d))

    def at(self, theta: Tensor) -> LinearPoint:
        """The training risk at θ (d, k, L)."""
        return self.problem.train.at(theta)

    def solve(
        self,
        train: LinearPoint,
        b: Tensor,
        *,
        tolerance: float,
        start: Projection | None = None,
        draw: tuple[str | int, ...] = (),
    ) -> Solution:
        """H_δ⁻¹ b at the training point.

        Args:
            train: where.
            b: right-hand sides (d, k, L).
            tolerance: relative residual.
            start: the solution of a similar solve; estimates begin anew.
            draw: which of all solves this is, for the mini-batches of an estimate.
        """
        objective = Objective(self.problem.train, self.l2, regularise_bias=self.regularise_bias)
        exact, project = objective.hessian(train, self.damping), self.problem.train.project
        if self.estimate is not None:
            return lissa(
                exact,
                mini_batches(objective, train.theta, self.damping),
                b,
                samples=train.risk.samples,
                recipe=self.estimate.recipe,
                generator=stream(self.estimate.seed, "lissa", *self.estimate.name, *draw),
                tolerance=tolerance,
                key="attack.lissa_scale",
            )
        curved = train if self.copies is None else train.coarse(self.copies)
        preconditioner = self._preconditioner(objective, train, curved)
        if self.copies is None:
            return conjugate_gradient(
                exact, b, project=project, tolerance=tolerance, start=start, preconditioner=preconditioner
            )
        return refine(
            exact,
            b,
            project=project,
            inner=objective.hessian(curved, self.damping),
            inner_limit=COARSE_LIMIT,
            tolerance=tolerance,
            start=start,
            preconditioner=preconditioner,
        )

    def _preconditioner(
        self, objective: Objective[LinearRisk], train: LinearPoint, curved: LinearPoint | CoarsePoint
    ) -> Tensor | Preconditioner:
        """Of H_δ at the training point, given that or its coarse copy for the products."""
        diagonal = objective.preconditioner(train, DEPENDENCE * self.moments, self.damping)
        if not (rows := self.principal):
            return diagonal
        return Principal(objective.last_block(curved, rows, self.damping), rows, diagonal, PRINCIPAL_STEPS)

    def score(
        self,
        train: LinearPoint,
        test: LinearPoint,
        *,
        tolerance: float,
        start: Projection | None = None,
        draw: tuple[str | int, ...] = (),
    ) -> tuple[Tensor, Solution]:
        """Rank sign times influence on the summed test loss (n, L), and the solve behind it; see `solve`."""
        total = test.grad(torch.ones_like(test.losses()[:, 0]))
        values, solution = influence(
            train, total, lambda b: self.solve(train, b, tolerance=tolerance, start=start, draw=draw)
        )
        return self.rank_sign * values, solution


@dataclass(frozen=True)
class Setting:
    """A trained model with the calculator of its data.

    Attributes:
        calculator: the calculator, its problem rotated into `basis`.
        basis: the eigenbasis of the training features.
        theta: θ* (d, k, 1), float64, in the original basis.
        train_index: sample number of each training row (n,), ascending.
    """

    calculator: Calculator
    basis: Eigenbasis
    theta: Tensor
    train_index: np.ndarray


def load_setting(
    features: str | Path,
    split: str | Path,
    model: str | Path,
    settings: Mapping[str, Any],
    *,
    dtype: torch.dtype,
    device: torch.device,
    coarse: bool = False,
) -> Setting:
    """Read what `extract_features`, `split_data` and `train_model` wrote.

    Args:
        features: features.npy.
        split: split.parquet.
        model: model.safetensors; model.json is read from beside it.
        settings: of the config: scaling, model.regularise_bias, influence.damping, influence.rank_sign.
        dtype: precision of the calculator's data.
        device: where it computes.
        coarse: whether solves take most of their products in bfloat16.
    """
    problem = load_problem(features, split, scaling=settings["scaling"]).to(device)
    basis = Eigenbasis.of(problem.train.x)
    calculator = Calculator(
        problem=problem.to(dtype).rotated(basis),
        moments=basis.moments,
        l2=read_json(Path(model).with_suffix(".json"))["l2"],
        regularise_bias=settings["model.regularise_bias"],
        damping=settings["influence.damping"],
        rank_sign=settings["influence.rank_sign"],
    )
    if coarse:
        calculator = replace(calculator, copies=Bfloat16.of(calculator.problem.train))
    theta = torch.from_numpy(read_arrays(model)["theta"]).to(device)[..., None]
    return Setting(calculator, basis, theta, problem.train_index)


def load_exact_setting(
    features: str | Path, split: str | Path, model: str | Path, settings: Mapping[str, Any]
) -> Setting:
    """What a judge computes with: float64, on the CPU.

    Args:
        features, split, model, settings: as for `load_setting`.
    """
    return load_setting(features, split, model, settings, dtype=torch.float64, device=torch.device("cpu"))


def machine_settings(resources: Any) -> dict[str, Any]:
    """The part of the section `attack` that a machine decides and a job has as its resources."""
    return {"attack.device": resources.device, "attack.memory_gb": resources.lanes_mb / 1000}


def load_attack_setting(
    features: str | Path, split: str | Path, model: str | Path, settings: Mapping[str, Any], *name: str
) -> Setting:
    """What an attack computes with: float32, on the device, with the solver and products of the config.

    Args:
        features, split, model: as for `load_setting`.
        settings: its settings, and seed, attack.device, attack.solver, attack.lissa_…, attack.products.
        name: which attack job it is for.

    Raises:
        UserError: CUDA is asked for and there is none.
    """
    device = choose_device(settings["attack.device"], key="attack.device")
    estimates = settings["attack.solver"] == "lissa"
    setting = load_setting(
        features,
        split,
        model,
        settings,
        dtype=torch.float32,
        device=device,
        coarse=not estimates and takes_bfloat16(settings["attack.products"], device),
    )
    if not estimates:
        return setting
    recipe = Recipe(
        batch=settings["attack.lissa_batch"],
        depth=settings["attack.lissa_depth"],
        repeats=1,
        scale=settings["attack.lissa_scale"],
    )
    estimate = LissaSettings(recipe, settings["seed"], name)
    return replace(setting, calculator=replace(setting.calculator, estimate=estimate))


def rank_samples(setting: Setting, theta: Tensor, *, tolerance: float) -> tuple[np.ndarray, np.ndarray]:
    """Rank and influence of every training sample (n,) under a model, on the shared half.

    Args:
        setting: the calculator.
        theta: the model (d, k, 1) in the original basis.
        tolerance: relative residual of the solve.

    Raises:
        UserError: the solve missed it.
    """
    problem = setting.calculator.problem
    rotated = setting.basis.to_basis(theta.to(problem.train.x))
    score, solution = setting.calculator.score(
        setting.calculator.at(rotated), problem.shared.at(rotated), tolerance=tolerance
    )
    solution.require("influence.tolerance", "influence.damping", "model.l2", what="ranking the samples")
    values = setting.calculator.rank_sign * score[:, 0]
    return ranks(score)[:, 0].cpu().numpy(), values.cpu().numpy()


def packed(problem: Problem, lanes: int, memory: float, *, targets: int = 1, kept: int) -> Iterator[slice]:
    """Slices of lanes whose working tensors fit into `memory` bytes; see `numbers_per_lane`."""
    d, k = problem.train.shape
    test = problem.shared.samples + problem.pristine.samples
    numbers = numbers_per_lane(train=problem.train.samples, test=test, d=d, k=k, targets=targets, kept=kept)
    return equal_packs(lanes, memory=memory, per_lane=numbers * problem.train.x.element_size())
