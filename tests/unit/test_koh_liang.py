"""Every kind of influence against what it predicts: retraining with the change made, to rounding."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cache
from typing import Any

import pytest
import torch
from networks import as_module, draw, flat, follow, make_net_risk, minimise, objective_of
from problems import LINKS, make_risk, normal
from torch import Tensor
from torch.func import grad, hessian

from undue.calculus.factor import Factor
from undue.calculus.functional import MarginLink, WeightedSum, margin, margin_loss, one_loss, summed_loss
from undue.calculus.influence import influence
from undue.calculus.koh_liang import (
    label_influence,
    parameter_influence,
    perturbation_influence,
    sample_gradients,
    self_influence,
)
from undue.calculus.lanes import dot
from undue.calculus.linear import LinearRisk, Link, Logistic, SmoothHinge, Softmax
from undue.calculus.module import ModuleRisk, link_loss
from undue.calculus.objective import Objective
from undue.calculus.solvers import conjugate_gradient
from undue.errors import UserError

# Of torch's own making: at the first use of forward-mode derivatives, and in those of log σ.
pytestmark = [
    pytest.mark.filterwarnings("ignore:`torch.jit.script` is deprecated"),
    pytest.mark.filterwarnings("ignore:An output with one or more elements was resized"),
]

L2 = 0.1
AnyRisk = LinearRisk | ModuleRisk

links = pytest.mark.parametrize("link", LINKS, ids=lambda link: type(link).__name__)


@dataclass(frozen=True)
class Trained:
    """A model at a stationary point with its factorised Hessian, and a test set."""

    risk: Any
    test: Any
    theta: Tensor
    factor: Factor

    @property
    def point(self) -> Any:
        return self.risk.at(self.theta)

    @property
    def each(self) -> Tensor:
        """Weights 1/n."""
        return self.theta.new_full((self.risk.samples,), 1 / self.risk.samples)

    def retrained(self, risk: Any, weights: Tensor) -> Tensor:
        """The stationary point (d, k, 1) that θ moves to."""
        return follow(risk, self.theta, L2, weights, self.factor)


def trained(risk: AnyRisk, test: AnyRisk) -> Trained:
    each = risk.x.new_full((risk.samples,), 1 / risk.samples)
    theta = minimise(risk, draw(risk, 1), L2, each)
    point: Any = risk.at(theta)
    return Trained(risk, test, theta, Factor.of(objective_of(risk, L2).hessian(point), theta))


def head(link: Link, n: int = 25) -> Trained:
    pool = make_risk(link, n=n + 10)
    return trained(pool.rows(torch.arange(n)), pool.rows(torch.arange(n, n + 10)))


def network(link: Link, n: int = 19) -> Trained:
    """A tanh network at a strict local minimum."""
    pool = make_net_risk(link, n=n + 10)
    return trained(pool.rows(torch.arange(n)), pool.rows(torch.arange(n, n + 10)))


MODELS: dict[str, tuple[Callable[[Link], Trained], Link]] = {
    "softmax": (head, Softmax()),
    "logistic": (head, Logistic()),
    "smooth hinge": (head, SmoothHinge(0.3)),
    "network": (network, Softmax()),
    "binary network": (network, Logistic()),
}
models = pytest.mark.parametrize("name", MODELS)


@cache
def model_of(name: str) -> Trained:
    make, link = MODELS[name]
    return make(link)


def functionals(model: Trained) -> dict[str, WeightedSum]:
    return {
        "summed loss": summed_loss(model.test),
        "one loss": one_loss(model.test, 3),
        "margin": margin(model.test, 3),
    }


def slope(change: Callable[[float], Tensor], step: float = 1e-4) -> Tensor:
    """The derivative at zero, by central differences of fourth order."""
    near, far = (change(h * step) - change(-h * step) for h in (1.0, 2.0))
    return (8 * near - far) / (12 * step)


def close(actual: Tensor, expected: Tensor, tolerance: float = 1e-6) -> None:
    scale = float(expected.abs().max())
    torch.testing.assert_close(actual, expected, rtol=tolerance, atol=tolerance * scale)


# Functionals ------------------------------------------------------------------------------------------------


@links
@pytest.mark.parametrize("kind", ["summed loss", "one loss", "margin"])
@pytest.mark.parametrize("as_network", [False, True], ids=["head", "network"])
def test_functionals_against_autograd(link: Link, kind: str, as_network: bool) -> None:
    risk = make_risk(link, n=8)
    theta, v = draw(risk, 2), draw(risk, 2, seed=5)
    sign = 2.0 * risk.y - 1

    def plain(one: Tensor) -> Tensor:
        z = risk.x @ one
        if kind != "margin":
            each = torch.stack([link_loss(link)(output, y) for output, y in zip(z, risk.y, strict=True)])
            return each.sum() if kind == "summed loss" else each[3]
        if z.shape[1] == 1:
            return sign[3] * z[3, 0]
        right = torch.softmax(z[3], dim=0)[risk.y[3]]
        return torch.log(right / (1 - right))

    subject: Any = as_module(risk) if as_network else risk
    turn = flat if as_network else lambda vector: vector
    functional = functionals(Trained(None, subject, theta, None))[kind]  # type: ignore[arg-type]
    for lane in range(2):
        one = theta[..., lane]
        torch.testing.assert_close(functional.value(turn(theta))[lane], plain(one), rtol=1e-10, atol=1e-10)
        expected = torch.stack([grad(plain)(one)] * 2, dim=2)
        found = functional.gradient(turn(theta))[..., lane]
        torch.testing.assert_close(found, turn(expected)[..., 0], rtol=1e-10, atol=1e-10)
        product = torch.einsum("abcd,cd->ab", hessian(plain)(one), v[..., lane])[..., None]
        found = functional.hvp(turn(theta), turn(v))[..., lane]
        torch.testing.assert_close(found, turn(product)[..., 0], rtol=1e-9, atol=1e-10)


@pytest.mark.parametrize("link", [Softmax(), Logistic()], ids=["softmax", "logistic"])
def test_a_margin_is_a_link_in_every_derivative(link: Link) -> None:
    """Against the same margin differentiated by torch.func."""
    risk = make_risk(link)
    closed = replace(risk, link=MarginLink(link))
    automatic = replace(as_module(risk), loss=margin_loss)
    theta, a, b = draw(risk, 2), draw(risk, 2, seed=5), draw(risk, 2, seed=6)
    w = normal(risk.samples, 2, seed=7)
    one, other = closed.at(theta), automatic.at(flat(theta))
    torch.testing.assert_close(flat(one.curvature_grad(a, b, w)), other.curvature_grad(flat(a), flat(b), w))
    torch.testing.assert_close(one.input_grad_dots(a), other.input_grad_dots(flat(a)))
    assert torch.equal(one.correct(), risk.at(theta).correct())
    matrix = hessian(lambda z: margin_loss(z, risk.y[0]))((risk.x @ theta[..., 0])[0])
    state = closed.link.state((risk.x @ theta.reshape(len(theta), -1)).view(-1, *theta.shape[1:]), risk.y)
    torch.testing.assert_close(closed.link.curvature(state, risk.y)[0, :, 0], torch.diagonal(matrix))


def test_a_gap_between_groups_is_a_sum_with_both_signs() -> None:
    risk = make_risk(Logistic())
    theta, group = draw(risk, 1), torch.arange(risk.samples) % 2 == 0
    weights = torch.where(group, 1 / group.sum(), -1 / (~group).sum()).double()
    losses = risk.at(theta).losses()[:, 0]
    expected = losses[group].mean() - losses[~group].mean()
    torch.testing.assert_close(WeightedSum(risk, weights).value(theta)[0], expected)


# Weights ----------------------------------------------------------------------------------------------------


@models
def test_influence_is_the_derivative_by_a_samples_weight(name: str) -> None:
    """I_up,params and I_up,loss on every functional, as the slopes of retraining."""
    model = model_of(name)
    index = torch.tensor([0, 4, 7])
    moved = parameter_influence(model.point, index, model.factor.solve)
    assert bool(moved.converged.all())
    weights = [torch.nn.functional.one_hot(i, model.risk.samples).double() for i in index]
    for lane, one in enumerate(weights):
        expected = slope(lambda h, one=one: model.retrained(model.risk, model.each + h * one))  # type: ignore[misc]
        close(moved.x[..., [lane]], expected)
    for functional in functionals(model).values():
        scores, _ = influence(model.point, functional.gradient(model.theta), model.factor.solve)
        for i, one in zip(index, weights, strict=True):
            expected = slope(
                lambda h, one=one, f=functional: f.value(model.retrained(model.risk, model.each + h * one))  # type: ignore[misc]
            )
            close(scores[i], expected)


@pytest.mark.parametrize("name", ["softmax", "logistic"])
def test_leaving_one_out_is_predicted_better_as_samples_grow(name: str) -> None:
    """−I/n is the first order in 1/n: the error is of the second."""
    errors = []
    for n in (30, 120):
        model = head(Softmax() if name == "softmax" else Logistic(), n)
        functional = summed_loss(model.test)
        scores, _ = influence(model.point, functional.gradient(model.theta), model.factor.solve)
        before, misses = functional.value(model.theta), []
        for i in range(0, n, n // 15):
            weights = model.each.clone()
            weights[i] = 0
            change = functional.value(model.retrained(model.risk, weights)) - before
            misses.append(change + scores[i] / n)
        errors.append(float(torch.cat(misses).square().mean().sqrt()))
    assert errors[1] < errors[0] / 6


@models
def test_self_influence(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The influence of each sample on its own loss; chunks change nothing."""
    model = model_of(name)
    found, residuals = self_influence(model.point, model.factor.solve)
    assert bool((found <= 0).all())
    assert float(residuals.max()) < 1e-10
    for i in (0, 4, 7):
        gradient = one_loss(model.risk, i).gradient(model.theta)
        scores, _ = influence(model.point, gradient, model.factor.solve)
        torch.testing.assert_close(found[i], scores[i, 0], rtol=1e-9, atol=1e-12)
    monkeypatch.setattr("undue.calculus.koh_liang._at_once", lambda point: 4)
    again, _ = self_influence(model.point, model.factor.solve)
    torch.testing.assert_close(again, found, rtol=1e-12, atol=1e-13)


