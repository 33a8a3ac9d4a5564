"""Judging models in float64, by solves of their own."""

from __future__ import annotations

import logging
from dataclasses import dataclass

import numpy as np
import pandas as pd
import torch

from undue.calculus.basis import Eigenbasis
from undue.calculus.influence import rank_of
from undue.valuation.calculator import Calculator, packed

logger = logging.getLogger(__name__)

# Solves are held to this relative residual.
TOLERANCE = 1e-9
# Bytes that models judged side by side may take.
MEMORY = 5e8


@dataclass(frozen=True)
class Evaluation:
    """What m models do for their q targets each.

    Attributes:
        rank_shared, rank_pristine: (m, q); a rank is the last one where a solve missed its tolerance.
        accuracy_shared, accuracy_pristine: (m,).
    """

    rank_shared: np.ndarray
    rank_pristine: np.ndarray
    accuracy_shared: np.ndarray
    accuracy_pristine: np.ndarray


def evaluate(calculator: Calculator, basis: Eigenbasis, theta: np.ndarray, rows: np.ndarray) -> Evaluation:
    """Rank the targets of models on both halves.

    Args:
        calculator: the calculator in float64, its problem rotated into `basis`.
        basis: the basis of the calculator's problem.
        theta: the models (m, d, outputs) in the original basis.
        rows: training rows of each model's targets (m, q).
    """
    problem = calculator.problem
    halves = {"shared": problem.shared, "pristine": problem.pristine}
    ranks = {half: np.empty(rows.shape, dtype=np.int64) for half in halves}
    accuracies = {half: np.empty(len(rows)) for half in halves}
    missed, worst = 0, 0.0
    for part in packed(problem, len(rows), MEMORY, targets=rows.shape[1], kept=0):
        lanes = torch.from_numpy(theta[part]).to(problem.train.x).permute(1, 2, 0).contiguous()
        rotated = basis.to_basis(lanes)
        target = torch.from_numpy(rows[part].T.copy()).to(problem.train.x.device)
        train = calculator.at(rotated)
        for half, risk in halves.items():
            test = risk.at(rotated)
            score, solution = calculator.score(train, test, tolerance=TOLERANCE)
            found = torch.stack([rank_of(score, row) for row in target])
            found = torch.where(solution.converged, found, problem.train.samples)
            missed += int((~solution.converged).sum())
            worst = float(np.maximum(worst, float(solution.residual.max())))
            ranks[half][part] = found.T.cpu().numpy()
            accuracies[half][part] = test.accuracy().cpu().numpy()
    if missed:
        logger.warning(
            "%d of %d solves in float64 missed a relative residual of %g (the worst: %.1e): these ranks "
            "count as last; raise influence.damping or model.l2",
            missed,
            len(halves) * len(rows),
            TOLERANCE,
            worst,
        )
    return Evaluation(ranks["shared"], ranks["pristine"], accuracies["shared"], accuracies["pristine"])


def confirm(calculator: Calculator, basis: Eigenbasis, theta: np.ndarray, rows: np.ndarray) -> pd.DataFrame:
    """Rank the one target of each model on both halves.

    Args:
        calculator: the calculator in float64, its problem rotated into `basis`.
        basis: the basis of the calculator's problem.
        theta: the models (m, d, outputs) in the original basis.
        rows: training row of each model's target (m,).

    Returns:
        rank_shared, rank_pristine, accuracy_shared, accuracy_pristine (m rows); a rank is the last
        one where a solve missed its tolerance.
    """
    found = evaluate(calculator, basis, theta, rows[:, None])
    return pd.DataFrame(
        {
            "rank_shared": found.rank_shared[:, 0],
            "accuracy_shared": found.accuracy_shared,
            "rank_pristine": found.rank_pristine[:, 0],
            "accuracy_pristine": found.accuracy_pristine,
        }
    )
