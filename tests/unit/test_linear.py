"""Closed forms of linear heads against autograd."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from problems import LINKS, loss, losses, make_risk, make_theta, normal
from torch import Tensor
from torch.func import grad, hessian, jacrev

from undue.calculus import linear
from undue.calculus.linear import LinearPoint, LinearRisk, Link, Logistic, SmoothHinge, Softmax

LANES = 3
EXACT = 1e-10

links = pytest.mark.parametrize("link", LINKS, ids=lambda link: type(link).__name__)


def close(actual: Tensor, expected: Tensor, tolerance: float = EXACT) -> None:
    torch.testing.assert_close(actual, expected, rtol=tolerance, atol=tolerance)


def lanes_of(function: Callable[[Tensor], Tensor], theta: Tensor) -> Tensor:
    """A function of one lane's θ on every lane, lanes last."""
    return torch.stack([function(lane) for lane in theta.unbind(dim=2)], dim=-1)


def weights_of(risk: LinearRisk, kind: str) -> Tensor:
    """Weights of both signs."""
    shape = (risk.samples,) if kind == "shared" else (risk.samples, LANES)
    return normal(*shape, seed=20)


def lane(w: Tensor, number: int) -> Tensor:
    return w if w.dim() == 1 else w[:, number]


weightings = pytest.mark.parametrize("weighting", ["shared", "per lane"])


@links
def test_losses(link: Link) -> None:
    risk = make_risk(link)
    theta = make_theta(risk, LANES)
    close(risk.at(theta).losses(), lanes_of(losses(risk), theta))


@links
def test_grad_dots(link: Link) -> None:
    risk = make_risk(link)
    theta, v = make_theta(risk, LANES), make_theta(risk, LANES, seed=11)
    expected = torch.stack(
        [(jacrev(losses(risk))(theta[..., i]) * v[..., i]).sum(dim=(1, 2)) for i in range(LANES)], dim=1
    )
    close(risk.at(theta).grad_dots(v), expected)


@links
@weightings
def test_grad(link: Link, weighting: str) -> None:
    risk = make_risk(link)
    theta, w = make_theta(risk, LANES), weights_of(risk, weighting)
    expected = torch.stack(
        [torch.einsum("n,ndk->dk", lane(w, i), jacrev(losses(risk))(theta[..., i])) for i in range(LANES)],
        dim=2,
    )
    close(risk.at(theta).grad(w), expected)


@links
@weightings
def test_hvp(link: Link, weighting: str) -> None:
    risk = make_risk(link)
    theta, v, w = make_theta(risk, LANES), make_theta(risk, LANES, seed=11), weights_of(risk, weighting)
    expected = torch.stack(
        [
            torch.einsum("n,ndkel,el->dk", lane(w, i), hessian(losses(risk))(theta[..., i]), v[..., i])
            for i in range(LANES)
        ],
        dim=2,
    )
    close(risk.at(theta).hvp(v, w), expected)


@links
@weightings
def test_curvature_grad(link: Link, weighting: str) -> None:
    risk = make_risk(link)
    theta, w = make_theta(risk, LANES), weights_of(risk, weighting)
    a, b = make_theta(risk, LANES, seed=11), make_theta(risk, LANES, seed=12)

    def form(i: int) -> Callable[[Tensor], Tensor]:
        def value(parameters: Tensor) -> Tensor:
            second = hessian(losses(risk))(parameters)
            return torch.einsum("n,dk,ndkel,el->", lane(w, i), a[..., i], second, b[..., i])

        return value

    expected = torch.stack([grad(form(i))(theta[..., i]) for i in range(LANES)], dim=2)
    close(risk.at(theta).curvature_grad(a, b, w), expected)


@links
@weightings
def test_mean_curvature(link: Link, weighting: str) -> None:
    risk = make_risk(link)
    theta, w = make_theta(risk, LANES), weights_of(risk, weighting)

    def in_outputs(z: Tensor, y: Tensor) -> Tensor:
        return torch.diagonal(hessian(lambda outputs: loss(link, outputs, y))(z))

    expected = torch.stack(
        [
            lane(w, i)
            @ torch.stack([in_outputs(z, y) for z, y in zip(risk.x @ theta[..., i], risk.y, strict=True)])
            for i in range(LANES)
        ],
        dim=1,
    )[None]
    close(risk.at(theta).mean_curvature(w), expected)


@links
def test_input_grad_dots(link: Link) -> None:
    risk = make_risk(link)
    theta, v = make_theta(risk, LANES), make_theta(risk, LANES, seed=11)

    def of_input(i: int, y: Tensor) -> Callable[[Tensor], Tensor]:
        def dots(x: Tensor) -> Tensor:
            gradient: Tensor = grad(lambda parameters: loss(link, x @ parameters, y))(theta[..., i])
            return (gradient * v[..., i]).sum()

        return dots

    expected = torch.stack(
        [
            torch.stack([grad(of_input(i, y))(x) for x, y in zip(risk.x, risk.y, strict=True)])
            for i in range(LANES)
        ],
        dim=2,
    )
    close(risk.at(theta).input_grad_dots(v), expected)


