"""The honest influence calculator, which attacker, buyer and judge all use."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from undue.arrays import read_arrays
from undue.calculus.basis import Eigenbasis
from undue.calculus.influence import influence, ranks
from undue.calculus.linear import LinearPoint
from undue.calculus.objective import Objective
from undue.calculus.solvers import Solution, conjugate_gradient
from undue.data.problem import Problem, load_problem
from undue.files import read_json
from undue.tables import FLOAT, INT, Columns

INFLUENCE_COLUMNS: Columns = {
    "index": (INT, "training sample"),
    "influence": (FLOAT, "influence on the summed loss of the shared half; positive raises it"),
    "rank": (INT, "1 + number of other samples that score at least as high, on the shared half"),
    "influence_pristine": (FLOAT, "influence on the summed loss of the pristine half"),
    "rank_pristine": (INT, "rank on the pristine half"),
}


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
    """

    problem: Problem
    moments: Tensor
    l2: float
    regularise_bias: bool
    damping: float
    rank_sign: int

    def at(self, theta: Tensor) -> LinearPoint:
        """The training risk at θ (d, k, L)."""
        return self.problem.train.at(theta)

    def solve(
        self, train: LinearPoint, b: Tensor, *, tolerance: float, start: Tensor | None = None
    ) -> Solution:
        """H_δ⁻¹ b at the training point."""
        objective = Objective(self.problem.train, self.l2, regularise_bias=self.regularise_bias)
        return conjugate_gradient(
            objective.hessian(train, self.damping),
            b,
            tolerance=tolerance,
            start=start,
            preconditioner=objective.preconditioner(train, self.moments, self.damping),
        )

    def score(
        self, train: LinearPoint, test: LinearPoint, *, tolerance: float, start: Tensor | None = None
    ) -> tuple[Tensor, Solution]:
        """Rank sign times influence on the summed test loss (n, L), and the solve behind it."""
        total = test.grad(torch.ones_like(test.losses()[:, 0]))
        values, solution = influence(
            train, total, lambda b: self.solve(train, b, tolerance=tolerance, start=start)
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
) -> Setting:
    """Read what `extract_features`, `split_data` and `train_model` wrote.

    Args:
        features: features.npy.
        split: split.parquet.
        model: model.safetensors; model.json is read from beside it.
        settings: of the config: scaling, model.regularise_bias, influence.damping, influence.rank_sign.
        dtype: precision of the calculator's data.
        device: where it computes.
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
    theta = torch.from_numpy(read_arrays(model)["theta"]).to(device)[..., None]
    return Setting(calculator, basis, theta, problem.train_index)


def rank_samples(setting: Setting, theta: Tensor, *, tolerance: float) -> np.ndarray:
    """Rank of every training sample (n,) under a model θ (d, k, 1) in the original basis, shared half."""
    problem = setting.calculator.problem
    rotated = setting.basis.to_basis(theta.to(problem.train.x))
    score, solution = setting.calculator.score(
        setting.calculator.at(rotated), problem.shared.at(rotated), tolerance=tolerance
    )
    solution.require(what="ranking the samples again", key="influence.damping")
    rank: np.ndarray = ranks(score)[:, 0].cpu().numpy()
    return rank
