"""The attack against its definition: autograd through the exact objective, and a plain loop."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import cache, partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from problems import (
    LINKS,
    exact_hessian,
    exact_influence,
    make_calculator,
    make_problem,
    make_theta,
    normal,
)
from torch import Tensor

from undue.calculus import solvers
from undue.calculus.adam import Adam
from undue.calculus.basis import Eigenbasis
from undue.calculus.lanes import norm
from undue.calculus.linear import Bfloat16, CoarsePoint, LinearPoint, Link, Projection
from undue.calculus.lissa import Recipe
from undue.calculus.solvers import Solution, conjugate_gradient
from undue.data.problem import Problem
from undue.errors import UserError
from undue.tables import write_table
from undue.training import train
from undue.valuation.attack import (
    CANDIDATE_COLUMNS,
    TRAJECTORY_COLUMNS,
    Best,
    Candidates,
    Gradient,
    Lane,
    Plan,
    Trajectories,
    Walk,
    attack,
    attack_gradient,
    candidate_table,
    project,
    refuse_invalid,
    starts,
    trajectory_table,
    warn_of_invalid,
)
from undue.valuation.calculator import Calculator, LissaSettings, packed
from undue.valuation.objectives import Weights, max_target, min_higher, min_topk, objective_weights

links = pytest.mark.parametrize("link", LINKS, ids=lambda link: type(link).__name__)
signs = pytest.mark.parametrize("rank_sign", [1, -1])
biases = pytest.mark.parametrize("regularise_bias", [True, False], ids=["bias", "no bias"])

OBJECTIVES: dict[str, Weights] = {
    "max_target": max_target,
    "min_topk": partial(min_topk, top=5),
    "min_higher": min_higher,
}


# The gradient -----------------------------------------------------------------------------------------------


def gradient_of(calculator: Calculator, theta: Tensor, weights: Tensor) -> Gradient:
    """The library's gradient at θ (d, k, L), solves to rounding."""
    point, test = calculator.at(theta), calculator.problem.shared.at(theta)
    score, first = calculator.score(point, test, tolerance=1e-13)
    return attack_gradient(calculator, point, test, score, first.x, weights, tolerance=1e-13)


def exact_objective(calculator: Calculator, theta: Tensor, weights: Tensor) -> Tensor:
    """Σ weights_i · score_i at θ (d, k), differentiable through Hessian and solve."""
    score = calculator.rank_sign * exact_influence(calculator, theta, calculator.problem.shared)
    return (weights * score).sum()


@links
@signs
@biases
def test_the_gradient_is_double_backward_through_the_exact_objective(
    link: Link, rank_sign: int, regularise_bias: bool
) -> None:
    problem = make_problem(link, n=30, m=20)
    calculator = make_calculator(problem, rank_sign=rank_sign, regularise_bias=regularise_bias)
    theta = make_theta(problem.train, 3)
    weights = normal(30, 3, seed=9)
    found = gradient_of(calculator, theta, weights)
    for lane in range(3):
        one = theta[..., lane].clone().requires_grad_()
        value = exact_objective(calculator, one, weights[:, lane])
        (expected,) = torch.autograd.grad(value, one)
        torch.testing.assert_close(found.value[lane], value.detach(), rtol=1e-9, atol=1e-9)
        error = (found.gradient[..., lane] - expected).norm() / expected.norm()
        assert float(error) < 1e-6


@signs
@pytest.mark.parametrize("objective", OBJECTIVES)
def test_the_gradient_is_the_slope_of_the_objective(rank_sign: int, objective: str) -> None:
    """Central differences of the library's own scores, the weights held fixed."""
    problem = make_problem(n=30, m=20)
    calculator = make_calculator(problem, rank_sign=rank_sign)
    theta = make_theta(problem.train, 1)

    def score_at(at: Tensor) -> Tensor:
        return calculator.score(calculator.at(at), problem.shared.at(at), tolerance=1e-13)[0]

    weights = OBJECTIVES[objective](score_at(theta), torch.tensor([4]))
    found = gradient_of(calculator, theta, weights).gradient
    for seed in range(3):
        direction = normal(*theta.shape, seed=seed)
        step = 1e-5 * direction
        slope = (weights * (score_at(theta + step) - score_at(theta - step))).sum() / 2e-5
        torch.testing.assert_close((found * direction).sum(), slope, rtol=1e-6, atol=1e-6)


def test_the_second_solve_and_its_start() -> None:
    problem = make_problem(n=30, m=20)
    calculator = make_calculator(problem)
    theta = make_theta(problem.train, 2)
    weights = normal(30, 2, seed=9)
    point, test = calculator.at(theta), problem.shared.at(theta)
    score, first = calculator.score(point, test, tolerance=1e-12)
    cold = attack_gradient(calculator, point, test, score, first.x, weights, tolerance=1e-10)
    warm = attack_gradient(
        calculator, point, test, score, first.x, weights, tolerance=1e-10, start=cold.solution.projection
    )
    assert bool(cold.solution.converged.all())
    assert warm.solution.iterations.tolist() == [0, 0]
    torch.testing.assert_close(warm.gradient, cold.gradient, rtol=1e-7, atol=1e-8)


# Objectives -------------------------------------------------------------------------------------------------


def plain_weights(name: str, score: list[float], target: int, top: int) -> list[float]:
    """The weights of one lane, by the words of the paper."""
    n = len(score)
    if name == "max_target":
        chosen: list[int] = []
        share = 0.0
    elif name == "min_topk":
        rank = [1 + sum(score[i] >= score[j] for i in range(n) if i != j) for j in range(n)]
        chosen = [i for i in range(n) if rank[i] <= top and i != target]
        share = 1 / top
    else:
        chosen = [i for i in range(n) if score[i] >= score[target] and i != target]
        share = 1 / max(len(chosen), 1)
    return [-1.0 if i == target else share if i in chosen else 0.0 for i in range(n)]


@pytest.mark.parametrize("name", ["max_target", "min_topk", "min_higher"])
@pytest.mark.parametrize("top", [1, 4, 12])
def test_objectives_are_what_they_say(name: str, top: int) -> None:
    """Every target of a ranking, from rank 1 to the last: also inside and outside the top."""
    n = 12
    score = normal(n, 1, seed=0).expand(n, n).contiguous()
    weights = objective_weights(name, suppressed_ranks=top)(score, torch.arange(n))
    expected = [plain_weights(name, score[:, 0].tolist(), target, top) for target in range(n)]
    torch.testing.assert_close(weights, torch.tensor(expected, dtype=torch.float64).T)


