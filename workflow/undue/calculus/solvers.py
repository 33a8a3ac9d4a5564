"""Solving H u = b for many lanes at once. Every solver has one signature and reports what it reached."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol, overload, runtime_checkable

import torch
from torch import Tensor

from undue.calculus.lanes import dot, norm, norm_or_one
from undue.calculus.linear import Projection
from undue.errors import UserError

Operator = Callable[[Tensor], Tensor]
"""v ↦ Hv on vectors (d, k, L)."""
ProjectedOperator = Callable[[Projection], Tensor]
"""The same, given v with its outputs."""
Project = Callable[[Tensor], Projection]
"""v with its outputs; of any number of lanes."""


@runtime_checkable
class LaneOperator(Protocol):
    """An operator that can do without some of its lanes."""

    def __call__(self, v: Any) -> Tensor:
        """Hv (d, k, L)."""

    def narrow(self, lanes: Tensor) -> LaneOperator:
        """The operator of the chosen lanes alone, index (m,)."""


@runtime_checkable
class Preconditioner(Protocol):
    """r ↦ approximately H⁻¹ r, which need not be quite the same linear map each time."""

    def __call__(self, r: Tensor) -> Tensor:
        """A new tensor (d, k, L)."""

    def narrow(self, lanes: Tensor) -> Preconditioner:
        """The preconditioner of the chosen lanes alone, index (m,)."""


# The recursive residual is believed while it may be off by this share of the tolerance.
DRIFT_IGNORED = 0.1
# Refinement aims at this share of the tolerance, so that rounding does not cost another round.
AIM = 0.7
# No inner solve asks a coarse operator for more than this relative residual.
COARSE_LIMIT = 1e-3
MAX_ROUNDS = 6


@dataclass(frozen=True)
class Solution:
    """The answer of a solve.

    Attributes:
        x: the solution (d, k, L).
        residual: relative residual ‖b − Hx‖/‖b‖ of each lane (L,); absolute where b is zero.
        iterations: Hessian products used per lane (L,), int64.
        tolerance: the relative residual that was asked for, one number or one per lane (L,).
        projection: the solution with its outputs on the training data, where the solver has them.
    """

    x: Tensor
    residual: Tensor
    iterations: Tensor
    tolerance: float | Tensor
    projection: Projection | None = None

    @property
    def converged(self) -> Tensor:
        """Which lanes meet the tolerance (L,); a residual that is not a number does not."""
        return self.residual <= self.tolerance

    def require(self, *keys: str, what: str) -> None:
        """Insist on the tolerance.

        Args:
            keys: of the config, each of which makes it easier if raised; the first is where it went wrong.
            what: what the solve was for.

        Raises:
            UserError: a lane missed it.
        """
        if not bool(self.converged.all()):
            raise UserError(
                f"{what} stopped at a relative residual of {float(self.residual.max()):.1e} "
                f"after {int(self.iterations.max())} Hessian products",
                where=keys[0],
                remedy=f"raise {' or '.join(keys)}",
            )


@overload
def conjugate_gradient(
    operator: Operator,
    b: Tensor,
    *,
    tolerance: float | Tensor,
    start: Tensor | None = None,
    project: None = None,
    preconditioner: Tensor | Preconditioner | None = None,
    max_iterations: int = 1000,
    verify: bool = True,
) -> Solution: ...


@overload
def conjugate_gradient(
    operator: ProjectedOperator,
    b: Tensor,
    *,
    tolerance: float | Tensor,
    start: Projection | None = None,
    project: Project,
    preconditioner: Tensor | Preconditioner | None = None,
    max_iterations: int = 1000,
    verify: bool = True,
) -> Solution: ...


def conjugate_gradient(
    operator: Callable[[Any], Tensor],
    b: Tensor,
    *,
    tolerance: float | Tensor,
    start: Any = None,
    project: Project | None = None,
    preconditioner: Tensor | Preconditioner | None = None,
    max_iterations: int = 1000,
    verify: bool = True,
) -> Solution:
    """Solve with preconditioned conjugate gradients, all lanes in lock-step.

    A lane that has converged is frozen, so that its answer does not depend on which other lanes it
    shares the job with. Once a quarter of the lanes are, the others go on without them, if the operator is a
    `LaneOperator`.

    Args:
        operator: v ↦ Hv on (d, k, L), H symmetric positive definite.
        b: right-hand sides (d, k, L).
        tolerance: relative residual to reach, one number or one per lane (L,).
        start: where to begin (d, k, L); zero if not given, and in lanes where zero is better.
        project: if given, the operator and the start take vectors with their outputs, and the solution has
            its own, added up from those of the directions: half a Hessian product saved at either end.
        preconditioner: a positive diagonal (d, k, L) that approximates H's, ones if not given; or another map
            that does, which makes the gradients flexible ones (Notay 2000, Flexible conjugate gradients).
        max_iterations: give up after this many; the solution then says so by its residual.
        verify: whether to compute the residual anew where rounding may have parted the recursion's from the
            truth; for callers that do so themselves.

    Returns:
        The solution. Its residual is the recursion's or, under `verify`, where in doubt the true one: a
        tolerance below what the precision can reach is reported as missed.
    """
    scale = norm_or_one(b)
    x, outputs, r, residual = _begin(operator, b, scale, start, project)
    going = _Lanes(
        x=x,
        outputs=outputs,
        r=r,
        p=torch.zeros_like(r),
        hp=None,
        step=torch.zeros_like(residual),
        product=torch.ones_like(residual),
        residual=residual,
        tolerance=torch.as_tensor(tolerance).to(residual).expand_as(residual),
        scale=scale,
        stuck=torch.zeros_like(residual, dtype=torch.bool),
        stretch=torch.zeros_like(residual),
        iterations=torch.zeros(b.shape[-1], dtype=torch.int64, device=b.device),
        preconditioner=preconditioner,
    )
    here = operator
    # Lanes left behind, and which of all lanes those still going are.
    finished, lanes = going, torch.arange(b.shape[-1], device=b.device)
    for _ in range(max_iterations):
        active = (going.residual > going.tolerance) & ~going.stuck
        if not bool(active.any()):
            break
        if (few := _few(active, here)) is not None:
            if going is not finished:
                finished.put(lanes, going)
            going, here, lanes, active = going.take(few), narrowed(here, few), lanes[few], active[few]
        going.advance(here, project, active, verify=verify)
    if going is not finished:
        finished.put(lanes, going)
    x, residual, stretch = finished.x, finished.residual, finished.stretch
    projection = None if finished.outputs is None else Projection(x, finished.outputs)
    # Rounding drives the recursion off by about ε‖H‖‖x‖/‖b‖ (Greenbaum 1997, Estimating the attainable
    # accuracy of recursively computed residual methods); `stretch` estimates ‖H‖ from below.
    if verify:
        drift = torch.finfo(b.dtype).eps * stretch * norm(x) / scale
        doubtful = drift > DRIFT_IGNORED * finished.tolerance
        if bool(doubtful.any()):
            residual = torch.where(doubtful, norm(b - operator(projection or x)) / scale, residual)
    return Solution(x, residual, finished.iterations, tolerance, projection)


def _begin(
    operator: Callable[[Any], Tensor], b: Tensor, scale: Tensor, start: Any, project: Project | None
) -> tuple[Tensor, Tensor | None, Tensor, Tensor]:
    """Where to begin: x, its outputs under `project`, b − Hx, and its relative norm (L,).

    A start that is worse than none, or not a number, is none.
    """
    nothing = torch.zeros_like(b)
    if start is None:
        outputs = None if project is None else project(nothing).outputs
        return nothing, outputs, b.clone(), norm(b) / scale
    x, outputs = (start.clone(), None) if project is None else (start.vector.clone(), start.outputs.clone())
    r = b - operator(start)
    residual, without = norm(r) / scale, norm(b) / scale
    useless = ~(residual <= without)
    if bool(useless.any()):
        x, r = torch.where(useless, 0, x), torch.where(useless, b, r)
        outputs = None if outputs is None else torch.where(useless, 0, outputs)
        residual = torch.where(useless, without, residual)
    return x, outputs, r, residual


@dataclass
class _Lanes:
    """Lanes on their way to a solution, with the recursion's vectors (d, k, L) and numbers (L,).

    Of the latest step: its direction p with Hp, how far it went, and rᵀz where it began.
    """

    x: Tensor
    outputs: Tensor | None
    r: Tensor
    p: Tensor
    hp: Tensor | None
    step: Tensor
    product: Tensor
    residual: Tensor
    tolerance: Tensor
    scale: Tensor
    stuck: Tensor
    stretch: Tensor
    iterations: Tensor
    preconditioner: Tensor | Preconditioner | None

    def take(self, lanes: Tensor) -> _Lanes:
        """Some of the lanes, on their own."""

        return _Lanes(**{name: narrowed(part, lanes) for name, part in vars(self).items()})

    def put(self, lanes: Tensor, others: _Lanes) -> None:
        """Where the others, which are these lanes, have come to."""
        for name in ("x", "outputs", "residual", "stretch", "iterations"):
            if (part := getattr(self, name)) is not None:
                part[..., lanes] = getattr(others, name)

    def advance(
        self, operator: Callable[[Any], Tensor], project: Project | None, active: Tensor, *, verify: bool
    ) -> None:
        """One step of the active lanes, or none of those that get stuck."""
        self._turn(active)
        projected = None if project is None else project(self.p)
        hp = operator(projected or self.p)
        curvature = dot(self.p, hp)
        # No positive curvature along a direction: H is not positive definite (or the numbers ran
        # out). The lane stops there and its residual tells.
        self.stuck |= active & ~(curvature > 0)
        active = active & ~self.stuck
        if verify:
            stretch = torch.maximum(self.stretch, norm(hp) / norm(self.p))
            self.stretch = torch.where(active, stretch, self.stretch)
        step = torch.where(active, self.product / curvature, 0)
        self.x.addcmul_(self.p, step)
        if self.outputs is not None and projected is not None:
            self.outputs.addcmul_(projected.outputs, step)
        self.r.addcmul_(hp, step, value=-1)
        self.hp, self.step = hp, step
        self.residual = torch.where(active, norm(self.r) / self.scale, self.residual)
        self.iterations += active

    def _turn(self, active: Tensor) -> None:
        """The active lanes' next direction. Made when it is needed: a lane's last step has none after it."""
        z = _precondition(self.preconditioner, self.r)
        product = dot(self.r, z)
        if self.hp is None:
            change = torch.zeros_like(product)
        elif isinstance(self.preconditioner, Preconditioner):
            # rᵀz less the old r's product with z, which is nothing but for a map that is not always the same.
            change = -self.step * dot(self.hp, z)
        else:
            change = product
        self.hp = None
        self.p.mul_(torch.where(active, change / self.product, 1)).addcmul_(z, active.to(z.dtype))
        self.product = torch.where(active, product, self.product)


def _precondition(preconditioner: Tensor | Preconditioner | None, r: Tensor) -> Tensor:
    if isinstance(preconditioner, Tensor):
        return r / preconditioner
    return r if preconditioner is None else preconditioner(r)


def few_steps(operator: Operator, r: Tensor, preconditioner: Tensor | Preconditioner, steps: int) -> Tensor:
    """Roughly H⁻¹r: so many conjugate gradient steps from zero, for preconditioners made of them."""
    return conjugate_gradient(
        operator, r, tolerance=0.0, preconditioner=preconditioner, max_iterations=steps, verify=False
    ).x


def refine(
    operator: ProjectedOperator,
    b: Tensor,
    *,
    project: Project,
    inner: Operator,
    inner_limit: float,
    tolerance: float,
    start: Projection | None = None,
    preconditioner: Tensor | Preconditioner | None = None,
    inner_dtype: torch.dtype | None = None,
) -> Solution:
    """Solve by iterative refinement (Higham 2002, ch. 12): corrections from an inner, cheaper solve.

    Each round solves H Δx = b − Hx by conjugate gradients on the inner, coarse operator, and computes the
    residual anew with the exact one. The residual is therefore always the true one. Lanes that have arrived
    stand still.

    Args:
        operator: v ↦ Hv, given v with its outputs.
        b: right-hand sides (d, k, L).
        project: computes a vector's outputs.
        inner: v ↦ approximately Hv.
        inner_limit: the least relative residual that `inner` is asked for.
        tolerance: relative residual to reach.
        start: where to begin, zero if not given.
        preconditioner: of the inner solve, see `conjugate_gradient`.
        inner_dtype: precision of the inner solve, that of b if not given.

    Returns:
        The solution with its outputs; `iterations` counts products with `inner`.
    """
    scale = norm_or_one(b)
    vector, outputs, r, residual = _begin(operator, b, scale, start, project)
    assert outputs is not None
    x = Projection(vector, outputs)
    iterations = torch.zeros(b.shape[-1], dtype=torch.int64, device=b.device)
    moving = torch.ones_like(residual, dtype=torch.bool)
    for _ in range(MAX_ROUNDS):
        active = moving & (residual > tolerance)
        if not bool(active.any()):
            break
        lanes = torch.arange(len(active), device=b.device)
        part: slice | Tensor = slice(None)
        exact, coarse, approximate = operator, inner, preconditioner
        if (few := _few(active, operator, inner)) is not None:
            lanes = part = few
            exact, coarse, approximate = (narrowed(each, few) for each in (exact, coarse, approximate))
        correction = conjugate_gradient(
            coarse,
            (r[..., part] * active[part]).to(inner_dtype or r.dtype),
            tolerance=(AIM * tolerance / residual[part]).clamp(min=inner_limit),
            preconditioner=approximate,
            verify=False,
        )
        trial = project(x.vector[..., part] + correction.x.to(b))
        trial_r = b[..., part] - exact(trial)
        reached = norm(trial_r) / scale[part]
        moving[part] &= reached < residual[part] / 2
        better = active[part] & (reached < residual[part])
        chosen = lanes[better]
        if len(chosen) == len(active):
            x, r = trial, trial_r
        else:
            x.vector[..., chosen], x.outputs[..., chosen] = (
                trial.vector[..., better],
                trial.outputs[..., better],
            )
            r[..., chosen] = trial_r[..., better]
        residual[chosen] = reached[better]
        iterations[part] += correction.iterations
    return Solution(x.vector, residual, iterations, tolerance, x)


def _few(active: Tensor, *operators: object) -> Tensor | None:
    """The active lanes (m,) if they are to go on alone: once a quarter stand still, and all operators can."""
    lanes = torch.nonzero(active)[:, 0]
    worth = 4 * len(lanes) <= 3 * len(active)
    return lanes if worth and all(isinstance(each, LaneOperator) for each in operators) else None


def narrowed(part: Any, lanes: Tensor) -> Any:
    """A tensor (…, L), an operator or a preconditioner of some of the lanes alone; nothing of nothing."""
    if isinstance(part, Tensor):
        return part[..., lanes]
    return None if part is None else part.narrow(lanes)


def dense_matrix(operator: Operator, like: Tensor) -> Tensor:
    """The matrix (p, p) of an operator on one lane of shape (d, k, 1), p = d·k."""
    size = like.numel()
    identity = torch.eye(size, dtype=like.dtype, device=like.device)
    columns = [operator(identity[:, i].view_as(like)).reshape(-1) for i in range(size)]
    return torch.stack(columns, dim=1)
