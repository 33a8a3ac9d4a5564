"""Training θ*: a real minimiser of the regularised risk, λ by cross-validation, and the paper's SGD."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from undue.calculus.basis import Eigenbasis
from undue.calculus.linear import LinearRisk
from undue.calculus.newton import Minimum, newton
from undue.calculus.objective import Objective
from undue.data.split import stratified_folds

logger = logging.getLogger(__name__)

# Models of the cross-validation are solved to this gradient norm: their log-loss is then settled
# far below the differences between values of λ.
FOLD_GRADIENT_NORM = 1e-5


def train(
    risk: LinearRisk,
    *,
    l2: float,
    regularise_bias: bool,
    gradient_norm: float,
    start: Tensor | None = None,
    key: str = "model.gradient_norm",
    l2_key: str = "model.l2",
) -> Minimum:
    """Solve for θ* in float64.

    Args:
        risk: the training risk (n, d); the last feature is the bias.
        l2: λ.
        regularise_bias: whether λ applies to the bias too.
        gradient_norm: ‖∇R(θ*)‖ to reach.
        start: where to begin (d, k, 1), zero if not given.
        key, l2_key: the config keys of the gradient norm and of λ.

    Returns:
        θ* (d, k, 1), float64, in the basis of `risk`.

    Raises:
        UserError: the gradient norm was not reached.
    """
    basis = Eigenbasis.of(risk.x)
    rotated = replace(risk, x=basis.rotate(risk.x.double()))
    zero = rotated.x.new_zeros(*risk.shape, 1)
    found = newton(
        Objective(rotated, l2, regularise_bias=regularise_bias),
        zero if start is None else basis.to_basis(start.double()),
        moments=basis.moments,
        gradient_norm=gradient_norm,
    )
    found.require(gradient_norm, what="training", key=key, l2_key=l2_key)
    return replace(found, theta=basis.from_basis(found.theta))


def train_as_published(
    risk: LinearRisk,
    generator: np.random.Generator,
    *,
    epochs: int = 100,
    batch: int = 64,
    learning_rate: float = 1e-3,
) -> Tensor:
    """The published recipe: plain SGD, no regulariser, not run to convergence (their code, not the paper).

    Returns:
        θ (d, k, 1), float64.
    """
    d, k = risk.shape
    theta = torch.zeros(d, k, 1, dtype=torch.float64, device=risk.x.device)
    for _ in range(epochs):
        order = torch.from_numpy(generator.permutation(risk.samples)).to(risk.x.device)
        for rows in torch.split(order, batch):
            part = risk.rows(rows).to(torch.float64)
            point = part.at(theta)
            theta = theta - learning_rate * point.grad(part.x.new_full((len(rows),), 1 / len(rows)))
    return theta


@dataclass(frozen=True)
class CrossValidation:
    """Held-out log-loss of each λ.

    Attributes:
        l2: the λ tried, ascending.
        log_loss: mean held-out log-loss of each (over folds and samples).
        best: the λ with the lowest log-loss.
    """

    l2: tuple[float, ...]
    log_loss: tuple[float, ...]

    @property
    def best(self) -> float:
        return self.l2[int(np.argmin(self.log_loss))]


def cross_validate(
    risk: LinearRisk,
    l2_grid: Sequence[float],
    *,
    folds: int,
    regularise_bias: bool,
    generator: np.random.Generator,
) -> CrossValidation:
    """Choose λ by cross-validated log-loss on the training data; the folds of one λ are solved as lanes.

    Folds are stratified. A class with fewer samples than folds is simply absent from some of the
    held-out parts.

    Args:
        risk: the training risk.
        l2_grid: the λ to try.
        folds: number of folds.
        regularise_bias: whether λ applies to the bias too.
        generator: draws the folds.
    """
    basis = Eigenbasis.of(risk.x)
    rotated = replace(risk, x=basis.rotate(risk.x))
    fold = torch.from_numpy(stratified_folds(risk.y.cpu().numpy(), folds, generator)).to(risk.x.device)
    held_out = (fold[:, None] == torch.arange(folds, device=risk.x.device)).to(risk.x.dtype)
    kept = 1 - held_out
    theta = rotated.x.new_zeros(*risk.shape, folds)
    losses = {}
    # From the strongest λ down, each solve starting at the one before.
    for l2 in sorted(l2_grid, reverse=True):
        objective = Objective(rotated, l2, kept / kept.sum(dim=0), regularise_bias)
        found = newton(objective, theta, moments=basis.moments, gradient_norm=FOLD_GRADIENT_NORM)
        theta = found.theta
        worst = float(found.gradient_norm.max())
        if not worst <= FOLD_GRADIENT_NORM:
            logger.warning("l2 %.0e: a fold stopped at a gradient norm of %.1e", l2, worst)
        losses[l2] = float((rotated.at(theta).losses() * held_out).sum() / risk.samples)
        logger.info("l2 %.0e: held-out log-loss %.4f after %d Newton steps", l2, losses[l2], found.steps)
    grid = sorted(losses)
    return CrossValidation(tuple(grid), tuple(losses[l2] for l2 in grid))
