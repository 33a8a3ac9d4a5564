"""One Lanczos recursion for many dampings: solves with every δ, and the ends of the spectrum, from one basis.

The Krylov space of H and b is that of H + δ and b, too (Golub & Van Loan 2013, §10.1). Where a product with H
costs seconds, as of a network on all its samples, that is worth the memory of the basis.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from undue.calculus.lanes import norm
from undue.calculus.solvers import Operator, Solution
from undue.calculus.spectrum import Extremes

# Relative to H's size: what remains of a product within the basis is then rounding.
EXHAUSTED = 1e-12


@dataclass(frozen=True)
class Krylov:
    """A basis V of the Krylov space of H and b, with V ᵀHV = T tridiagonal.

    Attributes:
        b: the right-hand side (d, k, 1).
        basis: V (p, m), orthonormal, float64; b is ‖b‖ times its first vector.
        projected: T (m, m), float64.
        rest: what H makes of the last vector beyond the basis, its norm.
    """

    b: Tensor
    basis: Tensor
    projected: Tensor
    rest: float

    @classmethod
    def of(cls, operator: Operator, b: Tensor, steps: int) -> Krylov:
        """Run Lanczos with full reorthogonalisation.

        Args:
            operator: v ↦ Hv on one lane, H symmetric.
            b: right-hand side (d, k, 1), not zero.
            steps: Hessian products; fewer where the space has no more dimensions.

        Raises:
            ValueError: b has several lanes, or is zero.
        """
        if b.shape[-1] != 1 or not float(norm(b)) > 0:
            raise ValueError("Lanczos takes one lane, and a right-hand side that is not zero")
        vectors = [b.double().reshape(-1) / norm(b).double()]
        diagonal: list[float] = []
        beyond: list[float] = []
        while len(diagonal) < min(steps, b.numel()):
            product = operator(vectors[-1].to(b).view_as(b)).double().reshape(-1)
            diagonal.append(float(vectors[-1] @ product))
            basis = torch.stack(vectors, dim=1)
            # Twice is enough (Kahan & Parlett).
            for _ in range(2):
                product = product - basis @ (basis.T @ product)
            beyond.append(float(product.norm()))
            if beyond[-1] <= EXHAUSTED * max(map(abs, diagonal)):
                break
            vectors.append(product / beyond[-1])
        m = len(diagonal)
        sides = torch.tensor(beyond[: m - 1], dtype=torch.float64)
        middle = torch.diag(torch.tensor(diagonal, dtype=torch.float64))
        return cls(
            b,
            torch.stack(vectors[:m], dim=1),
            middle + torch.diag(sides, 1) + torch.diag(sides, -1),
            beyond[-1],
        )

    @property
    def products(self) -> int:
        """Hessian products that it took."""
        return len(self.projected)

    def solve(self, damping: float, *, tolerance: float) -> Solution:
        """(H + δ)⁻¹ b, as conjugate gradients would have it after as many products.

        Args:
            damping: δ; with the smallest eigenvalue of H positive.
            tolerance: the relative residual that the answer is held to.
        """
        size = float(norm(self.b))
        first = torch.zeros(self.products, 1, dtype=torch.float64)
        first[0] = size
        eye = torch.eye(self.products, dtype=torch.float64)
        y = torch.linalg.solve(self.projected + damping * eye, first)
        # No less than rounding of the products leaves.
        rounding = torch.finfo(self.b.dtype).eps
        residual = torch.tensor([max(self.rest * abs(float(y[-1])) / size, rounding)], dtype=torch.float64)
        x = (self.basis @ y).to(self.b).view_as(self.b)
        return Solution(x, residual, torch.tensor([self.products]), tolerance)

    def ends(self) -> Extremes:
        """The ends of H's spectrum, as far as b reaches: exactly those, for a b in general position."""
        values, vectors = torch.linalg.eigh(self.projected)
        error = self.rest * float(vectors[-1, [0, -1]].abs().max())
        return Extremes(float(values[0]), float(values[-1]), error, self.products)
