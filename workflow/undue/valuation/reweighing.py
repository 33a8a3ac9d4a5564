"""Loss reweighing: training from scratch with a large weight on one sample's loss.

The baseline of Yadav et al. 2024, §6.1, an attack without influence functions. The target gets the
weight ω, all other training samples the weight 1, by weighted sampling of the batches. A lane is a
target and an ω; lanes are trained side by side.

Weighted sampling, exactly, for all lanes from one draw of rows: draw each place of a batch uniformly
from all n rows, then give it to the target with probability q = (ω − 1)/(n − 1 + ω). The target then
holds a place with probability q + (1 − q)/n = ω/(n − 1 + ω), any other row with (1 − q)/n =
1/(n − 1 + ω). As places are exchangeable, a lane replaces its first M places, M ~ Binomial(batch, q):
the batch's rows are the same for all lanes and only their weights differ.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from undue.calculus.adam import Adam
from undue.calculus.linear import LinearRisk
from undue.packing import equal_packs
from undue.progress import Progress
from undue.randomness import stream
from undue.tables import FLOAT, INT, Columns

logger = logging.getLogger(__name__)

TRIAL_COLUMNS: Columns = {
    "target": (INT, "training sample whose loss is reweighed"),
    "weight": (FLOAT, "its weight ω; all others have 1"),
    "rank_shared": (INT, "its rank on the shared half, in float64"),
    "rank_pristine": (INT, "its rank on the pristine half, in float64"),
    "accuracy_shared": (FLOAT, "the model's accuracy on the shared half"),
    "accuracy_pristine": (FLOAT, "the model's accuracy on the pristine half"),
}


@dataclass(frozen=True)
class Trial:
    """One lane: the training row that gets a weight, and that weight ω ≥ 1."""

    row: int
    weight: float


@dataclass(frozen=True)
class Training:
    """How the models are trained: so many steps of Adam from θ = 0, without a regulariser."""

    steps: int
    batch_size: int
    learning_rate: float


def shared_draws(samples: int, training: Training, *, seed: int) -> np.ndarray:
    """The rows (steps, batch_size) that all lanes' batches begin with, uniform over 0 … samples − 1."""
    size = (training.steps, training.batch_size)
    return stream(seed, "reweigh", "batches").integers(samples, size=size)


def target_places(trial: Trial, samples: int, training: Training, *, seed: int) -> np.ndarray:
    """How many places of each batch (steps,) the target takes over, counted from the first.

    Depends on the seed, the row and the weight alone, not on the lanes beside it.
    """
    share = (trial.weight - 1) / (samples - 1 + trial.weight)
    generator = stream(seed, "reweigh", "row", trial.row, "weight", repr(float(trial.weight)))
    return generator.binomial(training.batch_size, share, size=training.steps)


def reweigh(
    risk: LinearRisk, trials: Sequence[Trial], training: Training, *, seed: int, memory: float
) -> Tensor:
    """Train the model of every trial.

    Args:
        risk: the training risk (n, d), in the basis that Adam works in: it is not invariant to rotation.
        trials: the lanes (L).
        training: how they are trained.
        seed: the config's root seed.
        memory: bytes that lanes trained side by side may take.

    Returns:
        θ (d, k, L). A lane is the same, to rounding, whatever stands beside it.
    """
    theta = risk.x.new_zeros(*risk.shape, len(trials))
    draws = torch.from_numpy(shared_draws(risk.samples, training, seed=seed)).to(risk.x.device)
    packs = list(_packs(risk, training, len(trials), memory))
    progress = Progress(logger, len(packs) * training.steps, "steps")
    for number, pack in enumerate(packs):
        places = [target_places(trial, risk.samples, training, seed=seed) for trial in trials[pack]]
        counts = torch.from_numpy(np.stack(places, axis=1)).to(risk.x.device)
        lanes = risk.x.new_zeros(*risk.shape, len(places))
        rows = torch.tensor([trial.row for trial in trials[pack]], device=risk.x.device)
        for step in _train(risk, lanes, rows, draws, counts, training.learning_rate):
            progress.update(number * training.steps + step + 1)
        theta[..., pack] = lanes
    return theta


def _packs(risk: LinearRisk, training: Training, lanes: int, memory: float) -> Iterator[slice]:
    """Slices of lanes, nearly equal, whose working tensors fit into `memory` bytes."""
    d, k = risk.shape
    # θ, gradient, Adam's moments and temporaries; outputs and slopes of a batch.
    per_lane = risk.x.element_size() * (8 * d * k + 6 * training.batch_size * k)
    return equal_packs(lanes, memory=memory, per_lane=per_lane)


def _train(
    risk: LinearRisk, theta: Tensor, rows: Tensor, draws: Tensor, counts: Tensor, learning_rate: float
) -> Iterator[int]:
    """Train the lanes of one pack in place; yields after each step.

    Args:
        risk: the training risk (n, d).
        theta: where to begin and to end (d, k, L).
        rows: the target of each lane (L,).
        draws: the rows of each batch (steps, batch_size).
        counts: how many of them, from the first, each lane's target takes over (steps, L).
        learning_rate: Adam's.
    """
    batch_size = draws.shape[1]
    place = torch.arange(batch_size, device=theta.device)[:, None]
    # The targets are rows of every batch, too, each with a weight in its own lanes alone.
    targets = rows.new_tensor(sorted(set(rows.tolist())))
    own = (targets[:, None] == rows).to(theta.dtype)
    adam = Adam(theta)
    rates = theta.new_full((theta.shape[2],), learning_rate)
    for step, (drawn, count) in enumerate(zip(draws, counts, strict=True)):
        weights = torch.cat([(place >= count).to(theta.dtype), own * count]) / batch_size
        batch = risk.rows(torch.cat([drawn, targets]))
        theta += adam.step(batch.at(theta).grad(weights), rates)
        yield step