@links
def test_gradients_of_samples_are_the_same_in_closed_form_and_by_torch_func(link: Link) -> None:
    risk = make_risk(link)
    theta, index = draw(risk, 1), torch.tensor([5, 0, 5])
    found = sample_gradients(risk.at(theta), index)
    automatic = sample_gradients(as_module(risk).at(flat(theta)), index)
    torch.testing.assert_close(flat(found), automatic, rtol=1e-10, atol=1e-12)
    for lane, i in enumerate(index):
        weights = torch.nn.functional.one_hot(i, risk.samples).double()
        torch.testing.assert_close(found[..., [lane]], risk.at(theta).grad(weights), rtol=1e-10, atol=1e-12)
    with pytest.raises(ValueError, match="one lane"):
        sample_gradients(risk.at(draw(risk, 2)), index)


# Labels and inputs ------------------------------------------------------------------------------------------


@models
def test_label_influence_is_the_derivative_by_moving_weight_to_another_label(name: str) -> None:
    model = model_of(name)
    classes = int(model.risk.y.max()) + 1
    functional = summed_loss(model.test)
    gradient = functional.gradient(model.theta)
    found, solution = label_influence(model.point, gradient, model.factor.solve, classes=classes)
    assert found.shape == (model.risk.samples, classes, 1)
    assert bool(solution.converged.all())
    own = found[torch.arange(model.risk.samples), model.risk.y]
    assert not own.any()
    for i in (0, 4):
        for label in range(classes):
            # The sample twice, once with either label, weight moving from one to the other.
            rows = torch.cat([torch.arange(model.risk.samples), torch.tensor([i])])
            both = model.risk.rows(rows)
            labels = both.y.clone()
            labels[-1] = label
            both = replace(both, y=labels)

            def moved(h: float, both: AnyRisk = both, i: int = i) -> Tensor:
                weights = torch.cat([model.each, model.each.new_tensor([h])])
                weights[i] -= h
                return functional.value(model.retrained(both, weights))

            expected = slope(moved)
            torch.testing.assert_close(found[i, label], expected, rtol=1e-6, atol=1e-7)


