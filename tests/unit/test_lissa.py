"""LiSSA against the Neumann series that it estimates, and its ways to fail."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from networks import as_module, draw, flat, make_net_risk, objective_of
from problems import LINKS, make_risk, normal
from torch import Tensor

from undue.calculus.factor import dense
from undue.calculus.lanes import norm
from undue.calculus.linear import LinearRisk, Link, Logistic, Softmax
from undue.calculus.lissa import (
    PUBLISHED,
    MiniBatches,
    Recipe,
    curvature_bound,
    lissa,
    mini_batches,
)
from undue.calculus.objective import Objective
from undue.calculus.risk import Risk
from undue.calculus.solvers import Operator, Solution, dense_matrix
from undue.errors import UserError

# Of torch's own making, at the first use of forward-mode derivatives.
pytestmark = pytest.mark.filterwarnings("ignore:`torch.jit.script` is deprecated")

ROOT = Path(__file__).resolve().parents[2]
L2, DAMPING = 0.05, 0.2

links = pytest.mark.parametrize("link", LINKS, ids=lambda link: type(link).__name__)


def operators(risk: Risk, theta: Tensor, damping: float = DAMPING) -> tuple[Operator, MiniBatches]:
    """H_δ and the mini-batches' Hessians."""
    objective = objective_of(risk, L2)
    point: Any = risk.at(theta)
    return objective.hessian(point, damping), mini_batches(objective, theta, damping)


def estimate(
    risk: Risk, theta: Tensor, b: Tensor, recipe: Recipe, *, seed: int = 0, **options: Any
) -> Solution:
    operator, batches = operators(risk, theta, options.pop("damping", DAMPING))
    draws = np.random.default_rng(seed)
    options = {"tolerance": 1e-6, **options}
    return lissa(operator, batches, b, samples=risk.samples, recipe=recipe, generator=draws, **options)


def neumann(matrix: Tensor, b: Tensor, depth: int, scale: float, start: Tensor) -> Tensor:
    """The series, term by term: (I − H/s)ᵗ x₀ + Σ_{j<t} (I − H/s)ʲ b/s."""
    shrink = torch.eye(len(matrix)).double() - matrix / scale
    total = torch.linalg.matrix_power(shrink, depth) @ start.reshape(-1)
    for j in range(depth):
        total = total + torch.linalg.matrix_power(shrink, j) @ b.reshape(-1) / scale
    answer: Tensor = total.view_as(b)
    return answer


def batch_hessian(risk: LinearRisk, theta: Tensor, rows: Tensor) -> Tensor:
    """The mean Hessian of some rows (p, p), without λ and δ."""
    point = risk.rows(rows).at(theta)
    each = theta.new_full((len(rows),), 1 / len(rows))
    return dense_matrix(lambda v: point.hvp(v, each), theta)


@links
def test_all_rows_make_the_neumann_series(link: Link) -> None:
    risk = make_risk(link)
    theta, b = draw(risk, 2), draw(risk, 2, seed=5)
    recipe = Recipe(batch=risk.samples, depth=12, repeats=2, scale=40.0)
    for start in (None, draw(risk, 2, seed=6)):
        found = estimate(risk, theta, b, recipe, start=start)
        for lane in range(2):
            part = slice(lane, lane + 1)
            matrix = dense_matrix(operators(risk, theta[..., part])[0], b[..., part])
            begin = (b / recipe.scale if start is None else start)[..., part]
            expected = neumann(matrix, b[..., part], 12, recipe.scale, begin)
            torch.testing.assert_close(found.x[..., part], expected, rtol=1e-10, atol=1e-12)
        assert found.iterations.tolist() == [24, 24]


@pytest.mark.parametrize("scale", [30.0, 90.0])
def test_the_scale_does_not_change_what_is_solved(scale: float) -> None:
    """Damping belongs to H_δ: a long enough series is the dense solve, whatever the scale."""
    risk = make_risk(Softmax())
    theta, b = draw(risk, 1), draw(risk, 1, seed=5)
    exact = dense(operators(risk, theta, 2.0)[0], b, tolerance=1e-12)
    found = estimate(risk, theta, b, Recipe(risk.samples, 800, 1, scale), damping=2.0)
    assert bool(found.converged.all())
    torch.testing.assert_close(found.x, exact.x, rtol=1e-5, atol=1e-7)


