"""Preconditioners where they are exact, and what they save where they are not."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from problems import LINKS, make_risk, make_theta, normal

from undue.calculus.factor import dense
from undue.calculus.linear import LinearRisk, Link, Softmax
from undue.calculus.objective import Objective
from undue.calculus.solvers import Preconditioner, conjugate_gradient
from undue.calculus.subsampled import Kronecker, Sampled, solve_once


def test_with_one_curvature_for_all_it_is_the_inverse() -> None:
    """At θ = 0 every sample has the same C, and the Hessian is a Kronecker product."""
    risk = make_risk(Softmax(), n=50, d=6, classes=4)
    objective, theta = Objective(risk, 0.05), torch.zeros(*risk.shape, 1, dtype=torch.float64)
    inverse = Kronecker.of(objective, theta, torch.arange(50), damping=0.2)
    assert isinstance(inverse, Preconditioner)
    b = normal(*risk.shape, 1, seed=3)
    hessian = objective.hessian(risk.at(theta), 0.2)
    torch.testing.assert_close(inverse(hessian(b)), b, rtol=1e-9, atol=1e-10)
    assert inverse(b.float()).dtype == torch.float32
    assert inverse.narrow(torch.tensor([0])) is inverse


@pytest.mark.parametrize("regularise_bias", [True, False], ids=["bias", "no bias"])
@pytest.mark.parametrize("link", LINKS, ids=lambda link: type(link).__name__)
def test_it_saves_iterations_and_changes_no_answer(link: Link, regularise_bias: bool) -> None:
    risk = make_risk(link, n=400, d=21)
    # Features of very different sizes, in no basis of their own.
    mixed = risk.x.clone()
    mixed[:, :-1] = (mixed[:, :-1] * torch.logspace(-2, 1, 20)) @ torch.linalg.qr(normal(20, 20, seed=5))[0]
    risk = LinearRisk(mixed, risk.y, risk.classes, link)
    objective = Objective(risk, 1e-3, regularise_bias=regularise_bias)
    theta = 0.3 * make_theta(risk, 1)
    hessian, b = objective.hessian(risk.at(theta), 1e-3), normal(*risk.shape, 1, seed=3)
    preconditioner = Kronecker.of(objective, theta, torch.arange(0, 400, 2), damping=1e-3)
    plain = conjugate_gradient(hessian, b, tolerance=1e-9)
    fast = conjugate_gradient(hessian, b, tolerance=1e-9, preconditioner=preconditioner)
    assert bool(fast.converged)
    assert int(fast.iterations) < 0.7 * int(plain.iterations)
    torch.testing.assert_close(fast.x, plain.x, rtol=1e-5, atol=1e-6 * float(plain.x.abs().max()))
    half = replace(preconditioner, diagonal=2 * preconditioner.diagonal)
    torch.testing.assert_close(2 * half(b), preconditioner(b))


def test_steps_on_some_samples_save_whole_products() -> None:
    risk = make_risk(Softmax(), n=3000, d=12, classes=4)
    objective, theta = Objective(risk, 1e-2), 0.3 * make_theta(risk, 3)
    hessian, b = objective.hessian(risk.at(theta)), normal(*risk.shape, 3, seed=3)
    few = Objective(risk.rows(torch.arange(0, 3000, 3)), 1e-2)
    point = few.risk.at(theta)
    moments = risk.x.square().mean(dim=0)
    sampled = Sampled(few.hessian(point), few.preconditioner(point, moments), steps=30)
    plain = conjugate_gradient(hessian, b, tolerance=1e-9, preconditioner=sampled.preconditioner)
    fast = conjugate_gradient(hessian, b, tolerance=1e-9, preconditioner=sampled)
    assert bool(fast.converged.all())
    assert (fast.iterations < plain.iterations / 2).all()
    torch.testing.assert_close(fast.x, plain.x, rtol=1e-6, atol=1e-8)
    # Of some lanes alone it is the same map.
    lanes = torch.tensor([2, 0])
    torch.testing.assert_close(sampled.narrow(lanes)(b[..., lanes]), sampled(b)[..., lanes])
    # Of all samples, with steps enough, it is the inverse.
    whole = Sampled(hessian, sampled.preconditioner, steps=200)
    torch.testing.assert_close(whole(hessian(b)), b, rtol=1e-7, atol=1e-8)


@pytest.mark.parametrize("regularise_bias", [True, False])
def test_a_single_solve_is_the_dense_one(regularise_bias: bool) -> None:
    risk = make_risk(Softmax(), n=4000, d=12, classes=4)
    objective = Objective(risk, 1e-2, regularise_bias=regularise_bias)
    theta, b = 0.3 * make_theta(risk, 1), normal(*risk.shape, 1, seed=3)
    found = solve_once(objective, theta, b, damping=0.1, tolerance=1e-8)
    assert bool(found.converged.all())
    exact = dense(objective.hessian(risk.at(theta), damping=0.1), b, tolerance=1e-12)
    torch.testing.assert_close(found.x, exact.x, rtol=1e-6, atol=1e-8)