def test_with_nothing_above_it_only_the_target_counts() -> None:
    score = torch.tensor([[0.1, 3.0, 1.0]]).T
    assert min_higher(score, torch.tensor([1]))[:, 0].tolist() == [0.0, -1.0, 0.0]
    assert min_topk(score, torch.tensor([1]), top=1)[:, 0].tolist() == [0.0, -1.0, 0.0]


def test_a_tie_stands_above_the_target() -> None:
    score = torch.tensor([[1.0, 1.0, 0.5, 2.0]]).T
    assert min_higher(score, torch.tensor([0]))[:, 0].tolist() == [-1.0, 0.5, 0.0, 0.5]


def test_more_to_suppress_than_there_are_samples() -> None:
    weights = min_topk(torch.tensor([[1.0, 2.0, 3.0]]).T, torch.tensor([0]), top=10)
    assert weights[:, 0].tolist() == pytest.approx([-1.0, 0.1, 0.1])


def test_an_unknown_objective() -> None:
    with pytest.raises(KeyError, match="max_targets"):
        objective_weights("max_targets", suppressed_ranks=5)
    with pytest.raises(ValueError, match="min_topk needs"):
        objective_weights("min_topk")


def test_objectives_leave_scores_alone() -> None:
    score = normal(9, 2, seed=0)
    before = score.clone()
    for weights in OBJECTIVES.values():
        weights(score, torch.tensor([1, 2]))
    assert torch.equal(score, before)


# Starts, ball, optimiser ------------------------------------------------------------------------------------


@pytest.mark.parametrize("radius", [0.05, 0.5, 3.0])
def test_starts_lie_on_the_sphere(radius: float) -> None:
    theta = normal(6, 3, 1, seed=0)
    begin = starts(theta, radius, range(20), seed=0, start=1)
    assert begin.shape == (6, 3, 20)
    expected = (radius * theta.norm()).expand(20)
    torch.testing.assert_close(norm(begin - theta), expected, rtol=1e-12, atol=0)


def directions(radius: float, rows: list[int], *, seed: int = 0, start: int = 0) -> Tensor:
    theta = normal(6, 3, 1, seed=0)
    return (starts(theta, radius, rows, seed=seed, start=start) - theta) / radius


def test_a_starting_direction_is_the_rows_own() -> None:
    """Whatever the radius and the other lanes; the learning rates of a target begin together."""
    several = directions(0.1, [7, 3, 7])
    torch.testing.assert_close(several[..., 0], several[..., 2], rtol=0, atol=0)
    for radius in (0.1, 2.0):
        for row, lane in ((7, 0), (3, 1)):
            torch.testing.assert_close(
                directions(radius, [row])[..., 0], several[..., lane], rtol=1e-9, atol=1e-12
            )
    assert not torch.allclose(several[..., 0], several[..., 1])


def test_starts_and_seeds_begin_elsewhere() -> None:
    first = directions(0.1, [7])
    assert not torch.allclose(first, directions(0.1, [7], start=1))
    assert not torch.allclose(first, directions(0.1, [7], seed=1))
    torch.testing.assert_close(first, directions(0.1, [7]), rtol=0, atol=0)


def test_starting_directions_are_uniform() -> None:
    """Coordinates of a uniform direction have mean 0 and mean square 1/18."""
    many = directions(1.0, list(range(2000))).reshape(18, -1)
    many = many / many.norm(dim=0)
    assert float(many.mean(dim=1).abs().max()) < 5 * (1 / 18 / 2000) ** 0.5
    assert float((many.square().mean(dim=1) * 18 - 1).abs().max()) < 5 * (2 / 2000) ** 0.5


def test_project_is_the_nearest_point_of_the_ball() -> None:
    centre = normal(6, 3, 1, seed=0)
    offset = normal(6, 3, 4, seed=1)
    lengths = torch.tensor([0.2, 0.9, 1.5, 80.0], dtype=torch.float64)
    theta = centre + offset / norm(offset) * lengths
    found = project(theta, centre, torch.tensor([1.0]).double())
    assert torch.equal(found[..., :2], theta[..., :2])
    torch.testing.assert_close(norm(found - centre)[2:], torch.ones(2).double(), rtol=1e-12, atol=0)
    cosine = ((found - centre) * offset).sum(dim=(0, 1)) / norm(found - centre) / norm(offset)
    torch.testing.assert_close(cosine, torch.ones(4).double(), rtol=1e-12, atol=0)
    assert torch.equal(project(centre, centre, torch.zeros(1).double()), centre)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_adam_is_torchs(dtype: torch.dtype) -> None:
    like = normal(6, 3, 2, seed=0).to(dtype)
    rates = torch.tensor([0.01, 0.1], dtype=dtype)
    ours, theirs = Adam(like), []
    parameters = [like[..., lane].clone().requires_grad_() for lane in range(2)]
    for parameter, rate in zip(parameters, rates.tolist(), strict=True):
        theirs.append(torch.optim.Adam([parameter], lr=rate))
    moved = like.clone()
    for step in range(25):
        gradient = normal(6, 3, 2, seed=100 + step).to(dtype) * 10.0 ** (step % 5 - 4)
        before = gradient.clone()
        drop = 0.1 if step >= 12 else 1.0
        moved = moved + ours.step(gradient, rates * drop)
        assert torch.equal(gradient, before)
        for lane in range(2):
            theirs[lane].param_groups[0]["lr"] = float(rates[lane]) * drop
            parameters[lane].grad = gradient[..., lane].clone()
            theirs[lane].step()
    expected = torch.stack([parameter.detach() for parameter in parameters], dim=2)
    exact = dtype == torch.float64
    torch.testing.assert_close(moved, expected, rtol=1e-7 if exact else 1e-4, atol=1e-9 if exact else 1e-5)


# The attack -------------------------------------------------------------------------------------------------

LANES = [Lane(row, rate) for row in (2, 17, 31) for rate in (0.01, 0.1)]
TARGETS = np.array([lane.row for lane in LANES])
RATES = [lane.learning_rate for lane in LANES]
PLAN = Plan(
    weights=min_higher,
    radius=0.5,
    steps=12,
    drop_at=0.5,
    ranks=(1, 10),
    tolerance=1e-6,
    monitor_every=5,
    memory=1e9,
)


@cache
def trained() -> tuple[Problem, Tensor, Eigenbasis]:
    """The small problem, its θ* and its basis."""
    problem = make_problem()
    theta = train(problem.train, l2=0.01, regularise_bias=True, gradient_norm=1e-9).theta
    return problem, theta, Eigenbasis.of(problem.train.x)


def calculator_of(
    problem: Problem, basis: Eigenbasis, dtype: torch.dtype, *, rank_sign: int = 1, coarse: bool = False
) -> Calculator:
    calculator = make_calculator(problem.to(dtype), basis, rank_sign=rank_sign)
    return replace(calculator, copies=Bfloat16.of(calculator.problem.train)) if coarse else calculator


