"""Base models, metrics, surrogates and influences, against independent computations."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from fairness_problems import METRICS, losses, make_pipeline, make_problem, probability
from real_data import mirror
from sklearn.linear_model import LogisticRegression

from undue.calculus.functional import Functional
from undue.calculus.linear import Logistic
from undue.errors import UserError
from undue.fairness.encode import encode
from undue.fairness.influence import removal
from undue.fairness.logistic import Curvature, fit
from undue.fairness.metrics import (
    Metric,
    accuracy,
    bootstrap,
    calibration_error,
    contrast,
    log_loss,
    signed_gap,
)
from undue.fairness.problem import Part, Problem, make_part
from undue.fairness.surrogates import SoftPrediction, soft_gap, soft_rate, unfairness, utility
from undue.fairness.tables import read_table


def hard_gap(x: np.ndarray, y: np.ndarray, group: np.ndarray, predicted: np.ndarray, metric: Metric) -> float:
    """The gap, written out."""
    whom = np.ones_like(y, dtype=bool) if metric == "demographic_parity" else y == 1
    return float(predicted[whom & (group == 1)].mean() - predicted[whom & (group == 0)].mean())


# Fitting ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("l2", [0.1, 2.0, 50.0])
def test_base_models_are_scikit_learn_s(l2: float) -> None:
    problem = make_problem(l2=l2)
    found = fit(problem.objective())
    other = LogisticRegression(C=1 / l2, fit_intercept=False, tol=1e-12, max_iter=10000)
    other.fit(problem.train.risk.x.numpy(), problem.train.risk.y.numpy())
    np.testing.assert_allclose(found.theta[:, 0, 0].numpy(), other.coef_[0], atol=1e-6)
    assert float(found.gradient_norm) <= 1e-10


def test_a_refit_with_weights_is_scikit_learn_s_however_it_begins() -> None:
    problem = make_problem()
    removed = torch.from_numpy(np.random.default_rng(1).random(90)).round(decimals=1)
    base = fit(problem.objective()).theta
    curvature = Curvature.of(problem.objective(), problem.train.at(base))
    other = LogisticRegression(C=1 / problem.l2, fit_intercept=False, tol=1e-12, max_iter=10000)
    other.fit(problem.train.risk.x.numpy(), problem.train.risk.y.numpy(), sample_weight=(1 - removed).numpy())
    for found in (
        fit(problem.objective(removed)),
        fit(problem.objective(removed), base),
        fit(problem.objective(removed), base, curvature=curvature),
    ):
        np.testing.assert_allclose(found.theta[:, 0, 0].numpy(), other.coef_[0], atol=1e-6)


def separable() -> Problem:
    problem = make_problem(l2=0.0)
    x = problem.train.risk.x
    train = make_part(x.numpy(), (x[:, 0] > 0).long().numpy(), problem.train.group.long().numpy())
    return replace(problem, train=train)


def test_separable_classes_without_a_regulariser_are_an_error() -> None:
    with pytest.raises(UserError, match=r"(?s)no well-determined weights.*raise l2"):
        fit(separable().objective())


def test_separable_classes_with_a_regulariser_are_fine() -> None:
    assert float(fit(replace(separable(), l2=1.0).objective()).gradient_norm) <= 1e-10


def test_dependent_columns_without_a_regulariser_are_an_error() -> None:
    problem = make_problem(l2=0.0)
    x = problem.train.risk.x.numpy()
    doubled = make_part(
        np.column_stack([x, x[:, 0]]), problem.train.risk.y.numpy(), problem.train.group.numpy()
    )
    with pytest.raises(UserError, match=r"the Hessian is singular"):
        fit(replace(problem, train=doubled).objective())


def test_overlapping_classes_need_no_regulariser() -> None:
    assert float(fit(make_problem(l2=0.0).objective()).gradient_norm) <= 1e-10


# Metrics ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("metric", METRICS)
def test_metrics_by_their_definitions(metric: Metric) -> None:
    problem = make_problem()
    theta = fit(problem.objective()).theta
    part = problem.test
    x, y, group = part.risk.x.numpy(), part.risk.y.numpy(), part.group.numpy().astype(int)
    p = probability(part, theta).numpy()
    assert signed_gap(part, theta, metric) == pytest.approx(hard_gap(x, y, group, p > 0.5, metric), abs=1e-15)
    assert accuracy(part, theta) == np.mean((p > 0.5) == y)
    assert log_loss(part, theta) == pytest.approx(float(losses(part, theta).mean()))
    bins = np.minimum((p * 10).astype(int), 9)
    error = sum(abs((y - p)[bins == b].sum()) for b in range(10)) / len(y)
    assert calibration_error(part, theta) == pytest.approx(error)


def test_a_group_without_positives_is_an_error_for_equal_opportunity_alone() -> None:
    part = make_problem().test
    label = part.risk.y.clone()
    label[part.group] = 0
    lacking = make_part(part.risk.x.numpy(), label.numpy(), part.group.numpy())
    assert contrast(lacking, "demographic_parity").abs().sum() > 0
    with pytest.raises(UserError, match=r"(?s)privileged group has no one with the favourable label"):
        contrast(lacking, "equal_opportunity")


@pytest.mark.parametrize("metric", METRICS)
def test_bootstrap_intervals_are_those_of_drawn_rows(metric: Metric) -> None:
    problem = make_problem(sizes=(90, 60, 400))
    part, theta = problem.test, fit(problem.objective()).theta
    other = theta.flip(0)
    gap, excess = bootstrap(part, theta, metric, np.random.default_rng(0), draws=4000, reference=other)
    random = np.random.default_rng(1)
    x, y, group = part.risk.x.numpy(), part.risk.y.numpy(), part.group.numpy().astype(int)
    predicted = [probability(part, model).numpy() > 0.5 for model in (theta, other)]
    sides = [np.sign(hard_gap(x, y, group, each, metric)) for each in predicted]
    drawn = []
    for _ in range(2000):
        rows = random.integers(0, len(y), len(y))
        drawn.append(
            [
                side * hard_gap(x, y[rows], group[rows], each[rows], metric)
                for side, each in zip(sides, predicted, strict=True)
            ]
        )
    gaps, others = np.array(drawn).T
    assert [gap.low, gap.high] == pytest.approx(np.quantile(gaps, [0.025, 0.975]), abs=0.015)
    assert [excess.low, excess.high] == pytest.approx(np.quantile(gaps - others, [0.025, 0.975]), abs=0.02)


def test_a_gap_near_zero_lies_inside_its_interval() -> None:
    # Both groups are predicted alike, all but one.
    group = np.repeat([0, 1], 100)
    x = np.column_stack([np.tile([1.0, -1.0], 100), np.ones(200)])
    x[0, 0] = -1.0
    part = make_part(x, np.tile([0, 1], 100), group)
    theta = torch.tensor([1.0, 0.0], dtype=torch.float64)[:, None, None]
    assert signed_gap(part, theta, "demographic_parity") == pytest.approx(0.01)
    gap, _ = bootstrap(part, theta, "demographic_parity", np.random.default_rng(0), draws=4000)
    # As often above as below: absolute values would lie above, around 0.06.
    assert (gap.low + gap.high) / 2 == pytest.approx(0.01, abs=0.01)
    assert gap.low < -0.1


def test_the_excess_over_oneself_is_nothing() -> None:
    problem = make_problem()
    theta = fit(problem.objective()).theta
    _, excess = bootstrap(problem.test, theta, "demographic_parity", np.random.default_rng(0), draws=100)
    assert (excess.low, excess.high) == (0, 0)


# Surrogates -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("metric", METRICS)
def test_surrogates_by_their_definitions(metric: Metric) -> None:
    problem = make_problem()
    part, theta = problem.validation, fit(problem.objective()).theta
    one, other = part.group, ~part.group
    if metric == "demographic_parity":
        p = probability(part, theta)
        expected = p[one].mean() - p[other].mean()
    else:
        loss, positive = losses(part, theta), part.risk.y == 1
        expected = loss[other & positive].mean() - loss[one & positive].mean()
    assert unfairness(part, metric).value(theta).item() == pytest.approx(float(expected))
    assert utility(part).value(theta).item() == pytest.approx(float(losses(part, theta).sum()))


def test_sharp_soft_gaps_are_the_gap() -> None:
    problem = make_problem()
    theta = fit(problem.objective()).theta
    for metric in METRICS:
        soft = soft_gap(problem.validation, metric, 1e6).value(theta).item()
        assert soft == pytest.approx(signed_gap(problem.validation, theta, metric), abs=1e-6)


def functionals(problem: Problem) -> list[Functional]:
    part = problem.validation
    return [
        utility(part),
        *(unfairness(part, metric) for metric in METRICS),
        *(soft_gap(part, metric, 5.0) for metric in METRICS),
        soft_rate(part, torch.linspace(-1, 1, 60, dtype=torch.float64), 2.0),
    ]


@pytest.mark.parametrize("index", range(6))
def test_gradients_and_hessian_products_are_those_of_finite_differences(index: int) -> None:
    problem = make_problem()
    f = functionals(problem)[index]
    theta = fit(problem.objective()).theta
    random = torch.Generator().manual_seed(1)
    v = torch.randn(theta.shape, dtype=torch.float64, generator=random)
    h = 1e-5
    slope = (f.value(theta + h * v) - f.value(theta - h * v)).item() / (2 * h)
    assert float((f.gradient(theta) * v).sum()) == pytest.approx(slope, rel=1e-7, abs=1e-9)
    bend = (f.gradient(theta + h * v) - f.gradient(theta - h * v)) / (2 * h)
    torch.testing.assert_close(f.hvp(theta, v), bend, rtol=1e-6, atol=1e-7)


def test_a_soft_predictions_derivatives_are_autograds() -> None:
    link = SoftPrediction(Logistic(), 3.0)
    z = torch.linspace(-2, 2, 9, dtype=torch.float64)[:, None, None].requires_grad_()
    y = torch.arange(9) % 2
    (slope,) = torch.autograd.grad(link.loss(z, y).sum(), z, create_graph=True)
    (curvature,) = torch.autograd.grad(slope.sum(), z, create_graph=True)
    (third,) = torch.autograd.grad(curvature.sum(), z)
    state, one = link.state(z, y), torch.ones_like(z)
    torch.testing.assert_close(link.slope(state, y), slope)
    torch.testing.assert_close(link.curvature(state, y), curvature)
    torch.testing.assert_close(link.curve(state, y, 2 * one), 2 * curvature)
    torch.testing.assert_close(link.twist(state, y, 2 * one, 3 * one), 6 * third)
    assert torch.equal(link.predict(z), Logistic().predict(z))
    assert torch.equal(link.correct(z, y), Logistic().correct(z, y))


# Influences -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("metric", METRICS)
def test_influences_are_the_published_formula(metric: Metric) -> None:
    """+∇ℓ_iᵀ H⁻¹ ∇f with H = Σ p(1−p)xxᵀ + l2 I, in plain numpy, at θ* and elsewhere."""
    problem = make_problem()
    base = fit(problem.objective()).theta
    for theta in (base, 0.1 * base, 3 * base):
        found = removal(problem, metric, theta)
        x, y = problem.train.risk.x.numpy(), problem.train.risk.y.numpy()
        p = probability(problem.train, theta).numpy()
        hessian = (x.T * (p * (1 - p))) @ x + problem.l2 * np.eye(x.shape[1])
        gradients = (p - y)[:, None] * x
        for effects, f in (
            (found.fairness, unfairness(problem.validation, metric)),
            (found.utility, utility(problem.validation)),
        ):
            sign = found.sign if effects is found.fairness else 1
            expected = sign * gradients @ np.linalg.solve(hessian, f.gradient(theta)[:, 0, 0].numpy())
            np.testing.assert_allclose(effects.numpy(), expected, rtol=1e-9, atol=1e-13)


@pytest.mark.parametrize("metric", METRICS)
def test_influences_predict_what_removing_samples_does(metric: Metric) -> None:
    problem = make_problem(sizes=(400, 100, 60))
    theta = fit(problem.objective()).theta
    found = removal(problem, metric, theta)
    f, u = unfairness(problem.validation, metric), utility(problem.validation)
    actual = []
    for sample in range(0, 400, 10):
        removed = torch.zeros(400, dtype=torch.float64)
        removed[sample] = 1
        without = fit(problem.objective(removed), theta).theta
        changes = [float(g.value(without) - g.value(theta)) for g in (f, u)]
        actual.append((found.sign * changes[0], changes[1]))
    for effects, realised in zip((found.fairness, found.utility), np.array(actual).T, strict=True):
        predicted = effects[::10].numpy()
        assert np.corrcoef(predicted, realised)[0, 1] > 0.995
        assert np.abs(predicted - realised).max() < 0.1 * np.abs(realised).max()


def test_groups_change_places_so_that_unfairness_is_positive() -> None:
    problem = make_problem()
    theta = fit(problem.objective()).theta

    def turned(part: Part) -> Part:
        return replace(part, group=~part.group)

    other = Problem(turned(problem.train), turned(problem.validation), turned(problem.test), problem.l2)
    for metric in METRICS:
        one, two = (removal(either, metric, theta) for either in (problem, other))
        assert one.sign == -two.sign
        assert one.unfairness == pytest.approx(two.unfairness)
        assert one.unfairness > 0
        torch.testing.assert_close(one.fairness, two.fairness)


@pytest.mark.parametrize("metric", METRICS)
def test_pulling_back_is_the_gradient_of_the_influences(metric: Metric) -> None:
    problem = make_problem()
    theta = 0.7 * fit(problem.objective()).theta
    random = torch.Generator().manual_seed(2)
    a, b = torch.randn(2, 90, dtype=torch.float64, generator=random)
    v = torch.randn(theta.shape, dtype=torch.float64, generator=random)

    def total(at: torch.Tensor) -> float:
        found = removal(problem, metric, at)
        return float(a @ found.fairness + b @ found.utility) + 0.3 * found.unfairness

    h = 1e-5
    slope = (total(theta + h * v) - total(theta - h * v)) / (2 * h)
    gradient = removal(problem, metric, theta).pull_back(a, b, 0.3)
    assert float((gradient * v).sum()) == pytest.approx(slope, rel=1e-6)


def test_a_pipeline_s_base_is_where_its_refits_begin() -> None:
    pipeline = make_pipeline(make_problem(), "demographic_parity")
    nothing = torch.zeros(90, dtype=torch.float64)
    again = fit(pipeline.problem.objective(nothing), pipeline.base, curvature=pipeline.curvature)
    assert again.steps == 0


# The published tables ---------------------------------------------------------------------------------------


@pytest.mark.mirror
@pytest.mark.slow
@pytest.mark.parametrize(
    ("kind", "names", "categorical", "l2"),
    [
        ("adult", {"train": "adult/adult.data", "test": "adult/adult.test"}, [], 2.26),
        ("german", {"table": "german/german.data"}, [], 5.85),
        ("compas", {"table": "compas/compas-scores-two-years.csv"}, ["age"], 37.0),
    ],
)
def test_honest_base_models_are_scikit_learn_s(
    kind: str, names: dict[str, str], categorical: list[str], l2: float
) -> None:
    """Accuracy and gaps on validation and test to four decimals."""
    folder = mirror("adult/adult.test")
    files = {role: folder / name for role, name in names.items()}
    encoded = encode(read_table(kind, files, {"published_groups": False}), name=kind, categorical=categorical)
    parts = {
        name: [values[encoded.part == name] for values in (encoded.x, encoded.label, encoded.group)]
        for name in ("train", "validation", "test")
    }
    train, validation, test = (make_part(*part) for part in parts.values())
    theta = fit(Problem(train, validation, test, l2).objective()).theta
    other = LogisticRegression(
        C=1 / l2, fit_intercept=False, tol=1e-10, max_iter=5000, solver="newton-cholesky"
    )
    other.fit(*parts["train"][:2])
    for name in ("validation", "test"):
        x, y, group = parts[name]
        predicted = other.predict(x)
        part = make_part(x, y, group)
        assert accuracy(part, theta) == pytest.approx(np.mean(predicted == y), abs=5e-5)
        for metric in METRICS:
            expected = hard_gap(x, y, group, predicted, metric)
            assert signed_gap(part, theta, metric) == pytest.approx(expected, abs=5e-5)