def test_a_changed_label_is_predicted_to_first_order() -> None:
    """Times 1/n, for a whole label, on retrained models."""
    model = head(Softmax(), 200)
    functional = summed_loss(model.test)
    gradient = functional.gradient(model.theta)
    found, _ = label_influence(model.point, gradient, model.factor.solve, classes=3)
    before, predicted, actual = functional.value(model.theta), [], []
    for i in range(0, 200, 8):
        labels = model.risk.y.clone()
        labels[i] = (labels[i] + 1) % 3
        after = functional.value(model.retrained(replace(model.risk, y=labels), model.each))
        predicted.append(found[i, labels[i]] / 200)
        actual.append(after - before)
    both = torch.stack([torch.cat(predicted), torch.cat(actual)])
    assert float(torch.corrcoef(both)[0, 1]) > 0.98


@models
def test_perturbation_influence_is_the_derivative_by_the_input(name: str) -> None:
    """With its 1/n, the slope of retraining on x_i + hδ; without it n times that, as in the paper's Eq. 5."""
    model = model_of(name)
    functional = summed_loss(model.test)
    gradient = functional.gradient(model.theta)
    found, _ = perturbation_influence(model.point, gradient, model.factor.solve, per_sample=True)
    paper, _ = perturbation_influence(model.point, gradient, model.factor.solve, per_sample=False)
    assert found.shape == (*model.risk.x.shape, 1)
    torch.testing.assert_close(paper, model.risk.samples * found)
    for i in (0, 4):
        direction = normal(*model.risk.x.shape[1:], seed=i)

        def moved(h: float, i: int = i, direction: Tensor = direction) -> Tensor:
            x = model.risk.x.clone()
            x[i] += h * direction
            return functional.value(model.retrained(replace(model.risk, x=x), model.each))

        close(direction @ found[i], slope(moved), 1e-5)