def test_mini_batches_average_to_the_hessian() -> None:
    """With weights and λ of each lane."""
    risk = make_risk(Softmax())
    theta, v = draw(risk, 2), draw(risk, 2, seed=5)
    weights = normal(risk.samples, 2, seed=3).abs()
    objective = Objective(risk, torch.tensor([0.1, 0.7]).double(), weights, regularise_bias=False)
    batches = mini_batches(objective, theta, DAMPING)
    products = [batches(rows)(v) for rows in torch.arange(risk.samples)[:, None]]
    expected = objective.hessian(risk.at(theta), DAMPING)(v)
    torch.testing.assert_close(torch.stack(products).mean(dim=0), expected, rtol=1e-10, atol=1e-12)


def test_in_expectation_it_is_the_series_of_the_mean() -> None:
    """Single rows as mini-batches; the mean of many estimates within four standard errors."""
    risk = make_risk(Logistic(), d=3)
    theta, b = draw(risk, 1), draw(risk, 1, seed=5)
    scale, depth = curvature_bound(risk, theta, 1) + L2 + DAMPING, 15
    matrix = dense_matrix(operators(risk, theta)[0], b)
    expected = neumann(matrix, b, depth, scale, b / scale)
    found = torch.stack(
        [estimate(risk, theta, b, Recipe(1, depth, 1, scale), seed=seed).x for seed in range(200)]
    )
    error = found.std(dim=0) / len(found) ** 0.5
    assert bool((error < 0.1 * expected.abs().max()).all())
    assert bool(((found.mean(dim=0) - expected).abs() < 4 * error).all())


def test_repeats_are_averaged_and_shrink_the_noise() -> None:
    risk = make_risk(Softmax(), n=60)
    theta, b = draw(risk, 1), draw(risk, 1, seed=5)
    scale = curvature_bound(risk, theta, 4) + L2 + 2.0
    exact = dense(operators(risk, theta, 2.0)[0], b, tolerance=1e-12).x

    def error(repeats: int) -> float:
        recipe = Recipe(4, 120, repeats, scale)
        found = [estimate(risk, theta, b, recipe, seed=seed, damping=2.0).x for seed in range(4)]
        return sum(float(norm(x - exact)) ** 2 for x in found)

    assert error(8) < 0.4 * error(1)


def test_the_residual_is_the_true_one() -> None:
    risk = make_risk(Softmax())
    theta, b = draw(risk, 2), draw(risk, 2, seed=5)
    b[..., 1] = 0
    found = estimate(risk, theta, b, Recipe(5, 50, 1, 60.0), tolerance=1e-3)
    actual = norm(b - operators(risk, theta)[0](found.x))
    torch.testing.assert_close(found.residual, actual / torch.tensor([float(norm(b)[0]), 1.0]))
    assert found.converged.tolist() == [False, True]
    assert found.tolerance == 1e-3


def test_the_same_draws_give_the_same_answer() -> None:
    risk = make_risk(Softmax())
    theta, b = draw(risk, 1), draw(risk, 1, seed=5)
    recipe = Recipe(5, 50, 1, 60.0)
    first, again, other = (estimate(risk, theta, b, recipe, seed=seed).x for seed in (1, 1, 2))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_a_network_that_is_a_linear_head() -> None:
    risk = make_risk(Softmax())
    theta, b = draw(risk, 2), draw(risk, 2, seed=5)
    recipe = Recipe(5, 10, 1, 60.0)
    closed = estimate(risk, theta, b, recipe)
    network = estimate(as_module(risk), flat(theta), flat(b), recipe)
    torch.testing.assert_close(network.x, flat(closed.x), rtol=1e-10, atol=1e-12)


# The scale --------------------------------------------------------------------------------------------------


