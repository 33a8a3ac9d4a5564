"""Small networks that several tests share, and their losses written out without the library."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from problems import generator, loss, make_risk, normal
from torch import Tensor, nn

from undue.calculus.factor import Factor
from undue.calculus.lanes import norm
from undue.calculus.linear import LinearRisk, Link, Softmax
from undue.calculus.module import ModuleRisk, link_loss
from undue.calculus.objective import Objective
from undue.calculus.risk import Risk

HIDDEN = 4


def objective_of(risk: Risk, l2: float, weights: Tensor | None = None) -> Objective[Risk]:
    """An objective on any risk."""
    return Objective(risk, l2) if weights is None else Objective(risk, l2, weights)


def draw(risk: Risk, lanes: int, *, seed: int = 10, scale: float = 0.7) -> Tensor:
    """Parameters (d, k, lanes), or vectors like them."""
    return scale * normal(*risk.shape, lanes, seed=seed)


def as_module(risk: LinearRisk, **options: Any) -> ModuleRisk:
    """A linear head's risk as a network's."""
    d, k = risk.shape
    layer = nn.Linear(d, k, bias=False).double().eval()
    return ModuleRisk(layer, risk.x, risk.y, link_loss(risk.link), **options)


def flat(theta: Tensor) -> Tensor:
    """A linear head's θ (d, k, L) as the network's (k·d, 1, L)."""
    return theta.permute(1, 0, 2).reshape(-1, 1, theta.shape[2])


def make_net(inputs: int, outputs: int) -> nn.Module:
    """A two-layer tanh network, seeded, float64."""
    net = nn.Sequential(nn.Linear(inputs, HIDDEN), nn.Tanh(), nn.Linear(HIDDEN, outputs)).double().eval()
    with torch.no_grad():
        for number, part in enumerate(net.parameters()):
            draw = torch.randn(part.shape, dtype=torch.float64, generator=generator(100 + number))
            part.copy_(0.7 * draw)
    return net


def make_net_risk(
    link: Link | None = None, *, n: int = 19, d: int = 3, seed: int = 0, **options: Any
) -> ModuleRisk:
    """A tanh network's risk on noisy data."""
    link = link or Softmax()
    data = make_risk(link, n=n, d=d + 1, seed=seed)
    return ModuleRisk(make_net(d, data.shape[1]), data.x[:, :-1], data.y, link_loss(link), **options)


def net_losses(link: Link, x: Tensor, y: Tensor) -> Callable[[Tensor], Tensor]:
    """The tanh network's losses (n,) as a function of flat parameters (p,), for autograd."""
    inputs = x.shape[-1]

    def each(theta: Tensor) -> Tensor:
        outputs = (len(theta) - HIDDEN * (inputs + 1)) // (HIDDEN + 1)
        w1, b1, w2, b2 = theta.split([HIDDEN * inputs, HIDDEN, outputs * HIDDEN, outputs])  # type: ignore[no-untyped-call]
        hidden = torch.tanh(x @ w1.view(HIDDEN, inputs).T + b1)
        return loss(link, hidden @ w2.view(outputs, HIDDEN).T + b2, y)

    return each


def hessian_of(risk: Risk, theta: Tensor, l2: float, weights: Tensor) -> Tensor:
    """The objective's Hessian (p, p) at θ (d, k, 1), its columns computed side by side as lanes."""
    size = theta.numel()
    point: Any = risk.at(theta.expand(-1, -1, size).contiguous())
    units = torch.eye(size, dtype=theta.dtype).view(*theta.shape[:2], size)
    return objective_of(risk, l2, weights).hessian(point)(units).reshape(size, size)


def gradient_of(risk: Risk, theta: Tensor, l2: float, weights: Tensor) -> Tensor:
    """The objective's gradient (d, k, 1)."""
    point: Any = risk.at(theta)
    return objective_of(risk, l2, weights).gradient(point)


def minimise(risk: Risk, start: Tensor, l2: float, weights: Tensor) -> Tensor:
    """A local minimum (d, k, 1) to rounding: Newton steps of positive curvature with backtracking."""
    objective = objective_of(risk, l2, weights)

    def value(theta: Tensor) -> float:
        point: Any = risk.at(theta)
        return float(objective.value(point))

    theta = start
    for _ in range(200):
        gradient = gradient_of(risk, theta, l2, weights)
        if float(norm(gradient)) < 1e-12:
            return theta
        values, vectors = torch.linalg.eigh(hessian_of(risk, theta, l2, weights))
        inverse = vectors @ torch.diag(1 / values.abs().clamp(min=1e-3)) @ vectors.T
        step = -(inverse @ gradient.reshape(-1)).view_as(theta)
        if float(norm(gradient)) > 1e-4:
            while value(theta + step) > value(theta):
                step = step / 2
        theta = theta + step
    raise AssertionError(f"gradient norm {float(norm(gradient)):.1e}")


def follow(risk: Risk, theta: Tensor, l2: float, weights: Tensor, factor: Factor) -> Tensor:
    """The stationary point near θ of a slightly different objective, by the Hessian factorised at θ."""
    for _ in range(300):
        gradient = gradient_of(risk, theta, l2, weights)
        if float(norm(gradient)) < 1e-13:
            return theta
        theta = theta - factor.solve(gradient).x
    raise AssertionError(f"gradient norm {float(norm(gradient)):.1e}")
