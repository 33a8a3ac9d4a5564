"""Conjugate gradients and the dense solver against linear algebra."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pytest
import torch
from problems import normal
from torch import Tensor

from undue.calculus import solvers
from undue.calculus.factor import dense
from undue.calculus.linear import Projection
from undue.calculus.principal import Principal
from undue.calculus.solvers import (
    AIM,
    MAX_ROUNDS,
    Operator,
    Solution,
    conjugate_gradient,
    dense_matrix,
    refine,
)
from undue.errors import UserError

SHAPE = (6, 3)
SIZE = 18


def positive(lanes: int, *, condition: float = 100.0, seed: int = 0) -> Tensor:
    """Positive definite matrices (lanes, 18, 18) of a condition number."""
    vectors: Tensor = torch.linalg.qr(normal(lanes, SIZE, SIZE, seed=seed)).Q
    values = torch.logspace(0, torch.log10(torch.tensor(condition)).item(), SIZE, dtype=torch.float64)
    return vectors @ torch.diag(values) @ vectors.mT


def operator_of(matrices: Tensor) -> Operator:
    """v (6, 3, lanes) ↦ each lane's matrix times its v."""

    def product(v: Tensor) -> Tensor:
        return torch.einsum("lij,jl->il", matrices, v.reshape(SIZE, -1)).view_as(v)

    return product


def solved(matrices: Tensor, b: Tensor) -> Tensor:
    """The exact solution of every lane."""
    x: Tensor = torch.linalg.solve(matrices, b.reshape(SIZE, -1).T[..., None])[..., 0]
    return x.T.reshape(b.shape)


def true_residual(matrices: Tensor, b: Tensor, x: Tensor) -> Tensor:
    """‖b − Hx‖/‖b‖ of each lane."""
    left: Tensor = (b - operator_of(matrices)(x)).reshape(SIZE, -1)
    share: Tensor = left.norm(dim=0) / b.reshape(SIZE, -1).norm(dim=0)
    return share


def test_conjugate_gradient_solves() -> None:
    matrices, b = positive(4), normal(*SHAPE, 4, seed=1)
    solution = conjugate_gradient(operator_of(matrices), b, tolerance=1e-12)
    torch.testing.assert_close(solution.x, solved(matrices, b), rtol=1e-9, atol=1e-10)
    assert bool(solution.converged.all())
    solution.require("some.key", what="the solve")


def test_the_reported_residual_is_the_true_one() -> None:
    matrices, b = positive(4, condition=1e4), normal(*SHAPE, 4, seed=1)
    for limit in (1, 3, 10):
        solution = conjugate_gradient(operator_of(matrices), b, tolerance=1e-12, max_iterations=limit)
        torch.testing.assert_close(
            solution.residual, true_residual(matrices, b, solution.x), rtol=1e-8, atol=1e-14
        )
        assert solution.iterations.tolist() == [limit] * 4


def test_right_hand_sides_are_left_alone() -> None:
    matrices, b, start = positive(2), normal(*SHAPE, 2, seed=1), normal(*SHAPE, 2, seed=2)
    before = b.clone(), start.clone()
    conjugate_gradient(operator_of(matrices), b, tolerance=1e-8, start=start)
    conjugate_gradient(operator_of(matrices), b, tolerance=1e-8)
    assert torch.equal(b, before[0])
    assert torch.equal(start, before[1])


def test_tolerances_are_kept_lane_by_lane() -> None:
    matrices, b = positive(3, condition=1e4), normal(*SHAPE, 3, seed=1)
    tolerance = torch.tensor([1e-1, 1e-4, 1e-8], dtype=torch.float64)
    solution = conjugate_gradient(operator_of(matrices), b, tolerance=tolerance)
    assert bool(solution.converged.all())
    assert bool((true_residual(matrices, b, solution.x) <= tolerance * (1 + 1e-6)).all())
    first, second, third = solution.iterations.tolist()
    assert first < second < third


def test_a_warm_start_saves_iterations_and_reaches_the_same_answer() -> None:
    matrices, b = positive(3), normal(*SHAPE, 3, seed=1)
    cold = conjugate_gradient(operator_of(matrices), b, tolerance=1e-8)
    near = solved(matrices, b) + 1e-5 * normal(*SHAPE, 3, seed=2)
    warm = conjugate_gradient(operator_of(matrices), b, tolerance=1e-8, start=near)
    assert bool((warm.iterations < cold.iterations).all())
    assert bool(warm.converged.all())
    torch.testing.assert_close(warm.x, cold.x, rtol=1e-6, atol=1e-7)


def test_a_start_at_the_solution_takes_no_iteration() -> None:
    matrices, b = positive(3), normal(*SHAPE, 3, seed=1)
    exact = solved(matrices, b)
    solution = conjugate_gradient(operator_of(matrices), b, tolerance=1e-10, start=exact)
    assert solution.iterations.tolist() == [0, 0, 0]
    assert torch.equal(solution.x, exact)


def test_a_converged_lane_is_frozen() -> None:
    """An easy lane gives the same answer beside hard ones as alone."""
    matrices = torch.cat([positive(1, condition=3.0), positive(2, condition=1e5, seed=3)])
    b = normal(*SHAPE, 3, seed=1)
    together = conjugate_gradient(operator_of(matrices), b, tolerance=1e-6)
    alone = conjugate_gradient(operator_of(matrices[:1]), b[..., :1], tolerance=1e-6)
    assert together.iterations[0] == alone.iterations[0] < together.iterations[1]
    torch.testing.assert_close(together.x[..., :1], alone.x, rtol=1e-12, atol=1e-13)
    torch.testing.assert_close(together.residual[:1], alone.residual, rtol=1e-9, atol=0)


