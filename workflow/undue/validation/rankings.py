"""Do rankings predict anything? Removing the samples that a model ranks first and last, and training again.

On the very heads that are attacked: the truth is what training again from scratch, honestly, without a sample
does to the summed loss of the shared half, whatever model ranked it. Predictions are −I/n at the model that
ranks: θ*, with the run's damping and with others, and every manipulated model that was published.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from undue.agreement import pearson, spearman
from undue.calculus.factor import Nearby
from undue.calculus.functional import summed_loss
from undue.calculus.newton import newton
from undue.calculus.objective import Objective
from undue.formats import bracketed
from undue.packing import FACTORISED
from undue.randomness import stream
from undue.tables import FLOAT, INT, TEXT, Columns
from undue.validation.effects import DAMPING_VARIED, make_pairs
from undue.validation.retraining import leave_one_out
from undue.valuation.calculator import Setting, rank_samples

# Numbers in the outputs of all models trained side by side.
LANE_NUMBERS = 2_000_000
# Relative residual of solves that only predict: less is out of reach of a small λ without damping, and no
# correlation sees it.
PREDICT_TOLERANCE = 1e-6

RANKING_COLUMNS: Columns = {
    "dataset": (TEXT, "whose samples"),
    "model": (TEXT, "who ranks: honest (θ*) or manipulated"),
    "radius": (FLOAT, "C of the attack, 0 for θ*"),
    "target": (INT, "the sample that the attack raised, −1 for θ*"),
    "samples": (INT, "so many of the ranking's first and as many of its last samples, one at a time"),
    "predicted_first": (FLOAT, "mean predicted change of the summed test loss, −I/n, for the first samples"),
    "actual_first": (FLOAT, "mean actual change after training again without one of them"),
    "predicted_last": (FLOAT, "as predicted_first, for the last samples"),
    "actual_last": (FLOAT, "as actual_first, for the last samples"),
    "predicted_target": (FLOAT, "predicted change for the target itself; empty for θ*, which has none"),
    "actual_target": (FLOAT, "actual change after training again without the target"),
    "actual_random": (FLOAT, "mean actual change for samples drawn at random"),
    "right_sign": (FLOAT, "share of the first and last samples whose effect has the predicted sign"),
    **{
        name: column
        for suffix, rows in (
            ("", "the first and the last"),
            ("_within_first", "the first alone"),
            ("_within_last", "the last alone"),
            ("_random", "the samples drawn at random"),
        )
        for statistic, words in (("pearson", "correlation"), ("spearman", "rank correlation"))
        for name, column in (
            (f"{statistic}{suffix}", (FLOAT, f"{words} of predicted and actual effects over {rows}")),
            (
                f"{statistic}{suffix}_low",
                (FLOAT, "lower end of its 95 % bootstrap interval over the samples"),
            ),
            (f"{statistic}{suffix}_high", (FLOAT, "upper end")),
        )
    },
}

REMOVED_COLUMNS: Columns = {
    "dataset": (TEXT, "whose samples"),
    "model": (TEXT, "who ranks: honest (θ*) or manipulated"),
    "radius": (FLOAT, "C of the attack, 0 for θ*"),
    "target": (INT, "the sample that the attack raised, −1 for θ*"),
    "sample": (INT, "training sample left out"),
    "place": (TEXT, "in the ranking: first or last; random if drawn"),
    "predicted": (FLOAT, "predicted change of the summed loss of the shared half, −I/n"),
    "actual": (FLOAT, "actual change after training again without it"),
    "precision": (FLOAT, "‖∇R‖ that it was trained to"),
}


@dataclass(frozen=True)
class Ranker:
    """A model that ranks, and which samples it puts first and last.

    Attributes:
        radius, target: the attack that made it; 0 and −1 for θ*.
        row: the target's training row, −1 for θ*.
        influence: I (n,).
        first, last: training rows (m,), best rank first and worst rank first.
    """

    radius: float
    target: int
    row: int
    influence: np.ndarray
    first: np.ndarray
    last: np.ndarray


def rank(
    setting: Setting, theta: Tensor, *, radius: float, target: int, samples: int, tolerance: float
) -> Ranker:
    """Value all samples under a model θ (d, k, 1) in the original basis, as the calculator does."""
    places, values = rank_samples(setting, theta, tolerance=tolerance)
    order = np.argsort(places, kind="stable")
    return Ranker(
        radius,
        target,
        -1 if target < 0 else int(setting.train_index.searchsorted(target)),
        values,
        order[:samples],
        order[::-1][:samples].copy(),
    )


@dataclass(frozen=True)
class Truth:
    """What removing samples really does.

    Attributes:
        rows: training rows, ascending (m,).
        change: of the summed loss of the shared half (m,).
        gradient_norm: that the models were trained to (m,).
    """

    rows: np.ndarray
    change: np.ndarray
    gradient_norm: np.ndarray

    def of(self, rows: np.ndarray) -> np.ndarray:
        """The changes of some of the rows."""
        return self.change[np.searchsorted(self.rows, rows)]


def retrain_without(
    setting: Setting, rows: np.ndarray, *, gradient_norm: float, progress: Callable[[int], None]
) -> Truth:
    """Train the honest model again without each of the samples in turn.

    Args:
        setting: the trained model with its calculator, float64.
        rows: training rows, distinct, ascending (m,).
        gradient_norm: ‖∇R‖ that the models are trained to.
        progress: told how many are done.
    """
    calculator = setting.calculator
    training = calculator.problem.train
    objective = Objective(training, calculator.l2, regularise_bias=calculator.regularise_bias)
    theta = setting.basis.to_basis(setting.theta)
    # Not by steps of θ*'s own Hessian: at a small λ single samples change it too much for that.
    near = Nearby.of(objective, theta) if theta.numel() <= FACTORISED else None
    minimise = partial(newton, moments=calculator.moments, preconditioner=near)
    effects = leave_one_out(
        objective,
        theta,
        torch.from_numpy(rows),
        summed_loss(calculator.problem.shared),
        minimise,
        gradient_norm=gradient_norm,
        l2_key="model.l2",
        lanes=max(1, LANE_NUMBERS // (training.samples * training.shape[1])),
        progress=progress,
    )
    return Truth(rows, effects.change.numpy(), effects.gradient_norm.numpy())


def draw_random(samples: int, count: int, seed: int) -> np.ndarray:
    """Training rows drawn at random, ascending."""
    drawn = stream(seed, "validation", "random").choice(samples, size=min(count, samples), replace=False)
    return np.sort(drawn)


def rows_to_remove(rankers: Sequence[Ranker], drawn: np.ndarray) -> np.ndarray:
    """All rows that some ranking puts first or last, all targets, and those drawn: distinct, ascending."""
    ends = [part for ranker in rankers for part in (ranker.first, ranker.last)]
    targets = [ranker.row for ranker in rankers if ranker.row >= 0]
    return np.unique(np.concatenate([*ends, np.array(targets, dtype=np.int64), drawn]))


def ranking_table(
    rankers: Sequence[Ranker], truth: Truth, drawn: np.ndarray, *, dataset: str, seed: int
) -> pd.DataFrame:
    """What each ranking's first and last samples do: RANKING_COLUMNS.

    Over both ends together a correlation is high as soon as the signs are right; within one end it says
    whether the order is.
    """
    rows = []
    for ranker in rankers:
        n = len(ranker.influence)
        ends = np.concatenate([ranker.first, ranker.last])
        predicted, actual = -ranker.influence / n, truth.of(ends)
        groups = {"": ends, "_within_first": ranker.first, "_within_last": ranker.last, "_random": drawn}
        rows.append(
            {
                "dataset": dataset,
                "model": "honest" if ranker.target < 0 else "manipulated",
                "radius": ranker.radius,
                "target": ranker.target,
                "samples": len(ranker.first),
                "predicted_first": predicted[ranker.first].mean(),
                "actual_first": truth.of(ranker.first).mean(),
                "predicted_last": predicted[ranker.last].mean(),
                "actual_last": truth.of(ranker.last).mean(),
                "predicted_target": predicted[ranker.row] if ranker.row >= 0 else np.nan,
                "actual_target": float(truth.of(np.array([ranker.row]))[0]) if ranker.row >= 0 else np.nan,
                "actual_random": truth.of(drawn).mean(),
                "right_sign": (np.sign(predicted[ends]) == np.sign(actual)).mean(),
                **_correlations(predicted, truth, groups, (seed, dataset, ranker.radius, ranker.target)),
            }
        )
    return pd.DataFrame(rows, columns=list(RANKING_COLUMNS))


def _correlations(
    predicted: np.ndarray, truth: Truth, groups: Mapping[str, np.ndarray], key: tuple[int, str, float, int]
) -> dict[str, float]:
    """Pearson's and Spearman's correlation over each group of rows, by the columns' suffix."""
    seed, *rest = key
    found: dict[str, float] = {}
    for suffix, rows in groups.items():
        for name, measure in (("pearson", pearson), ("spearman", spearman)):
            generator = stream(seed, "rankings", name, *map(str, rest), suffix)
            estimate = measure(predicted[rows], truth.of(rows), generator=generator)
            found |= estimate.columns(f"{name}{suffix}")
    return found


