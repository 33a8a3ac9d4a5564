"""What the honest influence calculator hands to the reweighing program, for whatever model it was given."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from undue.calculus.functional import Functional
from undue.calculus.influence import influence
from undue.calculus.linear import LinearPoint, LinearRisk
from undue.calculus.objective import Objective
from undue.fairness.logistic import Curvature
from undue.fairness.metrics import Metric
from undue.fairness.problem import Problem
from undue.fairness.surrogates import unfairness, utility


@dataclass(frozen=True)
class Removal:
    """Predicted effects of removing training samples, at a model θ.

    Attributes:
        theta: θ (d, 1, 1).
        fairness: (n,) change of the unfairness f by removing each sample.
        utility: (n,) change of the summed validation log-loss.
        unfairness: f(θ) ≥ 0.
        sign: −1 where the groups change places so that f ≥ 0, else 1. With f < 0 the published program
            would ask for nothing.
    """

    theta: Tensor
    fairness: Tensor
    utility: Tensor
    unfairness: float
    sign: int
    _functionals: tuple[Functional, Functional]
    _objective: Objective[LinearRisk]
    _point: LinearPoint
    _curvature: Curvature

    def pull_back(self, fairness: Tensor, utility: Tensor, value: float) -> Tensor:
        """∇_θ of Σ a_i fairness_i + Σ b_i utility_i + c f(θ), with a, b and c held fixed (d, 1, 1).

        Args:
            fairness: a (n,).
            utility: b (n,).
            value: c.
        """
        unfair, useful = self._functionals
        n = len(self.fairness)
        total = self.sign * value * unfair.gradient(self.theta)
        for functional, weights in ((unfair, self.sign * fairness / n), (useful, utility / n)):
            # S = v₂ᵀ H⁻¹ v₁ with v₂ = Σ a_i ∇ℓ_i / n and v₁ = ∇f: every factor moves with θ.
            left = self._curvature.solve(self._point.grad(weights)).x
            right = self._curvature.solve(functional.gradient(self.theta)).x
            total = total + self._point.hvp(right, weights) + functional.hvp(self.theta, left)
            total = total - self._point.curvature_grad(left, right, self._objective.weights)
        return total


def removal(problem: Problem, metric: Metric, theta: Tensor) -> Removal:
    """The effects of removal at θ (d, 1, 1): ∇ℓ_iᵀ H⁻¹ ∇f with H = Σ p(1−p)xxᵀ + l2 I, as published.

    In the project's terms −I/n with λ = l2/n, so what leaving a sample out does.

    Raises:
        UserError: the Hessian is singular, or a group has no one to compare.
    """
    unfair, useful = unfairness(problem.validation, metric), utility(problem.validation)
    objective = problem.objective()
    point = problem.train.at(theta)
    curvature = Curvature.of(objective, point)
    value = float(unfair.value(theta))
    sign = -1 if value < 0 else 1
    return Removal(
        theta=theta,
        fairness=sign * effects(point, curvature, unfair.gradient(theta)),
        utility=effects(point, curvature, useful.gradient(theta)),
        unfairness=sign * value,
        sign=sign,
        _functionals=(unfair, useful),
        _objective=objective,
        _point=point,
        _curvature=curvature,
    )


def effects(point: LinearPoint, curvature: Curvature, gradient: Tensor) -> Tensor:
    """First-order effect (n,) of removing each sample on a functional with this gradient (d, 1, 1)."""
    upweighting, _ = influence(point, gradient, curvature.solve)
    return -upweighting[:, 0] / point.risk.samples