def test_a_right_hand_side_of_zero() -> None:
    matrices, b = positive(2), normal(*SHAPE, 2, seed=1)
    b[..., 0] = 0
    for start in (None, normal(*SHAPE, 2, seed=2)):
        solution = conjugate_gradient(operator_of(matrices), b, tolerance=1e-10, start=start)
        assert bool(solution.converged.all())
        torch.testing.assert_close(solution.x[..., 0], torch.zeros(SHAPE).double(), rtol=0, atol=1e-9)
    zero = conjugate_gradient(operator_of(matrices), torch.zeros_like(b), tolerance=1e-10)
    assert zero.iterations.tolist() == [0, 0]
    assert not zero.x.any()
    factorised = dense(operator_of(matrices[:1]), b[..., :1], tolerance=1e-10)
    assert bool(factorised.converged.all())
    assert not factorised.x.any()


@pytest.mark.parametrize("sign", [-1.0, 0.0])
def test_a_matrix_that_is_not_positive_definite_is_told_by_the_residual(sign: float) -> None:
    matrices = torch.cat([positive(1), sign * positive(1)])
    b = normal(*SHAPE, 2, seed=1)
    solution = conjugate_gradient(operator_of(matrices), b, tolerance=1e-10)
    assert solution.converged.tolist() == [True, False]
    assert torch.isfinite(solution.x).all()
    torch.testing.assert_close(solution.x[..., 0], solved(matrices[:1], b[..., :1])[..., 0])
    torch.testing.assert_close(solution.residual[1], torch.tensor(1.0).double())


def test_a_lane_without_curvature_stays_where_it_got_stuck() -> None:
    """Directions of positive curvature may follow, but the recursion that leads to them is broken."""
    eigenvalues = torch.linspace(-1, 0.9, SIZE, dtype=torch.float64)
    saddle, bowl = torch.diag(eigenvalues)[None], positive(1, condition=100.0)
    b = torch.cat([normal(*SHAPE, 1, seed=1), torch.ones(*SHAPE, 1).double()], dim=2)
    found = conjugate_gradient(operator_of(torch.cat([bowl, saddle])), b, tolerance=1e-10)
    assert found.converged.tolist() == [True, False]
    assert int(found.iterations[0]) > int(found.iterations[1]) == 0
    assert not found.x[..., 1].any()


def test_a_preconditioner_is_applied_once_an_iteration() -> None:
    """A solve's last step needs no direction after it, and an answer that is there already none at all."""
    matrices, b = positive(2), normal(*SHAPE, 2, seed=1)
    applied = 0

    class Counting:
        def __call__(self, r: Tensor) -> Tensor:
            nonlocal applied
            applied += 1
            return r.clone()

        def narrow(self, lanes: Tensor) -> Counting:
            return self

    found = conjugate_gradient(operator_of(matrices), b, tolerance=1e-8, preconditioner=Counting())
    assert bool(found.converged.all())
    assert applied == int(found.iterations.max())
    conjugate_gradient(operator_of(matrices), b, tolerance=1e-6, start=found.x, preconditioner=Counting())
    assert applied == int(found.iterations.max())


@pytest.mark.parametrize("where", ["right-hand side", "matrix"])
def test_a_lane_that_is_not_a_number_never_converges(where: str) -> None:
    matrices, b, start = positive(2), normal(*SHAPE, 2, seed=1), torch.zeros(*SHAPE, 2).double()
    {"right-hand side": b[0, 0, 1:], "matrix": matrices[1]}[where].fill_(torch.nan)
    solution = conjugate_gradient(operator_of(matrices), b, tolerance=1e-10, start=start)
    assert solution.converged.tolist() == [True, False]
    torch.testing.assert_close(solution.x[..., :1], solved(matrices[:1], b[..., :1]))
    with pytest.raises(UserError):
        solution.require("some.key", what="the solve")


@pytest.mark.parametrize("factor", [100.0, torch.nan])
def test_a_start_that_is_worse_than_none_is_none(factor: float) -> None:
    matrices, b, start = positive(2), normal(*SHAPE, 2, seed=1), torch.zeros(*SHAPE, 2).double()
    cold = conjugate_gradient(operator_of(matrices), b, tolerance=1e-10)
    start[..., 1] = factor
    found = conjugate_gradient(operator_of(matrices), b, tolerance=1e-10, start=start)
    assert bool(found.converged.all())
    assert torch.equal(found.x, cold.x)


