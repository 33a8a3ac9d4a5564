"""Networks by torch.func: against linear heads in closed form, autograd, and central differences."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from networks import as_module, draw, flat, make_net, make_net_risk, net_losses, objective_of
from problems import LINKS, losses, make_problem, make_risk, normal
from torch import Tensor, nn
from torch.func import grad, hessian, jacrev
from torch.nn.functional import cross_entropy

from undue.calculus.influence import influence
from undue.calculus.linear import Link, Softmax
from undue.calculus.module import GROWTH, ModulePoint, ModuleRisk, link_loss, predict_class
from undue.calculus.objective import Objective
from undue.calculus.risk import Point, Risk
from undue.calculus.solvers import Solution, conjugate_gradient
from undue.data.problem import Problem
from undue.valuation.attack import Gradient, attack_gradient
from undue.valuation.calculator import Calculator

# Of torch's own making: at the first use of forward-mode derivatives, and in those of log σ.
pytestmark = [
    pytest.mark.filterwarnings("ignore:`torch.jit.script` is deprecated"),
    pytest.mark.filterwarnings("ignore:An output with one or more elements was resized"),
]

LANES = 3
EXACT = 1e-10

links = pytest.mark.parametrize("link", LINKS, ids=lambda link: type(link).__name__)
weightings = pytest.mark.parametrize("weighting", ["shared", "per lane"])


def close(actual: Tensor, expected: Tensor, tolerance: float = EXACT) -> None:
    torch.testing.assert_close(actual, expected, rtol=tolerance, atol=tolerance)


def weights_of(risk: Risk, weighting: str = "per lane") -> Tensor:
    """Weights of both signs."""
    return normal(*((risk.samples,) if weighting == "shared" else (risk.samples, LANES)), seed=20)


def everything(point: Point, vectors: tuple[Tensor, Tensor], w: Tensor) -> dict[str, Tensor]:
    """The answer of every operation."""
    a, b = vectors
    return {
        "losses": point.losses(),
        "correct": point.correct(),
        "accuracy": point.accuracy(),
        "grad": point.grad(w),
        "grad_dots": point.grad_dots(a),
        "hvp": point.hvp(a, w),
        "curvature_grad": point.curvature_grad(a, b, w),
        "bilinear_grad": point.bilinear_grad(a, b, w, w**2),
        "input_grad_dots": point.input_grad_dots(a),
    }


PARAMETERS = {"grad", "hvp", "curvature_grad", "bilinear_grad"}


def all_close(found: dict[str, Tensor], expected: dict[str, Tensor], tolerance: float = EXACT) -> None:
    for name, value in expected.items():
        torch.testing.assert_close(found[name], value, rtol=tolerance, atol=tolerance, msg=f"{name} differs")


# A linear head ----------------------------------------------------------------------------------------------


@links
@weightings
def test_every_operation_is_the_closed_form_on_a_linear_head(link: Link, weighting: str) -> None:
    risk = make_risk(link)
    theta = draw(risk, LANES)
    a, b = draw(risk, LANES, seed=11), draw(risk, LANES, seed=12)
    w = weights_of(risk, weighting)
    expected = everything(risk.at(theta), (a, b), w)
    found = everything(as_module(risk).at(flat(theta)), (flat(a), flat(b)), w)
    assert found.keys() == expected.keys()
    all_close(found, {name: flat(v) if name in PARAMETERS else v for name, v in expected.items()})


def test_objectives_and_solvers_take_a_network_as_they_are() -> None:
    risk = make_risk(Softmax())
    theta, b = draw(risk, LANES), draw(risk, LANES, seed=5)
    closed, network = objective_of(risk, 0.1), objective_of(as_module(risk), 0.1)
    one: Any = risk.at(theta)
    other: Any = as_module(risk).at(flat(theta))
    close(network.value(other), closed.value(one))
    close(network.gradient(other), flat(closed.gradient(one)))
    solutions = [
        conjugate_gradient(closed.hessian(one, 0.05), b, tolerance=1e-12),
        conjugate_gradient(network.hessian(other, 0.05), flat(b), tolerance=1e-12),
    ]
    close(solutions[1].x, flat(solutions[0].x), 1e-9)


# A network against autograd ---------------------------------------------------------------------------------


@links
def test_a_network_against_torch_func_hessian(link: Link) -> None:
    risk = make_net_risk(link)
    theta, v = draw(risk, LANES), draw(risk, LANES, seed=11)
    w = weights_of(risk)
    each = net_losses(link, risk.x, risk.y)
    point = risk.at(theta)
    for i in range(LANES):
        one, along = theta[:, 0, i], v[:, 0, i]
        close(point.losses()[:, i], each(one))
        jacobian, second = jacrev(each)(one), hessian(each)(one)
        close(point.grad_dots(v)[:, i], jacobian @ along)
        close(point.grad(w)[:, 0, i], w[:, i] @ jacobian)
        close(point.hvp(v, w)[:, 0, i], torch.einsum("n,npq,q->p", w[:, i], second, along))


@links
def test_a_network_against_double_backward(link: Link) -> None:
    """Plain torch.autograd with create_graph, no function transform."""
    risk = make_net_risk(link)
    theta = draw(risk, LANES)
    a, b = draw(risk, LANES, seed=11), draw(risk, LANES, seed=12)
    w = weights_of(risk)
    point = risk.at(theta)
    for i in range(LANES):
        one = theta[:, 0, i].clone().requires_grad_()
        x = risk.x.clone().requires_grad_()
        each = net_losses(link, x, risk.y)(one)
        (gradient,) = torch.autograd.grad(w[:, i] @ each, one, create_graph=True)
        (product,) = torch.autograd.grad(gradient @ b[:, 0, i], one, create_graph=True)
        close(point.hvp(b, w)[:, 0, i], product.detach())
        (third,) = torch.autograd.grad(product @ a[:, 0, i], one)
        close(point.curvature_grad(a, b, w)[:, 0, i], third)
        each = net_losses(link, x, risk.y)(one)
        (total,) = torch.autograd.grad(each.sum(), one, create_graph=True)
        (of_inputs,) = torch.autograd.grad(total @ a[:, 0, i], x)
        close(point.input_grad_dots(a)[..., i], of_inputs)


@links
def test_a_network_against_central_differences(link: Link) -> None:
    risk = make_net_risk(link)
    theta, a = draw(risk, 1), draw(risk, 1, seed=11)
    b, w, h = draw(risk, 1, seed=12), weights_of(risk, "shared"), 1e-5
    point, plus, minus = risk.at(theta), risk.at(theta + h * a), risk.at(theta - h * a)
    close(point.grad_dots(a), (plus.losses() - minus.losses()) / (2 * h), 1e-7)
    close(point.hvp(a, w), (plus.grad(w) - minus.grad(w)) / (2 * h), 1e-7)
    close(point.curvature_grad(a, b, w), (plus.hvp(b, w) - minus.hvp(b, w)) / (2 * h), 1e-7)
    step = h * normal(*risk.x.shape, seed=3)
    moved = [replace(risk, x=risk.x + sign * step).at(theta).grad_dots(a) for sign in (1, -1)]
    predicted = (point.input_grad_dots(a) * step[..., None]).sum(dim=1)
    close(predicted / h, (moved[0] - moved[1]) / (2 * h), 1e-7)


class Tied(nn.Module):
    """One layer used twice: torch's own functional_call leaves such a module changed."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(3, 3)
        self.second = self.first

    def forward(self, x: Tensor) -> Tensor:
        return self.second(torch.tanh(self.first(x)))  # type: ignore[no-any-return]


