"""A support vector machine on two classes, its hinge smoothed for a Hessian (Koh & Liang 2017, Fig. 3)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from undue.calculus.factor import Factor
from undue.calculus.functional import one_loss
from undue.calculus.influence import influence
from undue.calculus.linear import LinearRisk, SmoothHinge
from undue.calculus.objective import Objective
from undue.training import train
from undue.validation.effects import make_pairs
from undue.validation.images import first_mistake
from undue.validation.svm import SupportVectors, fit_svm

# The smooth hinge that the exact one is started from.
FIRST_GUESS = 1e-2
# A margin s closer to 1 than this is at the hinge, where the derivative is set to zero.
AT_THE_HINGE = 1e-7


def exact_hinge(risk: LinearRisk, l2: float, *, gradient_norm: float) -> tuple[np.ndarray, SupportVectors]:
    """The support vector machine of a two-class risk with the mean hinge loss.

    Returns:
        y_i x_i (n, d), and the solution.
    """
    smooth = replace(risk, link=SmoothHinge(FIRST_GUESS))
    theta = train(
        smooth,
        l2=l2,
        regularise_bias=True,
        gradient_norm=max(gradient_norm, 1e-6),
        key="validation.gradient_norm",
        l2_key="validation.hinge_l2",
    ).theta
    signed = (risk.x * (2 * risk.y - 1)[:, None]).numpy()
    # At the smooth minimum, θ = (1/λ) Σ α y x holds with α_i = σ((1 − s_i)/t)/n.
    share = smooth.link.state((risk.x @ theta[..., 0])[..., None], risk.y)[:, 0, 0].numpy()
    snapped = np.where(share < 0.02, 0.0, np.where(share > 0.98, 1.0, share))
    caps = np.full(risk.samples, 1 / risk.samples)
    return signed, fit_svm(signed, caps, l2, snapped * caps)


def hinge_influence(training: LinearRisk, test: LinearRisk, image: int, theta: Tensor, l2: float) -> Tensor:
    """Influence by the hinge's own derivatives, zero at the hinge: only λ is left of the Hessian (n,)."""

    def gradients(risk: LinearRisk) -> Tensor:
        signed = risk.x * (2 * risk.y - 1)[:, None]
        return -signed * (signed @ theta[:, 0] < 1 - AT_THE_HINGE)[:, None]

    alone = test.rows(torch.tensor([image]))
    return -(gradients(training) @ gradients(alone)[0]) / l2


def hinge_pairs(
    training: LinearRisk,
    test: LinearRisk,
    numbers: np.ndarray,
    *,
    dataset: str,
    l2: float,
    temperatures: Sequence[float],
    count: int,
    gradient_norm: float,
    progress: Callable[[int], None],
) -> pd.DataFrame:
    """Influence by the smooth hinge, at the exact machine's weights, against exact hinge refits.

    The samples are those of largest |I| at the middle one of the positive temperatures.

    Args:
        training, test: two-class risks, any link.
        numbers: sample number of each training row.
        dataset: its name.
        l2: λ.
        temperatures: t; 0 takes the derivatives of the hinge itself.
        count: so many samples are left out.
        gradient_norm: that the first guess is trained to.
        progress: told how many are done.
    """
    signed, machine = exact_hinge(training, l2, gradient_norm=gradient_norm)
    theta = torch.from_numpy(machine.theta)[:, None, None]
    image = first_mistake(replace(test, link=SmoothHinge(FIRST_GUESS)), theta)
    found = {}
    for t in temperatures:
        if t == 0:
            found[t] = hinge_influence(training, test, image, theta[..., 0], l2)
            continue
        risk = replace(training, link=SmoothHinge(t))
        gradient = one_loss(replace(test, link=SmoothHinge(t)), image).gradient(theta)
        factor = Factor.of_head(Objective(risk, l2), theta)
        values, solution = influence(risk.at(theta), gradient, factor.solve)
        solution.require("validation.hinge_l2", what=f"influence by the smooth hinge, t = {t:g}")
        found[t] = values[:, 0]
    positive = sorted(t for t in temperatures if t > 0) or [0]
    reference = positive[(len(positive) - 1) // 2]
    rows = found[reference].abs().topk(min(count, training.samples)).indices
    sign = 2 * float(test.y[image]) - 1
    x = test.x[image].numpy() * sign

    def loss(weights: np.ndarray) -> float:
        return max(0.0, 1 - float(x @ weights))

    before = loss(machine.theta)
    changes, gaps = [], []
    for done, row in enumerate(rows.tolist(), start=1):
        caps = np.full(training.samples, 1 / training.samples)
        caps[row] = 0
        refit = fit_svm(signed, caps, l2, machine.alpha)
        changes.append(loss(refit.theta) - before)
        gaps.append(refit.gap)
        progress(done)
    parts = [
        make_pairs(
            numbers[rows.numpy()],
            -(values[rows] / training.samples).numpy(),
            np.array(changes),
            np.array(gaps),
            dataset=dataset,
            experiment="hinge",
            predictor="t",
            level=t,
        )
        for t, values in found.items()
    ]
    return pd.concat(parts, ignore_index=True)