@pytest.mark.parametrize("warm", [False, True])
def test_outputs_are_carried_along(warm: bool) -> None:
    """The solution has its own, at no product of its own, whichever lanes were left behind."""
    matrices = torch.cat([positive(1, condition=c, seed=i) for i, c in enumerate((1e3, 2.0, 30.0, 5.0))])
    b, start = normal(*SHAPE, 4, seed=1), solved(matrices, normal(*SHAPE, 4, seed=1)) + 0.1
    widths: list[int] = []
    product = Narrowing(matrices, widths)

    projected: list[int] = []

    def project(v: Tensor) -> Projection:
        projected.append(v.shape[-1])
        return Projection(v, v.clone())

    options: dict[str, Any] = {"tolerance": 1e-9}
    plain = conjugate_gradient(product, b, start=start if warm else None, **options)
    widths.clear()
    found = conjugate_gradient(
        OnOutputs(product),
        b,
        project=project,
        start=Projection(start, start.clone()) if warm else None,
        **options,
    )
    assert torch.equal(found.x, plain.x)
    assert torch.equal(found.iterations, plain.iterations)
    assert found.projection is not None
    torch.testing.assert_close(found.projection.outputs, found.x, rtol=1e-12, atol=1e-13)
    # A product a step, and one with the start.
    assert len(widths) == int(found.iterations.max()) + warm
    assert widths[warm:] == projected[not warm :]
    assert min(widths) < 4


def test_giving_up() -> None:
    matrices, b = positive(2, condition=1e6), normal(*SHAPE, 2, seed=1)
    solution = conjugate_gradient(operator_of(matrices), b, tolerance=1e-12, max_iterations=5)
    assert solution.iterations.tolist() == [5, 5]
    assert not solution.converged.any()
    none = conjugate_gradient(operator_of(matrices), b, tolerance=1e-12, max_iterations=0)
    assert not none.x.any()
    assert none.residual.tolist() == [1.0, 1.0]


def test_a_preconditioner_saves_iterations() -> None:
    scales = torch.logspace(0, 3, SIZE, dtype=torch.float64)
    matrices = scales[:, None] * positive(2, condition=5.0) * scales
    b = normal(*SHAPE, 2, seed=1)
    diagonal = torch.diagonal(matrices, dim1=1, dim2=2).T.reshape(*SHAPE, 2)
    plain = conjugate_gradient(operator_of(matrices), b, tolerance=1e-8)
    helped = conjugate_gradient(operator_of(matrices), b, tolerance=1e-8, preconditioner=diagonal)
    assert bool(helped.converged.all())
    assert bool((2 * helped.iterations < plain.iterations).all())
    torch.testing.assert_close(helped.x, solved(matrices, b), rtol=1e-4, atol=1e-8)


@dataclass
class Block:
    """The last rows of matrices as an operator of its own."""

    matrices: Tensor
    rows: int

    def __call__(self, v: Tensor) -> Tensor:
        size = self.rows * SHAPE[1]
        block = self.matrices[:, -size:, -size:]
        return torch.einsum("lij,jl->il", block, v.reshape(size, -1)).view_as(v)

    def narrow(self, lanes: Tensor) -> Block:
        return Block(self.matrices[lanes], self.rows)


def diagonal_of(matrices: Tensor) -> Tensor:
    return torch.diagonal(matrices, dim1=1, dim2=2).T.reshape(*SHAPE, -1).clone()


def large_at_the_end(lanes: int) -> Tensor:
    """Matrices that are large in the last two of six rows, and hardly more than a ridge elsewhere."""
    scale = torch.tensor([0.1, 0.1, 0.1, 0.1, 10.0, 10.0]).repeat_interleave(SHAPE[1]).double()
    return scale[:, None] * positive(lanes) * scale + torch.eye(SIZE)


@pytest.mark.parametrize("steps", [6, 10])
def test_a_solve_in_the_principal_rows_saves_products(steps: int) -> None:
    matrices, b = large_at_the_end(3), normal(*SHAPE, 3, seed=1)
    diagonal = diagonal_of(matrices)
    options: dict[str, Any] = {"tolerance": 1e-8}
    plain = conjugate_gradient(operator_of(matrices), b, preconditioner=diagonal, **options)
    principal = Principal(Block(matrices, 2), 2, diagonal, steps)
    found = conjugate_gradient(operator_of(matrices), b, preconditioner=principal, **options)
    assert bool(found.converged.all())
    torch.testing.assert_close(found.x, solved(matrices, b), rtol=1e-5, atol=1e-7)
    assert int(found.iterations.sum()) < int(plain.iterations.sum())
    torch.testing.assert_close(found.residual, true_residual(matrices, b, found.x), rtol=1e-3, atol=1e-12)


def test_a_principal_solve_to_the_end_is_the_blocks_inverse() -> None:
    matrices, r = large_at_the_end(2), normal(*SHAPE, 2, seed=1)
    diagonal = diagonal_of(matrices)
    z = Principal(Block(matrices, 2), 2, diagonal, 50)(r)
    assert torch.equal(z[:4], (r / diagonal)[:4])
    block, right = matrices[:, -6:, -6:], r[-2:].reshape(6, -1).T[..., None]
    expected = torch.linalg.solve(block, right)[..., 0].T.reshape(2, *SHAPE[1:], 2)
    torch.testing.assert_close(z[-2:], expected)


def test_lanes_with_a_principal_solve_are_left_behind_and_do_not_mix() -> None:
    matrices = torch.cat([large_at_the_end(2), positive(1, condition=2.0), 100 * large_at_the_end(1)])
    b = normal(*SHAPE, 4, seed=1)
    b[..., 1] = 0

    def of(lanes: list[int]) -> Solution:
        chosen = matrices[lanes]
        principal = Principal(Block(chosen, 2), 2, diagonal_of(chosen), 3)
        operator = Narrowing(chosen, [])
        return conjugate_gradient(operator, b[..., lanes], tolerance=1e-9, preconditioner=principal)

    together = of([0, 1, 2, 3])
    assert bool(together.converged.all())
    assert together.iterations[1] == 0
    for lane in (0, 2, 3):
        alone = of([lane])
        assert together.iterations[lane] == alone.iterations[0]
        torch.testing.assert_close(together.x[..., [lane]], alone.x, rtol=1e-9, atol=1e-11)


