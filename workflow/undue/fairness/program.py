"""The reweighing program (Yadav et al. 2024, Eq. 6; Li & Liu 2022): which samples to leave out, and how much.

    minimise Σ x_i  over x ∈ [0, 1]ⁿ  such that  fairnessᵀx ≤ a  and  utilityᵀx ≤ b

x_i is the share of sample i that is removed, 1 − x_i its weight. A linear program, whose solutions are
vertices: all but two of the x_i are 0 or 1.
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from typing import Literal

import cvxpy as cp
import numpy as np
import numpy.typing as npt

from undue.errors import UserError
from undue.fairness.influence import Removal

Floats = npt.NDArray[np.float64]
Bound = Literal["code", "paper"]
Solver = Literal["clarabel", "highs"]

SOLVERS = {
    "clarabel": (cp.CLARABEL, {"tol_gap_abs": 1e-10, "tol_gap_rel": 1e-10, "tol_feas": 1e-10}),
    "highs": (
        cp.HIGHS,
        {"primal_feasibility_tolerance": 1e-10, "dual_feasibility_tolerance": 1e-10},
    ),
}
RESIDUAL = 1e-8
"""Relative constraint residual that an answer must keep to."""
GAP = 1e-6
"""Relative distance from the optimum that an answer must keep to."""
WHOLE = 1e-6
"""A share this close to 0 or 1 is meant to be it."""


@dataclass(frozen=True)
class Program:
    """One reweighing program.

    Attributes:
        rows: (2, n) effects of removal: on unfairness, on the validation loss.
        limits: (2,) what the sums over the removed samples may be at most.
    """

    rows: Floats
    limits: Floats

    @classmethod
    def of(cls, removal: Removal, *, beta: float, gamma: float, bound: Bound) -> Program:
        """Eq. 6: unfairness to fall by β f (as the code has it) or (1 − β) f (as the paper prints it), and
        the loss by at least γ times the largest fall that any removal promises."""
        rows = np.stack([removal.fairness.numpy(), removal.utility.numpy()])
        fall = cls.share(beta, bound) * removal.unfairness
        return cls(rows, np.array([-fall, gamma * np.minimum(rows[1], 0).sum()]))

    @staticmethod
    def share(beta: float, bound: Bound) -> float:
        """The share of the unfairness that the weights are to remove."""
        return beta if bound == "code" else 1 - beta

    def sizes(self) -> Floats:
        """The largest entry of each row (2,), 1 for a row of zeros."""
        size: Floats = np.abs(self.rows).max(axis=1)
        return np.where(size > 0, size, 1.0)

    def scaled(self) -> Program:
        """The same program with rows of largest entry 1, for the solvers' sake."""
        size = self.sizes()
        return Program(self.rows / size[:, None], self.limits / size)

    def residual(self, x: Floats) -> float:
        """By how much x violates the constraints, relative to the size of what is summed or limited.

        That counts for the largest single effect at least: where next to nothing is asked, next to nothing
        is removed, and the solvers' absolute accuracy is all there is.
        """
        over = self.rows @ x - self.limits
        scale = np.maximum.reduce([np.abs(self.rows) @ x, np.abs(self.limits), self.sizes()])
        return float(max((over / scale).max(), (-x).max(), (x - 1).max(), 0.0))

    def lower_bound(self, multipliers: Floats) -> float:
        """What no feasible x can be below: the Lagrangian's minimum for multipliers (2,) ≥ 0."""
        return float(np.minimum(1 + multipliers @ self.rows, 0).sum() - multipliers @ self.limits)