@links
@pytest.mark.parametrize("batch", [1, 3, 100])
def test_the_bound_holds_for_every_mini_batch(link: Link, batch: int) -> None:
    risk = make_risk(link)
    theta = draw(risk, 1)
    bound = curvature_bound(risk, theta, batch)
    size = min(batch, risk.samples)
    draws = np.random.default_rng(0)
    sets = [draws.choice(risk.samples, size, replace=False) for _ in range(60)]
    if batch == 1:
        sets = [np.array([row]) for row in range(risk.samples)]
    largest = max(
        float(torch.linalg.eigvalsh(batch_hessian(risk, theta, torch.from_numpy(rows)))[-1]) for rows in sets
    )
    assert largest <= bound * (1 + 1e-12)
    if batch == 1 and not isinstance(link, Softmax):
        assert largest == pytest.approx(bound)


def test_the_bound_is_over_all_lanes_and_grows_as_batches_shrink() -> None:
    risk = make_risk(Softmax(), n=60)
    theta = draw(risk, 3)
    alone = [curvature_bound(risk, theta[..., [lane]], 4) for lane in range(3)]
    assert curvature_bound(risk, theta, 4) == pytest.approx(max(alone))
    bounds = [curvature_bound(risk, theta, batch) for batch in (1, 4, 60)]
    assert bounds == sorted(bounds, reverse=True)


@pytest.mark.parametrize("seed", range(5))
def test_with_the_bound_as_scale_nothing_diverges(seed: int) -> None:
    risk = make_risk(Softmax(), n=40)
    theta, b = draw(risk, 2), draw(risk, 2, seed=5)
    scale = curvature_bound(risk, theta, 1) + L2 + DAMPING
    found = estimate(risk, theta, b, Recipe(1, 200, 1, scale), seed=seed)
    assert bool((norm(found.x) <= norm(b) / (L2 + DAMPING)).all())


def test_a_scale_that_bounds_the_mean_alone_diverges_and_says_so() -> None:
    """The mean Hessian is well below the scale, single rows are far beyond it."""
    risk = make_risk(Softmax(), n=40)
    rows = risk.x.clone()
    rows[::4] *= 12
    risk = LinearRisk(rows, risk.y, risk.classes, risk.link)
    theta, b = 0.05 * draw(risk, 2), draw(risk, 2, seed=5)
    mean = max(
        float(torch.linalg.eigvalsh(dense_matrix(operators(risk, theta[..., [i]])[0], b[..., [i]]))[-1])
        for i in range(2)
    )
    with pytest.raises(UserError) as caught:
        estimate(risk, theta, b, Recipe(1, 500, 1, mean), key="influence.lissa.scale")
    error = caught.value
    assert error.where == "influence.lissa.scale"
    assert f"with scale {mean:g}" in error.what
    assert "raise the scale" in error.remedy
    stated = float(error.what.split("eigenvalue of ")[1].split(" ")[0])
    assert 1.9 * mean < stated <= 1.1 * (curvature_bound(risk, theta, 1) + L2 + DAMPING)


def test_negative_curvature_diverges_and_asks_for_damping() -> None:
    risk = make_net_risk(n=30)
    theta, b = draw(risk, 1), draw(risk, 1, seed=5)
    lowest = float(torch.linalg.eigvalsh(dense_matrix(operators(risk, theta, 0.0)[0], b))[0])
    assert lowest < -0.05
    with pytest.raises(UserError, match="no scale helps") as caught:
        estimate(risk, theta, b, Recipe(30, 3000, 1, 20.0), damping=0.0)
    stated = float(caught.value.remedy.split("more than ")[1].split(";")[0])
    assert 0 < stated <= -lowest * 1.1


def test_a_product_that_is_not_finite() -> None:
    risk = make_risk(Softmax())
    theta, b = draw(risk, 1), draw(risk, 1, seed=5)
    theta[0, 0] = torch.nan
    with pytest.raises(FloatingPointError, match="not finite"):
        estimate(risk, theta, b, Recipe(5, 3, 1, 60.0))


def test_the_published_recipe_is_the_config_s() -> None:
    schema = yaml.safe_load((ROOT / "workflow/schemas/config.schema.yaml").read_text(encoding="utf-8"))
    attack = schema["properties"]["attack"]["properties"]
    batch, depth, scale = (attack[f"lissa_{name}"]["default"] for name in ("batch", "depth", "scale"))
    assert Recipe(batch=batch, depth=depth, repeats=1, scale=scale) == PUBLISHED
