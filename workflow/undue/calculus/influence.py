"""Influence of training samples on a test functional, and the ranks that data is valued by.

I_i = −g_testᵀ H_δ⁻¹ ∇ℓ_i (Yadav et al. 2024, Eq. 1–2; Koh & Liang 2017, Eq. 2), g_test the gradient
of the functional, usually the *summed* test loss. Positive: up-weighting sample i raises it.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from undue.calculus.risk import Point
from undue.calculus.solvers import Solution

Solve = Callable[[Tensor], Solution]


def influence(train: Point, test_gradient: Tensor, solve: Solve) -> tuple[Tensor, Solution]:
    """Influence of every training sample.

    Args:
        train: the training risk at θ, n samples and L lanes.
        test_gradient: ∇ of the test functional (d, k, L).
        solve: b ↦ H_δ⁻¹ b.

    Returns:
        I (n, L) and the solve behind it; its `x` is u₁ = −H_δ⁻¹ g_test.
    """
    solution = solve(-test_gradient)
    return train.grad_dots(solution.projection or solution.x), solution


def ranks(score: Tensor) -> Tensor:
    """Rank of every sample of each lane: 1 + #{i ≠ j : score_i ≥ score_j}, so that ties never help.

    Args:
        score: (n, L); the highest is rank 1.

    Returns:
        (n, L), int64. A score that is not a number has the last rank and improves no other's.
    """
    missing = torch.isnan(score)
    ascending = torch.where(missing, torch.inf, score).sort(dim=0).values.T.contiguous()
    sought = torch.where(missing, -torch.inf, score).T.contiguous()
    below = torch.searchsorted(ascending, sought, right=False).T
    return score.shape[0] - below


def rank_of(score: Tensor, index: Tensor) -> Tensor:
    """Rank of one sample per lane, without sorting.

    Args:
        score: (n, L).
        index: the sample of each lane (L,).

    Returns:
        (L,), int64.
    """
    own = score.gather(0, index[None, :])
    # Not "score >= own": a score that is not a number must never improve a rank.
    return (~(score < own)).sum(dim=0)