class TiedWeights(nn.Module):
    """Two layers that share their weights, but not their biases."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(3, 3), nn.Linear(3, 3)
        self.second.weight = self.first.weight

    def forward(self, x: Tensor) -> Tensor:
        return self.second(torch.tanh(self.first(x)))  # type: ignore[no-any-return]


def conv_net() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(1, 3, 3, stride=2),
        nn.BatchNorm2d(3),
        nn.Tanh(),
        nn.Dropout(0.5),
        nn.Conv2d(3, 3, 2),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
    )


@pytest.mark.parametrize(
    ("make", "inputs"),
    [(Tied, (3,)), (TiedWeights, (3,)), (conv_net, (1, 8, 8))],
    ids=["module used twice", "weights used twice", "convolutions"],
)
def test_other_modules_against_double_backward(
    make: Callable[[], nn.Module], inputs: tuple[int, ...]
) -> None:
    """The module's own parameters, differentiated in place; running statistics stay as they are."""
    torch.manual_seed(0)
    module = make().double().eval()
    x, y = normal(7, *inputs, seed=1), torch.arange(7) % 3
    risk = ModuleRisk(module, x, y)
    assert risk.shape == (sum(part.numel() for part in module.parameters()), 1)
    parameters = list(module.parameters())
    w, v = normal(7, seed=2), draw(risk, 1)
    pieces = [
        piece.view(part.shape)
        for piece, part in zip(v[:, 0, 0].split([p.numel() for p in parameters]), parameters, strict=True)  # type: ignore[no-untyped-call]
    ]
    each = cross_entropy(module(x), y, reduction="none")
    first = torch.autograd.grad(w @ each, parameters, create_graph=True)
    total = sum((g * p).sum() for g, p in zip(first, pieces, strict=True))
    second = torch.autograd.grad(total, parameters, create_graph=True)
    again = sum((g * p).sum() for g, p in zip(second, pieces, strict=True))
    third = torch.autograd.grad(again, parameters, allow_unused=True, materialize_grads=True)
    point = risk.at(risk.theta())
    close(point.losses()[:, 0], each.detach())
    with torch.no_grad():
        close(cross_entropy(module(x), y, reduction="none"), each)
    for found, expected in (
        (point.grad(w), first),
        (point.hvp(v, w), second),
        (point.curvature_grad(v, v, w), third),
    ):
        close(found[:, 0, 0], torch.cat([part.detach().reshape(-1) for part in expected]))
    assert point.input_grad_dots(v).shape == (7, *inputs, 1)


