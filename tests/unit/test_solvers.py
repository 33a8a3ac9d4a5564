"""Conjugate gradients and the dense solver against linear algebra."""

from __future__ import annotations

import pytest
import torch
from problems import normal
from torch import Tensor

from undue.calculus.solvers import Operator, Solution, conjugate_gradient, dense, dense_matrix
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
    solution.require(what="the solve", key="some.key")


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


@pytest.mark.parametrize("where", ["right-hand side", "matrix", "start"])
def test_a_lane_that_is_not_a_number_never_converges(where: str) -> None:
    matrices, b, start = positive(2), normal(*SHAPE, 2, seed=1), torch.zeros(*SHAPE, 2).double()
    {"right-hand side": b[0, 0, 1:], "matrix": matrices[1], "start": start[0, 0, 1:]}[where].fill_(torch.nan)
    solution = conjugate_gradient(operator_of(matrices), b, tolerance=1e-10, start=start)
    assert solution.converged.tolist() == [True, False]
    torch.testing.assert_close(solution.x[..., :1], solved(matrices[:1], b[..., :1]))
    with pytest.raises(UserError):
        solution.require(what="the solve", key="some.key")


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
    with pytest.raises(RuntimeError, match="not positive-definite"):
        dense(operator_of(-positive(1)), normal(*SHAPE, 1, seed=1), tolerance=1e-8)


def test_require_names_the_key_and_the_residual() -> None:
    solution = Solution(
        torch.zeros(*SHAPE, 2), torch.tensor([1e-9, 3.2e-2]), torch.tensor([4, 1000]), tolerance=1e-6
    )
    with pytest.raises(UserError) as caught:
        solution.require(what="the influence solve", key="influence.tolerance")
    assert caught.value.where == "influence.tolerance"
    assert caught.value.what == (
        "the influence solve stopped at a relative residual of 3.2e-02 after 1000 Hessian products"
    )
    assert "raise influence.tolerance" in caught.value.remedy
