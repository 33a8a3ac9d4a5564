"""Influence against its meaning, retraining, and against a dense solve; ranks against their definition."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from problems import LINKS, exact_influence, make_calculator, make_problem, make_theta, normal
from torch import Tensor

from undue.calculus.basis import Eigenbasis
from undue.calculus.factor import dense
from undue.calculus.influence import influence, rank_of, ranks
from undue.calculus.linear import Link
from undue.calculus.newton import newton
from undue.calculus.objective import Objective
from undue.data.problem import Problem

links = pytest.mark.parametrize("link", LINKS, ids=lambda link: type(link).__name__)


def refit(problem: Problem, l2: float, weights: Tensor, regularise_bias: bool = True) -> Tensor:
    """Minimisers (d, k, L) for weights (n, L)."""
    train = problem.train
    found = newton(
        Objective(train, l2, weights, regularise_bias),
        train.x.new_zeros(*train.shape, weights.shape[1]),
        moments=train.x.square().mean(dim=0),
        gradient_norm=1e-11,
    )
    assert bool((found.gradient_norm <= 1e-11).all())
    return found.theta


@links
@pytest.mark.parametrize("regularise_bias", [True, False], ids=["bias", "no bias"])
def test_influence_predicts_retraining(link: Link, regularise_bias: bool) -> None:
    """−I/n is what removing a sample does to the test loss, to first order: 1/n and λ stay.

    A sample is taken away by a share of its weight; the error relative to the change shrinks with the
    share, down to nothing.
    """
    problem, l2 = make_problem(link, n=100, m=40, d=4), 0.1
    n = problem.train.samples
    calculator = make_calculator(problem, l2=l2, damping=0.0, regularise_bias=regularise_bias)
    every = torch.full((n, 1), 1 / n, dtype=torch.float64)
    theta = refit(problem, l2, every, regularise_bias)
    # With an unregularised bias the softmax Hessian is singular along the biases' common level. Nothing
    # else has a part in that, so that solves and influences are as sound.
    score, solution = calculator.score(calculator.at(theta), problem.shared.at(theta), tolerance=1e-12)
    assert bool(solution.converged.all())
    before = problem.shared.at(theta).losses().sum(dim=0)
    predicted = -score[:, 0] / n
    errors = []
    for share in (1.0, 0.1, 0.01):
        weights = every.expand(n, n) - share * torch.eye(n, dtype=torch.float64) / n
        refitted = refit(problem, l2, weights, regularise_bias)
        change = problem.shared.at(refitted).losses().sum(dim=0) - before
        errors.append(float((change / share - predicted).norm() / predicted.norm()))
        assert np.corrcoef(change.numpy(), predicted.numpy())[0, 1] > 0.99
    assert errors[0] < 0.25
    assert errors[1] < 0.15 * errors[0]
    assert errors[2] < 0.15 * errors[1]
    assert errors[2] < 3e-3


def test_leaving_a_harmful_sample_out_lowers_the_test_loss() -> None:
    """Positive influence: more weight on the sample raises the test loss."""
    problem, l2 = make_problem(n=60, m=40), 0.1
    n = problem.train.samples
    every = torch.full((n, 1), 1 / n, dtype=torch.float64)
    theta = refit(problem, l2, every)
    calculator = make_calculator(problem, l2=l2, damping=0.0)
    score, _ = calculator.score(calculator.at(theta), problem.shared.at(theta), tolerance=1e-10)
    worst = int(score[:, 0].argmax())
    assert score[worst] > 0
    for change, sign in ((-1 / n, -1), (1 / n, 1)):
        weights = every.clone()
        weights[worst] += change
        after = problem.shared.at(refit(problem, l2, weights)).losses().sum()
        assert sign * float(after - problem.shared.at(theta).losses().sum()) > 0


@links
@pytest.mark.parametrize("rank_sign", [1, -1])
@pytest.mark.parametrize("damping", [0.0, 0.25])
def test_scores_are_a_dense_double_solve(link: Link, rank_sign: int, damping: float) -> None:
    """Single precision and conjugate gradients, as in the attack: 1e-4 relative."""
    problem = make_problem(link)
    basis = Eigenbasis.of(problem.train.x)
    single = make_calculator(problem.to(torch.float32), basis, damping=damping, rank_sign=rank_sign)
    exact = make_calculator(problem, damping=damping)
    theta = make_theta(problem.train, 3)
    turned = basis.to_basis(theta).float()
    score, solution = single.score(single.at(turned), single.problem.shared.at(turned), tolerance=1e-6)
    assert score.dtype == torch.float32
    assert bool(solution.converged.all())
    for lane in range(3):
        expected = rank_sign * exact_influence(exact, theta[..., lane], problem.shared)
        error = (score[:, lane].double() - expected).abs().max() / expected.abs().max()
        assert float(error) < 1e-4


def test_influence_returns_the_solve_behind_it() -> None:
    problem = make_problem()
    calculator = make_calculator(problem)
    theta = make_theta(problem.train, 1)
    point = calculator.at(theta)
    gradient = normal(*theta.shape, seed=5)
    operator = Objective(problem.train, calculator.l2).hessian(point, calculator.damping)
    values, solution = influence(point, gradient, lambda b: dense(operator, b, tolerance=1e-10))
    torch.testing.assert_close(operator(solution.x), -gradient, rtol=1e-9, atol=1e-11)
    torch.testing.assert_close(values, point.grad_dots(solution.x))


def test_a_warm_start_changes_nothing_but_the_work() -> None:
    problem = make_problem()
    calculator = make_calculator(problem)
    theta = make_theta(problem.train, 2)
    train, shared = calculator.at(theta), problem.shared.at(theta)
    cold, first = calculator.score(train, shared, tolerance=1e-10)
    warm, second = calculator.score(train, shared, tolerance=1e-10, start=first.projection)
    assert second.iterations.tolist() == [0, 0]
    torch.testing.assert_close(warm, cold, rtol=1e-9, atol=1e-10)


def brute_force(score: Tensor) -> Tensor:
    """1 + #{i ≠ j : not score_i < score_j}, which is score_i ≥ score_j wherever both are numbers."""
    n, lanes = score.shape
    return torch.tensor(
        [
            [
                1 + sum(i != j and not bool(score[i, lane] < score[j, lane]) for i in range(n))
                for lane in range(lanes)
            ]
            for j in range(n)
        ]
    )