def run(
    plan: Plan = PLAN,
    *,
    dtype: torch.dtype = torch.float64,
    rank_sign: int = 1,
    lanes: list[Lane] | None = None,
    begin: Tensor | None = None,
    coarse: bool = False,
) -> tuple[Trajectories, Candidates, Calculator, Eigenbasis, Tensor]:
    """Attack the small problem; also its calculator, basis and θ*."""
    lanes = LANES if lanes is None else lanes
    if dtype == torch.float32:
        # What single precision can reach on this problem.
        plan = replace(plan, tolerance=max(plan.tolerance, 1e-4))
    problem, theta, basis = trained()
    calculator = calculator_of(problem, basis, dtype, rank_sign=rank_sign, coarse=coarse)
    if begin is None:
        begin = starts(theta, plan.radius, [lane.row for lane in lanes], seed=0, start=0)
    return *attack(calculator, basis, theta, begin, lanes, plan), calculator, basis, theta


def reference(calculator: Calculator, theta: Tensor, begin: Tensor, lane: Lane, plan: Plan) -> pd.DataFrame:
    """One attack as a plain loop, in the original features: autograd, torch's Adam, sorted ranks."""
    problem = calculator.problem
    radius = plan.radius * theta.norm()
    parameter = begin.clone().requires_grad_()
    optimiser = torch.optim.Adam([parameter], lr=lane.learning_rate)
    rows = []
    for step in range(plan.steps + 1):
        score, pristine = (
            calculator.rank_sign * exact_influence(calculator, parameter, half)
            for half in (problem.shared, problem.pristine)
        )
        at = parameter.detach()
        row = {"step": step, "distance": float((at - theta).norm() / theta.norm())}
        for half, values in (("shared", score), ("pristine", pristine)):
            others = torch.cat([values[: lane.row], values[lane.row + 1 :]])
            row[f"rank_{half}"] = 1 + int((others >= values[lane.row]).sum())
            data = getattr(problem, half)
            predicted = (data.x @ at).argmax(dim=1)
            row[f"accuracy_{half}"] = float((predicted == data.y).double().mean())
        weights = plan.weights(score.detach()[:, None], torch.tensor([lane.row]))[:, 0]
        objective = (weights * score).sum()
        row["objective"] = objective.item()
        rows.append(row)
        optimiser.param_groups[0]["lr"] = lane.learning_rate * (
            0.1 if step >= plan.drop_at * plan.steps else 1
        )
        (parameter.grad,) = torch.autograd.grad(objective, parameter)
        optimiser.step()
        with torch.no_grad():
            offset = parameter - theta
            if offset.norm() > radius:
                parameter.copy_(theta + offset * (radius / offset.norm()))
    return pd.DataFrame(rows)


@pytest.mark.parametrize(
    ("name", "rank_sign"), [("max_target", 1), ("min_topk", 1), ("min_higher", 1), ("min_higher", -1)]
)
def test_the_attack_is_the_plain_loop(name: str, rank_sign: int) -> None:
    plan = replace(PLAN, weights=OBJECTIVES[name], tolerance=1e-12)
    found, _, _, _, theta = run(plan, rank_sign=rank_sign)
    plain = make_calculator(make_problem(), rank_sign=rank_sign)
    begin = starts(theta, plan.radius, TARGETS.tolist(), seed=0, start=0)
    for number, lane in enumerate(LANES[:4]):
        expected = reference(plain, theta[..., 0], begin[..., number], lane, plan)
        for column in ("distance", "accuracy_shared", "accuracy_pristine"):
            np.testing.assert_allclose(getattr(found, column)[:, number], expected[column], rtol=1e-6)
        np.testing.assert_allclose(found.objective[:-1, number], expected["objective"][:-1], rtol=1e-5)
        assert found.rank_shared[:, number].tolist() == expected["rank_shared"].tolist()
        monitored = [0, 5, 10, 12]
        assert (
            found.rank_pristine[monitored, number].tolist() == expected["rank_pristine"][monitored].tolist()
        )


def test_trajectories_have_every_iterate_of_every_lane() -> None:
    found = run()[0]
    for name, array in vars(found).items():
        assert array.shape == (13, 6), name
    assert np.isnan(found.objective[-1]).all()
    assert np.isfinite(found.objective[:-1]).all()
    assert (found.distance <= PLAN.radius * (1 + 1e-12)).all()
    np.testing.assert_allclose(found.distance[0], PLAN.radius, rtol=1e-12)
    assert found.valid.all()
    assert (found.residual <= PLAN.tolerance).all()
    assert (found.iterations[:-1] > found.iterations[-1:] / 2).all()
    monitored = found.rank_pristine > 0
    assert np.flatnonzero(monitored.all(axis=1)).tolist() == [0, 5, 10, 12]
    hit = found.rank_shared <= min(PLAN.ranks)
    first = {(int(hit[:, lane].argmax()), lane) for lane in range(6) if hit[:, lane].any()}
    others = {(step, lane) for step, lane in np.argwhere(monitored) if step not in (0, 5, 10, 12)}
    assert others == {(step, lane) for step, lane in first if step not in (0, 5, 10, 12)}
    assert others


def test_the_attack_lowers_its_objective_and_raises_its_targets() -> None:
    found = run(replace(PLAN, steps=40))[0]
    assert (found.objective[-2] < found.objective[0]).all()
    assert (found.rank_shared.min(axis=0) < found.rank_shared[0]).any()


def test_in_single_precision_the_ball_is_kept_to_rounding() -> None:
    found = run(dtype=torch.float32)[0]
    assert (found.distance <= PLAN.radius * (1 + 1e-5)).all()
    assert found.accuracy_shared.dtype == np.float64


@pytest.mark.parametrize("coarse", [False, True], ids=["float32", "bfloat16"])
def test_single_precision_walks_the_same_way(coarse: bool) -> None:
    single, double = run(dtype=torch.float32, coarse=coarse)[0], run()[0]
    np.testing.assert_allclose(single.objective[:-1], double.objective[:-1], rtol=0.02, atol=0.02)
    np.testing.assert_allclose(single.distance, double.distance, rtol=1e-2)
    assert single.valid.all()
    # Neighbours in rank may change places, and no more.
    assert np.abs(single.rank_shared - double.rank_shared).max() <= 1
    assert np.mean(single.rank_shared != double.rank_shared) < 0.05
    both = (single.rank_pristine > 0) & (double.rank_pristine > 0)
    assert np.abs(single.rank_pristine - double.rank_pristine)[both].max() <= 1
    for k in PLAN.ranks:
        assert ((single.rank_shared <= k).any(axis=0) == (double.rank_shared <= k).any(axis=0)).all()


