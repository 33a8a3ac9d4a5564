"""How sensitive a training sample's influence is to the model's parameters (Fig. 5 of Yadav et al. 2024)."""

from __future__ import annotations

import numpy as np
import torch

from undue.calculus.lanes import norm
from undue.randomness import stream
from undue.tables import BOOL, FLOAT, INT, Columns
from undue.valuation.attack import attack_gradient
from undue.valuation.calculator import Setting

GRADIENT_COLUMNS: Columns = {
    "index": (INT, "training sample"),
    "target": (BOOL, "it is a target of the smallest k; the others are drawn at random"),
    "rank": (INT, "its rank under θ* on the shared half"),
    "influence": (FLOAT, "its influence I_θ on the summed loss of the shared half, at θ*"),
    "gradient_norm": (FLOAT, "‖∇_θ I_θ‖ there"),
}

# Samples whose gradients are computed side by side.
LANES = 16


def sample_others(index: np.ndarray, targets: np.ndarray, *, count: int, seed: int) -> np.ndarray:
    """Training samples to stand beside the targets, so that there are `count` in all.

    Args:
        index: all training samples.
        targets: those that are targets; if they are `count` or more, nobody is drawn.
        count: how many are wanted in all.
        seed: the config's root seed.

    Returns:
        The drawn samples, ascending, none of them a target. Asking for more keeps those drawn before.
    """
    order = stream(seed, "gradients").permutation(index)
    others = order[~np.isin(order, targets)]
    return np.sort(others[: max(0, count - len(targets))])


def gradient_norms(setting: Setting, rows: np.ndarray, *, tolerance: float) -> np.ndarray:
    """‖∇_θ I_θ(z)‖ at θ* on the shared half.

    Args:
        setting: the model and its calculator.
        rows: training rows z (m,).
        tolerance: relative residual of the solves.

    Returns:
        (m,), float64.

    Raises:
        UserError: a solve missed its tolerance.
    """
    calculator, problem = setting.calculator, setting.calculator.problem
    theta = setting.basis.to_basis(setting.theta.to(problem.train.x))
    # The ranking's solve is the same for all samples.
    score, first = calculator.score(calculator.at(theta), problem.shared.at(theta), tolerance=tolerance)
    first.require("influence.damping", "model.l2", what="the influence solve")
    norms = []
    for pack in np.array_split(rows, -(-len(rows) // LANES) or 1):
        lanes = theta.expand(-1, -1, len(pack)).contiguous()
        weights = torch.zeros(problem.train.samples, len(pack)).to(lanes)
        weights[torch.from_numpy(pack), torch.arange(len(pack))] = 1.0
        found = attack_gradient(
            calculator,
            calculator.at(lanes),
            problem.shared.at(lanes),
            score.expand(-1, len(pack)),
            first.x.expand(-1, -1, len(pack)).contiguous(),
            weights,
            tolerance=tolerance,
        )
        found.solution.require("influence.damping", "model.l2", what="the gradient of an influence")
        norms.append(norm(found.gradient).double().cpu().numpy())
    return np.concatenate(norms)