def test_single_precision_keeps_its_word() -> None:
    matrices, b = positive(3, condition=1e3).float(), normal(*SHAPE, 3, seed=1).float()
    solution = conjugate_gradient(operator_of(matrices), b, tolerance=1e-4)
    assert solution.x.dtype == torch.float32
    assert bool(solution.converged.all())
    assert bool((true_residual(matrices, b, solution.x) <= 1.1e-4).all())


@pytest.mark.parametrize("condition", [1e2, 1e4])
@pytest.mark.parametrize("tolerance", [1e-3, 1e-4, 1e-5, 1e-6, 1e-8, 1e-12])
def test_a_tolerance_beyond_the_precision_is_not_claimed(condition: float, tolerance: float) -> None:
    """The recursive residual falls forever, the true one stops at about ε times the condition."""
    exact, b = positive(3, condition=condition), normal(*SHAPE, 3, seed=1)
    solution = conjugate_gradient(operator_of(exact.float()), b.float(), tolerance=tolerance)
    true = true_residual(exact, b, solution.x.double())
    assert bool((true[solution.converged] <= 1.2 * tolerance).all())
    if tolerance <= 1e-8:
        assert not solution.converged.any()
    if tolerance >= condition * 1e-5:
        assert bool(solution.converged.all())


def test_a_lane_in_doubt_is_looked_at_alone() -> None:
    matrices = torch.cat([positive(1, condition=3.0), positive(1, condition=1e6)]).float()
    b = normal(*SHAPE, 2, seed=1).float()
    together = conjugate_gradient(operator_of(matrices), b, tolerance=1e-4)
    alone = conjugate_gradient(operator_of(matrices[:1]), b[..., :1], tolerance=1e-4)
    assert together.converged.tolist() == [True, False]
    torch.testing.assert_close(together.residual[:1], alone.residual, rtol=1e-3, atol=0)


# Refinement -------------------------------------------------------------------------------------------------


class Counted:
    """An operator that counts its products."""

    def __init__(self, operator: Operator) -> None:
        self.calls = 0
        self._operator = operator

    def __call__(self, v: Tensor) -> Tensor:
        self.calls += 1
        return self._operator(v)


LIMIT = 5e-3


def refined(
    matrices: Tensor,
    b: Tensor,
    *,
    tolerance: float,
    inner: Operator | None = None,
    limit: float = LIMIT,
    start: Tensor | None = None,
    exact: Operator | None = None,
) -> Solution:
    """Refine with an inner operator, by default the matrices rounded to eight bits.

    The outputs of a vector are its exact product, so that what the solver takes for v and for its outputs
    has to belong together.
    """
    product = exact or operator_of(matrices)

    def project(v: Tensor) -> Projection:
        return Projection(v, product(v))

    return refine(
        lambda v: v.outputs,
        b,
        project=project,
        inner=inner or operator_of(coarse(matrices)),
        inner_limit=limit,
        tolerance=tolerance,
        start=None if start is None else project(start),
    )


def coarse(matrices: Tensor) -> Tensor:
    rounded: Tensor = matrices.bfloat16().to(matrices.dtype)
    return (rounded + rounded.mT) / 2


@pytest.mark.parametrize("tolerance", [1e-1, 1e-3, 1e-6, 1e-10])
def test_refinement_reaches_its_tolerance_with_a_coarse_operator(tolerance: float) -> None:
    matrices, b = positive(4, condition=20.0), normal(*SHAPE, 4, seed=1)
    solution = refined(matrices, b, tolerance=tolerance)
    true = true_residual(matrices, b, solution.x)
    assert bool((true <= tolerance).all())
    assert bool(solution.converged.all())
    torch.testing.assert_close(solution.residual, true, rtol=1e-6, atol=1e-16)
    assert solution.tolerance == tolerance
    assert solution.projection is not None
    assert torch.equal(solution.projection.vector, solution.x)
    assert torch.equal(solution.projection.outputs, operator_of(matrices)(solution.x))
    # The coarse operator alone does not get there.
    if tolerance <= 1e-3:
        alone = conjugate_gradient(operator_of(coarse(matrices)), b, tolerance=1e-12)
        assert bool((true_residual(matrices, b, alone.x) > tolerance).all())


def test_refinement_in_single_precision_counts_and_keeps_its_word() -> None:
    matrices, b = positive(3, condition=20.0), normal(*SHAPE, 3, seed=1)
    solution = refined(matrices.float(), b.float(), tolerance=1e-5)
    assert solution.x.dtype == torch.float32
    assert bool(solution.converged.all())
    assert bool((true_residual(matrices, b, solution.x.double()) <= 1.1e-5).all())


