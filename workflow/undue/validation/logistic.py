"""A logistic head on two classes: the parts of influence, training that stops early (Koh & Liang 2017)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import partial

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from undue.agreement import linear_datamodelling_score
from undue.calculus.factor import Factor
from undue.calculus.functional import one_loss
from undue.calculus.influence import influence
from undue.calculus.lanes import norm
from undue.calculus.linear import LinearRisk
from undue.calculus.newton import newton
from undue.calculus.objective import Objective
from undue.formats import interval
from undue.randomness import stream
from undue.tables import FLOAT, INT, TEXT, Columns
from undue.validation.effects import make_pairs
from undue.validation.head import Head
from undue.validation.retraining import frozen_newton, leave_one_out

PARTS_COLUMNS: Columns = {
    "sample": (INT, "training sample"),
    "same_label": (INT, "1 if it has the test image's label, else 0"),
    "influence": (FLOAT, "I_up,loss on the test image"),
    "without_loss": (FLOAT, "the same without the training loss's factor σ(−yθᵀx)"),
    "without_hessian": (FLOAT, "the same with the identity for H"),
    "without_both": (FLOAT, "the scaled inner product that is left"),
    "test_sample": (INT, "the test image"),
}
"""Koh & Liang 2017, Fig. 1."""

VARIANTS = ("influence", "without_loss", "without_hessian", "without_both")

DATAMODELLING_COLUMNS: Columns = {
    "dataset": (TEXT, "whose samples"),
    "attribution": (TEXT, "what is summed over a training subset; the parts are Koh & Liang's (Fig. 1)"),
    "subsets": (INT, "models trained, each on a random half"),
    "quantities": (INT, "test losses predicted"),
    "score": (FLOAT, "linear datamodelling score: mean rank correlation over the test losses"),
    "score_low": (FLOAT, "lower end of its 95 % jackknife interval over the subsets"),
    "score_high": (FLOAT, "upper end"),
    "chance": (FLOAT, "mean score of the same attributions dealt out to random samples"),
    "chance_low": (FLOAT, "lower end of the central 95 % of these scores"),
    "chance_high": (FLOAT, "upper end"),
}


def influence_parts(head: Head, image: int) -> dict[str, Tensor]:
    """I_up,loss of every sample on one test loss, and what is left without its parts (n,).

    I = −y_test y σ(−y_test θᵀx_test) σ(−y θᵀx) x_testᵀ H⁻¹ x: without the training loss the factor
    σ(−y θᵀx) is 1, without the Hessian H is the identity (Koh & Liang 2017, §2.3).

    Args:
        head: a logistic head.
        image: the test sample.
    """
    training = head.training
    point, gradient = training.at(head.theta), one_loss(head.test, image).gradient(head.theta)
    signed = training.x * (2 * training.y - 1)[:, None]
    full, solution = influence(point, gradient, head.factor.solve)
    solution.require("validation.l2", what="the logistic head's influence")
    return {
        "influence": full[:, 0],
        "without_loss": -(signed @ solution.x[:, 0, 0]),
        "without_hessian": -point.grad_dots(gradient)[:, 0],
        "without_both": signed @ gradient[:, 0, 0],
    }


def parts_table(head: Head, numbers: np.ndarray, test_numbers: np.ndarray) -> pd.DataFrame:
    """The parts of influence on the head's test sample: PARTS_COLUMNS, a row for each training sample.

    Args:
        head: a logistic head.
        numbers, test_numbers: sample number of each training and each test row.
    """
    return pd.DataFrame(
        {
            "sample": numbers,
            "same_label": (head.training.y == head.test.y[head.image]).long().numpy(),
            **{name: values.numpy() for name, values in influence_parts(head, head.image).items()},
            "test_sample": test_numbers[head.image],
        }
    )


# Stopping early ---------------------------------------------------------------------------------------------


def descend(objective: Objective[LinearRisk], steps: int, lanes: int) -> Tensor:
    """θ after so many steps of gradient descent from zero, step 1/bound on the curvature (d, k, L)."""
    x = objective.risk.x
    # Logistic curvature is at most ¼, so that the Hessian is at most a quarter of the mean ‖x‖², plus λ.
    step = 1 / (float(x.square().sum(dim=1).mean()) / 4 + float(objective.ridge().max()))
    theta = x.new_zeros(*objective.risk.shape, lanes)
    for _ in range(steps):
        theta = theta - step * objective.gradient(objective.risk.at(theta))
    return theta


def newton_effect(
    objective: Objective[LinearRisk], theta: Tensor, factor: Factor, row: Tensor
) -> tuple[Tensor, Tensor]:
    """One Newton step from θ with all samples, and with one left out (Koh & Liang 2017, Eq. 11).

    Args:
        objective: of a logistic risk, weights 1/n.
        theta: θ (d, 1, 1), no minimum.
        factor: of H at θ.
        row: the samples left out (m,).

    Returns:
        Where the step leads with all samples (d, 1, 1), and without each (d, 1, m).
    """
    risk = objective.risk
    point = risk.at(theta)
    gradient = objective.gradient(point)
    x = risk.x[row].T[:, None, :]
    state = risk.link.state((risk.x[row] @ theta[..., 0])[..., None], risk.y[row])
    slope = risk.link.slope(state, risk.y[row])[:, 0, 0] / risk.samples
    curve = risk.link.curvature(state, risk.y[row])[:, 0, 0] / risk.samples
    u = factor.solve(gradient - slope * x).x
    q = factor.solve(x).x
    # Sherman & Morrison: the Hessian loses the rank-one term curve · x xᵀ.
    scale = curve * (x * u).sum(dim=(0, 1)) / (1 - curve * (x * q).sum(dim=(0, 1)))
    return theta - factor.solve(gradient).x, theta - (u + scale * q)


def early_pairs(
    head: Head, numbers: np.ndarray, *, dataset: str, stops: Sequence[int], count: int
) -> pd.DataFrame:
    """Influence where training stops early, against one Newton step and against training again as long.

    Both effects are differences to a control that goes the same way with all samples. All are of one test
    loss, that of the trained head, so that what differs between the stops is the training alone.

    Args:
        head: the logistic head, trained to its end.
        numbers: sample number of each training row.
        dataset: its name.
        stops: steps of gradient descent after which training stops.
        count: so many samples of largest |I| are left out.
    """
    objective, training = head.objective, head.training
    functional = one_loss(head.test, head.image)
    parts = []
    for stop in stops:
        theta = descend(objective, stop, 1)
        factor = Factor.of_head(objective, theta)
        point = training.at(theta)
        influences, solution = influence(point, functional.gradient(theta), factor.solve)
        solution.require("validation.l2", what=f"influence after {stop} steps")
        values = influences[:, 0]
        rows = head.most_influential(values, count)
        control, stepped = newton_effect(objective, theta, factor, rows)
        weights = objective.weights[:, None].repeat(1, len(rows))
        weights[rows, torch.arange(len(rows))] = 0
        again = descend(replace(objective, weights=weights), stop, len(rows))
        actual = {
            "stopped early, one Newton step": functional.value(stepped) - functional.value(control),
            "stopped early, trained again": functional.value(again) - functional.value(theta),
        }
        reached = float(norm(objective.gradient(point)))
        parts += [
            make_pairs(
                numbers[rows.numpy()],
                -(values[rows] / training.samples).numpy(),
                change.numpy(),
                np.full(len(rows), reached),
                dataset=dataset,
                experiment=experiment,
                predictor="steps",
                level=stop,
            )
            for experiment, change in actual.items()
        ]
    return pd.concat(parts, ignore_index=True)


# Logistic leave-one-out, and subsets ------------------------------------------------------------------------


def logistic_pairs(head: Head, numbers: np.ndarray, *, dataset: str, count: int) -> pd.DataFrame:
    """Influence and what is left of it without its parts, against leave-one-out retraining.

    Args:
        head: the logistic head.
        numbers: sample number of each training row.
        dataset: its name.
        count: so many samples of largest |I| are left out.
    """
    parts = influence_parts(head, head.image)
    rows = head.most_influential(parts["influence"], count)
    effects = leave_one_out(
        head.objective,
        head.theta,
        rows,
        one_loss(head.test, head.image),
        partial(frozen_newton, divide=head.factor.divide),
        gradient_norm=head.gradient_norm,
        lanes=100,
    )
    return pd.concat(
        [
            make_pairs(
                numbers[rows.numpy()],
                -(values[rows] / head.training.samples).numpy(),
                effects.change.numpy(),
                effects.gradient_norm.numpy(),
                dataset=dataset,
                experiment="logistic",
                predictor=name.replace("_", " "),
            )
            for name, values in parts.items()
        ],
        ignore_index=True,
    )


def datamodelling(head: Head, *, dataset: str, subsets: int, quantities: int, seed: int) -> pd.DataFrame:
    """How well sums of attributions rank models trained on random halves: DATAMODELLING_COLUMNS.

    Args:
        head: the logistic head, trained on all samples.
        dataset: its name.
        subsets: models.
        quantities: so many test samples, drawn at random, whose losses are predicted.
        seed: root of the random streams.

    Raises:
        UserError: a model missed the gradient norm.
    """
    training, test = head.training, head.test
    draw = stream(seed, "datamodelling")
    images = np.sort(draw.choice(test.samples, size=min(quantities, test.samples), replace=False))
    members = np.zeros((subsets, training.samples), dtype=bool)
    for row in members:
        row[draw.choice(training.samples, size=training.samples // 2, replace=False)] = True
    weights = torch.from_numpy(members.T.astype(np.float64))
    models = newton(
        replace(head.objective, weights=weights / weights.sum(dim=0)),
        head.theta.repeat(1, 1, subsets),
        moments=training.x.square().mean(dim=0),
        gradient_norm=head.gradient_norm,
    )
    models.require(
        head.gradient_norm,
        what="training on a random half",
        key="validation.gradient_norm",
        l2_key="validation.l2",
    )
    outcomes = test.rows(torch.from_numpy(images)).at(models.theta).losses().T.numpy()
    parts = [influence_parts(head, int(image)) for image in images]
    rows = []
    for name in VARIANTS:
        scores = torch.stack([part[name] for part in parts], dim=1).numpy()
        found = linear_datamodelling_score(
            scores, members, outcomes, generator=stream(seed, "datamodelling", name)
        )
        rows.append(
            {
                "dataset": dataset,
                "attribution": name.replace("_", " "),
                "subsets": subsets,
                "quantities": len(images),
                **found.score.columns("score"),
                **found.chance.columns("chance"),
            }
        )
    return pd.DataFrame(rows)


def pretty_datamodelling(table: pd.DataFrame) -> pd.DataFrame:
    """The table of datamodelling scores for reading."""
    return pd.DataFrame(
        {
            "dataset": table["dataset"],
            "attribution": table["attribution"],
            "models": table["subsets"],
            "test losses": table["quantities"],
            "score [95 %]": interval(table, "score", digits=3),
            "by chance [central 95 %]": interval(table, "chance", digits=3),
        }
    )
