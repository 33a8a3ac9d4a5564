"""Fairness by reweighing (Li & Liu 2022): from a base model to a downstream model.

Base model → influences on the validation part → program for the weights → a model fitted from scratch
with them. Honest as it stands; what a model trainer hands in as its base model is another matter.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from undue.fairness.influence import Removal, removal
from undue.fairness.logistic import Curvature, fit
from undue.fairness.metrics import Metric
from undue.fairness.problem import Problem
from undue.fairness.program import Answer, Bound, Program, Solver, solve


@dataclass(frozen=True)
class Pipeline:
    """The reweighing of one data set for one notion of fairness.

    Args:
        problem: the data.
        metric: the notion of fairness.
        beta: share of the unfairness that the weights are to remove.
        gamma: share of the attainable fall of the validation loss that they are to reach.
        bound: how β enters: as the published code has it, or as the paper prints it.
        relax: answer infeasible programs by the fairest weights that keep the utility constraint.
        solver: who solves the programs.
        base: θ* (d, 1, 1), where refits begin.
        curvature: the Hessian there.
    """

    problem: Problem
    metric: Metric
    beta: float
    gamma: float
    bound: Bound
    relax: bool
    solver: Solver
    base: Tensor
    curvature: Curvature

    def reweigh(self, theta: Tensor) -> Reweighed:
        """Run the pipeline on a base model θ' (d, 1, 1).

        Raises:
            UserError: the Hessian is singular, or the solver gave up.
        """
        influences = removal(self.problem, self.metric, theta)
        program = Program.of(influences, beta=self.beta, gamma=self.gamma, bound=self.bound)
        answer = solve(program, relax=self.relax, solver=self.solver)
        downstream = None
        if answer.x is not None:
            objective = self.problem.objective(torch.from_numpy(answer.x))
            downstream = fit(objective, self.base, curvature=self.curvature).theta
        return Reweighed(influences, answer, downstream)


@dataclass(frozen=True)
class Reweighed:
    """What the pipeline made of a base model.

    Attributes:
        influences: what the calculator computed at it.
        answer: the program's.
        downstream: the model fitted with the weights (d, 1, 1), None if the program was infeasible.
    """

    influences: Removal
    answer: Answer
    downstream: Tensor | None

    @property
    def predicted(self) -> tuple[float, float]:
        """Predicted changes of unfairness and of the summed validation log-loss; nan if infeasible."""
        if self.answer.x is None:
            return float("nan"), float("nan")
        x = torch.from_numpy(self.answer.x)
        return float(self.influences.fairness @ x), float(self.influences.utility @ x)
