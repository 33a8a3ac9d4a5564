"""Closed forms of linear heads against autograd."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from problems import LINKS, loss, losses, make_risk, make_theta, normal
from torch import Tensor
from torch.func import grad, hessian, jacrev, jvp

from undue.calculus import lanes, linear
from undue.calculus.lanes import dot, norm
from undue.calculus.linear import (
    Bfloat16,
    LinearPoint,
    LinearRisk,
    Link,
    Logistic,
    Projection,
    SmoothHinge,
    Softmax,
)

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
@pytest.mark.parametrize("shared", ["u", "w", "neither", "both"])
def test_bilinear_grad(link: Link, shared: str) -> None:
    """The gradient of Σ (u_i ∇ℓ_iᵀ a − w_i aᵀ ∇²ℓ_i b), by autograd; each of the weights in both shapes."""
    risk = make_risk(link)
    theta, a, b = (make_theta(risk, LANES, seed=seed) for seed in (10, 11, 12))
    u, w = (
        normal(risk.samples, seed=seed)
        if shared in (name, "both")
        else normal(risk.samples, LANES, seed=seed)
        for name, seed in (("u", 20), ("w", 21))
    )

    def form(i: int) -> Callable[[Tensor], Tensor]:
        def value(parameters: Tensor) -> Tensor:
            slope = jacrev(losses(risk))
            along_a: Tensor = (slope(parameters) * a[..., i]).sum(dim=(1, 2))
            twice: Tensor = jvp(
                lambda at: (slope(at) * a[..., i]).sum(dim=(1, 2)), (parameters,), (b[..., i],)
            )[1]
            return lane(u, i) @ along_a - lane(w, i) @ twice

        return value

    expected = torch.stack([grad(form(i))(theta[..., i]) for i in range(LANES)], dim=2)
    point = risk.at(theta)
    found = point.bilinear_grad(a, b, u, w)
    close(found, expected)
    close(found, point.hvp(a, u) - point.curvature_grad(a, b, w))


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


def outputs_of(link: Link, rows: list[list[float]]) -> Tensor:
    """Outputs z (rows, k, 1), k as the link wants it."""
    z = torch.tensor(rows, dtype=torch.float64)
    return z[..., None] if isinstance(link, Softmax) else (z[:, 1:2] - z[:, 0:1])[..., None]


@links
def test_a_tie_is_not_right(link: Link) -> None:
    """Whichever class comes first, and whether or not it is the label."""
    z = outputs_of(link, [[1.0, 1.0], [1.0, 1.0], [0.0, 0.0], [2.0, 1.0], [2.0, 1.0], [-3.0, -2.0]])
    y = torch.tensor([0, 1, 0, 0, 1, 1])
    assert link.correct(z, y)[:, 0].tolist() == [False, False, False, True, False, True]


def test_a_tie_of_other_classes_is_no_matter() -> None:
    z = torch.tensor([[2.0, 2.0, 3.0], [2.0, 2.0, 1.0], [2.0, 1.0, 2.0]])[..., None]
    assert Softmax().correct(z, torch.tensor([2, 2, 0]))[:, 0].tolist() == [True, False, False]


@links
@pytest.mark.parametrize("label", [0, 1])
def test_an_output_that_is_not_a_number_is_not_right(link: Link, label: int) -> None:
    """All of a sample's outputs, and any one of them."""
    nan = torch.nan
    z = outputs_of(link, [[nan, nan], [nan, 1.0], [1.0, nan]])
    assert not link.correct(z, torch.full((3,), label)).any()


