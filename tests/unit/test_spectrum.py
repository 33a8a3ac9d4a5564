"""The ends of a spectrum against eigvalsh; the advice on damping."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from networks import draw, make_net_risk, objective_of
from problems import make_risk, normal
from torch import Tensor

from undue.calculus.linear import Softmax
from undue.calculus.risk import Risk
from undue.calculus.solvers import Operator, dense_matrix
from undue.calculus.spectrum import DENSE, extremes, require_positive_definite
from undue.errors import UserError

# Of torch's own making, at the first use of forward-mode derivatives.
pytestmark = pytest.mark.filterwarnings("ignore:`torch.jit.script` is deprecated")


def operator_of(values: Tensor) -> tuple[Operator, Tensor]:
    """A matrix with these eigenvalues, and a tensor of the shape it acts on."""
    basis = torch.linalg.qr(normal(len(values), len(values), seed=1)).Q
    matrix = basis @ torch.diag(values) @ basis.T
    return lambda v: (matrix.to(v.dtype) @ v.reshape(-1)).view_as(v), values.new_zeros(len(values), 1, 1)


def hessian(risk: Risk, theta: Tensor, damping: float = 0.0) -> Operator:
    point: Any = risk.at(theta)
    return objective_of(risk, 0.01).hessian(point, damping)


@pytest.mark.parametrize("inputs", [3, 16], ids=["dense", "Lanczos"])
def test_the_indefinite_hessian_of_a_network(inputs: int) -> None:
    risk = make_net_risk(n=25, d=inputs)
    theta = draw(risk, 1)
    assert (theta.numel() > DENSE) == (inputs == 16)
    operator = hessian(risk, theta)
    exact = torch.linalg.eigvalsh(dense_matrix(operator, theta))
    assert exact[0] < -0.01 < 0.1 < exact[-1]
    found = extremes(operator, theta)
    assert found.smallest == pytest.approx(float(exact[0]), rel=1e-5)
    assert found.largest == pytest.approx(float(exact[-1]), rel=1e-5)
    assert 0 <= found.error < 1e-4


@pytest.mark.parametrize(
    "values",
    [
        torch.linspace(1e-4, 50, 300),
        torch.cat([torch.zeros(5), torch.linspace(1, 2, 295)]),
        torch.cat([torch.linspace(-80, 1, 150), torch.linspace(1, 2, 150)]),
        torch.logspace(-6, 2, 300),
        torch.full((100,), 0.3),
    ],
    ids=["definite", "singular", "negative", "ill-conditioned", "one value"],
)
def test_lanczos_on_known_spectra(values: Tensor) -> None:
    operator, like = operator_of(values.double())
    found = extremes(operator, like)
    extent = float(values.abs().max())
    assert abs(found.smallest - float(values.min())) <= 1e-5 * extent
    assert abs(found.largest - float(values.max())) <= 1e-5 * extent
    assert found.error <= 1e-5 * extent


def test_single_precision() -> None:
    operator, like = operator_of(torch.linspace(-1, 50, 300).double())
    found = extremes(operator, like.float())
    assert found.smallest == pytest.approx(-1, abs=1e-3)
    assert found.largest == pytest.approx(50, abs=1e-3)


def test_the_same_question_twice_has_the_same_answer() -> None:
    operator, like = operator_of(torch.linspace(-1, 50, 300).double())
    assert extremes(operator, like) == extremes(operator, like)


def test_one_lane_at_a_time() -> None:
    with pytest.raises(ValueError, match="one lane"):
        extremes(lambda v: v, torch.zeros(3, 1, 2))


@pytest.mark.parametrize("size", [3, 200])
def test_a_product_that_is_not_finite(size: int) -> None:
    with pytest.raises(FloatingPointError, match="not finite"):
        extremes(lambda v: v * torch.nan, torch.zeros(size, 1, 1))


def test_no_convergence_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("undue.calculus.spectrum.TOLERANCE", 1e-14)
    monkeypatch.setattr("undue.calculus.spectrum.MAX_RESTARTS", 1)
    operator, like = operator_of(torch.linspace(0, 1, 400).double())
    with pytest.raises(UserError, match="not found with") as caught:
        extremes(operator, like, key="some.key")
    assert caught.value.where == "some.key"
    assert "raise some.key" in str(caught.value.remedy)


def test_a_positive_definite_hessian_passes() -> None:
    risk = make_risk(Softmax())
    theta = draw(risk, 1)
    found = require_positive_definite(hessian(risk, theta, 0.1), theta, damping=0.1)
    assert found.smallest >= 0.1


@pytest.mark.parametrize("inputs", [3, 16], ids=["dense", "Lanczos"])
@pytest.mark.parametrize("damping", [0.0, 0.02])
def test_the_advice_suffices(inputs: int, damping: float) -> None:
    risk = make_net_risk(n=25, d=inputs)
    theta = draw(risk, 1)
    lowest = float(torch.linalg.eigvalsh(dense_matrix(hessian(risk, theta), theta))[0])
    with pytest.raises(UserError, match="not positive definite") as caught:
        require_positive_definite(hessian(risk, theta, damping), theta, damping=damping, key="some.key")
    error = caught.value
    assert error.where == "some.key"
    assert f"smallest eigenvalue is {lowest + damping:.3g}" in error.what
    advised = float(error.remedy.split("raise some.key to ")[1].split(" or")[0])
    assert -lowest < advised < -1.2 * lowest + 0.01
    found = require_positive_definite(hessian(risk, theta, advised), theta, damping=advised)
    assert found.smallest > 0


def test_a_singular_hessian_is_not_positive_definite() -> None:
    operator, like = operator_of(torch.cat([torch.zeros(2), torch.ones(10)]).double())
    with pytest.raises(UserError, match="not positive definite"):
        require_positive_definite(lambda v: operator(v) - 1e-12 * v, like, damping=0.0)
