"""What the attacker minimises: weighted sums Σ u_i score_i, the weights frozen within a step.

Yadav et al. 2024, §4.2 and Table 2. `score` is the influence times the config's rank sign, so that
rank 1 is always the highest score.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial

import torch
from torch import Tensor

Weights = Callable[[Tensor, Tensor], Tensor]


def max_target(score: Tensor, target: Tensor) -> Tensor:
    """−score_t: raise the target."""
    weights = torch.zeros_like(score)
    return weights.scatter_(0, target[None, :], -1.0)


def min_topk(score: Tensor, target: Tensor, *, top: int) -> Tensor:
    """−score_t + the mean score of the `top` highest ranked: raise the target, lower the top."""
    weights = torch.zeros_like(score)
    highest = score.topk(min(top, len(score)), dim=0).indices
    weights.scatter_(0, highest, 1 / top)
    return weights.scatter_(0, target[None, :], -1.0)


def min_higher(score: Tensor, target: Tensor) -> Tensor:
    """−score_t + the mean score of all ranked above it; the first term alone when none is."""
    higher = (score >= score.gather(0, target[None, :])).to(score.dtype)
    higher.scatter_(0, target[None, :], 0.0)
    weights = higher / higher.sum(dim=0).clamp(min=1)
    return weights.scatter_(0, target[None, :], -1.0)


OBJECTIVES: Mapping[str, Callable[..., Tensor]] = {
    "max_target": max_target,
    "min_topk": min_topk,
    "min_higher": min_higher,
}
"""By their names in the config."""


def objective_weights(name: str, *, suppressed_ranks: int | None = None) -> Weights:
    """The weights u (n, L) of an objective, as a function of scores (n, L) and targets (L,).

    Args:
        name: one of the config's `attack.objectives`.
        suppressed_ranks: how many of the top `min_topk` pushes down, which alone needs it.

    Raises:
        KeyError: no such objective.
        ValueError: `min_topk` without a number.
    """
    weights = OBJECTIVES[name]
    if weights is not min_topk:
        return weights
    if not suppressed_ranks:
        raise ValueError("min_topk needs suppressed_ranks")
    return partial(min_topk, top=suppressed_ranks)
