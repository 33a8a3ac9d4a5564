"""Arithmetic on tensors whose last dimension is the lane."""

from __future__ import annotations

import torch
from torch import Tensor

# Products are made and added up in parts of about so many numbers, which stay in the cache.
PART_NUMBERS = 1 << 18


def dot(a: Tensor, b: Tensor) -> Tensor:
    """Σ a·b of each lane (L,)."""
    size = max(1, PART_NUMBERS * len(b) // max(1, b.numel()))
    parts = [_dot(x, y) for x, y in zip(torch.split(a, size), torch.split(b, size), strict=True)]
    return parts[0] if len(parts) == 1 else torch.stack(parts).sum(dim=0)


def _dot(a: Tensor, b: Tensor) -> Tensor:
    return (a * b).sum(dim=tuple(range(a.dim() - 1)))


def norm(a: Tensor) -> Tensor:
    """Euclidean norm of each lane (L,)."""
    return torch.sqrt(dot(a, a))


def norm_or_one(b: Tensor) -> Tensor:
    """What the residuals of a solve are relative to: ‖b‖ of each lane (L,), one where b is zero."""
    size = norm(b)
    return torch.where(size > 0, size, torch.ones_like(size))