def removed_table(
    setting: Setting, rankers: Sequence[Ranker], truth: Truth, drawn: np.ndarray, *, dataset: str
) -> pd.DataFrame:
    """Every prediction beside what really happens: REMOVED_COLUMNS."""
    parts = [
        pd.DataFrame(
            {
                "dataset": dataset,
                "model": "honest" if ranker.target < 0 else "manipulated",
                "radius": ranker.radius,
                "target": ranker.target,
                "sample": setting.train_index[rows],
                "place": place,
                "predicted": -ranker.influence[rows] / len(ranker.influence),
                "actual": truth.of(rows),
                "precision": truth.gradient_norm[np.searchsorted(truth.rows, rows)],
            }
        )
        for ranker in rankers
        for place, rows in (("first", ranker.first), ("last", ranker.last), ("random", drawn))
    ]
    return pd.concat(parts, ignore_index=True)


def damping_pairs(
    setting: Setting,
    honest: Ranker,
    truth: Truth,
    drawn: np.ndarray,
    dampings: Sequence[float],
    *,
    dataset: str,
    warn: Callable[[str], None],
) -> pd.DataFrame:
    """−I/n at θ* for each δ, against training again without the honest ranking's ends or random samples.

    A δ too small for its solve is left out with a warning: the others are no worse for it.
    """
    theta = setting.basis.to_basis(setting.theta)
    sets = {
        f"first and last{DAMPING_VARIED}": np.unique(np.concatenate([honest.first, honest.last])),
        f"random{DAMPING_VARIED}": drawn,
    }
    parts = []
    for damping in dampings:
        calculator = replace(setting.calculator, damping=damping)
        shared = calculator.problem.shared.at(theta)
        score, solution = calculator.score(calculator.at(theta), shared, tolerance=PREDICT_TOLERANCE)
        if not bool(solution.converged.all()):
            warn(
                f"validation.dampings: δ = {damping:g} is left out, its solve stopped at a relative residual "
                f"of {float(solution.residual.max()):.1e}, above {PREDICT_TOLERANCE:.0e}"
            )
            continue
        influence = calculator.rank_sign * score[:, 0].numpy()
        for experiment, rows in sets.items():
            parts.append(
                make_pairs(
                    setting.train_index[rows],
                    -influence[rows] / len(influence),
                    truth.of(rows),
                    truth.gradient_norm[np.searchsorted(truth.rows, rows)],
                    dataset=dataset,
                    experiment=experiment,
                    predictor="δ",
                    level=damping,
                )
            )
    return pd.concat(parts, ignore_index=True)


