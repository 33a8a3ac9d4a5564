"""Our attack's steps: their time, memory, residuals in float64, and the matrix products in them."""

from __future__ import annotations

import math
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from bench import problems
from undue.calculus.lanes import norm
from undue.calculus.linear import multiply
from undue.device import takes_bfloat16
from undue.randomness import stream
from undue.valuation.attack import Lane, Plan, Walk, attack_gradient, starts
from undue.valuation.calculator import Calculator, Setting
from undue.valuation.objectives import min_higher

RADIUS = 0.2
# What solves are to reach in float64, and what they are asked for in float32.
RESIDUAL = 1e-3
TOLERANCE = 0.99 * RESIDUAL
RATES = (0.01, 0.1)
# How the solvers' products are made: "auto" is the pipeline's own choice.
PRODUCTS = ("auto", "float32", "bfloat16")
# Rank 0 is never reached: a hit would be ranked on the pristine half at once, monitored or not.
PLAN = Plan(
    weights=min_higher,
    radius=RADIUS,
    steps=100,
    drop_at=0.5,
    ranks=(0,),
    tolerance=TOLERANCE,
    monitor_every=1,
    memory=math.inf,
)
# How torch calls them; the factors are the last two arguments.
MATRIX_PRODUCTS = frozenset({torch.ops.aten.mm, torch.ops.aten.addmm, torch.ops.aten.addmm_})
# Lanes whose residuals are recomputed at a time: float64 is not to take more memory than the attack.
LANES_CHECKED = 8


@dataclass(frozen=True)
class Iterate:
    """One iterate of a walk and the solves there, rotated.

    Attributes:
        theta: (d, k, L).
        u1, u2: the answers of the two solves (d, k, L).
        weights: ∂ℓ_attack/∂(score) that the second one's right-hand side is made of (n, L).
    """

    theta: Tensor
    u1: Tensor
    u2: Tensor
    weights: Tensor


@dataclass(frozen=True)
class Steps:
    """Steps 1 … T of a real attack.

    Attributes:
        seconds: of all lanes' steps together.
        iterations: Hessian products of each step and lane (T, L).
        residual: worst relative residual of the step's solves as the solver reports it (T, L).
        kept: some of the iterates.
    """

    seconds: float
    iterations: np.ndarray
    residual: np.ndarray
    kept: list[Iterate]