# Solving ----------------------------------------------------------------------------------------------------


def test_many_right_hand_sides_with_one_factor() -> None:
    model = head(Softmax())
    b = draw(model.risk, 6, seed=5)
    b[..., 2] = 0
    found = model.factor.solve(b)
    theta = model.theta.expand(-1, -1, 6).contiguous()
    operator = objective_of(model.risk, L2).hessian(model.risk.at(theta))
    expected = conjugate_gradient(operator, b, tolerance=1e-12)
    torch.testing.assert_close(found.x, expected.x, rtol=1e-8, atol=1e-9)
    assert bool((found.residual < 1e-12).all())
    assert found.iterations.tolist() == [model.theta.numel()] * 6
    assert not model.factor.solve(b, tolerance=0.0).converged[:2].any()


@links
@pytest.mark.parametrize("regularise_bias", [True, False], ids=["bias", "no bias"])
def test_a_heads_hessian_in_closed_form(
    link: Link, regularise_bias: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Rows in chunks, weights of each sample."""
    monkeypatch.setattr("undue.calculus.factor.CHUNK_ROWS", 7)
    risk = make_risk(link)
    theta, weights = draw(risk, 1), normal(risk.samples, seed=3).abs()
    objective = Objective(risk, L2, weights, regularise_bias)
    operator = objective.hessian(risk.at(theta), 0.3)
    found, expected = Factor.of_head(objective, theta, 0.3), Factor.of(operator, theta)
    torch.testing.assert_close(found.matrix, expected.matrix, rtol=1e-10, atol=1e-12)
    torch.testing.assert_close(found.cholesky, expected.cholesky, rtol=1e-10, atol=1e-12)


def test_self_influence_holds_no_more_gradients_than_the_networks_memory_takes() -> None:
    model = network(Softmax())
    whole, _ = self_influence(model.point, model.factor.solve)
    size = model.theta.numel() * model.theta.element_size()
    risk = replace(model.risk, memory=4 * 3 * size)
    widths: list[int] = []

    def solve(b: Tensor) -> Any:
        widths.append(b.shape[-1])
        return model.factor.solve(b)

    found, _ = self_influence(risk.at(model.theta), solve)
    assert max(widths) == 3
    torch.testing.assert_close(found, whole)


def test_conjugate_gradients_serve_as_well() -> None:
    """Self-influence with lanes of one θ."""
    model = head(Logistic())

    def solve(b: Tensor) -> Any:
        theta = model.theta.expand(-1, -1, b.shape[-1]).contiguous()
        operator = objective_of(model.risk, L2).hessian(model.risk.at(theta))
        return conjugate_gradient(operator, b, tolerance=1e-12)

    found, _ = self_influence(model.point, solve)
    torch.testing.assert_close(
        found, self_influence(model.point, model.factor.solve)[0], rtol=1e-8, atol=1e-10
    )
    gradients = sample_gradients(model.point, torch.arange(3))
    torch.testing.assert_close(-dot(gradients, solve(gradients).x), found[:3])


def test_a_factor_is_of_one_lane() -> None:
    with pytest.raises(ValueError, match="one lane"):
        Factor.of(lambda v: v, torch.zeros(2, 1, 2))
    risk = make_risk(Softmax())
    with pytest.raises(ValueError, match="one lane"):
        Factor.of_head(Objective(risk, L2), draw(risk, 2))
    weights = torch.full((risk.samples, 2), 1 / risk.samples, dtype=torch.float64)
    with pytest.raises(ValueError, match="one lane"):
        Factor.of_head(Objective(risk, L2, weights), draw(risk, 1))


def test_a_factor_needs_a_positive_definite_hessian() -> None:
    with pytest.raises(UserError, match="not positive definite"):
        Factor.of(lambda v: -v, torch.zeros(2, 1, 1))


def test_a_network_that_is_no_minimum_is_told_how_much_damping_it_needs() -> None:
    risk = make_net_risk()
    theta, objective = draw(risk, 1, scale=2.0), objective_of(risk, 0.0)
    point = risk.at(theta)
    with pytest.raises(UserError, match=r"at damping 0\.001 its smallest eigenvalue is -") as caught:
        Factor.of(objective.hessian(point, 1e-3), theta, damping=1e-3, key="some.key")
    assert caught.value.where == "some.key"
    advised = float(re.findall(r"raise some\.key to (\S+) or more", caught.value.remedy)[0])
    Factor.of(objective.hessian(point, advised), theta, damping=advised)


def test_a_heads_hessian_without_lambda_is_told_how_much_damping_it_needs() -> None:
    risk = make_risk(Softmax())
    with pytest.raises(UserError, match=r"raise influence\.damping to"):
        Factor.of_head(Objective(risk, 0.0, -torch.ones(risk.samples).double()), draw(risk, 1))