def test_a_label_may_be_a_vector_and_the_loss_any_function() -> None:
    """Regression on two outputs."""
    net = make_net(3, 2)
    x, y = normal(9, 3, seed=1), normal(9, 2, seed=2)
    risk = ModuleRisk(net, x, y, lambda output, label: (output - label).square().sum() / 2)
    point = risk.at(risk.theta())
    with torch.no_grad():
        residuals = net(x) - y
    close(point.losses()[:, 0], residuals.square().sum(dim=1) / 2)
    expected = torch.autograd.grad((net(x) - y).square().sum() / 2, list(net.parameters()))
    close(point.grad(x.new_ones(9))[:, 0, 0], torch.cat([part.reshape(-1) for part in expected]))


# Samples, chunks, lanes, precision --------------------------------------------------------------------------


def test_gradients_of_single_samples() -> None:
    risk = make_net_risk(memory=1.0)
    theta = draw(risk, 1)
    index = torch.tensor([4, 0, 4])
    jacobian = jacrev(net_losses(Softmax(), risk.x, risk.y))(theta[:, 0, 0])
    close(risk.at(theta).sample_grads(index)[:, 0], jacobian[index].T)
    with pytest.raises(ValueError, match="one lane"):
        risk.at(draw(risk, 2)).sample_grads(index)