def test_refinement_counts_the_inner_products_of_each_lane() -> None:
    matrices = torch.cat([positive(1, condition=1.0), positive(2, condition=20.0, seed=3)])
    b = normal(*SHAPE, 3, seed=1)
    solution = refined(matrices, b, tolerance=1e-6)
    for lane in range(3):
        inner = Counted(operator_of(coarse(matrices[lane : lane + 1])))
        alone = refined(matrices[lane : lane + 1], b[..., lane : lane + 1], tolerance=1e-6, inner=inner)
        assert alone.iterations.tolist() == [inner.calls] == [int(solution.iterations[lane])]
    assert solution.iterations[0] < solution.iterations[1:].min()


def test_with_an_exact_inner_operator_one_round_is_enough() -> None:
    matrices, b = positive(3), normal(*SHAPE, 3, seed=1)
    exact = Counted(operator_of(matrices))
    solution = refined(matrices, b, tolerance=1e-8, inner=operator_of(matrices), limit=0.0, exact=exact)
    assert bool(solution.converged.all())
    plain = conjugate_gradient(operator_of(matrices), b, tolerance=AIM * 1e-8)
    assert torch.equal(solution.x, plain.x)
    assert torch.equal(solution.iterations, plain.iterations)
    # One product with zero, one with the solution.
    assert exact.calls == 2


def test_what_refinement_asks_of_its_inner_solves(monkeypatch: pytest.MonkeyPatch) -> None:
    """No more than their limit, no more than is missing, nothing of lanes that have arrived."""
    matrices = torch.cat([positive(2, condition=20.0), positive(1, condition=20.0)])
    b = normal(*SHAPE, 3, seed=1)
    start = solved(matrices, b)
    start[..., :2] += torch.tensor([1e-3, 3e-2]) * normal(*SHAPE, 2, seed=2)
    asked: list[tuple[Tensor, Tensor]] = []

    def spied(operator: Operator, b: Tensor, **options: Any) -> Solution:
        asked.append((b, options["tolerance"]))
        return conjugate_gradient(operator, b, **options)

    monkeypatch.setattr(solvers, "conjugate_gradient", spied)
    tolerance = 1e-4
    solution = refined(matrices, b, tolerance=tolerance, start=start)
    assert bool(solution.converged.all())
    assert 2 <= len(asked) <= MAX_ROUNDS
    scale = b.reshape(SIZE, -1).norm(dim=0)
    for left, limit in asked:
        moving = left.reshape(SIZE, -1).norm(dim=0)
        assert moving[2] == 0
        for lane in torch.nonzero(moving)[:, 0].tolist():
            residual = float(moving[lane] / scale[lane])
            assert residual > tolerance
            assert float(limit[lane]) == pytest.approx(max(AIM * tolerance / residual, LIMIT))
    first = b - operator_of(matrices)(start)
    assert torch.equal(asked[0][0][..., :2], first[..., :2])


def test_refined_lanes_do_not_depend_on_their_neighbours() -> None:
    """The same bytes whoever stands beside: easy and hard lanes, zeros, lanes that fail or are no numbers."""
    matrices, b = positive(3, condition=20.0), normal(*SHAPE, 3, seed=1)
    start = normal(*SHAPE, 3, seed=4)
    expected = refined(matrices, b, tolerance=1e-6, start=start)
    assert bool(expected.converged.all())
    others: dict[str, tuple[Tensor, Tensor, Tensor]] = {}
    for name in ("hard", "easy", "zero", "broken", "not a number"):
        left, right, begin = matrices.clone(), b.clone(), start.clone()
        if name in ("hard", "easy"):
            left[1:] = positive(2, condition=60.0 if name == "hard" else 1.0, seed=8)
        elif name == "zero":
            right[..., 1:] = 0
        elif name == "broken":
            left[1:] *= -1
        else:
            begin[0, 0, 1] = torch.nan
            right[0, 0, 2] = torch.nan
        others[name] = left, right, begin
    for name, (left, right, begin) in others.items():
        found = refined(left, right, tolerance=1e-6, start=begin)
        assert torch.equal(found.x[..., 0], expected.x[..., 0]), name
        assert found.iterations[0] == expected.iterations[0], name
        assert found.residual[0] == expected.residual[0], name
        assert bool(found.converged[0])
    alone = refined(matrices[:1], b[..., :1], tolerance=1e-6, start=start[..., :1])
    torch.testing.assert_close(alone.x[..., 0], expected.x[..., 0], rtol=1e-12, atol=1e-13)
    assert alone.iterations[0] == expected.iterations[0]


def test_refinement_from_the_solution_costs_one_product() -> None:
    matrices, b = positive(3), normal(*SHAPE, 3, seed=1)
    exact, inner = Counted(operator_of(matrices)), Counted(operator_of(coarse(matrices)))
    start = solved(matrices, b)
    solution = refined(matrices, b, tolerance=1e-10, inner=inner, exact=exact, start=start)
    assert torch.equal(solution.x, start)
    assert solution.iterations.tolist() == [0, 0, 0]
    assert inner.calls == 0
    assert exact.calls == 1
    assert bool(solution.converged.all())


def test_a_near_start_of_refinement_saves_iterations_and_inputs_are_left_alone() -> None:
    matrices, b = positive(3, condition=20.0), normal(*SHAPE, 3, seed=1)
    near = solved(matrices, b) + 1e-4 * normal(*SHAPE, 3, seed=2)
    before = b.clone(), near.clone()
    cold = refined(matrices, b, tolerance=1e-6)
    warm = refined(matrices, b, tolerance=1e-6, start=near)
    assert bool((warm.iterations < cold.iterations).all())
    assert bool(warm.converged.all())
    torch.testing.assert_close(warm.x, solved(matrices, b), rtol=1e-4, atol=1e-5)
    assert torch.equal(b, before[0])
    assert torch.equal(near, before[1])