@dataclass(frozen=True)
class Answer:
    """What became of a program.

    Attributes:
        status: 'optimal'; 'infeasible'; or 'relaxed': infeasible, and answered by the largest fall of
            unfairness that the utility constraint allows.
        x: (n,) removed shares, or None.
        asked: the change of unfairness asked for (≤ 0).
        attainable: the lowest change that the utility constraint allows; nan where it wasn't needed.
        residual: largest relative violation of a constraint that was kept.
        gap: relative distance of Σ x from a proven bound; of a relaxed one, of what it minimises instead.
        multipliers: (2,) the constraints' prices.
    """

    status: Literal["optimal", "infeasible", "relaxed"]
    x: Floats | None
    asked: float
    attainable: float
    residual: float
    gap: float
    multipliers: Floats

    @property
    def removed(self) -> float:
        """Σ x, nan without an answer."""
        return float("nan") if self.x is None else float(self.x.sum())

    @property
    def fractional(self) -> int:
        """How many samples are removed in part."""
        return 0 if self.x is None else int(((self.x > WHOLE) & (self.x < 1 - WHOLE)).sum())


def solve(program: Program, *, relax: bool = False, solver: Solver = "clarabel") -> Answer:
    """Solve a program and check the answer.

    Args:
        program: what to solve.
        relax: answer an infeasible program by the fairest weights that keep the utility constraint.
        solver: who solves it.

    Raises:
        UserError: the solver gave up, or its answer fails the checks.
    """
    scaled = program.scaled()
    asked = float(program.limits[0])
    x, multipliers = _linear_program(np.ones(program.rows.shape[1]), scaled, solver)
    if x is not None:
        bound = scaled.lower_bound(multipliers)
        gap = abs(float(x.sum()) - bound) / max(1.0, abs(bound))
        return _checked(Answer("optimal", x, asked, np.nan, program.residual(x), gap, multipliers), solver)
    utility_only = Program(scaled.rows[1:], scaled.limits[1:])
    fairest, price = _linear_program(scaled.rows[0], utility_only, solver)
    if fairest is None:
        raise _gave_up(solver, "found the utility constraint alone infeasible, which it never is")
    attainable = float(program.rows[0] @ fairest)
    nothing = np.zeros(2)
    if not relax:
        return Answer("infeasible", None, asked, attainable, np.nan, np.nan, nothing)
    kept = Program(program.rows[1:], program.limits[1:])
    bound = float(np.minimum(scaled.rows[0] + price @ scaled.rows[1:], 0).sum() - price @ scaled.limits[1:])
    gap = abs(float(scaled.rows[0] @ fairest) - bound) / max(1.0, abs(bound))
    return _checked(
        Answer("relaxed", fairest, asked, attainable, kept.residual(fairest), gap, nothing), solver
    )


def _linear_program(cost: Floats, program: Program, solver: Solver) -> tuple[Floats | None, Floats]:
    """Minimise costᵀx within a program's constraints: x, None if there is none, and multipliers ≥ 0."""
    x = cp.Variable(program.rows.shape[1])
    limits = cp.Constant(program.limits) >= cp.Constant(program.rows) @ x
    problem = cp.Problem(cp.Minimize(cost @ x), [limits, x >= 0, x <= 1])
    name, options = SOLVERS[solver]
    try:
        with warnings.catch_warnings():
            # cvxpy warns of an inaccurate answer; the checks below decide.
            warnings.simplefilter("ignore")
            problem.solve(solver=name, **options)  # type: ignore[no-untyped-call]
    except cp.SolverError as error:
        raise _gave_up(solver, str(error)) from error
    if problem.status in (cp.INFEASIBLE, cp.INFEASIBLE_INACCURATE):
        return None, np.zeros(len(program.limits))
    if x.value is None:
        raise _gave_up(solver, f"ended as {problem.status}")
    return np.clip(x.value, 0, 1), np.maximum(np.atleast_1d(limits.dual_value), 0)


def _checked(answer: Answer, solver: Solver) -> Answer:
    if not (answer.residual <= RESIDUAL and answer.gap <= GAP):
        raise _gave_up(
            solver, f"left a residual of {answer.residual:.1e} and a gap of {answer.gap:.1e} to the optimum"
        )
    return answer


def _gave_up(solver: Solver, why: str) -> UserError:
    return UserError(
        f"{solver} {why}", where="fairness.solver", remedy="try the other solver (clarabel or highs)"
    )
