"""An orthogonal change of features that makes linear heads easy to solve.

In the eigenbasis of the features' second moment, the Hessian of a linear head is close to diagonal,
so that a diagonal preconditioner saves most of the iterations of every solve. The change is
orthogonal: losses, influences, norms and distances stay what they are.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Eigenbasis:
    """An orthogonal basis of feature space; the last feature, the bias, is left alone.

    Attributes:
        vectors: the basis as columns (d, d); float64 when made.
        moments: mean square of each rotated feature over the data the basis was made of (d,).
    """

    vectors: Tensor
    moments: Tensor

    @classmethod
    def of(cls, x: Tensor) -> Eigenbasis:
        """The eigenbasis of features x (n, d) whose last column is the bias."""
        n, d = x.shape
        second = torch.zeros(d - 1, d - 1, dtype=torch.float64, device=x.device)
        for rows in torch.split(x[:, :-1], 4096):
            second.addmm_(rows.double().T, rows.double(), alpha=1 / n)
        moments, inner = torch.linalg.eigh(second)
        vectors = torch.eye(d, dtype=torch.float64, device=x.device)
        vectors[:-1, :-1] = inner
        bias = x[:, -1:].double().square().mean(dim=0)
        return cls(vectors, torch.cat([moments.clamp(min=0), bias]))

    def to(self, dtype: torch.dtype) -> Eigenbasis:
        """The same basis in another precision."""
        return Eigenbasis(self.vectors.to(dtype), self.moments.to(dtype))

    def rotate(self, x: Tensor) -> Tensor:
        """Features (n, d) in this basis."""
        vectors = self.vectors.to(x.dtype)
        return torch.cat([rows @ vectors for rows in torch.split(x, 4096)])

    def to_basis(self, theta: Tensor) -> Tensor:
        """Parameters (d, k, L) for the rotated features."""
        return self._apply(self.vectors.T, theta)

    def from_basis(self, theta: Tensor) -> Tensor:
        """Parameters (d, k, L) for the original features."""
        return self._apply(self.vectors, theta)

    def _apply(self, matrix: Tensor, theta: Tensor) -> Tensor:
        return (matrix.to(theta.dtype) @ theta.reshape(theta.shape[0], -1)).view_as(theta)