def test_refinement_of_a_right_hand_side_of_zero() -> None:
    matrices, b = positive(2, condition=20.0), normal(*SHAPE, 2, seed=1)
    b[..., 0] = 0
    cold = refined(matrices, b, tolerance=1e-8)
    assert not cold.x[..., 0].any()
    assert cold.iterations[0] == 0 < cold.iterations[1]
    warm = refined(matrices, b, tolerance=1e-8, start=normal(*SHAPE, 2, seed=2))
    for solution in (cold, warm):
        assert bool(solution.converged.all())
        assert torch.isfinite(solution.x).all()
        # Absolute: there is nothing to be relative to.
        left = operator_of(matrices)(solution.x)[..., 0].norm()
        torch.testing.assert_close(solution.residual[0], left, rtol=1e-6, atol=1e-16)
        assert float(left) <= 1e-8


@pytest.mark.parametrize("factor", [100.0, torch.nan])
def test_a_start_of_refinement_that_is_worse_than_none_is_none(factor: float) -> None:
    matrices, b = positive(2, condition=20.0), normal(*SHAPE, 2, seed=1)
    start = torch.zeros_like(b)
    cold = refined(matrices, b, tolerance=1e-8, start=start)
    start[..., 1] = factor
    found = refined(matrices, b, tolerance=1e-8, start=start)
    assert bool(found.converged.all())
    assert torch.equal(found.x, cold.x)


@pytest.mark.parametrize("where", ["right-hand side", "matrix"])
def test_refinement_of_what_is_not_a_number_never_converges(where: str) -> None:
    matrices, b, start = positive(2, condition=20.0), normal(*SHAPE, 2, seed=1), normal(*SHAPE, 2, seed=2)
    {"right-hand side": b[0, 0, 1:], "matrix": matrices[1]}[where].fill_(torch.nan)
    solution = refined(matrices, b, tolerance=1e-8, start=start)
    assert solution.converged.tolist() == [True, False]
    torch.testing.assert_close(solution.x[..., :1], solved(matrices[:1], b[..., :1]), rtol=1e-6, atol=1e-7)
    assert solution.iterations[1] == 0
    with pytest.raises(UserError):
        solution.require("some.key", what="the solve")


@pytest.mark.parametrize("factor", [-1.0, 0.0, 0.1, 10.0, torch.nan])
def test_a_useless_inner_operator_is_told_by_the_residual(factor: float) -> None:
    """The lane stops, says so by its true residual, and the others are what they would have been."""
    matrices, b = positive(3, condition=20.0), normal(*SHAPE, 3, seed=1)
    inner = coarse(matrices)
    expected = refined(matrices, b, tolerance=1e-8)
    inner[1] *= factor
    calls = Counted(operator_of(inner))
    solution = refined(matrices, b, tolerance=1e-8, inner=calls)
    assert solution.converged.tolist() == [True, False, True]
    for lane in (0, 2):
        assert torch.equal(solution.x[..., lane], expected.x[..., lane])
        assert solution.residual[lane] == expected.residual[lane]
        assert solution.iterations[lane] == expected.iterations[lane]
    assert not float(solution.residual[1]) < 0.5
    true = true_residual(matrices, b, solution.x)
    torch.testing.assert_close(solution.residual[1], true[1], rtol=1e-9, atol=0, equal_nan=True)
    # One round was enough to see it.
    assert solution.iterations[1] <= expected.iterations[1]


def test_a_poor_inner_operator_takes_more_rounds() -> None:
    """Off by a third in scale, each round gains a factor of about three: some get there, some run out."""
    matrices, b = positive(2, condition=20.0), normal(*SHAPE, 2, seed=1)
    inner = operator_of(matrices * 1.5)
    assert bool(refined(matrices, b, tolerance=1e-2, inner=inner).converged.all())
    solution = refined(matrices, b, tolerance=1e-8, inner=inner)
    assert not solution.converged.any()
    true = true_residual(matrices, b, solution.x)
    torch.testing.assert_close(solution.residual, true, rtol=1e-9, atol=0)
    assert bool((true < 2 * 3.0**-MAX_ROUNDS).all())
    assert bool((true > 0.5 * 3.0**-MAX_ROUNDS).all())


@pytest.mark.parametrize("limit", [0.0, LIMIT])
@pytest.mark.parametrize("tolerance", [1e-6, 1e-8, 1e-12])
def test_a_refined_tolerance_beyond_the_precision_is_not_claimed(limit: float, tolerance: float) -> None:
    exact, b = positive(3, condition=100.0), normal(*SHAPE, 3, seed=1)
    inner = operator_of(exact.float() if limit == 0 else coarse(exact.float()))
    product = Counted(operator_of(exact.float()))
    solution = refined(exact.float(), b.float(), tolerance=tolerance, inner=inner, limit=limit, exact=product)
    true = true_residual(exact, b, solution.x.double())
    assert bool((true[solution.converged] <= 2 * tolerance).all())
    if tolerance <= 1e-8:
        assert not solution.converged.any()
        assert bool((solution.residual > 1e-8).all())
    assert product.calls <= 1 + MAX_ROUNDS


