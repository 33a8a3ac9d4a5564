"""Training against scipy, scikit-learn and plain torch."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import scipy.optimize
import torch
from problems import LINKS, losses, make_risk, make_theta
from sklearn.linear_model import LogisticRegression
from torch import Tensor
from torch.func import grad

from undue.calculus import newton as newton_module
from undue.calculus.factor import Nearby
from undue.calculus.linear import LinearRisk, Link, Logistic, Softmax
from undue.calculus.newton import Minimum, newton
from undue.calculus.objective import Objective
from undue.calculus.solvers import Solution, conjugate_gradient
from undue.data.split import stratified_folds
from undue.errors import UserError
from undue.training import CrossValidation, cross_validate, train, train_as_published

links = pytest.mark.parametrize("link", LINKS, ids=lambda link: type(link).__name__)
biases = pytest.mark.parametrize("regularise_bias", [True, False], ids=["bias", "no bias"])


def minimise(objective: Objective[LinearRisk], lanes: int = 1, **options: float) -> Minimum:
    """Newton's method from zero, in the features as they are."""
    x = objective.risk.x
    zero = x.new_zeros(*objective.risk.shape, lanes)
    return newton(objective, zero, moments=x.square().mean(dim=0), **{"gradient_norm": 1e-10} | options)  # type: ignore[arg-type]


def by_scipy(risk: LinearRisk, l2: float, regularise_bias: bool) -> Tensor:
    """The minimiser (d, k) by scipy's trust region method on autograd's derivatives."""

    def value(flat: Tensor) -> Tensor:
        theta = flat.view(risk.shape)
        penalised = theta if regularise_bias else theta[:-1]
        return losses(risk)(theta).mean() + l2 / 2 * penalised.square().sum()

    found = scipy.optimize.minimize(
        lambda flat: float(value(torch.from_numpy(flat))),
        np.zeros(risk.shape[0] * risk.shape[1]),
        jac=lambda flat: grad(value)(torch.from_numpy(flat)).numpy(),
        method="BFGS",
        options={"gtol": 1e-9, "maxiter": 5000},
    )
    return torch.from_numpy(found.x).view(risk.shape)


def level(theta: Tensor, link: Link) -> Tensor:
    """θ with the biases' common level, which a softmax leaves open unless regularised, set to zero."""
    if not isinstance(link, Softmax):
        return theta
    return torch.cat([theta[:-1], theta[-1:] - theta[-1:].mean(dim=1, keepdim=True)])


