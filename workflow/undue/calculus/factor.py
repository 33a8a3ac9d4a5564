"""Solving with one factorised Hessian: many right-hand sides at one θ, exactly."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from undue.calculus.lanes import norm, norm_or_one
from undue.calculus.linear import LinearRisk
from undue.calculus.objective import Objective
from undue.calculus.solvers import Operator, Solution, dense_matrix
from undue.calculus.spectrum import require_positive_definite

# What single precision may do to a Hessian's smallest eigenvalues, as a share of the mean ‖x‖².
SINGLE_ROUNDING = 1e-6
# Rows of features whose products with the links' curvatures are held at once.
CHUNK_ROWS = 2048


def head_hessian(risk: LinearRisk, theta: Tensor, w: Tensor) -> Tensor:
    """Σ_i w_i ∇²ℓ_i(θ) of a linear head as a matrix (d·k, d·k).

    With C_i the link's second derivatives (k, k), its blocks are Xᵀ diag(w_i C_i,ab) X.

    Args:
        risk: the head's risk.
        theta: θ (d, k, 1).
        w: sample weights (n,).
    """
    d, k = risk.shape
    blocks = theta.new_zeros(k, d, k, d)
    for rows in torch.split(torch.arange(risk.samples, device=theta.device), CHUNK_ROWS):
        x, y = risk.x[rows], risk.y[rows]
        state = risk.link.state((x @ theta[..., 0])[..., None], y)
        for a in range(k):
            unit = torch.zeros_like(state)
            unit[:, a] = 1
            column = risk.link.curve(state, y, unit)[..., 0] * w[rows, None]
            # Only the blocks below the diagonal: the others mirror them.
            for b in range(a, k):
                blocks[b, :, a].addmm_(x.T, x * column[:, b, None])
    for a in range(k):
        for b in range(a):
            blocks[b, :, a] = blocks[a, :, b]
    return blocks.permute(1, 0, 3, 2).reshape(d * k, d * k)


@dataclass(frozen=True)
class Factor:
    """A Hessian of one lane, built once and factorised (Cholesky); for p in the thousands.

    Attributes:
        matrix: H (p, p).
        cholesky: its lower factor (p, p).
    """

    matrix: Tensor
    cholesky: Tensor

    @classmethod
    def of(
        cls, operator: Operator, like: Tensor, *, damping: float = 0.0, key: str = "influence.damping"
    ) -> Factor:
        """Build and factorise H_δ from its products with the p unit vectors.

        Args:
            operator: v ↦ H_δ v on one lane.
            like: a tensor of its shape (d, k, 1), precision and device.
            damping: the δ in it, for the error's advice.
            key: the config key of δ, too.

        Raises:
            ValueError: `like` has several lanes.
            UserError: H_δ is not positive definite; says what damping makes it so.
        """
        if like.shape[-1] != 1:
            raise ValueError("a Hessian is factorised of one lane at a time")
        matrix = dense_matrix(operator, like)
        return _factorised((matrix + matrix.T) / 2, like, damping=damping, key=key)

    @classmethod
    def of_head(
        cls,
        objective: Objective[LinearRisk],
        theta: Tensor,
        damping: float = 0.0,
        *,
        key: str = "influence.damping",
    ) -> Factor:
        """Factorise H_δ of a linear head from Gram products of its features: far fewer than p products.

        Args:
            objective: what the head is trained on.
            theta: θ (d, k, 1).
            damping: δ.
            key: the config key of δ, for the error's advice.

        Raises:
            ValueError: several lanes.
            UserError: H_δ is not positive definite; says what damping makes it so.
        """
        if theta.shape[-1] != 1 or objective.weights.numel() != objective.risk.samples:
            raise ValueError("a Hessian is factorised of one lane at a time")
        matrix = head_hessian(objective.risk, theta, objective.weights.reshape(-1))
        diagonal = (objective.ridge() + damping).expand_as(theta).reshape(-1)
        matrix.diagonal().add_(diagonal)
        return _factorised(matrix, theta, damping=damping, key=key)

    def divide(self, b: Tensor) -> Tensor:
        """H⁻¹b for right-hand sides side by side as lanes (d, k, m), without a check."""
        return _divide(self.cholesky, b)

    def solve(self, b: Tensor, *, tolerance: float = 1e-6) -> Solution:
        """H⁻¹b for right-hand sides side by side as lanes (d, k, m).

        Args:
            b: right-hand sides (d, k, m).
            tolerance: the relative residual that the answer is held to.

        Returns:
            The solution; its iterations are the p products that building H took.
        """
        flat = b.reshape(len(self.matrix), b.shape[-1])
        x = self.divide(b)
        residual = norm(flat - self.matrix @ x.reshape(flat.shape)) / norm_or_one(flat)
        iterations = torch.full_like(residual, len(self.matrix), dtype=torch.int64)
        return Solution(x, residual, iterations, tolerance)


@dataclass(frozen=True)
class Nearby:
    """Preconditions by the factorised Hessian of a near objective, one for all lanes.

    Hessians of models without single samples differ from it by little and low rank: few iterations are left.

    Attributes:
        cholesky: the Hessian's lower factor (p, p), in single precision for speed.
    """

    cholesky: Tensor

    @classmethod
    def of(cls, objective: Objective[LinearRisk], theta: Tensor) -> Nearby:
        """From an objective and θ (d, k, 1) of any precision.

        Raises:
            UserError: the Hessian is not positive definite.
        """
        single = replace(objective, risk=objective.risk.to(torch.float32), weights=objective.weights.float())
        size = float(objective.risk.x.square().sum(dim=1).mean())
        return cls(
            Factor.of_head(single, theta.float(), damping=SINGLE_ROUNDING * size, key="model.l2").cholesky
        )

    def __call__(self, r: Tensor) -> Tensor:
        """H⁻¹r of the near Hessian (d, k, L)."""
        return _divide(self.cholesky, r.to(self.cholesky)).to(r)

    def narrow(self, lanes: Tensor) -> Nearby:
        """It is the same for any lanes."""
        return self


def dense(operator: Operator, b: Tensor, *, tolerance: float) -> Solution:
    """Solve one lane by building H and factorising it: for small problems and oracles.

    Args:
        operator: v ↦ Hv; called with each of the p unit vectors.
        b: right-hand side (d, k, 1).
        tolerance: the residual that the answer is held to.

    Raises:
        ValueError: b has several lanes (each has a Hessian of its own).
        UserError: H is not positive definite.
    """
    return Factor.of(operator, b).solve(b, tolerance=tolerance)


def _divide(cholesky: Tensor, b: Tensor) -> Tensor:
    """H⁻¹b by H's factor (p, p), for right-hand sides side by side as lanes (d, k, m)."""
    return torch.cholesky_solve(b.reshape(len(cholesky), b.shape[-1]), cholesky).view_as(b)


def _factorised(matrix: Tensor, like: Tensor, *, damping: float, key: str) -> Factor:
    cholesky, failed = torch.linalg.cholesky_ex(matrix)
    if bool(failed):
        require_positive_definite(
            lambda v: (matrix @ v.reshape(-1)).view_as(v), like, damping=damping, key=key
        )
        raise FloatingPointError(
            "rounding stands in the way of factorising a Hessian that is nearly singular"
        )
    return Factor(matrix, cholesky)
