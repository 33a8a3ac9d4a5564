"""Adam, lane by lane."""

from __future__ import annotations

from copy import copy

import torch
from torch import Tensor


class Adam:
    """Adam (Kingma & Ba 2015, Alg. 1) with a learning rate for each lane."""

    def __init__(self, like: Tensor, *, betas: tuple[float, float] = (0.9, 0.999), eps: float = 1e-8) -> None:
        self._betas, self._eps, self._step = betas, eps, 0
        self._mean = torch.zeros_like(like)
        self._square = torch.zeros_like(like)

    def step(self, gradient: Tensor, learning_rate: Tensor) -> Tensor:
        """The change of θ (d, k, L) for this gradient; learning_rate (L,)."""
        self._step += 1
        first, second = self._betas
        self._mean.lerp_(gradient, 1 - first)
        self._square.mul_(second).addcmul_(gradient, gradient, value=1 - second)
        spread = (self._square / (1 - second**self._step)).sqrt_().add_(self._eps)
        return -(learning_rate / (1 - first**self._step)) * self._mean / spread

    def repeat(self, lanes: int) -> Adam:
        """One lane's optimiser handed to so many: its moments and its step count."""
        many = copy(self)
        many._mean, many._square = (part.repeat(1, 1, lanes) for part in (self._mean, self._square))
        return many
