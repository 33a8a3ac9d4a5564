"""Koh & Liang 2017, Fig. 2, left and middle: the softmax head against leave-one-out retraining."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

import numpy as np
import pandas as pd
import torch

from undue.calculus.functional import one_loss
from undue.calculus.influence import influence
from undue.calculus.lissa import Recipe, curvature_bound, lissa, mini_batches
from undue.randomness import stream
from undue.validation.effects import make_pairs
from undue.validation.head import Head
from undue.validation.images import Images
from undue.validation.retraining import frozen_newton, leave_one_out

EXACT = "exact solve"
# Numbers in the outputs of all models trained side by side.
LANE_NUMBERS = 20_000_000


def softmax_pairs(
    images: Images,
    *,
    dataset: str,
    l2: float,
    count: int,
    repeats: Sequence[int],
    batch: int,
    depth: int,
    gradient_norm: float,
    seed: int,
    say: Callable[[str], None],
    progress: Callable[[int], None],
) -> pd.DataFrame:
    """−I/n against retraining, for the samples of largest |I| on the first misclassified test image.

    Args:
        images: what to train and to test on.
        dataset: its name.
        l2: λ.
        count: so many samples are left out.
        repeats: LiSSA's r; an estimate for each.
        batch, depth: its samples in a step, and its steps t.
        gradient_norm: ‖∇R‖ that all models are trained to.
        seed: root of LiSSA's random streams.
        say: told what is done next.
        progress: told how many models are trained.
    """
    training, test = images.risk(images.train), images.risk(images.test)
    say("training, and factorising the Hessian")
    head = Head.of(training, test, l2=l2, gradient_norm=gradient_norm)
    objective, theta, factor = head.objective, head.theta, head.factor
    point = training.at(theta)
    say(f"accuracy {float(test.at(theta).accuracy()):.4f}")
    functional = one_loss(test, head.image)
    gradient = functional.gradient(theta)
    values, solution = influence(point, gradient, factor.solve)
    solution.require("validation.l2", what="the softmax head's influence")
    predicted = {EXACT: values[:, 0]}
    scale = curvature_bound(training, theta, batch) + l2
    for times in repeats:
        say(f"LiSSA, r = {times}, scale {scale:.3g}")
        estimate = partial(
            lissa,
            objective.hessian(point),
            mini_batches(objective, theta),
            samples=training.samples,
            recipe=Recipe(batch=batch, depth=depth, repeats=times, scale=scale),
            generator=stream(seed, "lissa", times),
            # An estimate: its residual is no failure, the table says what it is worth.
            tolerance=torch.inf,
        )
        predicted[f"LiSSA, r = {times}"] = influence(point, gradient, estimate)[0][:, 0]
    rows = head.most_influential(predicted[EXACT], count)
    say(f"leaving out {len(rows)} samples, one at a time; test image {images.test[head.image]}")
    effects = leave_one_out(
        objective,
        theta,
        rows,
        functional,
        partial(frozen_newton, divide=factor.divide),
        gradient_norm=gradient_norm,
        lanes=max(1, LANE_NUMBERS // (training.samples * training.shape[1])),
        progress=progress,
    )
    parts = [
        make_pairs(
            images.train[rows.numpy()],
            -(found[rows] / training.samples).numpy(),
            effects.change.numpy(),
            effects.gradient_norm.numpy(),
            dataset=dataset,
            experiment="softmax",
            predictor=name,
        )
        for name, found in predicted.items()
    ]
    return pd.concat(parts, ignore_index=True).assign(sample=lambda table: table["sample"].astype(np.int64))
