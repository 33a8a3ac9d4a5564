"""The eigenbasis of features: orthogonal, and of no consequence for any answer."""

from __future__ import annotations

import pytest
import torch
from problems import LINKS, exact_influence, make_calculator, make_problem, make_risk, make_theta, normal

from undue.calculus.basis import Eigenbasis
from undue.calculus.linear import Link, Softmax

links = pytest.mark.parametrize("link", LINKS, ids=lambda link: type(link).__name__)


def test_the_basis_is_orthogonal_and_diagonalises() -> None:
    x = make_risk(Softmax(), n=50, d=7).x
    basis = Eigenbasis.of(x)
    identity = torch.eye(7, dtype=torch.float64)
    torch.testing.assert_close(basis.vectors.T @ basis.vectors, identity, rtol=0, atol=1e-12)
    rotated = basis.rotate(x)
    second = rotated[:, :-1].T @ rotated[:, :-1] / 50
    torch.testing.assert_close(second, torch.diag(basis.moments[:-1]), rtol=0, atol=1e-10)
    torch.testing.assert_close(rotated.square().mean(dim=0), basis.moments, rtol=1e-10, atol=1e-12)


def test_a_basis_in_single_precision() -> None:
    basis, theta = Eigenbasis.of(make_risk(Softmax(), n=50, d=7).x), normal(7, 3, 2, seed=1)
    single = basis.to(torch.float32)
    assert single.vectors.dtype == single.moments.dtype == torch.float32
    torch.testing.assert_close(single.to_basis(theta.float()), basis.to_basis(theta).float())
    torch.testing.assert_close(single.from_basis(theta.float()), basis.from_basis(theta).float())


def test_the_bias_is_left_alone() -> None:
    x = make_risk(Softmax(), n=50, d=7).x
    x[:, -1] = 3.0
    basis = Eigenbasis.of(x)
    assert torch.equal(basis.rotate(x)[:, -1], x[:, -1])
    assert basis.moments[-1] == 9.0


def test_more_rows_than_a_block() -> None:
    x = torch.cat([normal(9000, 3, seed=0), torch.ones(9000, 1, dtype=torch.float64)], dim=1)
    basis = Eigenbasis.of(x)
    torch.testing.assert_close(
        basis.moments[:-1], torch.linalg.eigvalsh(x[:, :-1].T @ x[:, :-1] / 9000), rtol=1e-10, atol=0
    )
    torch.testing.assert_close(basis.rotate(x), x @ basis.vectors, rtol=1e-12, atol=1e-12)


def test_fewer_samples_than_features() -> None:
    basis = Eigenbasis.of(make_risk(Softmax(), n=4, d=9).x)
    assert bool((basis.moments >= 0).all())
    assert int((basis.moments[:-1] > 1e-10).sum()) == 4


def test_there_and_back() -> None:
    risk = make_risk(Softmax(), n=50, d=7)
    basis = Eigenbasis.of(risk.x)
    theta = make_theta(risk, 3)
    torch.testing.assert_close(basis.from_basis(basis.to_basis(theta)), theta, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(basis.to_basis(theta).norm(), theta.norm(), rtol=1e-12, atol=0)
    outputs = torch.einsum("nd,dkl->nkl", risk.x, theta)
    turned = torch.einsum("nd,dkl->nkl", basis.rotate(risk.x), basis.to_basis(theta))
    torch.testing.assert_close(turned, outputs, rtol=1e-10, atol=1e-12)


def test_precision_is_that_of_what_is_turned() -> None:
    risk = make_risk(Softmax())
    basis = Eigenbasis.of(risk.x.float())
    assert basis.vectors.dtype == basis.moments.dtype == torch.float64
    assert basis.rotate(risk.x.float()).dtype == torch.float32
    assert basis.to_basis(make_theta(risk, 2).float()).dtype == torch.float32
    assert basis.from_basis(make_theta(risk, 2)).dtype == torch.float64


@links
@pytest.mark.parametrize("regularise_bias", [True, False], ids=["bias", "no bias"])
def test_influences_do_not_depend_on_the_basis(link: Link, regularise_bias: bool) -> None:
    problem = make_problem(link)
    basis = Eigenbasis.of(problem.train.x)
    theta = make_theta(problem.train, 2)
    rotated = make_calculator(problem, basis, regularise_bias=regularise_bias)
    plain = make_calculator(problem, regularise_bias=regularise_bias)
    turned = basis.to_basis(theta)
    score, _ = rotated.score(rotated.at(turned), rotated.problem.shared.at(turned), tolerance=1e-12)
    for lane in range(2):
        expected = exact_influence(plain, theta[..., lane], problem.shared)
        torch.testing.assert_close(score[:, lane], expected, rtol=1e-8, atol=1e-9)
