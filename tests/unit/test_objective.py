"""The regularised risk against autograd."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from problems import LINKS, losses, make_risk, make_theta, normal
from torch import Tensor
from torch.func import grad, hessian

from undue.calculus.linear import LinearRisk, Link, Softmax
from undue.calculus.objective import Objective
from undue.calculus.solvers import dense_matrix

LANES = 3
L2 = torch.tensor([0.0, 0.1, 2.0], dtype=torch.float64)

links = pytest.mark.parametrize("link", LINKS, ids=lambda link: type(link).__name__)
biases = pytest.mark.parametrize("regularise_bias", [True, False], ids=["bias", "no bias"])


def close(actual: Tensor, expected: Tensor) -> None:
    torch.testing.assert_close(actual, expected, rtol=1e-10, atol=1e-10)


def plain(
    risk: LinearRisk, weights: Tensor, l2: Tensor, damping: float, regularise_bias: bool
) -> Callable[[Tensor], Tensor]:
    """R(θ) + (δ/2)‖θ‖² of one lane's θ (d, k), for autograd."""

    def value(theta: Tensor) -> Tensor:
        penalised = theta if regularise_bias else theta[:-1]
        ridge = l2 / 2 * penalised.square().sum() + damping / 2 * theta.square().sum()
        return weights @ losses(risk)(theta) + ridge

    return value


@links
@biases
def test_every_operation_against_autograd(link: Link, regularise_bias: bool) -> None:
    """Weights and λ of each lane; damping in the Hessian alone."""
    risk = make_risk(link)
    theta = make_theta(risk, LANES)
    weights = normal(risk.samples, LANES, seed=3).abs()
    objective = Objective(risk, L2, weights, regularise_bias)
    point = risk.at(theta)
    damping = 0.25
    for i in range(LANES):
        value = plain(risk, weights[:, i], L2[i], 0.0, regularise_bias)
        damped = plain(risk, weights[:, i], L2[i], damping, regularise_bias)
        one = theta[..., i]
        close(objective.value(point)[i], value(one))
        close(objective.gradient(point)[..., i], grad(value)(one))
        alone = Objective(risk, L2[i : i + 1], weights[:, i], regularise_bias)
        at = risk.at(one[..., None])
        size = one.numel()
        for delta, function in ((0.0, value), (damping, damped)):
            matrix = dense_matrix(alone.hessian(at, delta), one[..., None])
            close(matrix, hessian(function)(one).reshape(size, size))
        vectors = make_theta(risk, LANES, seed=4)
        product = objective.hessian(point, damping)(vectors)[..., i]
        close(product.reshape(-1), hessian(damped)(one).reshape(size, size) @ vectors[..., i].reshape(-1))


def test_weights_are_the_mean_by_default() -> None:
    risk = make_risk(Softmax())
    point = risk.at(make_theta(risk, 2))
    objective = Objective(risk, 0.0)
    close(objective.value(point), point.losses().mean(dim=0))
    close(objective.gradient(point), point.grad(risk.x.new_full((risk.samples,), 1 / risk.samples)))


@pytest.mark.parametrize("l2", [0.3, torch.tensor(0.3), torch.tensor([0.3, 0.3])], ids=["float", "0d", "1d"])
def test_one_l2_or_one_per_lane(l2: float | Tensor) -> None:
    risk = make_risk(Softmax())
    point = risk.at(make_theta(risk, 2))
    penalty = 0.15 * point.theta.square().sum(dim=(0, 1))
    torch.testing.assert_close(
        Objective(risk, l2).value(point), point.losses().mean(dim=0) + penalty, rtol=1e-7, atol=0
    )


@biases
def test_the_bias_is_regularised_or_not(regularise_bias: bool) -> None:
    ridge = Objective(make_risk(Softmax()), 0.3, regularise_bias=regularise_bias).ridge()
    assert ridge.flatten().tolist() == [0.3, 0.3, 0.3, 0.3 if regularise_bias else 0.0]


@links
@biases
def test_the_preconditioner_is_positive(link: Link, regularise_bias: bool) -> None:
    risk = make_risk(link)
    theta = make_theta(risk, LANES, scale=5.0)
    objective = Objective(risk, 0.01, regularise_bias=regularise_bias)
    diagonal = objective.preconditioner(risk.at(theta), risk.x.square().mean(dim=0), damping=1e-3)
    assert diagonal.shape == theta.shape
    assert bool((diagonal > 0).all())


@pytest.mark.parametrize("damping", [0.0, 0.25])
def test_the_preconditioner_is_the_diagonal_where_curvature_is_constant(damping: float) -> None:
    """At θ = 0 every sample has the same softmax curvature, so that nothing is approximated."""
    risk = make_risk(Softmax())
    theta = torch.zeros(*risk.shape, 1, dtype=torch.float64)
    objective = Objective(risk, 0.1, regularise_bias=False)
    point = risk.at(theta)
    matrix = dense_matrix(objective.hessian(point, damping), theta)
    approximate = objective.preconditioner(point, risk.x.square().mean(dim=0), damping)
    close(approximate.reshape(-1), torch.diagonal(matrix))


@pytest.mark.parametrize("link", LINKS, ids=lambda link: type(link).__name__)
def test_the_last_block_is_that_of_the_hessian(link: Link) -> None:
    risk = make_risk(link)
    theta = make_theta(risk, 2)
    objective = Objective(risk, 0.1, regularise_bias=False)
    point, (d, k) = risk.at(theta), risk.shape
    block = objective.last_block(point, 2, 0.25)
    for lane in range(2):
        chosen = torch.tensor([lane])
        whole = dense_matrix(objective.hessian(point, 0.25).narrow(chosen), theta[..., chosen])
        part = dense_matrix(block.narrow(chosen), theta[-2:, :, chosen])
        close(part, whole[(d - 2) * k :, (d - 2) * k :])
