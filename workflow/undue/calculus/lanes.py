"""Arithmetic on tensors whose last dimension is the lane."""

from __future__ import annotations

import torch
from torch import Tensor


def dot(a: Tensor, b: Tensor) -> Tensor:
    """Σ a·b of each lane (L,)."""
    return (a * b).sum(dim=tuple(range(a.dim() - 1)))


def norm(a: Tensor) -> Tensor:
    """Euclidean norm of each lane (L,)."""
    return torch.sqrt(dot(a, a))


def norm_or_one(b: Tensor) -> Tensor:
    """What the residuals of a solve are relative to: ‖b‖ of each lane (L,), one where b is zero."""
    size = norm(b)
    return torch.where(size > 0, size, torch.ones_like(size))