def test_refinement_spends_no_product_on_doubts_of_its_inner_solves() -> None:
    """It computes the residual itself, whatever rounding does to the inner recursion's."""
    matrices, b = positive(1, condition=1e4).float(), normal(*SHAPE, 1, seed=1).float()
    inner = Counted(operator_of(matrices))
    solution = refined(matrices, b, tolerance=1e-5, inner=inner, limit=0.0)
    assert solution.iterations.tolist() == [inner.calls]


def test_refinement_passes_its_preconditioner_on() -> None:
    scales = torch.logspace(0, 2, SIZE, dtype=torch.float64)
    matrices = scales[:, None] * positive(2, condition=3.0) * scales
    b = normal(*SHAPE, 2, seed=1)
    diagonal = torch.diagonal(matrices, dim1=1, dim2=2).T.reshape(*SHAPE, 2)

    def project(v: Tensor) -> Projection:
        return Projection(v, operator_of(matrices)(v))

    plain, helped = (
        refine(
            lambda v: v.outputs,
            b,
            project=project,
            inner=operator_of(matrices),
            inner_limit=0.0,
            tolerance=1e-6,
            preconditioner=preconditioner,
        )
        for preconditioner in (None, diagonal)
    )
    assert bool(helped.converged.all())
    assert bool((2 * helped.iterations < plain.iterations).all())


# Lanes left behind ------------------------------------------------------------------------------------------


class Narrowing:
    """Matrices as an operator that can do without some of its lanes, and tells how wide its products were."""

    def __init__(self, matrices: Tensor, widths: list[int]) -> None:
        self._matrices, self.widths = matrices, widths

    def __call__(self, v: Tensor) -> Tensor:
        assert v.shape[-1] == len(self._matrices)
        self.widths.append(v.shape[-1])
        return operator_of(self._matrices)(v)

    def narrow(self, lanes: Tensor) -> Narrowing:
        return Narrowing(self._matrices[lanes], self.widths)


class OnOutputs:
    """Takes vectors with their outputs, here copies of them; the two have to belong together."""

    def __init__(self, of: Narrowing) -> None:
        self._of = of

    def __call__(self, v: Projection) -> Tensor:
        torch.testing.assert_close(v.outputs, v.vector)
        return self._of(v.outputs)

    def narrow(self, lanes: Tensor) -> OnOutputs:
        return OnOutputs(self._of.narrow(lanes))


def uneven() -> tuple[Tensor, Tensor]:
    """Lanes from easy to hard in no order; zero, not positive definite and not a number among them."""
    parts = [
        positive(1, condition=condition, seed=number)
        for number, condition in enumerate((1e4, 2.0, 30.0, 1e3, 5.0, 100.0, 10.0, 300.0))
    ]
    matrices, b = torch.cat(parts), normal(*SHAPE, 8, seed=1)
    matrices[5] *= -1
    b[..., 4] = 0
    b[0, 0, 6] = torch.nan
    return matrices, b


@pytest.mark.parametrize("start", [False, True], ids=["cold", "warm"])
@pytest.mark.parametrize("preconditioned", [False, True])
@pytest.mark.parametrize("tolerances", ["one", "each"])
def test_lanes_that_have_arrived_are_left_behind(start: bool, preconditioned: bool, tolerances: str) -> None:
    """The others find what they find beside them, with narrower products."""
    matrices, b = uneven()
    options: dict[str, Any] = {"tolerance": 1e-9}
    if tolerances == "each":
        options["tolerance"] = torch.tensor([1e-9, 1e-2, 1e-5, 1e-7, 1e-3, 1e-6, 1e-6, 1e-4]).double()
    if start:
        options["start"] = normal(*SHAPE, 8, seed=2)
    if preconditioned:
        options["preconditioner"] = torch.diagonal(matrices, dim1=1, dim2=2).T.reshape(*SHAPE, 8).abs()
    widths: list[int] = []
    narrow = conjugate_gradient(Narrowing(matrices, widths), b, **options)
    wide = conjugate_gradient(operator_of(matrices), b, **options)
    assert torch.equal(narrow.iterations, wide.iterations)
    assert torch.equal(narrow.converged, wide.converged)
    assert narrow.converged.tolist() == [True] * 5 + [False, False, True]
    finite = torch.tensor([0, 1, 2, 3, 4, 5, 7])
    torch.testing.assert_close(narrow.x[..., finite], wide.x[..., finite], rtol=1e-7, atol=1e-9)
    torch.testing.assert_close(narrow.residual[finite], wide.residual[finite], rtol=1e-3, atol=1e-12)
    assert bool(narrow.residual[6].isnan())
    # Three quarters are as many as before; fewer go on alone.
    steps = widths[1:] if start else widths
    assert steps == sorted(steps, reverse=True)
    assert len(set(steps)) >= 3
    assert steps[-1] <= 2
    assert sum(steps) < 0.8 * 8 * len(steps)


def test_lanes_left_behind_are_still_in_doubt() -> None:
    """The residual is computed anew for all lanes, also those that stopped early, unless told not to."""
    exact, b = torch.cat([positive(1), positive(3, condition=1e6)]), normal(*SHAPE, 4, seed=5)
    # This one is left behind before the first step.
    b[..., 0] = 0
    single = exact.float()
    solution = conjugate_gradient(Narrowing(single, []), b.float(), tolerance=1e-5)
    true = true_residual(exact, b, solution.x.double())
    assert solution.converged.tolist() == [True, False, False, False]
    torch.testing.assert_close(solution.residual[1:].double(), true[1:], rtol=0.1, atol=0)
    widths: list[int] = []
    believed = conjugate_gradient(Narrowing(single, widths), b.float(), tolerance=1e-5, verify=False)
    assert torch.equal(believed.x, solution.x)
    assert bool(believed.converged.all())
    assert len(widths) == int(believed.iterations.max())