@links
def test_without_ties_right_is_what_is_predicted(link: Link) -> None:
    for dtype in (torch.float64, torch.float32):
        z = normal(500, link.outputs(4), LANES, seed=3).to(dtype)
        z[:50] *= 1e30
        z[50:100] *= 1e-30
        y = torch.arange(500) % (4 if isinstance(link, Softmax) else 2)
        found = link.correct(z, y)
        assert found.dtype == torch.bool
        assert torch.equal(found, link.predict(z) == y[:, None])
        assert 0 < found.sum() < found.numel()


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("scale", [1.0, 1e3, 1e30])
def test_softmax_of_outputs_of_any_size(dtype: torch.dtype, scale: float) -> None:
    z = (scale * normal(20, 5, LANES, seed=1)).to(dtype)
    z[0] = scale
    z[1, 2:] = -torch.inf
    before = z.clone()
    state = Softmax().state(z, torch.zeros(20, dtype=torch.int64))
    assert torch.equal(z, before)
    torch.testing.assert_close(
        state, torch.softmax(z, dim=1), rtol=1e-5 if dtype.itemsize == 4 else 1e-13, atol=0
    )
    assert torch.isfinite(state).all()
    close(state.sum(dim=1), torch.ones_like(state[:, 0]), 1e-6)


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
        "bilinear_grad": point.bilinear_grad(vector(11), vector(12), w, w.square()),
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
def test_slim_products_agree_with_wide_ones(link: Link, monkeypatch: pytest.MonkeyPatch) -> None:
    risk = make_risk(link)
    theta = make_theta(risk, LANES)
    slim = operations(risk.at(theta))
    monkeypatch.setattr(linear, "SLIM", 1)
    for name, value in operations(risk.at(theta)).items():
        close(value, slim[name], 1e-12)
    # Where reading the features takes the time, a chunk of them fits into the cache.
    monkeypatch.undo()
    monkeypatch.setattr(linear, "SLIM_BYTES", 8 * risk.shape[0] * 7)
    monkeypatch.setattr(linear, "CHUNK_ROWS", 1)
    assert [rows.start for rows in risk.at(theta)._chunks()] == list(range(0, risk.samples, 7))