def lanes_of(samples: int, count: int, *, seed: int) -> list[Lane]:
    """`count` lanes: random targets, each at both learning rates."""
    rows = stream(seed, "bench", "targets").permutation(samples)[: -(-count // len(RATES))]
    return [Lane(int(row), rate) for row in rows for rate in RATES][:count]


def walk(setting: Setting, lanes: Sequence[Lane], *, steps: int, monitor: bool, seed: int) -> Steps:
    """Attack for some steps from the sphere around θ*, the cold first one included.

    Args:
        setting: model and calculator.
        lanes: the attacks.
        steps: number of steps T.
        monitor: rank on the pristine half, too, at each of them.
        seed: of the starts.
    """
    x = setting.calculator.problem.train.x
    rows = [lane.row for lane in lanes]
    weights: list[Tensor] = []

    def noted(score: Tensor, target: Tensor) -> Tensor:
        weights[:] = [min_higher(score, target)]
        return weights[0]

    walking = Walk(
        setting.calculator,
        setting.basis,
        setting.theta.to(x),
        starts(setting.theta, RADIUS, rows, seed=seed, start=0).to(x),
        torch.tensor([rows]),
        torch.tensor([lane.learning_rate for lane in lanes], dtype=x.dtype),
        replace(PLAN, weights=noted),
    )
    kept, taken, seconds = [], [], 0.0
    for step in range(1, steps + 1):
        begun = time.perf_counter()
        found = walking.take(monitor=monitor)
        seconds += time.perf_counter() - begun
        taken.append((found.iterations.numpy(), found.residual.numpy()))
        if not monitor and step in (1, (steps + 1) // 2, steps):
            rotated = setting.basis.to_basis(found.theta)
            kept.append(Iterate(rotated, *_solutions(walking), weights[0]))
    iterations, residual = (np.stack(column) for column in zip(*taken, strict=True))
    return Steps(seconds, iterations, residual, kept)


def _solutions(walking: Walk) -> tuple[Tensor, Tensor]:
    """u₁ and u₂ of the step just taken (d, k, L)."""
    assert walking.u1 is not None
    assert walking.u2 is not None
    return walking.u1.vector, walking.u2.vector


def true_residual(calculator: Calculator, at: Iterate) -> float:
    """The worst relative residual ‖b − H_δ u‖/‖b‖ of both solves over all lanes, in float64.

    With the step's own weights: which samples are above a target whose influence is nearly zero hangs on
    rounding.
    """
    exact = calculator.problem.to(torch.float64)
    each = exact.train.x.new_full((exact.train.samples,), 1 / exact.train.samples)
    ones = exact.train.x.new_ones(exact.shared.samples)
    ridge = calculator.l2 + calculator.damping
    worst = []
    for lanes in torch.split(torch.arange(at.theta.shape[2]), LANES_CHECKED):
        theta, u1, u2 = (part[..., lanes].double() for part in (at.theta, at.u1, at.u2))
        train, shared = exact.train.at(theta), exact.shared.at(theta)
        weights = calculator.rank_sign * at.weights[:, lanes].double()
        for u, b in ((u1, -shared.grad(ones)), (u2, train.grad(weights))):
            worst.append(norm(b - train.hvp(u, each) - ridge * u) / norm(b))
    return float(torch.cat(worst).max())


class Products(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Counts operations in matrix products while it is entered.

    Attributes:
        operations: two for each multiplication, by kind of product: with all features or with the principal
            ones alone, and the precision.
    """

    def __init__(self, calculator: Calculator) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._features = calculator.problem.train.shape[0]
        self.operations: Counter[tuple[str, torch.dtype]] = Counter()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Called by torch instead of each operation."""
        if func.overloadpacket in MATRIX_PRODUCTS:
            a, b = args[-2:]
            kind = "whole" if self._features in (*a.shape, *b.shape) else "principal"
            self.operations[kind, a.dtype] += 2 * a.shape[0] * a.shape[1] * b.shape[1]
        return func(*args, **(kwargs or {}))


def matrix_products(setting: Setting, lanes: Sequence[Lane], *, steps: int, seed: int) -> dict[str, float]:
    """What `walk` does in matrix products, without monitoring, in a step.

    Returns:
        So many times the product of all training samples' features, whole or principal ones alone, with
        parameters of all lanes, by kind and precision: "whole float32", …
    """
    calculator = setting.calculator
    with Products(calculator) as counted:
        walk(setting, lanes, steps=steps, monitor=False, seed=seed)
    n, (d, k) = calculator.problem.train.samples, calculator.problem.train.shape
    features = {"whole": d, "principal": calculator.principal}
    return {
        f"{kind} {str(dtype).removeprefix('torch.')}": count
        / (2 * n * features[kind] * k * len(lanes) * steps)
        for (kind, dtype), count in counted.operations.items()
    }


def products_alone(calculator: Calculator, width: int, counts: Mapping[str, float]) -> float:
    """Seconds that so many matrix products take alone, half of them XV, half XᵀZ.

    Args:
        calculator: whose data and precisions.
        width: columns of V (d, width) and Z (n, width), outputs times lanes.
        counts: by kind and precision, see `matrix_products`.
    """
    x, m = calculator.problem.train.x, calculator.principal
    whole = {"float32": (x, x.T)}
    if calculator.copies is not None:
        whole["bfloat16"] = (calculator.copies.x, calculator.copies.transposed)
    seconds = 0.0
    for key, count in counts.items():
        kind, dtype = key.split()
        features, transposed = whole[dtype]
        if kind == "principal":
            features, transposed = features[:, -m:], transposed[-m:]
        seconds += count * _product(features, transposed, width, math.ceil(count / 2))
    return seconds


def _product(x: Tensor, transposed: Tensor, width: int, runs: int) -> float:
    """Seconds of XV or XᵀZ, the mean of both, each in the fastest of several ways."""
    v, z = x.new_full((x.shape[1], width), 1e-3), x.new_full((x.shape[0], width), 1e-3)
    forward = (lambda: torch.mm(x, v, out=z), lambda: multiply(x, v, z))
    backward = (lambda: torch.mm(transposed, z, out=v), lambda: torch.mm(z.T, x))
    return (_fastest(forward, runs) + _fastest(backward, runs)) / 2


def _fastest(ways: Sequence[Callable[[], object]], count: int) -> float:
    """Seconds of one run of the fastest of the ways, the mean of so many."""
    means = []
    for way in ways:
        way()  # once beforehand, for the memory and the library's own preparations
        begun = time.perf_counter()
        for _ in range(count):
            way()
        means.append((time.perf_counter() - begun) / count)
    return min(means)


def gradient(calculator: Calculator, theta: Tensor, targets: Tensor, *, tolerance: float) -> Tensor:
    """The attack's gradient by our route, S = all ranked above the targets; θ and result (d, k, L)."""
    train, shared = calculator.at(theta), calculator.problem.shared.at(theta)
    score, first = calculator.score(train, shared, tolerance=tolerance)
    weights = min_higher(score, targets)
    return attack_gradient(calculator, train, shared, score, first.x, weights, tolerance=tolerance).gradient


def coarse(products: str) -> bool:
    """Whether solves take most of their products in bfloat16, as the pipeline chooses it."""
    return takes_bfloat16(products, torch.device("cpu"))


def measure(folder: str, *, lanes: int, steps: int, products: str, seed: int) -> dict[str, object]:
    """Our part of a size's record; `problems.write` has filled the folder."""
    setting = problems.read(Path(folder), coarse=coarse(products))
    problem = setting.calculator.problem
    n, (d, k) = problem.train.samples, problem.train.shape
    attacks = lanes_of(n, lanes, seed=seed)
    # The run with monitoring first: it holds more than the one without. Loading counts, too.
    monitored = walk(setting, attacks, steps=steps, monitor=True, seed=seed)
    peak = peak_rss()
    plain = walk(setting, attacks, steps=steps, monitor=False, seed=seed)
    counts = matrix_products(setting, attacks, steps=steps, seed=seed)
    alone = products_alone(setting.calculator, k * lanes, counts)
    residual = max(true_residual(setting.calculator, at) for at in plain.kept)
    each = steps * lanes
    return {
        "lane_step_s": plain.seconds / each,
        "lane_step_monitored_s": monitored.seconds / each,
        "matmul_s": alone / lanes,
        "matmul_products": counts,
        "principal": setting.calculator.principal,
        "iterations": float(plain.iterations.mean()),
        "iterations_monitored": float(monitored.iterations.mean()),
        "lanes": lanes,
        "steps": steps,
        "peak_rss_bytes": peak,
        "residual_float64": residual,
        "residual_reported": float(max(plain.residual.max(), monitored.residual.max())),
        "dtype": str(problem.train.x.dtype).removeprefix("torch."),
        "dtype_solver_products": "bfloat16" if setting.calculator.copies else "float32",
        "shape": [n, d, k],
    }


def peak_rss() -> int:
    """Largest resident set of this process so far, bytes."""
    return _status("VmHWM")


def rss() -> int:
    """Resident set of this process, bytes."""
    return _status("VmRSS")


def _status(key: str) -> int:
    # Not getrusage: its maximum includes what the parent process held when it started this one.
    for line in Path("/proc/self/status").read_text(encoding="utf-8").splitlines():
        name, _, value = line.partition(":")
        if name == key:
            return int(value.split()[0]) * 1024
    raise LookupError(f"/proc/self/status has no {key}")
