"""Koh & Liang 2017, Fig. 2, right: a small convolutional network, not convex and not converged.

The networks without a sample go on from θ̃ beside a control with all samples, as lanes, on the same
mini-batches in the same order: the effect of a removal is the difference to the control, so that what more
training does anyway cancels. All inherit the moments of Adam that training ended with: fresh ones would make
of the first gradient a step of its sign alone, as long in every coordinate, which hides what one sample does.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn

from undue.calculus.adam import Adam
from undue.calculus.functional import one_loss
from undue.calculus.krylov import Krylov
from undue.calculus.lanes import norm
from undue.calculus.linear import LinearRisk
from undue.calculus.module import ModuleRisk
from undue.calculus.objective import Objective
from undue.calculus.spectrum import Extremes
from undue.errors import UserError
from undue.randomness import stream
from undue.validation.effects import make_pairs
from undue.validation.images import first_mistake

CHANNELS = 8
# Hessian products for all solves and both ends of the spectrum: minutes on all samples.
LANCZOS_STEPS = 100
# Relative residual that solves are meant to have; what they have is reported.
TOLERANCE = 1e-3
# Beyond the smallest eigenvalue, so that few products are enough.
HEADROOM = 1.5


@dataclass(frozen=True)
class Schedule:
    """How networks are trained, with all samples and on without one.

    Attributes:
        steps: of Adam, for θ̃.
        more_steps: from θ̃ on, with and without a sample.
        batch: samples in a step.
        learning_rate: a tenth of it for the second half of the steps, and from θ̃ on.
        l2: λ.
    """

    steps: int
    more_steps: int
    batch: int
    learning_rate: float
    l2: float

    def rate(self, step: int) -> float:
        """The learning rate of a step."""
        return self.learning_rate * (1 if step < self.steps / 2 else 0.1)


def make_network(side: int, classes: int, generator: np.random.Generator) -> nn.Module:
    """Seven convolutional layers with tanh between them, then the mean over places.

    Modelled, as the paper's, after the all-convolutional network of Springenberg et al. 2015.

    Args:
        side: of the square grey images, which come flattened.
        classes: outputs.
        generator: draws the first parameters.
    """

    def layer(inputs: int, outputs: int, size: int, stride: int = 1) -> nn.Module:
        return nn.Conv2d(inputs, outputs, size, stride=stride, padding=size // 2)

    def glorot(weights: Tensor) -> float:
        outputs, inputs, *places = weights.shape
        return math.sqrt(2 / ((outputs + inputs) * math.prod(places)))

    c = CHANNELS
    layers = [layer(1, c, 3, 2), layer(c, c, 3), layer(c, c, 3, 2), layer(c, c, 3), layer(c, c, 3)]
    layers += [layer(c, c, 1), layer(c, classes, 1)]
    parts: list[nn.Module] = [nn.Unflatten(1, (1, side, side))]
    for place, each in enumerate(layers):
        parts += [each] if place == len(layers) - 1 else [each, nn.Tanh()]
    network = nn.Sequential(*parts, nn.AdaptiveAvgPool2d(1), nn.Flatten()).eval()
    with torch.no_grad():
        for parameter in network.parameters():
            # Tanh layers keep their variance with Glorot & Bengio's (2010); biases begin at zero.
            draw = torch.from_numpy(generator.standard_normal(tuple(parameter.shape)))
            parameter.copy_(draw * glorot(parameter) if parameter.dim() > 1 else torch.zeros_like(draw))
    return network


def go_on(
    risk: ModuleRisk,
    theta: Tensor,
    removed: Tensor,
    optimiser: Adam,
    *,
    steps: int,
    batch: int,
    learning_rate: Callable[[int], float],
    l2: float,
    generator: np.random.Generator,
    progress: Callable[[int], None],
) -> Tensor:
    """Train by Adam, every lane on the same mini-batches, each without its own sample.

    Args:
        risk: the training risk.
        theta: where to begin (p, 1, L).
        removed: the sample that each lane does without, −1 for none (L,).
        optimiser: of L lanes; left behind as it ends.
        steps: of Adam.
        batch: samples of a step, at most all; the removed one's place stays empty.
        learning_rate: of each step.
        l2: λ.
        generator: draws the mini-batches, in epochs.
        progress: told how many steps are done.
    """
    theta = theta.clone()
    order = np.empty(0, dtype=np.int64)
    for step in range(steps):
        if len(order) < batch:
            order = np.concatenate([order, generator.permutation(risk.samples)])
        rows, order = torch.from_numpy(order[:batch]), order[batch:]
        weights = (rows[:, None] != removed).to(theta) / len(rows)
        gradient = risk.rows(rows).at(theta).grad(weights) + l2 * theta
        rate = torch.full_like(theta[0, 0], learning_rate(step))
        theta += optimiser.step(gradient, rate)
        progress(step + 1)
    return theta


@dataclass(frozen=True)
class NetworkFacts:
    """What a correlation of a network's effects must be read with.

    Attributes:
        parameters: of the network.
        samples: that it was trained on.
        steps, batch: of training.
        more_steps: with and without a sample.
        learning_rate: first and last of training; the last is that of the further steps.
        l2: λ.
        accuracy: on the test images.
        gradient_norm: ‖∇R(θ̃)‖, zero at a minimum.
        smallest_eigenvalue, largest_eigenvalue: of the Hessian at θ̃ without damping.
        dampings_asked, dampings_used: δ as configured, and those of them that make H_δ positive definite,
            beside the smallest that does.
        residuals: relative, of the solve with each δ used.
        test_sample: row of the test image.
        noise: difference between the losses of two controls, which rounding alone parts.
        typical_effect: median size of the actual effects.
    """

    parameters: int
    samples: int
    steps: int
    batch: int
    more_steps: int
    learning_rate: tuple[float, float]
    l2: float
    accuracy: float
    gradient_norm: float
    smallest_eigenvalue: float
    largest_eigenvalue: float
    dampings_asked: tuple[float, ...]
    dampings_used: tuple[float, ...]
    residuals: tuple[float, ...]
    test_sample: int
    noise: float
    typical_effect: float


def network_pairs(
    training: LinearRisk,
    test: LinearRisk,
    numbers: np.ndarray,
    *,
    dataset: str,
    schedule: Schedule,
    count: int,
    dampings: Sequence[float],
    seed: int,
    say: Callable[[str], None],
    progress: Callable[[str], Callable[[int], None]],
) -> tuple[pd.DataFrame, NetworkFacts]:
    """−I/n against going on without a sample, for those of largest |I| on the first misclassified test image.

    Args:
        training, test: square grey images with a column of ones last, which is not used.
        numbers: sample number of each training row.
        dataset: its name.
        schedule: how networks are trained.
        count: so many samples are left out, the largest at the smallest δ.
        dampings: δ to predict with; those too small for a positive definite H_δ give way to the smallest that
            suffices.
        seed: root of the random streams.
        say: told what is done next.
        progress: what it is ↦ told how many steps of it are done.

    Returns:
        The table of pairs, and what was trained and how well.

    Raises:
        UserError: the samples are not square grey images.
    """
    pixels = training.x.shape[1] - 1
    side = round(pixels**0.5)
    if side**2 != pixels:
        raise UserError(
            f"{pixels} numbers a sample are no square grey image, which the network takes",
            where="validation.dataset",
            remedy="take such images, or set validation.network_steps to 0",
        )
    network = make_network(side, training.classes, stream(seed, "network"))
    risk = ModuleRisk(network, training.x[:, :-1].float(), training.y)
    examined = ModuleRisk(network, test.x[:, :-1].float(), test.y, activations=risk.activations)
    none = torch.tensor([-1])
    optimiser = Adam(risk.theta())
    theta = go_on(
        risk,
        risk.theta(),
        none,
        optimiser,
        steps=schedule.steps,
        batch=schedule.batch,
        learning_rate=schedule.rate,
        l2=schedule.l2,
        generator=stream(seed, "network", "batches"),
        progress=progress("steps of training"),
    )
    accuracy = float(examined.at(theta).accuracy())
    image = first_mistake(examined, theta)
    objective, point = Objective(risk, schedule.l2), risk.at(theta)
    size = float(norm(objective.gradient(point)))
    say(f"accuracy {accuracy:.4f}, gradient norm {size:.1e}; {LANCZOS_STEPS} Hessian products")
    functional = one_loss(examined, image)
    # Influence is −gᵀH_δ⁻¹∇ℓ: a basis of g's Krylov space has it for every δ, and the eigenvalues.
    krylov = Krylov.of(objective.hessian(point), -functional.gradient(theta), LANCZOS_STEPS)
    ends = krylov.ends()
    used = dampings_that_suffice(dampings, ends)
    say(f"smallest eigenvalue {ends.smallest:.2g}, largest {ends.largest:.3g}; damping {used}")
    solutions = [krylov.solve(damping, tolerance=TOLERANCE) for damping in used]
    influences = [point.grad_dots(solution.x)[:, 0].double() for solution in solutions]
    rows = influences[0].abs().topk(min(count, risk.samples)).indices
    say(f"going on without each of {len(rows)} samples, and twice with all")
    removed = torch.cat([none, none, rows])
    found = go_on(
        risk,
        theta.repeat(1, 1, len(removed)),
        removed,
        optimiser.repeat(len(removed)),
        steps=schedule.more_steps,
        batch=schedule.batch,
        learning_rate=lambda step: schedule.rate(schedule.steps),
        l2=schedule.l2,
        generator=stream(seed, "network", "more batches"),
        progress=progress("steps without a sample"),
    )
    double = one_loss(examined.to(torch.float64), image)
    control, again, *losses = double.value(found.double()).tolist()
    actual = np.array(losses) - control
    weights = (torch.arange(risk.samples)[:, None] != removed).to(found) / risk.samples
    reached = norm(risk.at(found).grad(weights) + schedule.l2 * found)[2:].double().numpy()
    pairs = [
        make_pairs(
            numbers[rows.numpy()],
            -(values[rows] / risk.samples).numpy(),
            actual,
            reached,
            dataset=dataset,
            experiment=f"network, {schedule.more_steps} steps without the sample",
            predictor="δ",
            level=damping,
        )
        for damping, values in zip(used, influences, strict=True)
    ]
    facts = NetworkFacts(
        parameters=risk.shape[0],
        samples=risk.samples,
        steps=schedule.steps,
        batch=min(schedule.batch, risk.samples),
        more_steps=schedule.more_steps,
        learning_rate=(schedule.rate(0), schedule.rate(schedule.steps)),
        l2=schedule.l2,
        accuracy=accuracy,
        gradient_norm=size,
        smallest_eigenvalue=ends.smallest,
        largest_eigenvalue=ends.largest,
        dampings_asked=tuple(dampings),
        dampings_used=used,
        residuals=tuple(float(solution.residual) for solution in solutions),
        test_sample=image,
        noise=abs(again - control),
        typical_effect=float(np.median(np.abs(actual))),
    )
    return pd.concat(pairs, ignore_index=True), facts


def dampings_that_suffice(dampings: Sequence[float], ends: Extremes) -> tuple[float, ...]:
    """The δ, ascending; those too small for a Hessian with these ends give way to the least that suffices."""
    least = HEADROOM * (ends.error - ends.smallest)
    return tuple(sorted({max(damping, least) for damping in dampings}))