def test_refinement_with_an_operator_that_narrows() -> None:
    matrices, b = positive(5, condition=20.0), normal(*SHAPE, 5, seed=1)
    start = solved(matrices, b)
    start[..., [0, 2, 4]] = 0
    start[..., 1] += 1e-3
    widths: list[int] = []
    narrow = refined(matrices, b, tolerance=1e-8, start=start, inner=Narrowing(coarse(matrices), widths))
    wide = refined(matrices, b, tolerance=1e-8, start=start)
    assert bool(narrow.converged.all())
    torch.testing.assert_close(narrow.x, wide.x, rtol=1e-9, atol=1e-12)
    assert torch.equal(narrow.iterations, wide.iterations)
    assert min(widths) < 5


def test_lanes_that_are_refined_already_are_left_behind() -> None:
    """Each goes where it goes beside the others, with narrower products; also one that no round helps."""
    matrices, b = torch.cat([positive(4, condition=20.0), -positive(1)]), normal(*SHAPE, 5, seed=1)
    start = solved(matrices, b)
    start[..., [0, 4]] = 0
    start[..., 3] += 1e-3
    widths: dict[str, list[int]] = {"exact": [], "inner": []}

    def go(*, narrowing: bool) -> Solution:
        exact: Any = OnOutputs(Narrowing(matrices, widths["exact"]))
        inner: Any = Narrowing(coarse(matrices), widths["inner"])
        return refine(
            exact if narrowing else lambda v: exact(v),
            b,
            project=lambda v: Projection(v, v.clone()),
            inner=inner if narrowing else lambda v: inner(v),
            inner_limit=LIMIT,
            tolerance=1e-8,
            start=Projection(start, start.clone()),
        )

    wide = go(narrowing=False)
    assert set(widths["exact"]) == set(widths["inner"]) == {5}
    for each in widths.values():
        each.clear()
    narrow = go(narrowing=True)
    assert narrow.converged.tolist() == wide.converged.tolist() == [True] * 4 + [False]
    torch.testing.assert_close(narrow.x, wide.x, rtol=1e-9, atol=1e-12)
    assert narrow.projection is not None
    torch.testing.assert_close(narrow.projection.outputs, narrow.x)
    assert torch.equal(narrow.iterations, wide.iterations)
    # All lanes' residuals to begin with, then those of the three that have some way to go, and of two.
    assert widths["exact"][:2] == [5, 3]
    assert widths["exact"][-1] <= 2
    assert max(widths["inner"]) == 3


def test_an_operator_may_return_what_it_was_given() -> None:
    b, diagonal = normal(*SHAPE, 2, seed=1), normal(*SHAPE, 2, seed=2).abs() + 0.5
    solution = conjugate_gradient(lambda v: v, b, tolerance=1e-12, preconditioner=diagonal)
    copied = conjugate_gradient(lambda v: v.clone(), b, tolerance=1e-12, preconditioner=diagonal)
    assert bool(solution.converged.all())
    torch.testing.assert_close(solution.x, b, rtol=1e-10, atol=1e-11)
    assert torch.equal(solution.iterations, copied.iterations)


# Dense ------------------------------------------------------------------------------------------------------


def test_dense_against_linear_algebra() -> None:
    matrices, b = positive(1), normal(*SHAPE, 1, seed=1)
    assert torch.equal(dense_matrix(operator_of(matrices), b), matrices[0])
    solution = dense(operator_of(matrices), b, tolerance=1e-12)
    torch.testing.assert_close(solution.x, solved(matrices, b), rtol=1e-11, atol=1e-12)
    assert bool(solution.converged.all())
    assert not dense(operator_of(matrices), b, tolerance=1e-30).converged.any()
    single = dense(operator_of(matrices.float()), b.float(), tolerance=1e-4)
    assert 1e-9 < float(single.residual) < 1e-5


def test_dense_refuses_several_lanes() -> None:
    with pytest.raises(ValueError, match="one lane"):
        dense(operator_of(positive(2)), normal(*SHAPE, 2, seed=1), tolerance=1e-8)


def test_dense_refuses_a_matrix_that_is_not_positive_definite() -> None:
    with pytest.raises(UserError, match="positive definite"):
        dense(operator_of(-positive(1)), normal(*SHAPE, 1, seed=1), tolerance=1e-8)


def test_require_names_the_key_and_the_residual() -> None:
    solution = Solution(
        torch.zeros(*SHAPE, 2), torch.tensor([1e-9, 3.2e-2]), torch.tensor([4, 1000]), tolerance=1e-6
    )
    with pytest.raises(UserError) as caught:
        solution.require("influence.tolerance", "model.l2", what="the influence solve")
    assert caught.value.where == "influence.tolerance"
    assert caught.value.what == (
        "the influence solve stopped at a relative residual of 3.2e-02 after 1000 Hessian products"
    )
    assert caught.value.remedy == "raise influence.tolerance or model.l2"
