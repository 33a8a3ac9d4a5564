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