@links
def test_correct(link: Link) -> None:
    risk = make_risk(link)
    theta = make_theta(risk, LANES)
    point = risk.at(theta)
    outputs = torch.einsum("nd,dkl->nkl", risk.x, theta)
    predicted = outputs.argmax(dim=1) if isinstance(link, Softmax) else (outputs[:, 0] > 0).long()
    assert torch.equal(point.correct(), predicted == risk.y[:, None])
    assert 0 < point.correct().sum() < point.correct().numel()
    assert point.accuracy().dtype == torch.float64
    close(point.accuracy(), (predicted == risk.y[:, None]).double().mean(dim=0))


def operations(point: LinearPoint) -> dict[str, Tensor]:
    """Everything that a point computes, for comparing one way of computing it with another."""
    risk = point.risk

    def vector(seed: int) -> Tensor:
        return make_theta(risk, LANES, seed=seed)[..., : point.lanes].to(point.theta)

    w = normal(risk.samples, LANES, seed=20)[:, : point.lanes].to(point.theta)
    return {
        "losses": point.losses(),
        "correct": point.correct().double(),
        "grad": point.grad(w),
        "grad_dots": point.grad_dots(vector(11)),
        "hvp": point.hvp(vector(11), w),
        "mean_curvature": point.mean_curvature(w),
        "curvature_grad": point.curvature_grad(vector(11), vector(12), w),
        "input_grad_dots": point.input_grad_dots(vector(11)),
    }


@links
@pytest.mark.parametrize("rows", [1, 5, 23, 1000])
def test_chunks_of_rows_do_not_matter(link: Link, rows: int, monkeypatch: pytest.MonkeyPatch) -> None:
    risk = make_risk(link)
    theta = make_theta(risk, LANES)
    whole = operations(risk.at(theta))
    monkeypatch.setattr(linear, "CHUNK_NUMBERS", 1)
    monkeypatch.setattr(linear, "CHUNK_ROWS", rows)
    point = risk.at(theta)
    starts = [chunk.start for chunk in point._chunks()]
    assert starts == list(range(0, risk.samples, rows))
    for name, value in operations(point).items():
        close(value, whole[name], 1e-12)


@links
def test_lanes_do_not_mix(link: Link) -> None:
    risk = make_risk(link)
    theta = make_theta(risk, LANES)
    together = operations(risk.at(theta))
    alone = operations(risk.at(theta[..., :1]))
    for name, value in alone.items():
        close(together[name][..., :1], value, 1e-12)


@links
def test_a_broken_lane_leaves_the_others_alone(link: Link) -> None:
    risk = make_risk(link)
    theta = make_theta(risk, LANES)
    whole = operations(risk.at(theta))
    broken = theta.clone()
    broken[..., 2] = torch.nan
    for name, value in operations(risk.at(broken)).items():
        close(value[..., :2], whole[name][..., :2], 1e-12)


@links
def test_single_precision_differs_by_rounding(link: Link) -> None:
    risk = make_risk(link)
    theta = make_theta(risk, LANES)
    single = operations(risk.to(torch.float32).at(theta.float()))
    for name, value in operations(risk.at(theta)).items():
        if name != "correct":
            assert single[name].dtype == torch.float32
        error = (single[name].double() - value).abs().max() / value.abs().max()
        assert error < 1e-5, name


def test_confident_outputs_keep_their_small_losses() -> None:
    z = torch.tensor([[[30.0]], [[-30.0]], [[30.0]], [[-800.0]]], dtype=torch.float64)
    y = torch.tensor([1, 0, 0, 1])
    small = torch.exp(torch.tensor(-30.0, dtype=torch.float64))
    expected = torch.stack([small, small, small + 30, small * 0 + 800])[:, None]
    torch.testing.assert_close(Logistic().loss(z, y), expected, rtol=1e-10, atol=0)
    assert torch.isfinite(SmoothHinge(1e-3).loss(z, y)).all()
    assert torch.isfinite(Softmax().loss(torch.cat([z, -z], dim=1) * 1e3, y)).all()


def test_the_smooth_hinge_tends_to_the_hinge() -> None:
    z = torch.linspace(-3, 3, 41, dtype=torch.float64)[:, None, None]
    y = torch.arange(41) % 2
    hinge = (1 - (2 * y[:, None] - 1) * z[:, 0]).clamp(min=0)
    for temperature in (0.1, 0.01):
        gap = (SmoothHinge(temperature).loss(z, y) - hinge).abs().max()
        assert gap <= temperature * torch.log(torch.tensor(2.0)) + 1e-12


@pytest.mark.parametrize("shape", [(4, 3), (3, 3, 1), (4, 2, 1), (1, 4, 3, 1)])
def test_parameters_of_another_shape_are_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=r"expected \(4, 3, lanes\)"):
        make_risk(Softmax()).at(torch.zeros(shape, dtype=torch.float64))


@links
def test_a_risk_on_some_rows(link: Link) -> None:
    risk = make_risk(link)
    theta = make_theta(risk, LANES)
    index = torch.tensor([7, 2, 2, 19])
    part = risk.rows(index)
    assert part.samples == 4
    assert part.shape == risk.shape
    close(part.at(theta).losses(), risk.at(theta).losses()[index], 1e-14)


def test_changing_precision_keeps_labels_and_link() -> None:
    risk = make_risk(SmoothHinge(0.3)).to(torch.float32)
    assert risk.x.dtype == torch.float32
    assert risk.y.dtype == torch.int64
    assert risk.link == SmoothHinge(0.3)
    assert risk.to(torch.device("cpu")).y is risk.y