@pytest.mark.parametrize("coarse", [False, True], ids=["float32", "bfloat16"])
def test_the_same_attack_twice_is_the_same_bytes(coarse: bool) -> None:
    first, second = (run(dtype=torch.float32, coarse=coarse) for _ in range(2))
    for before, after in zip(first[:2], second[:2], strict=True):
        for name, array in vars(before).items():
            assert array.tobytes() == getattr(after, name).tobytes(), name


def by_estimates(recipe: Recipe, plan: Plan) -> Trajectories:
    """The attack, its solves by LiSSA."""
    problem, theta, basis = trained()
    calculator = replace(
        calculator_of(problem, basis, torch.float64), estimate=LissaSettings(recipe, 0, ("test",))
    )
    begin = starts(theta, plan.radius, TARGETS.tolist(), seed=0, start=0)
    return attack(calculator, basis, theta, begin, LANES, plan)[0]


def test_with_all_rows_in_every_mini_batch_estimates_are_solves() -> None:
    plan = replace(PLAN, steps=1)
    found = by_estimates(Recipe(batch=60, depth=2000, repeats=1, scale=8.0), plan)
    solved = run(plan)[0]
    np.testing.assert_allclose(found.objective[:-1], solved.objective[:-1], rtol=1e-4)
    np.testing.assert_array_equal(found.rank_shared, solved.rank_shared)
    # Two solves a step, one at the last.
    assert (found.iterations == np.array([4000, 2000])[:, None]).all()


def test_estimates_are_noisy_and_others_each_time() -> None:
    recipe, plan = Recipe(batch=45, depth=500, repeats=1, scale=8.0), replace(PLAN, steps=1, tolerance=0.9)
    found = by_estimates(recipe, plan)
    solved = run(replace(plan, tolerance=1e-6))[0]
    assert found.valid.all()
    assert (found.residual > 1e-3).all()
    np.testing.assert_allclose(found.objective[0], solved.objective[0], rtol=0.3)
    assert (found.objective[0] != solved.objective[0]).all()
    np.testing.assert_array_equal(by_estimates(recipe, plan).objective, found.objective)
    # Whether and when the pristine half is ranked on changes nothing.
    rarely = by_estimates(recipe, replace(plan, monitor_every=100))
    np.testing.assert_array_equal(rarely.objective, found.objective)
    np.testing.assert_array_equal(rarely.rank_shared, found.rank_shared)
    # Twice at the same place: the second estimate is another one.
    still = by_estimates(recipe, replace(plan, radius=1e-9))
    assert (np.abs(still.residual[0] - still.residual[1]) > 1e-6).all()


def test_estimates_are_held_to_the_tolerance() -> None:
    with pytest.raises(UserError, match="missed the relative residual 1e-06") as caught:
        by_estimates(Recipe(batch=20, depth=100, repeats=1, scale=8.0), replace(PLAN, steps=1))
    assert "attack.solver: lissa" in str(caught.value.remedy)
    with pytest.raises(UserError, match="LiSSA diverged") as caught:
        by_estimates(Recipe(batch=2, depth=100, repeats=1, scale=0.1), replace(PLAN, steps=1))
    assert caught.value.where == "attack.lissa_scale"


def lanes_in(memory: float, problem: Problem, targets: int = 1) -> int:
    """How many of very many lanes are put side by side."""
    first = next(packed(problem, 10**6, memory, targets=targets, kept=len(PLAN.ranks)))
    return len(range(10**6)[first])


def memory_for(lanes: int) -> float:
    """A little more than so many lanes of the small problem take."""
    return 1.01 * lanes * 1e7 / lanes_in(1e7, make_problem())


@pytest.mark.parametrize(("memory", "packs"), [(0.0, 6), (memory_for(2), 3), (memory_for(4), 2)])
def test_packing_of_lanes_does_not_matter(memory: float, packs: int) -> None:
    """Packs of one, two and three lanes, against all side by side."""
    assert len(list(packed(trained()[0], len(LANES), memory, kept=len(PLAN.ranks)))) == packs
    whole, chosen = run()[:2]
    parts, parts_chosen = run(replace(PLAN, memory=memory))[:2]
    for name, array in vars(whole).items():
        if name not in ("residual", "iterations"):
            np.testing.assert_allclose(getattr(parts, name), array, rtol=1e-6, atol=1e-9, err_msg=name)

    def in_order(candidates: Candidates) -> list[tuple[int, int, int]]:
        return sorted(zip(candidates.lane, candidates.k, candidates.step, strict=True))

    assert in_order(parts_chosen) == in_order(chosen)
    by_key = {key[:2]: row for row, key in enumerate(zip(chosen.lane, chosen.k, chosen.step, strict=True))}
    for row, key in enumerate(zip(parts_chosen.lane, parts_chosen.k, strict=True)):
        np.testing.assert_allclose(parts_chosen.theta[row], chosen.theta[by_key[key]], rtol=1e-6)