@links
@pytest.mark.parametrize("rows", [3, 1000])
def test_a_projection_is_a_vector_with_its_outputs(
    link: Link, rows: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(linear, "PRODUCT_ROWS", rows)
    risk = make_risk(link)
    v = make_theta(risk, LANES, seed=11)
    found = risk.project(v)
    assert found.vector is v
    close(found.outputs, torch.einsum("nd,dkl->nkl", risk.x, v))
    # Also of a view, and of lanes that are not side by side in memory.
    for view in (v[..., :1], v[..., [2, 0]], v.permute(2, 0, 1).contiguous().permute(1, 2, 0)):
        close(risk.project(view).outputs, torch.einsum("nd,dkl->nkl", risk.x, view))


@links
@pytest.mark.parametrize("rows", [5, 1000])
def test_a_projection_serves_wherever_a_vector_does(
    link: Link, rows: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(linear, "CHUNK_NUMBERS", 1)
    monkeypatch.setattr(linear, "CHUNK_ROWS", rows)
    risk = make_risk(link)
    point = risk.at(make_theta(risk, LANES))
    a, b = make_theta(risk, LANES, seed=11), make_theta(risk, LANES, seed=12)
    seen, other = risk.project(a), risk.project(b)
    u, w = weights_of(risk, "per lane"), weights_of(risk, "shared")
    close(point.grad_dots(seen), point.grad_dots(a), 1e-12)
    close(point.hvp(seen, w), point.hvp(a, w), 1e-12)
    for first, second in ((seen, other), (seen, b), (a, other)):
        close(point.curvature_grad(first, second, w), point.curvature_grad(a, b, w), 1e-12)
        close(point.bilinear_grad(first, second, u, w), point.bilinear_grad(a, b, u, w), 1e-12)
    # Nothing is written into what was passed.
    close(seen.outputs, risk.project(a).outputs, 0)
    close(other.outputs, risk.project(b).outputs, 0)


@links
def test_the_outputs_of_a_projection_are_used(link: Link) -> None:
    """They are not computed again: twice the outputs are taken for those of twice the vector."""
    risk = make_risk(link)
    point = risk.at(make_theta(risk, LANES))
    v, w = make_theta(risk, LANES, seed=11), weights_of(risk, "shared")
    double = Projection(v, 2 * risk.project(v).outputs)
    close(point.hvp(double, w), 2 * point.hvp(v, w))
    close(point.grad_dots(double), 2 * point.grad_dots(v))


# Unit roundoff of bfloat16: eight significant bits.
COARSE = 2.0**-8


def coarse_problem(link: Link, dtype: torch.dtype) -> tuple[LinearRisk, LinearPoint, Tensor]:
    """A risk, a point of it, and weights 1/n."""
    risk = make_risk(link, n=200, d=12).to(dtype)
    point = risk.at(make_theta(risk, LANES, scale=0.3).to(dtype))
    return risk, point, risk.x.new_full((200,), 1 / 200)


@links
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("rows", [37, 1000])
def test_coarse_products_are_right_to_eight_bits(
    link: Link, dtype: torch.dtype, rows: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Five things are rounded: X and v, the coefficients, Xᵀ, and both products' results.

    Each rounding moves a term by at most its unit roundoff, so the whole is off by at most six times
    Σ |X|ᵀ |w C| |X| |v| / 256, whatever cancels.
    """
    monkeypatch.setattr(linear, "CHUNK_NUMBERS", 1)
    monkeypatch.setattr(linear, "CHUNK_ROWS", rows)
    risk, point, w = coarse_problem(link, dtype)
    v = make_theta(risk, LANES, seed=11).to(dtype)
    found = point.coarse(Bfloat16.of(risk)).hvp(v, w)
    assert found.dtype == dtype
    exact = point.hvp(v, w)
    state = link.state(risk.project(point.theta).outputs, risk.y)
    units = torch.eye(risk.shape[1], dtype=dtype)[:, :, None]
    curves = torch.stack([link.curve(state, risk.y, unit) for unit in units]).abs()
    outputs = torch.einsum("nd,dkl->nkl", risk.x.abs(), v.abs())
    terms = torch.einsum("nd,jnkl,njl->dkl", risk.x.abs(), curves, outputs) / 200
    assert bool(((found - exact).abs() <= 6 * COARSE * terms).all())
    error = (found - exact).norm() / exact.norm()
    assert 1e-4 < float(error) < 5e-3


@links
def test_coarse_products_are_linear_and_symmetric_to_rounding(link: Link) -> None:
    risk, point, w = coarse_problem(link, torch.float32)
    coarse = point.coarse(Bfloat16.of(risk))
    a, b = (make_theta(risk, LANES, seed=seed).float() for seed in (11, 12))
    left, right = coarse.hvp(a, w), coarse.hvp(b, w)
    size = a.norm() * right.norm()
    assert float(((a * right).sum() - (b * left).sum()).abs() / size) < 2 * COARSE
    assert float((coarse.hvp(a + b, w) - left - right).norm() / right.norm()) < 3 * COARSE
    # A power of two moves no rounding.
    close(coarse.hvp(8 * a, w), 8 * left, 0)
    assert not coarse.hvp(torch.zeros_like(a), w).any()


@links
def test_coarse_products_keep_the_small_curvature_of_confident_samples(link: Link) -> None:
    """It is a difference of numbers near one, lost if they were rounded to eight bits."""
    risk = make_risk(link, n=200, d=12).to(torch.float32)
    scores = risk.project(make_theta(risk, LANES).float()).outputs
    theta = make_theta(risk, LANES).float() * 12 / scores.abs().mean()
    point = risk.at(theta)
    v, w = make_theta(risk, LANES, seed=11).float(), risk.x.new_ones(200)
    each = point.mean_curvature(w).amax() / 200
    assert float(each) < 0.2
    for row in (point.losses() < 1e-2).all(dim=1).nonzero()[:5, 0].tolist():
        alone = torch.zeros(200)
        alone[row] = 1.0
        exact = point.hvp(v, alone)
        found = point.coarse(Bfloat16.of(risk)).hvp(v, alone)
        assert bool((norm((found - exact).double()) <= 0.05 * norm(exact.double())).all())


@links
def test_weights_and_lanes_of_coarse_products(link: Link) -> None:
    """Weights of each lane, and a lane's product beside others or alone; calls leave nothing behind."""
    risk, point, _ = coarse_problem(link, torch.float32)
    copies = Bfloat16.of(risk)
    coarse, v = point.coarse(copies), make_theta(risk, LANES, seed=11).float()
    shared, each = normal(200, seed=20).float().abs(), normal(200, LANES, seed=21).float().abs()
    found = coarse.hvp(v, each)
    for i in range(LANES):
        alone = risk.at(point.theta[..., i : i + 1].contiguous()).coarse(copies)
        close(alone.hvp(v[..., i : i + 1], each[:, i])[..., 0], found[..., i], 1e-2)
    close(coarse.hvp(v, shared), coarse.hvp(v, shared[:, None].expand(-1, LANES)), 0)
    close(coarse.hvp(v, each), found, 0)
    broken = v.clone()
    broken[..., 2] = torch.nan
    close(coarse.hvp(broken, each)[..., :2], found[..., :2], 0)


@links
def test_the_last_features_of_a_coarse_point(link: Link) -> None:
    """The same as of vectors that are zero elsewhere, in the last rows."""
    risk, point, w = coarse_problem(link, torch.float32)
    coarse, v = point.coarse(Bfloat16.of(risk)), make_theta(risk, LANES, seed=11).float()
    v[:-2] = 0
    close(coarse.last(2).hvp(v[-2:], w), coarse.hvp(v, w)[-2:], COARSE)
    index = torch.tensor([1])
    close(coarse.last(2).narrow(index).hvp(v[-2:][..., index], w), coarse.hvp(v, w)[-2:][..., index], COARSE)


def test_bfloat16_copies_are_rounded_features_in_both_orders() -> None:
    risk = make_risk(Softmax()).to(torch.float32)
    copies = Bfloat16.of(risk)
    assert copies.x.dtype == copies.transposed.dtype == torch.bfloat16
    assert torch.equal(copies.x.T, copies.transposed)
    assert copies.transposed.is_contiguous()
    assert bool(((copies.x - risk.x).abs() <= COARSE * risk.x.abs()).all())


@links
def test_lanes_do_not_mix(link: Link) -> None:
    risk = make_risk(link)
    theta = make_theta(risk, LANES)
    together = operations(risk.at(theta))
    alone = operations(risk.at(theta[..., :1]))
    for name, value in alone.items():
        close(together[name][..., :1], value, 1e-12)


@links
def test_wide_and_narrow_products_agree(link: Link, monkeypatch: pytest.MonkeyPatch) -> None:
    risk = make_risk(link)
    point = risk.at(make_theta(risk, 3))
    w = normal(risk.samples, 3, seed=1)
    narrow = point.grad(w)
    monkeypatch.setattr(linear, "NARROW", 1)
    torch.testing.assert_close(point.grad(w), narrow, rtol=1e-12, atol=1e-13)


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


def test_a_sharp_hinge_has_the_curvature_that_its_loss_has() -> None:
    """(1 − s)/t from −22 to 22, beyond where softplus is taken for linear."""
    hinge, s = SmoothHinge(1e-3), 1 + 1e-3 * torch.linspace(-22, 22, 23, dtype=torch.float64)
    y = torch.ones(len(s), dtype=torch.int64)

    def total(z: Tensor) -> Tensor:
        return hinge.loss(z[:, None, None], y).sum()

    z = s[:, None, None]
    state = hinge.state(z, y)
    slope, curvature = hinge.slope(state, y)[:, 0, 0], hinge.curve(state, y, torch.ones_like(z))[:, 0, 0]
    torch.testing.assert_close(torch.func.grad(total)(s), slope, rtol=1e-5, atol=0)
    second = torch.func.grad(lambda v: torch.func.grad(total)(v).sum())(s)
    assert bool((curvature > 0).all())
    torch.testing.assert_close(second, curvature, rtol=1e-5, atol=0)


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


@links
@pytest.mark.parametrize("chosen", [[1], [2, 0], [0, 1, 2]])
def test_a_point_of_some_lanes(link: Link, chosen: list[int]) -> None:
    risk = make_risk(link)
    theta, index = make_theta(risk, LANES), torch.tensor(chosen)
    point = risk.at(theta)
    before = operations(point)
    narrow = point.narrow(index)
    expected = risk.at(theta[..., index].contiguous())
    assert narrow.lanes == len(chosen)
    assert torch.equal(narrow.theta, expected.theta)
    assert torch.equal(narrow.losses(), point.losses()[:, index])
    close(narrow.accuracy(), expected.accuracy(), 0)
    for name, value in operations(expected).items():
        close(operations(narrow)[name], value, 1e-12)
    # The other point stays what it was.
    assert point.lanes == LANES
    for name, value in operations(point).items():
        close(value, before[name], 0)


@links
def test_a_coarse_point_of_some_lanes(link: Link) -> None:
    risk, point, w = coarse_problem(link, torch.float32)
    coarse, index = point.coarse(Bfloat16.of(risk)), torch.tensor([2, 0])
    v = make_theta(risk, LANES, seed=11).float()
    whole = coarse.hvp(v, w)
    part = coarse.narrow(index).hvp(v[..., index], w)
    assert float((part - whole[..., index]).norm() / whole.norm()) < COARSE
    # Each has its own room for what it computes on the way.
    close(coarse.hvp(v, w), whole, 0)


@pytest.mark.parametrize("numbers", [1, 7, 100, 1 << 18])
def test_dots_in_parts(numbers: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lanes, "PART_NUMBERS", numbers)
    a, b = normal(11, 3, LANES, seed=1), normal(11, 3, LANES, seed=2)
    close(dot(a, b), torch.einsum("dkl,dkl->l", a, b))
    # One weight for all lanes, and none of anything.
    close(dot(a[:, 0, :1], b[:, 0]), torch.einsum("n,nl->l", a[:, 0, 0], b[:, 0]))
    close(dot(a[:0], b[:0]), torch.zeros(LANES).double())