def pretty_rankings(table: pd.DataFrame) -> pd.DataFrame:
    """The table of rankings for reading: manipulated models of a dataset and radius together."""
    rows = []
    for (dataset, model, radius), part in table.groupby(["dataset", "model", "radius"], sort=False):
        rows.append(
            {
                "dataset": dataset,
                "ranked by": model if model == "honest" else f"{model}, C = {radius:g}",
                "models": len(part),
                "samples": part["samples"].iloc[0],
                "first: predicted": f"{part['predicted_first'].mean():+.3g}",
                "first: actual": f"{part['actual_first'].mean():+.3g}",
                "last: predicted": f"{part['predicted_last'].mean():+.3g}",
                "last: actual": f"{part['actual_last'].mean():+.3g}",
                "target: predicted": _signed(part["predicted_target"].mean()),
                "target: actual": _signed(part["actual_target"].mean()),
                "random: actual": f"{part['actual_random'].mean():+.3g}",
                "right sign": f"{part['right_sign'].mean():.0%}",
                "Pearson's R, first and last": _spread(part, "pearson"),
                "Spearman's ρ, first and last": _spread(part, "spearman"),
                "ρ within the first": _spread(part, "spearman_within_first"),
                "ρ within the last": _spread(part, "spearman_within_last"),
                "Pearson's R, random": _spread(part, "pearson_random"),
                "Spearman's ρ, random": _spread(part, "spearman_random"),
            }
        )
    return pd.DataFrame(rows)


def _signed(value: float) -> str:
    return "" if np.isnan(value) else f"{value:+.3g}"


def _spread(part: pd.DataFrame, name: str) -> str:
    """One model's value with its interval; of several models the mean and the extremes."""
    if len(part) == 1:
        low, high = part[f"{name}_low"].iloc[0], part[f"{name}_high"].iloc[0]
    else:
        low, high = part[name].min(), part[name].max()
    return bracketed(part[name].mean(), low, high)
