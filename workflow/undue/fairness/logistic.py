"""Fitting a logistic model and solving with its Hessian, factorised.

With a few hundred features a factorised Hessian costs a small part of a solve by conjugate gradients,
and one factor serves every influence at a model.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from undue.calculus.factor import head_hessian
from undue.calculus.lanes import dot, norm
from undue.calculus.linear import LinearPoint, LinearRisk
from undue.calculus.newton import ARMIJO, MAX_HALVINGS, Minimum
from undue.calculus.objective import Objective
from undue.calculus.solvers import Solution
from undue.errors import UserError

GRADIENT_NORM = 1e-10
# A minimiser is only as well determined as the Hessian; beyond this ratio nothing of it is left in float64.
WORST_CONDITION = 1e12
MAX_STEPS = 100
WORTHWHILE = 4.0
RESIDUAL = 1e-8


@dataclass(frozen=True)
class Curvature:
    """The Hessian H of an objective at one θ, factorised.

    Attributes:
        matrix: H (d, d).
        factor: its lower Cholesky factor (d, d).
    """

    matrix: Tensor
    factor: Tensor

    @classmethod
    def of(cls, objective: Objective[LinearRisk], point: LinearPoint) -> Curvature:
        """H = Σ w_i ∇²ℓ_i + λ at a point of one lane.

        Raises:
            UserError: H is singular.
        """
        matrix = head_hessian(objective.risk, point.theta, objective.weights)
        matrix.diagonal().add_(objective.ridge()[:, 0, 0])
        factor, info = torch.linalg.cholesky_ex(matrix)
        diagonal = factor.diagonal()
        if int(info) or not float(diagonal.max() / diagonal.min()) ** 2 < WORST_CONDITION:
            raise _undetermined("the Hessian is singular")
        return cls(matrix, factor)

    def solve(self, b: Tensor) -> Solution:
        """H⁻¹ b for b (d, 1, 1)."""
        x = torch.cholesky_solve(b[:, :, 0], self.factor)
        residual = norm((b[:, :, 0] - self.matrix @ x)[..., None]) / norm(b).clamp(min=1e-300)
        return Solution(x[..., None], residual, torch.tensor([1]), RESIDUAL)


def fit(
    objective: Objective[LinearRisk],
    start: Tensor | None = None,
    *,
    curvature: Curvature | None = None,
    gradient_norm: float = GRADIENT_NORM,
) -> Minimum:
    """Minimise by Newton's method with halved steps.

    A factorised Hessian serves for as long as it divides the gradient by `WORTHWHILE` a step: near a
    known minimum, that of the full data say, steps then cost no more than a gradient.

    Args:
        objective: what to minimise; one lane.
        start: where to begin (d, 1, 1), zero if not given.
        curvature: a Hessian to begin with, that of an earlier, similar objective.
        gradient_norm: ‖∇R‖ to reach.

    Raises:
        UserError: there is no minimiser (classes that can be separated, without a regulariser), or it
            was not reached.
    """
    d, k = objective.risk.shape
    point = objective.risk.at(torch.zeros(d, k, 1, dtype=torch.float64) if start is None else start)
    value, gradient = objective.value(point), objective.gradient(point)
    steps = 0
    while steps < MAX_STEPS and float(norm(gradient)) > gradient_norm:
        curvature = curvature or Curvature.of(objective, point)
        before = float(norm(gradient))
        direction = curvature.solve(-gradient).x
        slope, length = dot(gradient, direction), 1.0
        for _ in range(MAX_HALVINGS):
            trial = objective.risk.at(point.theta + length * direction)
            trial_value = objective.value(trial)
            # Near the minimum the decrease drowns in rounding: allow for it.
            slack = 4 * torch.finfo(value.dtype).eps * value.abs()
            if bool(trial_value <= value + ARMIJO * length * slope + slack):
                break
            length /= 2
        point, value, gradient = trial, trial_value, objective.gradient(trial)
        if not float(norm(gradient)) * WORTHWHILE < before:
            curvature = None
        steps += 1
    if not float(norm(gradient)) <= gradient_norm:
        raise _undetermined(f"training stopped at a gradient norm of {float(norm(gradient)):.1e}")
    kept = objective.weights > 0
    if not float(torch.as_tensor(objective.l2)) and bool(point.correct()[kept].all()):
        raise _undetermined("the classes can be separated, so that no weights are large enough")
    return Minimum(point.theta, norm(gradient), steps)


def _undetermined(what: str) -> UserError:
    return UserError(
        f"the logistic model has no well-determined weights: {what}",
        where="fairness.tables.<name>.l2",
        remedy="raise l2 (0 is possible only where columns are independent and the classes overlap)",
    )