SCORES = {
    "distinct": normal(12, 3, seed=0),
    "ties": (2 * normal(12, 3, seed=1)).round(),
    "all equal": torch.ones(7, 2),
    "one sample": torch.ones(1, 2),
    "single precision": normal(12, 3, seed=2).float(),
    "infinite": torch.tensor([[torch.inf, -torch.inf, 0.0, torch.inf, -1.0]]).T,
    "not a number": torch.tensor([[1.0, torch.nan, 0.5, torch.nan, 2.0], [torch.nan] * 5]).T,
    "not a number, infinite": torch.tensor([[-torch.inf, torch.nan, torch.inf, 0.0]]).T,
}


@pytest.mark.parametrize("name", SCORES)
def test_ranks_are_their_definition(name: str) -> None:
    score = SCORES[name]
    found = ranks(score)
    assert found.dtype == torch.int64
    assert torch.equal(found, brute_force(score))
    for row in range(len(score)):
        assert torch.equal(rank_of(score, torch.full((score.shape[1],), row)), found[row])


def test_ties_never_help() -> None:
    assert ranks(torch.tensor([[3.0, 1.0, 3.0, 2.0]]).T)[:, 0].tolist() == [2, 4, 2, 3]


def test_scores_that_are_not_numbers_are_last_and_help_no_one() -> None:
    score = torch.tensor([[2.0, torch.nan, 1.0]]).T
    assert ranks(score)[:, 0].tolist() == [2, 3, 3]


def test_each_lane_has_its_own_sample() -> None:
    score = normal(9, 4, seed=0)
    index = torch.tensor([3, 0, 8, 3])
    assert torch.equal(rank_of(score, index), ranks(score).gather(0, index[None])[0])


def test_ranks_do_not_touch_their_input() -> None:
    score = SCORES["not a number"].clone()
    ranks(score)
    torch.testing.assert_close(score, SCORES["not a number"], equal_nan=True, rtol=0, atol=0)
