"""Solving H u = b for many lanes at once. Every solver has one signature and reports what it reached."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from undue.calculus.lanes import dot, norm
from undue.errors import UserError

Operator = Callable[[Tensor], Tensor]

# The recursive residual is believed while it may be off by this share of the tolerance.
DRIFT_IGNORED = 0.1


@dataclass(frozen=True)
class Solution:
    """The answer of a solve.

    Attributes:
        x: the solution (d, k, L).
        residual: relative residual ‖b − Hx‖/‖b‖ of each lane (L,); absolute where b is zero.
        iterations: Hessian products used per lane (L,), int64.
        tolerance: the relative residual that was asked for, one number or one per lane (L,).
    """

    x: Tensor
    residual: Tensor
    iterations: Tensor
    tolerance: float | Tensor

    @property
    def converged(self) -> Tensor:
        """Which lanes meet the tolerance (L,); a residual that is not a number does not."""
        return self.residual <= self.tolerance

    def require(self, *, what: str, key: str) -> None:
        """Insist on the tolerance.

        Raises:
            UserError: a lane missed it.
        """
        if not bool(self.converged.all()):
            raise UserError(
                f"{what} stopped at a relative residual of {float(self.residual.max()):.1e} "
                f"after {int(self.iterations.max())} Hessian products",
                where=key,
                remedy=f"raise {key}, or influence.damping or model.l2 (both make the solves easier)",
            )


def conjugate_gradient(
    operator: Operator,
    b: Tensor,
    *,
    tolerance: float | Tensor,
    start: Tensor | None = None,
    preconditioner: Tensor | None = None,
    max_iterations: int = 1000,
) -> Solution:
    """Solve with preconditioned conjugate gradients, all lanes in lock-step.

    A lane that has converged is frozen, so that its answer does not depend on which other lanes it
    shares the job with.

    Args:
        operator: v ↦ Hv on (d, k, L), H symmetric positive definite.
        b: right-hand sides (d, k, L).
        tolerance: relative residual to reach, one number or one per lane (L,).
        start: where to begin (d, k, L), zero if not given.
        preconditioner: positive diagonal (d, k, L) that approximates H's, ones if not given.
        max_iterations: give up after this many; the solution then says so by its residual.

    Returns:
        The solution. Its residual is the recursion's, or where rounding may have parted that from the
        truth, the true one: a tolerance below what the precision can reach is reported as missed.
    """
    scale = _scale(b)
    if start is None:
        x, r = torch.zeros_like(b), b.clone()
    else:
        x = start.clone()
        r = b - operator(x)
    z = r if preconditioner is None else r / preconditioner
    p = z.clone()
    product = dot(r, z)
    residual = norm(r) / scale
    iterations = torch.zeros(b.shape[-1], dtype=torch.int64, device=b.device)
    stretch = torch.zeros_like(residual)
    for _ in range(max_iterations):
        active = residual > tolerance
        if not bool(active.any()):
            break
        hp = operator(p)
        curvature = dot(p, hp)
        # No positive curvature along a direction: H is not positive definite (or the numbers ran
        # out). The lane stops there and its residual tells.
        active &= curvature > 0
        if not bool(active.any()):
            break
        stretch = torch.where(active, torch.maximum(stretch, norm(hp) / norm(p)), stretch)
        step = torch.where(active, product / curvature, 0)
        x.addcmul_(p, step)
        r.addcmul_(hp, step, value=-1)
        z = r if preconditioner is None else r / preconditioner
        new_product = dot(r, z)
        p.mul_(torch.where(active, new_product / product, 1)).add_(z * active)
        product = torch.where(active, new_product, product)
        residual = torch.where(active, norm(r) / scale, residual)
        iterations += active
    # Rounding drives the recursion off by about ε‖H‖‖x‖/‖b‖ (Greenbaum 1997, Estimating the attainable
    # accuracy of recursively computed residual methods); `stretch` estimates ‖H‖ from below.
    doubtful = torch.finfo(b.dtype).eps * stretch * norm(x) / scale > DRIFT_IGNORED * torch.as_tensor(
        tolerance
    )
    if bool(doubtful.any()):
        residual = torch.where(doubtful, norm(b - operator(x)) / scale, residual)
    return Solution(x, residual, iterations, tolerance)


def dense(operator: Operator, b: Tensor, *, tolerance: float) -> Solution:
    """Solve one lane by building H and factorising it (Cholesky): for small problems and oracles.

    Args:
        operator: v ↦ Hv; called with each of the d·k unit vectors.
        b: right-hand side (d, k, 1).
        tolerance: the residual that the answer is held to.

    Raises:
        ValueError: b has several lanes (each has a Hessian of its own).
        torch.linalg.LinAlgError: H is not positive definite.
    """
    if b.shape[-1] != 1:
        raise ValueError("the dense solver takes one lane at a time")
    matrix = dense_matrix(operator, b)
    factor = torch.linalg.cholesky((matrix + matrix.T) / 2)
    x = torch.cholesky_solve(b.reshape(-1, 1), factor)
    x = x.view_as(b)
    residual = norm(b - (matrix @ x.reshape(-1, 1)).view_as(b)) / _scale(b)
    return Solution(x, residual, torch.tensor([b.numel()], device=b.device), tolerance)


def _scale(b: Tensor) -> Tensor:
    """What residuals are relative to: ‖b‖ of each lane (L,), one where b is zero."""
    size = norm(b)
    return torch.where(size > 0, size, torch.ones_like(size))


def dense_matrix(operator: Operator, like: Tensor) -> Tensor:
    """The matrix (p, p) of an operator on one lane of shape (d, k, 1), p = d·k."""
    size = like.numel()
    identity = torch.eye(size, dtype=like.dtype, device=like.device)
    columns = [operator(identity[:, i].view_as(like)).reshape(-1) for i in range(size)]
    return torch.stack(columns, dim=1)