@links
@biases
def test_the_minimiser_is_scipys(link: Link, regularise_bias: bool) -> None:
    risk = make_risk(link, n=40)
    found = minimise(Objective(risk, 0.05, regularise_bias=regularise_bias))
    assert float(found.gradient_norm) <= 1e-10
    expected = by_scipy(risk, 0.05, regularise_bias)
    torch.testing.assert_close(level(found.theta[..., 0], link), level(expected, link), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("link", [Softmax(), Logistic()], ids=["softmax", "logistic"])
@biases
@pytest.mark.parametrize("l2", [1e-3, 0.1])
def test_training_agrees_with_scikit_learn(link: Link, regularise_bias: bool, l2: float) -> None:
    """scikit-learn minimises CΣℓ + ‖w‖²/2 and never penalises its own intercept: C = 1/(nλ)."""
    risk = make_risk(link, n=60)
    found = train(risk, l2=l2, regularise_bias=regularise_bias, gradient_norm=1e-9)
    model = LogisticRegression(
        C=1 / (risk.samples * l2),
        fit_intercept=not regularise_bias,
        solver="newton-cg",
        tol=1e-10,
        max_iter=10_000,
    )
    x = risk.x.numpy() if regularise_bias else risk.x[:, :-1].numpy()
    expected = model.fit(x, risk.y.numpy()).predict_proba(x)
    z = risk.x @ found.theta[..., 0]
    ours = torch.softmax(z if isinstance(link, Softmax) else torch.cat([-z / 2, z / 2], dim=1), dim=1)
    np.testing.assert_allclose(ours.numpy(), expected, rtol=0, atol=1e-6)
    if regularise_bias and isinstance(link, Softmax):
        np.testing.assert_allclose(found.theta[..., 0].T.numpy(), model.coef_, rtol=1e-4, atol=1e-5)


@links
def test_the_stated_gradient_norm_is_reached_and_true(link: Link) -> None:
    risk = make_risk(link, n=40)
    for wanted in (1e-2, 1e-5, 1e-9):
        found = train(risk, l2=1e-3, regularise_bias=True, gradient_norm=wanted)
        assert found.theta.dtype == torch.float64
        assert float(found.gradient_norm) <= wanted

        def value(theta: Tensor) -> Tensor:
            return losses(risk)(theta).mean() + 1e-3 / 2 * theta.square().sum()

        true = grad(value)(found.theta[..., 0]).norm()
        torch.testing.assert_close(true[None], found.gradient_norm, rtol=1e-3, atol=1e-13)


@links
@biases
def test_rotated_features_have_the_same_minimiser(link: Link, regularise_bias: bool) -> None:
    risk = make_risk(link, n=40)
    plain = minimise(Objective(risk, 0.01, regularise_bias=regularise_bias), gradient_norm=1e-11).theta
    trained = train(risk, l2=0.01, regularise_bias=regularise_bias, gradient_norm=1e-11).theta
    torch.testing.assert_close(level(trained, link), level(plain, link), rtol=1e-7, atol=1e-8)


def test_training_takes_single_precision_features_to_double() -> None:
    risk = make_risk(Softmax(), n=40).to(torch.float32)
    found = train(risk, l2=0.01, regularise_bias=True, gradient_norm=1e-10)
    exact = train(risk.to(torch.float64), l2=0.01, regularise_bias=True, gradient_norm=1e-10)
    torch.testing.assert_close(found.theta, exact.theta, rtol=1e-8, atol=1e-9)


def test_a_warm_start_takes_fewer_steps() -> None:
    risk = make_risk(Softmax(), n=40)
    cold = train(risk, l2=0.01, regularise_bias=True, gradient_norm=1e-9)
    warm = train(
        risk, l2=0.01, regularise_bias=True, gradient_norm=1e-9, start=cold.theta + 1e-5 * make_theta(risk, 1)
    )
    again = train(risk, l2=0.01, regularise_bias=True, gradient_norm=1e-9, start=cold.theta)
    assert again.steps == 0
    assert 0 < warm.steps < cold.steps
    torch.testing.assert_close(warm.theta, cold.theta, rtol=1e-6, atol=1e-6)


def test_a_near_hessian_leaves_few_products(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without one sample, from the minimiser with all: the same answer, after a fraction of the products."""
    risk = make_risk(Softmax(), n=300, d=30, classes=4)
    whole = Objective(risk, 1e-3)
    theta = minimise(whole).theta
    kept = torch.full((300,), 1 / 300, dtype=torch.float64)
    kept[17] = 0
    without = replace(whole, weights=kept)
    used: list[int] = []

    def counting(*arguments: Any, **options: Any) -> Solution:
        solution = conjugate_gradient(*arguments, **options)
        used.append(int(solution.iterations.max()))
        return solution

    monkeypatch.setattr(newton_module, "conjugate_gradient", counting)
    options: dict[str, Any] = {"moments": risk.x.square().mean(dim=0), "gradient_norm": 1e-10}
    plain, plainly = newton(without, theta, **options), sum(used)
    used.clear()
    near = newton(without, theta, preconditioner=Nearby.of(whole, theta), **options)
    torch.testing.assert_close(near.theta, plain.theta, rtol=1e-6, atol=1e-8)
    assert float(near.gradient_norm) <= 1e-10
    assert sum(used) < plainly / 3


def test_a_far_start_is_brought_back_by_the_line_search() -> None:
    """Full Newton steps diverge from where the model is saturated."""
    risk = make_risk(Logistic(), n=40)
    found = newton(
        Objective(risk, 1e-4),
        make_theta(risk, 1, scale=50.0),
        moments=risk.x.square().mean(dim=0),
        gradient_norm=1e-9,
    )
    best = minimise(Objective(risk, 1e-4), gradient_norm=1e-9)
    torch.testing.assert_close(found.theta, best.theta, rtol=1e-4, atol=1e-5)


@links
def test_weights_of_zero_and_one_are_a_fit_on_the_subset(link: Link) -> None:
    risk = make_risk(link, n=40)
    kept = torch.ones(40, 2, dtype=torch.float64)
    kept[::3, 0] = 0
    kept[1::4, 1] = 0
    together = minimise(Objective(risk, 0.02, kept / kept.sum(dim=0)), lanes=2)
    for lane in range(2):
        part = risk.rows(torch.nonzero(kept[:, lane])[:, 0])
        alone = minimise(Objective(part, 0.02))
        torch.testing.assert_close(together.theta[..., lane], alone.theta[..., 0], rtol=1e-6, atol=1e-8)


def test_lanes_have_their_own_l2_and_stand_still_when_they_arrive() -> None:
    risk = make_risk(Softmax(), n=40)
    l2 = torch.tensor([1.0, 1e-2, 1e-4], dtype=torch.float64)
    together = minimise(Objective(risk, l2), lanes=3)
    assert bool((together.gradient_norm <= 1e-10).all())
    for lane in range(3):
        alone = minimise(Objective(risk, float(l2[lane])))
        torch.testing.assert_close(together.theta[..., lane], alone.theta[..., 0], rtol=1e-6, atol=1e-8)
        # Rounding may decide whether a last step is needed.
        assert alone.steps <= together.steps + 1


def test_separable_data_with_a_small_l2() -> None:
    risk = make_risk(Softmax(), n=12, d=20)
    found = train(risk, l2=1e-7, regularise_bias=True, gradient_norm=1e-9)
    assert float(risk.at(found.theta).accuracy()) == 1.0
    assert float(found.gradient_norm) <= 1e-9


def test_giving_up_is_told_by_the_gradient_norm() -> None:
    found = minimise(Objective(make_risk(Softmax(), n=40), 1e-3), max_steps=1)
    assert found.steps == 1
    assert float(found.gradient_norm) > 1e-10


def test_a_gradient_norm_out_of_reach() -> None:
    with pytest.raises(UserError, match="above the 1e-30 asked for") as caught:
        train(make_risk(Softmax()), l2=0.01, regularise_bias=True, gradient_norm=1e-30)
    assert caught.value.where == "model.gradient_norm"


def test_features_that_are_not_numbers_are_no_minimum() -> None:
    risk = make_risk(Softmax())
    risk.x[3, 1] = torch.inf
    with pytest.raises(RuntimeError, match="eigh"):
        train(risk, l2=0.01, regularise_bias=True, gradient_norm=1e-9)


@biases
def test_cross_validation_is_what_a_plain_loop_finds(regularise_bias: bool) -> None:
    """Every fold fitted by scikit-learn, one after another."""
    risk = make_risk(Softmax(), n=60, seed=5)
    grid = (1e-4, 1e-2, 1e-1, 1.0)
    found = cross_validate(
        risk, grid[::-1], folds=3, regularise_bias=regularise_bias, generator=np.random.default_rng(7)
    )
    fold = stratified_folds(risk.y.numpy(), 3, np.random.default_rng(7))
    x = risk.x.numpy() if regularise_bias else risk.x[:, :-1].numpy()
    expected = []
    for l2 in grid:
        total = 0.0
        for number in range(3):
            kept = fold != number
            model = LogisticRegression(
                C=1 / (kept.sum() * l2), fit_intercept=not regularise_bias, tol=1e-8, max_iter=10_000
            )
            model.fit(x[kept], risk.y.numpy()[kept])
            each = model.predict_log_proba(x[~kept])
            total -= each[np.arange(len(each)), risk.y.numpy()[~kept]].sum()
        expected.append(total / 60)
    assert found.l2 == grid
    np.testing.assert_allclose(found.log_loss, expected, rtol=1e-3)
    assert found.best == grid[int(np.argmin(expected))]
    assert found.best not in (grid[0], grid[-1])


def test_the_best_l2_is_the_one_with_the_lowest_loss() -> None:
    assert CrossValidation((0.1, 0.2, 0.3), (1.0, 0.5, 0.5)).best == 0.2


@biases
def test_cross_validation_with_a_class_of_one_sample(regularise_bias: bool) -> None:
    """Its fold is judged by a model that has never seen the class."""
    risk = make_risk(Softmax(), n=40)
    y = risk.y % 2
    y[11] = 2
    found = cross_validate(
        replace(risk, y=y).to(torch.float32),
        (1e-3, 1e-1),
        folds=4,
        regularise_bias=regularise_bias,
        generator=np.random.default_rng(0),
    )
    assert np.isfinite(found.log_loss).all()


def test_a_fold_that_is_not_solved_is_told(caplog: pytest.LogCaptureFixture) -> None:
    def run(risk: LinearRisk) -> None:
        cross_validate(risk, (0.1,), folds=3, regularise_bias=True, generator=np.random.default_rng(0))

    run(make_risk(Softmax()))
    assert not [record for record in caplog.records if record.levelname == "WARNING"]
    # Rounding errors of products with features of this size exceed the gradient norm.
    huge = make_risk(Softmax())
    run(LinearRisk(huge.x.float() * 1e6, huge.y, huge.classes))
    assert [record for record in caplog.records if "a fold stopped at a gradient norm of" in record.message]


def test_cross_validation_is_the_same_in_single_precision() -> None:
    risk = make_risk(Softmax(), n=60, seed=5)

    def log_loss(of: LinearRisk) -> tuple[float, ...]:
        return cross_validate(
            of, (1e-3, 1e-2), folds=3, regularise_bias=True, generator=np.random.default_rng(7)
        ).log_loss

    np.testing.assert_allclose(log_loss(risk.to(torch.float32)), log_loss(risk), rtol=1e-4)


def test_the_published_recipe_is_plain_sgd() -> None:
    risk = make_risk(Softmax(), n=50)
    theta = train_as_published(risk, np.random.default_rng(3), epochs=4, batch=16, learning_rate=0.05)
    model = torch.nn.Linear(3, 3, dtype=torch.float64)
    torch.nn.init.zeros_(model.weight)
    torch.nn.init.zeros_(model.bias)
    optimiser = torch.optim.SGD(model.parameters(), lr=0.05)
    orders = np.random.default_rng(3)
    for _ in range(4):
        order = orders.permutation(50)
        for first in range(0, 50, 16):
            rows = order[first : first + 16]
            optimiser.zero_grad()
            loss = torch.nn.functional.cross_entropy(model(risk.x[rows, :-1]), risk.y[rows])
            loss.backward()  # type: ignore[no-untyped-call]
            optimiser.step()
    expected = torch.cat([model.weight.T, model.bias[None]]).detach()
    assert theta.shape == (4, 3, 1)
    torch.testing.assert_close(theta[..., 0], expected, rtol=1e-10, atol=1e-12)


def test_the_published_recipe_does_not_depend_on_the_precision_of_features() -> None:
    risk = make_risk(Softmax(), n=50).to(torch.float32)
    single = train_as_published(risk, np.random.default_rng(3), epochs=2)
    double = train_as_published(risk.to(torch.float64), np.random.default_rng(3), epochs=2)
    assert single.dtype == torch.float64
    assert torch.equal(single, double)