@pytest.mark.parametrize("rows", [1, 2, 5])
def test_chunks_change_nothing(rows: int) -> None:
    whole = make_net_risk()
    numbers = GROWTH**3 * whole.activations * LANES
    part = replace(whole, memory=8.0 * numbers * rows)
    theta = draw(whole, LANES)
    assert len(list(whole.at(theta)._chunks(3))) == 1
    assert len(list(part.at(theta)._chunks(3))) == -(-whole.samples // rows)
    vectors = draw(whole, LANES, seed=11), draw(whole, LANES, seed=12)
    w = weights_of(whole)
    all_close(everything(part.at(theta), vectors, w), everything(whole.at(theta), vectors, w), 1e-13)


def test_a_chunk_takes_the_memory_that_it_may() -> None:
    """A wide network keeps what it should of a sample: its inputs, hidden values and outputs."""
    net = nn.Sequential(nn.Linear(10, 5000), nn.Tanh(), nn.Linear(5000, 2)).eval()
    risk = ModuleRisk(
        net, torch.zeros(20, 10), torch.zeros(20, dtype=torch.int64), memory=4 * GROWTH * 5000 * 6
    )
    assert 5000 <= risk.activations <= 2 * 5000 + 100
    point = risk.at(risk.theta())
    sizes = [rows.stop - rows.start for rows in point._chunks(1)]
    assert 3 <= max(sizes) <= 6 < sum(sizes)
    assert [rows.stop - rows.start for rows in risk.at(risk.theta().expand(-1, 1, 50))._chunks(1)] == [1] * 20


def test_lanes_change_nothing() -> None:
    risk = make_net_risk()
    theta, w = draw(risk, LANES), weights_of(risk)
    a, b = draw(risk, LANES, seed=11), draw(risk, LANES, seed=12)
    together = everything(risk.at(theta), (a, b), w)
    for i in range(LANES):
        lane = slice(i, i + 1)
        alone = everything(risk.at(theta[..., lane]), (a[..., lane], b[..., lane]), w[:, lane])
        all_close(alone, {name: value[..., lane] for name, value in together.items()}, 1e-13)
    chosen = torch.tensor([2, 0])
    narrow = risk.at(theta).narrow(chosen)
    assert narrow.lanes == 2
    found = everything(narrow, (a[..., chosen], b[..., chosen]), w[:, chosen])
    all_close(found, {name: value[..., chosen] for name, value in together.items()}, 1e-13)


def test_precision_changes_nothing_but_rounding() -> None:
    risk = make_net_risk()
    theta, w = draw(risk, LANES), weights_of(risk)
    vectors = draw(risk, LANES, seed=11), draw(risk, LANES, seed=12)
    double = everything(risk.at(theta), vectors, w)
    narrow = risk.to(torch.float32)
    single = everything(narrow.at(theta.float()), (vectors[0].float(), vectors[1].float()), w.float())
    assert narrow.y.dtype == torch.int64
    for name, value in single.items():
        assert value.dtype == (torch.float32 if double[name].is_floating_point() else torch.bool) or (
            name == "accuracy"
        )
        scale = float(double[name].double().abs().max())
        torch.testing.assert_close(value.double(), double[name].double(), rtol=1e-4, atol=1e-5 * scale)
    assert risk.to(torch.device("cpu")).x.dtype == torch.float64


def test_rows() -> None:
    risk = make_net_risk()
    index = torch.tensor([3, 3, 0])
    theta = draw(risk, 2)
    close(risk.rows(index).at(theta).losses(), risk.at(theta).losses()[index], 1e-13)
    assert risk.rows(index).activations == risk.activations


# What belongs to θ ------------------------------------------------------------------------------------------


def test_frozen_parameters_are_constants() -> None:
    """A fine-tuned top layer is a linear head on the frozen features."""
    net = make_net(3, 3)
    whole = make_net_risk()
    assert isinstance(net, nn.Sequential)
    for part in net[0].parameters():
        part.requires_grad_(False)
    top = ModuleRisk(net, whole.x, whole.y)
    with torch.no_grad():
        features = net[:2](whole.x)
    head = ModuleRisk(net[2], features, whole.y)
    assert top.shape == head.shape
    theta, v = draw(top, 2), draw(top, 2, seed=11)
    w = weights_of(top, "shared")
    for risk in (top, head):
        assert "theta" not in risk.constants()
    close(top.at(theta).hvp(v, w), head.at(theta).hvp(v, w))
    assert top.to(torch.float32).at(theta.float()).losses().dtype == torch.float32


def test_the_modules_own_parameters() -> None:
    risk = make_net_risk()
    theta = risk.theta()
    before = {name: value.clone() for name, value in risk.module.state_dict().items()}
    with torch.no_grad():
        close(risk.at(theta).losses()[:, 0], cross_entropy(risk.module(risk.x), risk.y, reduction="none"))
    for name, part in risk.parameters(theta[:, 0, 0]).items():
        assert torch.equal(part, before[name])
    moved = draw(risk, 1)
    everything(risk.at(moved), (moved, moved), weights_of(risk, "shared"))
    assert all(torch.equal(value, before[name]) for name, value in risk.module.state_dict().items())
    assert all(part.grad is None for part in risk.module.parameters())
    risk.module.load_state_dict(risk.parameters(moved[:, 0, 0]))
    close(risk.theta(), moved)


def test_results_carry_no_graph() -> None:
    risk = make_net_risk()
    theta = draw(risk, 1).requires_grad_()
    for value in everything(
        risk.at(theta), (theta.detach(), theta.detach()), weights_of(risk, "shared")
    ).values():
        assert not value.requires_grad


def test_predictions() -> None:
    assert predict_class(torch.tensor([[0.1, 2.0], [3.0, -1.0]])).tolist() == [1, 0]
    assert predict_class(torch.tensor([[0.1], [-3.0]])).tolist() == [1, 0]
    risk = replace(make_net_risk(), predict=lambda outputs: torch.zeros(len(outputs), dtype=torch.int64))
    close(risk.at(risk.theta()).accuracy(), (risk.y == 0).double().mean()[None])


# What is refused --------------------------------------------------------------------------------------------


def test_training_mode_is_refused() -> None:
    net = nn.Sequential(nn.Linear(2, 2), nn.Dropout()).eval()
    net[1].train()
    with pytest.raises(ValueError, match=r"module\.eval\(\)"):
        ModuleRisk(net, torch.zeros(3, 2), torch.zeros(3, dtype=torch.int64))


def test_a_module_without_parameters_is_refused() -> None:
    with pytest.raises(ValueError, match="nothing to train"):
        ModuleRisk(nn.Tanh().eval(), torch.zeros(3, 2), torch.zeros(3, dtype=torch.int64))


def test_integer_inputs_are_refused() -> None:
    with pytest.raises(ValueError, match=r"torch\.int64.*floating point"):
        ModuleRisk(nn.Linear(2, 2).eval(), torch.zeros(3, 2).long(), torch.zeros(3, dtype=torch.int64))


def test_inputs_and_labels_must_pair() -> None:
    with pytest.raises(ValueError, match="3 inputs, but 2 labels"):
        ModuleRisk(nn.Linear(2, 2).eval(), torch.zeros(3, 2), torch.zeros(2, dtype=torch.int64))


@pytest.mark.parametrize("shape", [(4, 1), (4, 2, 1), (5, 1, 1)])
def test_parameters_of_another_shape_are_refused(shape: tuple[int, ...]) -> None:
    risk = ModuleRisk(nn.Linear(2, 2, bias=False).eval(), torch.zeros(3, 2), torch.zeros(3).long())
    with pytest.raises(ValueError, match=r"expected \(4, 1, lanes\)"):
        risk.at(torch.zeros(*shape))


def test_parameters_of_another_precision_are_refused() -> None:
    risk = ModuleRisk(nn.Linear(2, 2, bias=False).eval(), torch.zeros(3, 2), torch.zeros(3).long())
    with pytest.raises(ValueError, match=r"float64.*float32"):
        risk.at(torch.zeros(4, 1, 1, dtype=torch.float64))


# The attack -------------------------------------------------------------------------------------------------


class PlainCalculator(Calculator):
    """The calculator without the linear head's preconditioner and projections."""

    def solve(
        self, train: Any, b: Tensor, *, tolerance: float, start: Any = None, draw: tuple[str | int, ...] = ()
    ) -> Solution:
        operator = objective_of(train.risk, self.l2).hessian(train, self.damping)
        return conjugate_gradient(operator, b, tolerance=tolerance)


def problem_of(train: Any, test: Any) -> Problem:
    """A problem of networks."""
    return Problem(train, test, test, np.arange(train.samples))


def attacked(problem: Problem, theta: Tensor, weights: Tensor, *, damping: float) -> Gradient:
    """The attack gradient on any problem: the one place that calls it."""
    calculator = PlainCalculator(problem, torch.ones(1), 0.01, True, damping, 1)
    train, test = problem.train.at(theta), problem.shared.at(theta)
    total = test.grad(torch.ones_like(test.losses()[:, 0]))
    score, first = influence(train, total, lambda b: calculator.solve(train, b, tolerance=1e-13))
    return attack_gradient(calculator, train, test, score, first.x, weights, tolerance=1e-13)


def test_the_attack_on_a_network_that_is_a_linear_head() -> None:
    problem = make_problem(n=30, m=20)
    theta = draw(problem.train, 2)
    weights = normal(30, 2, seed=9)
    network = problem_of(as_module(problem.train), as_module(problem.shared))
    closed = attacked(problem, theta, weights, damping=0.05)
    found = attacked(network, flat(theta), weights, damping=0.05)
    close(found.value, closed.value, 1e-9)
    close(found.gradient, flat(closed.gradient), 1e-8)


@links
def test_the_attack_on_a_network_is_double_backward_through_the_exact_objective(link: Link) -> None:
    damping = 3.0  # The network's Hessian is indefinite.
    train, test = make_net_risk(link, n=15), make_net_risk(link, n=9, seed=7)
    theta = draw(train, 2)
    weights = normal(15, 2, seed=9)
    problem = problem_of(train, test)
    found = attacked(problem, theta, weights, damping=damping)
    for i in range(2):
        each, others = net_losses(link, train.x, train.y), net_losses(link, test.x, test.y)

        def objective(
            one: Tensor,
            i: int = i,
            each: Callable[[Tensor], Tensor] = each,
            others: Callable[[Tensor], Tensor] = others,
        ) -> Tensor:
            matrix = hessian(lambda t: each(t).mean())(one) + (0.01 + damping) * torch.eye(len(one))
            score = -jacrev(each)(one) @ torch.linalg.solve(matrix, grad(lambda t: others(t).sum())(one))
            value: Tensor = weights[:, i] @ score
            return value

        one = theta[:, 0, i].clone().requires_grad_()
        value = objective(one)
        (expected,) = torch.autograd.grad(value, one)
        close(found.value[i], value.detach(), 1e-8)
        assert float((found.gradient[:, 0, i] - expected).norm() / expected.norm()) < 1e-7


def test_the_helpers_agree_with_the_shared_oracle() -> None:
    """A hand-written loss and a link's are the same function."""
    risk = make_risk(Softmax())
    theta = draw(risk, 1)
    close(as_module(risk).at(flat(theta)).losses()[:, 0], losses(risk)(theta[..., 0]))
    assert isinstance(as_module(risk).at(flat(theta)), ModulePoint)
    assert float(link_loss(Softmax())(torch.zeros(4), torch.tensor(2))) == pytest.approx(float(np.log(4)))


def test_a_network_has_no_bias_to_spare() -> None:
    risk: Any = as_module(make_risk(Softmax()))
    with pytest.raises(ValueError, match="only linear heads"):
        Objective(risk, 0.1, regularise_bias=False)