@pytest.mark.parametrize("lanes", [1, 6, 7, 100])
@pytest.mark.parametrize("fit", [1, 3, 7, 40])
def test_packs_are_few_and_nearly_equal(lanes: int, fit: int) -> None:
    packs = list(packed(make_problem(), lanes, memory_for(fit), kept=len(PLAN.ranks)))
    assert [row for pack in packs for row in range(lanes)[pack]] == list(range(lanes))
    sizes = [pack.stop - pack.start for pack in packs]
    assert max(sizes) - min(sizes) <= 1
    assert len(sizes) == -(-lanes // fit)


def test_a_lane_too_large_for_the_memory_goes_alone() -> None:
    assert list(packed(make_problem(), 3, 0.0, kept=1)) == [slice(0, 1), slice(1, 2), slice(2, 3)]
    assert list(packed(make_problem(), 0, 1e9, kept=1)) == []


def test_what_a_lane_takes_grows_with_everything() -> None:
    least = lanes_in(1e7, make_problem())
    assert lanes_in(1e7, make_problem(n=120)) < 0.8 * least
    assert lanes_in(1e7, make_problem(m=400)) < 0.8 * least
    assert lanes_in(1e7, make_problem(classes=6)) < 0.8 * least
    assert lanes_in(1e7, make_problem(d=50)) < 0.8 * least
    assert lanes_in(1e7, make_problem(), targets=30) < 0.8 * least
    assert lanes_in(1e7, make_problem().to(torch.float32)) == pytest.approx(2 * least, rel=1e-2)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_candidates_are_what_the_trajectory_says(dtype: torch.dtype) -> None:
    """Of each lane and k: the most accurate iterate with rank ≤ k, the earliest of equals."""
    plan = replace(PLAN, steps=30, ranks=(1, 5, 40))
    found, candidates, calculator, basis, theta = run(plan, dtype=dtype)
    expected = {}
    for lane in range(len(LANES)):
        for k in plan.ranks:
            hits = [step for step in range(31) if found.rank_shared[step, lane] <= k]
            if hits:
                best = max(found.accuracy_shared[hits, lane])
                expected[lane, k] = next(s for s in hits if found.accuracy_shared[s, lane] == best)
    keys = list(zip(candidates.lane.tolist(), candidates.k.tolist(), strict=True))
    assert dict(zip(keys, candidates.step.tolist(), strict=True)) == expected
    assert len(keys) == len(expected)
    # Something is reached, and something is not.
    assert 0 < len(expected) < 3 * len(LANES)
    # The parameters are the iterate's: they have its distance and its accuracy.
    models = torch.from_numpy(candidates.theta).permute(1, 2, 0)
    assert models.dtype == dtype
    distance = norm(models - theta.to(dtype)) / norm(theta.to(dtype))
    step, lane_of = candidates.step, candidates.lane
    np.testing.assert_allclose(distance.numpy(), found.distance[step, lane_of], rtol=1e-5)
    accuracy = calculator.problem.shared.at(basis.to_basis(models)).accuracy()
    np.testing.assert_allclose(accuracy.numpy(), found.accuracy_shared[step, lane_of], atol=1e-12)


def test_a_start_outside_the_ball_is_projected() -> None:
    plan = replace(PLAN, steps=0)
    theta = run(plan)[4]
    found = run(plan, begin=theta + normal(*theta.shape[:2], 6, seed=1) * 100)[0]
    np.testing.assert_allclose(found.distance, PLAN.radius, rtol=1e-12)


def test_no_steps_at_all() -> None:
    found = run(replace(PLAN, steps=0))[0]
    assert found.rank_shared.shape == (1, 6)
    assert (found.rank_pristine > 0).all()


def test_a_ball_too_small_to_move_in() -> None:
    found, _, calculator, basis, theta = run(replace(PLAN, radius=1e-12))
    honest = basis.to_basis(theta)
    score, _ = calculator.score(calculator.at(honest), calculator.problem.shared.at(honest), tolerance=1e-12)
    order = torch.argsort(score[:, 0], descending=True).tolist()
    assert (found.rank_shared == [1 + order.index(row) for row in TARGETS]).all()
    assert np.ptp(found.accuracy_shared) == 0
    assert (found.distance <= 1e-11).all()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_ball_so_large_that_the_model_breaks(dtype: torch.dtype) -> None:
    found, candidates, *_ = run(replace(PLAN, radius=1e4, tolerance=1e-3), dtype=dtype)
    assert np.isfinite(found.objective[:-1]).all()
    assert np.isfinite(found.distance).all()
    assert ((found.accuracy_shared >= 0) & (found.accuracy_shared <= 1)).all()
    assert ((found.rank_shared >= 1) & (found.rank_shared <= 60)).all()
    assert np.isfinite(candidates.theta).all()


def test_no_ball_has_a_size_around_a_model_of_nothing() -> None:
    _, _, calculator, basis, theta = run(replace(PLAN, steps=1))
    with pytest.raises(UserError, match="θ\\* is zero") as caught:
        attack(calculator, basis, 0 * theta, torch.cat([theta] * len(LANES), dim=2), LANES, PLAN)
    assert caught.value.where == "model.l2"


def test_solves_that_miss_their_tolerance_are_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[None] = []

    def hurried(*arguments: Any, **options: Any) -> Solution:
        calls.append(None)
        return conjugate_gradient(*arguments, **{**options, "max_iterations": 1})

    monkeypatch.setattr("undue.valuation.calculator.conjugate_gradient", hurried)
    with pytest.raises(UserError, match="100% of the attacks had a solve that missed") as caught:
        run()
    # At once, not after all steps: two solves, and the pristine half's.
    assert len(calls) <= 3
    assert caught.value.where == "attack.tolerance"
    assert "influence.damping" in caught.value.remedy


def test_few_invalid_lanes_are_failures_and_leave_the_others_alone(
    caplog: pytest.LogCaptureFixture,
) -> None:
    plan = replace(PLAN, steps=2, ranks=(60,))
    lanes = [Lane(row % 60, 0.01) for row in range(120)]
    theta = run(plan)[4]
    begin = starts(theta, plan.radius, [lane.row for lane in lanes], seed=0, start=0)
    whole = run(plan, lanes=lanes, begin=begin)[0]
    begin[0, 0, 40] = torch.nan
    found, candidates, *_ = run(plan, lanes=lanes, begin=begin)
    assert np.flatnonzero(~found.valid[-1]).tolist() == [40]
    assert not found.valid[:, 40].any()
    assert (found.rank_shared[:, 40] == 60).all()
    assert sorted(candidates.lane) == [lane for lane in range(120) if lane != 40]
    others = [lane for lane in range(120) if lane != 40]
    np.testing.assert_allclose(found.objective[:-1, others], whole.objective[:-1, others], rtol=1e-9)
    assert "1 of 120 lanes are invalid" in caplog.text


def test_a_lane_that_turns_invalid_loses_its_earlier_candidates(monkeypatch: pytest.MonkeyPatch) -> None:
    """The third step's solves are cut short: what was reached before does not count either."""
    calls = 0

    def tiring(*args: Any, **options: Any) -> Solution:
        nonlocal calls
        calls += 1
        limit = {"max_iterations": 1} if calls > 8 else {}
        return conjugate_gradient(*args, **(options | limit))

    monkeypatch.setattr("undue.valuation.calculator.conjugate_gradient", tiring)
    monkeypatch.setattr("undue.valuation.attack.INVALID_LANES_ALLOWED", 1.0)
    found, candidates, *_ = run(replace(PLAN, ranks=(60,)))
    assert found.valid[0].all()
    assert not found.valid[-1].any()
    assert len(candidates.lane) == 0
    assert candidates.theta.shape == (0, 5, 3)


def test_the_second_solve_counts_too(monkeypatch: pytest.MonkeyPatch) -> None:
    def missed(*args: Any, **options: Any) -> Gradient:
        gradient = attack_gradient(*args, **options)
        return replace(gradient, solution=replace(gradient.solution, residual=torch.full((6,), 0.5)))

    monkeypatch.setattr("undue.valuation.attack.attack_gradient", missed)
    monkeypatch.setattr("undue.valuation.attack.INVALID_LANES_ALLOWED", 1.0)
    found = run()[0]
    assert not found.valid.any()
    assert (found.residual[:-1] == 0.5).all()


# Step by step -----------------------------------------------------------------------------------------------

SETS = torch.tensor([[2, 17, 31], [5, 40, 8]])
SET_RATES = torch.tensor([0.01, 0.1, 0.05], dtype=torch.float64)


def begin_walk(
    plan: Plan = PLAN,
    *,
    target: Tensor = SETS,
    dtype: torch.dtype = torch.float64,
    coarse: bool = False,
    begin: Tensor | None = None,
    rates: Tensor = SET_RATES,
) -> tuple[Walk, Calculator]:
    """A walk of lanes with targets (m, L) on the small problem."""
    problem, theta, basis = trained()
    calculator = calculator_of(problem, basis, dtype, coarse=coarse)
    if begin is None:
        begin = starts(theta, plan.radius, target[0].tolist(), seed=0, start=0)
    return Walk(
        calculator, basis, theta.to(dtype), begin.to(dtype), target, rates.to(dtype), plan
    ), calculator


def exact_scores(theta: Tensor, half: str) -> Tensor:
    """Scores (n, L) at an iterate (d, k, L) by definition, in the original features."""
    problem = trained()[0]
    plain = make_calculator(problem)
    return torch.stack(
        [exact_influence(plain, lane, getattr(problem, half)) for lane in theta.double().unbind(dim=2)], dim=1
    )


def exact_ranks(theta: Tensor, half: str, target: Tensor) -> Tensor:
    """Ranks (m, L) of the targets by definition."""
    scores = exact_scores(theta, half)
    own = scores.gather(0, target)
    return (scores[None] >= own[:, None]).sum(dim=1)


def test_targets_are_ranked_one_by_one_and_their_objectives_added() -> None:
    walk, _ = begin_walk(replace(PLAN, tolerance=1e-12))
    for _ in range(4):
        iterate = walk.take(monitor=True)
        score = exact_scores(iterate.theta, "shared")
        expected = sum((PLAN.weights(score, row) * score).sum(dim=0) for row in SETS)
        torch.testing.assert_close(iterate.objective, expected, rtol=1e-8, atol=1e-8)
        assert torch.equal(iterate.rank_shared, exact_ranks(iterate.theta, "shared", SETS))
        assert torch.equal(iterate.rank_pristine, exact_ranks(iterate.theta, "pristine", SETS))


@pytest.mark.parametrize("name", OBJECTIVES)
def test_a_step_follows_the_slope_of_the_sum(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The gradient that Adam is given, by central differences in the original features."""
    given: list[tuple[Tensor, Tensor]] = []

    def spied(self: Adam, gradient: Tensor, learning_rate: Tensor) -> Tensor:
        given.append((gradient.clone(), learning_rate.clone()))
        return step(self, gradient, learning_rate)

    step = Adam.step
    monkeypatch.setattr(Adam, "step", spied)
    weights = OBJECTIVES[name]
    walk, _ = begin_walk(replace(PLAN, weights=weights, tolerance=1e-12, steps=2, drop_at=0.5))
    for number in range(2):
        theta = walk.take(monitor=False).theta
        gradient, rate = given[number]
        torch.testing.assert_close(rate, SET_RATES * (1.0, 0.1)[number])
        score = exact_scores(theta, "shared")
        frozen = weights(score, SETS[0]) + weights(score, SETS[1])
        direction = normal(*theta.shape, seed=number)
        ahead, behind = (exact_scores(theta + sign * 1e-5 * direction, "shared") for sign in (1, -1))
        slope = (frozen * (ahead - behind)).sum(dim=0) / 2e-5
        torch.testing.assert_close((gradient * direction).sum(dim=(0, 1)), slope, rtol=1e-6, atol=1e-6)


def test_the_last_iterate_stays_where_it_is() -> None:
    walk, _ = begin_walk()
    first = walk.take(monitor=False)
    last = walk.take(monitor=False, last=True)
    assert not torch.equal(first.theta, last.theta)
    assert torch.isfinite(first.objective).all()
    assert torch.isnan(last.objective).all()
    again = walk.take(monitor=False, last=True)
    assert torch.equal(last.theta, again.theta)
    assert again.iterations.tolist() == [0, 0, 0]


def test_solves_begin_where_their_last_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where θ does not move, a second step takes no products: for none of the three solves."""
    taken: list[int] = []
    solve = Calculator.solve

    def spied(self: Calculator, at: LinearPoint, b: Tensor, **options: Any) -> Solution:
        solution = solve(self, at, b, **options)
        taken.append(int(solution.iterations.sum()))
        return solution

    monkeypatch.setattr(Calculator, "solve", spied)
    begin = (1.1 * trained()[1]).expand(-1, -1, 3).contiguous()
    walk, _ = begin_walk(begin=begin, rates=torch.zeros(3, dtype=torch.float64))
    for _ in range(2):
        walk.take(monitor=True)
    assert min(taken[:3]) > 0
    assert taken[3:] == [0, 0, 0]


@pytest.mark.parametrize("coarse", [False, True], ids=["float32", "bfloat16"])
@pytest.mark.parametrize("tolerance", [1e-2, 1e-4])
def test_every_solve_of_a_walk_keeps_its_word(
    coarse: bool, tolerance: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each residual, measured afterwards in double precision; and the targets' ranks where they are clear."""
    solves: list[tuple[Tensor, Tensor, Solution]] = []
    done: list[tuple[Tensor, Tensor, Solution]] = []
    solve = Calculator.solve

    def spied(self: Calculator, at: LinearPoint, b: Tensor, **options: Any) -> Solution:
        solution = solve(self, at, b, **options)
        solves.append((at.theta, b, solution))
        return solution

    monkeypatch.setattr(Calculator, "solve", spied)
    walk, calculator = begin_walk(replace(PLAN, tolerance=tolerance), dtype=torch.float32, coarse=coarse)
    iterates = []
    for step in range(6):
        iterate = walk.take(monitor=step % 2 == 0)
        # The step's own two solves, not that for the pristine half.
        first, second = (solution for *_, solution in solves[:2])
        assert torch.equal(iterate.residual, torch.maximum(first.residual, second.residual))
        assert torch.equal(iterate.iterations, first.iterations + second.iterations)
        iterates.append(iterate)
        done.extend(solves)
        solves.clear()
    problem, _, basis = trained()
    double = make_calculator(problem, basis)
    assert len(done) >= 2 * 6 + 3
    for theta, b, solution in done:
        assert bool(solution.converged.all())
        for lane in range(theta.shape[2]):
            hessian = exact_hessian(double, theta[..., lane].double())
            right = b[..., lane].double().reshape(-1)
            left = right - hessian @ solution.x[..., lane].double().reshape(-1)
            true = float(left.norm() / right.norm())
            assert true <= tolerance * 1.02
            assert true == pytest.approx(float(solution.residual[lane]), rel=0.05, abs=2e-6)
        assert solution.projection is not None
        outputs = calculator.problem.train.project(solution.x).outputs
        # Carried along from solve to solve, so that rounding adds up.
        size = float(outputs.abs().max())
        torch.testing.assert_close(solution.projection.outputs, outputs, rtol=0, atol=1e-5 * size)
    assert bool(walk.valid.all())
    for iterate in iterates:
        assert bool((iterate.residual <= tolerance).all())
        score = exact_scores(iterate.theta, "shared")
        own = score.gather(0, SETS)
        # ‖Δu‖ ≤ tolerance ‖b‖ / (λ + δ), and no score moves by more than its gradient's length times that.
        clear = 10 * tolerance * score.abs().amax(dim=0)
        least = 1 + (score[None] > own[:, None] + clear).sum(dim=1)
        most = (score[None] >= own[:, None] - clear).sum(dim=1)
        assert bool(((least <= iterate.rank_shared) & (iterate.rank_shared <= most)).all())


@pytest.mark.parametrize("coarse", [False, True])
def test_copies_take_the_products_of_the_solves(coarse: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """With copies all but the products of the residuals and of the gradient are coarse, without none is."""
    calls: dict[type, int] = {}

    def count(kind: type, product: Callable[..., Tensor]) -> None:
        def counted(*args: Any) -> Tensor:
            calls[kind] += 1
            return product(*args)

        calls[kind] = 0
        monkeypatch.setattr(kind, "hvp", counted)

    count(CoarsePoint, CoarsePoint.hvp)
    count(LinearPoint, LinearPoint.hvp)
    walk, _ = begin_walk(
        replace(PLAN, tolerance=1e-6), target=SETS[:1, :1], rates=SET_RATES[:1], coarse=coarse
    )
    # What came before, the training, does not count.
    calls.update(dict.fromkeys(calls, 0))
    products = int(walk.take(monitor=False).iterations)
    assert products > 6
    if coarse:
        assert calls[CoarsePoint] == products
        assert calls[LinearPoint] <= 2 * solvers.MAX_ROUNDS + 1
    else:
        assert calls[CoarsePoint] == 0
        # The test half's part of the gradient; a cold solve takes no product to begin or to end with.
        assert calls[LinearPoint] == products + 1


def test_a_coarse_operator_that_is_of_no_use_makes_lanes_invalid(monkeypatch: pytest.MonkeyPatch) -> None:
    walk, calculator = begin_walk(dtype=torch.float32, coarse=True)
    assert calculator.copies is not None
    calculator.copies.x.mul_(10)
    iterate = walk.take(monitor=True)
    assert not iterate.valid.any()
    assert not iterate.rank_pristine.any()
    assert bool((iterate.residual > 0.1).all())


def test_where_a_lane_first_hits_it_is_ranked_on_the_pristine_half(monkeypatch: pytest.MonkeyPatch) -> None:
    """As by a dense solve, whichever lanes hit beside it; any of a lane's targets counts, and only once."""
    order = honest_order()
    target = torch.tensor(
        [
            [order[place - 1] for place in places]
            for places in ((51, 21, 41, 9, 31, 13, 60), (56, 36, 46, 41, 59, 31, 58))
        ]
    )
    rates = torch.tensor([0.3, 0.01, 0.1, 0.5, 0.05, 1.0, 0.02], dtype=torch.float64)
    plan = replace(PLAN, ranks=(40, 19), tolerance=1e-11, steps=16)
    walk, calculator = begin_walk(plan, target=target, rates=rates)
    begun: list[Projection | None] = []
    ended: list[Projection | None] = []
    score = Calculator.score

    def spied(
        self: Calculator, at: LinearPoint, test: LinearPoint, **options: Any
    ) -> tuple[Tensor, Solution]:
        values, solution = score(self, at, test, **options)
        if test.risk is calculator.problem.pristine:
            begun.append(options["start"])
            ended.append(solution.projection)
        return values, solution

    monkeypatch.setattr(Calculator, "score", spied)
    hits, done = [], torch.zeros(7, dtype=torch.bool)
    whole = None
    for step in range(10):
        monitored = step in (0, 5)
        iterate = walk.take(monitor=monitored)
        hit = (iterate.rank_shared <= 19).any(dim=0)
        wanted = (hit & ~done) | monitored
        expected = exact_ranks(iterate.theta, "pristine", target)
        assert torch.equal(iterate.rank_pristine, torch.where(wanted, expected, 0))
        done |= hit
        hits.append(hit)
        # One solve, of the wanted lanes alone, from what was last found for all.
        assert len(begun) == int(wanted.any())
        if begun and whole is not None:
            (start,) = begun
            assert start is not None
            assert torch.equal(start.vector, whole.vector[..., wanted])
            assert torch.equal(start.outputs, whole.outputs[..., wanted])
        if monitored:
            whole = ended[0]
        begun.clear()
        ended.clear()
    # Some hit at once, some later, together or alone; one leaves and comes back; one never does.
    first = [next((step for step, hit in enumerate(hits) if hit[lane]), None) for lane in range(7)]
    assert first == [2, 0, 0, 1, 1, 1, None]
    assert [bool(hit[0]) for hit in hits[2:9]] == [True, False, False, False, False, True, True]


def test_a_rank_that_was_not_solved_for_is_not_told(monkeypatch: pytest.MonkeyPatch) -> None:
    """The pristine half's solve misses its tolerance in a lane: no rank there, and nothing else."""
    score = Calculator.score
    walk, calculator = begin_walk()

    def missing(
        self: Calculator, at: LinearPoint, test: LinearPoint, **options: Any
    ) -> tuple[Tensor, Solution]:
        values, solution = score(self, at, test, **options)
        if test.risk is calculator.problem.pristine:
            residual = solution.residual.clone()
            residual[1] = 0.5
            solution = replace(solution, residual=residual)
        return values, solution

    monkeypatch.setattr(Calculator, "score", missing)
    iterate = walk.take(monitor=True)
    assert (iterate.rank_pristine > 0).tolist() == [[True, False, True]] * 2
    assert bool(iterate.valid.all())
    assert bool((iterate.residual <= PLAN.tolerance).all())


# Corners ----------------------------------------------------------------------------------------------------


def honest_order() -> list[int]:
    """Training rows by their score at θ*, the highest first."""
    order: list[int] = torch.argsort(exact_scores(trained()[1], "shared")[:, 0], descending=True).tolist()
    return order


@pytest.mark.parametrize("name", OBJECTIVES)
def test_a_target_that_is_at_the_top_already(name: str) -> None:
    """It hits at once, stands above nobody's wish, and with S empty only its own score is raised."""
    top = honest_order()[0]
    theta = trained()[1]
    plan = replace(PLAN, weights=OBJECTIVES[name], steps=6, tolerance=1e-10, first_hit=True)
    lanes = [Lane(top, 0.01)]
    found, candidates, *_ = run(plan, lanes=lanes, begin=theta.clone())
    assert found.valid.all()
    assert found.rank_shared[0, 0] == 1
    assert found.rank_pristine[0, 0] == int(exact_ranks(theta, "pristine", torch.tensor([[top]])))
    assert found.distance[0, 0] == 0
    assert candidates.step.tolist() == [0, 0]
    assert np.isfinite(found.objective[:-1]).all()
    expected = reference(make_calculator(make_problem()), theta[..., 0], theta[..., 0], lanes[0], plan)
    np.testing.assert_allclose(found.objective[:-1, 0], expected["objective"][:-1], rtol=1e-6)
    score = exact_scores(theta, "shared")[:, 0]
    if name == "min_higher":
        assert found.objective[0, 0] == pytest.approx(-float(score[top]), rel=1e-8)


def test_a_target_that_is_its_classs_only_member() -> None:
    problem = make_problem()
    y = problem.train.y.clone()
    y[y == 2] = 0
    y[7] = 2
    problem = replace(problem, train=replace(problem.train, y=y))
    theta = train(problem.train, l2=0.01, regularise_bias=True, gradient_norm=1e-9).theta
    basis = Eigenbasis.of(problem.train.x)
    plan = replace(PLAN, steps=4, tolerance=1e-12, monitor_every=1)
    begin = starts(theta, plan.radius, [7], seed=0, start=0)
    lane = Lane(7, 0.1)
    found, _ = attack(make_calculator(problem, basis), basis, theta, begin, [lane], plan)
    expected = reference(make_calculator(problem), theta[..., 0], begin[..., 0], lane, plan)
    assert found.valid.all()
    np.testing.assert_allclose(found.objective[:-1, 0], expected["objective"][:-1], rtol=1e-5)
    for column in ("distance", "accuracy_shared", "accuracy_pristine"):
        np.testing.assert_allclose(getattr(found, column)[:, 0], expected[column], rtol=1e-6)
    for column in ("rank_shared", "rank_pristine"):
        assert getattr(found, column)[:, 0].tolist() == expected[column].tolist()


# What is kept -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("memory", [1e9, memory_for(4)])
def test_the_published_codes_rule(memory: float) -> None:
    """The first iterate with rank ≤ min(ranks), else the last; it counts for all k that it reaches."""
    plan = replace(PLAN, steps=30, ranks=(40, 5, 12), first_hit=True, memory=memory)
    lanes = [Lane(row, rate) for row in (2, 17, 31, 50, 8) for rate in (0.01, 0.1)]
    found, candidates, _, _, theta = run(plan, lanes=lanes)
    expected = {}
    ends = []
    for lane in range(len(lanes)):
        ranks = found.rank_shared[:, lane].tolist()
        step = next((step for step in range(31) if ranks[step] <= 5), 30)
        ends.append(min(ranks) <= 5)
        for k in plan.ranks:
            if ranks[step] <= k:
                expected[lane, k] = step
    keys = list(zip(candidates.lane.tolist(), candidates.k.tolist(), strict=True))
    assert dict(zip(keys, candidates.step.tolist(), strict=True)) == expected
    assert len(keys) == len(expected)
    assert {True, False} == set(ends)
    models = torch.from_numpy(candidates.theta).permute(1, 2, 0)
    distance = norm(models - theta) / norm(theta)
    np.testing.assert_allclose(distance, found.distance[candidates.step, candidates.lane], rtol=1e-10)
    # The other rule keeps others.
    accurate = run(replace(plan, first_hit=False), lanes=lanes)[1]
    assert accurate.step.tolist() != candidates.step.tolist()


def test_the_best_is_the_first_of_the_highest_eligible() -> None:
    best = Best(torch.zeros(2, 1, 4))
    assert best.step.tolist() == [-1] * 4
    offers = [
        ([0.5, 0.9, 0.2, 0.1], [True, False, True, False]),
        ([0.5, 0.8, 0.7, 0.9], [True, True, True, False]),
        ([0.6, 0.8, 0.1, 1.0], [False, True, True, False]),
    ]
    for number, (merit, eligible) in enumerate(offers):
        theta = torch.full((2, 1, 4), float(number))
        best.offer(theta, torch.tensor(merit).double(), torch.tensor(eligible))
        theta.fill_(torch.nan)
    assert best.step.tolist() == [0, 1, 1, -1]
    assert best.theta[0, 0].tolist() == [0.0, 1.0, 1.0, 0.0]
    assert best.merit.tolist() == pytest.approx([0.5, 0.8, 0.7, -np.inf])


def test_one_invalid_lane_of_a_hundred_is_a_warning(caplog: pytest.LogCaptureFixture) -> None:
    warn_of_invalid(0, 100)
    assert not caplog.text
    warn_of_invalid(1, 100)
    assert "1 of 100 lanes are invalid" in caplog.text
    for few in (0, 1):
        refuse_invalid(few, 100, 1e-3)
        refuse_invalid(few, 2, 1e-3)
    with pytest.raises(UserError, match=r"2% of the attacks .* 0\.001"):
        refuse_invalid(2, 100, 1e-3)


def test_tables_hold_what_the_arrays_do(tmp_path: Path) -> None:
    plan = replace(PLAN, ranks=(40,))
    found, candidates, *_ = run(plan)
    sample = 100 + TARGETS
    table = trajectory_table(found, sample, RATES)
    assert list(table.columns) == list(TRAJECTORY_COLUMNS)
    assert len(table) == 13 * 6
    for lane in range(6):
        rows = table[(table["target"] == sample[lane]) & (table["learning_rate"] == RATES[lane])]
        assert rows["step"].tolist() == list(range(13))
        assert rows["rank_shared"].tolist() == found.rank_shared[:, lane].tolist()
        assert rows["distance"].tolist() == found.distance[:, lane].tolist()
    kept = candidate_table(candidates, found, sample, RATES)
    assert list(kept.columns) == list(CANDIDATE_COLUMNS)
    merged = kept.merge(table, on=["target", "learning_rate", "step"], suffixes=("", "_of_step"))
    assert len(merged) == len(kept) > 0
    assert (merged["accuracy_shared"] == merged["accuracy_shared_of_step"]).all()
    assert (merged["rank_shared"] <= 40).all()
    assert kept["theta"].tolist() == list(range(len(kept)))
    write_table(tmp_path / "trajectory.parquet", TRAJECTORY_COLUMNS, table)
    write_table(tmp_path / "candidates.parquet", CANDIDATE_COLUMNS, kept)
