"""How well predicted effects agree with actual ones: correlations, and the datamodelling score."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import scipy.stats

CONFIDENCE = 0.95
# Fewer pairs than this have no interval worth the name.
FEWEST = 3

# Two arrays (…, m) ↦ the statistic of each of the rows (…).
Statistic = Callable[..., np.ndarray]


@dataclass(frozen=True)
class Estimate:
    """A statistic with its uncertainty.

    Attributes:
        value: the statistic; not a number where it is undefined, as for a constant input.
        low, high: 95 % interval.
    """

    value: float
    low: float
    high: float

    def columns(self, name: str) -> dict[str, float]:
        """As columns of a table: name, name_low and name_high."""
        return {name: self.value, f"{name}_low": self.low, f"{name}_high": self.high}


NOTHING = Estimate(math.nan, math.nan, math.nan)


@dataclass(frozen=True)
class DatamodellingScore:
    """The linear datamodelling score beside what chance gives.

    Attributes:
        score: with a jackknife interval over the training subsets.
        chance: mean and central 95 % of the scores of the same attributions dealt out to random samples.
    """

    score: Estimate
    chance: Estimate


def pearson(
    predicted: np.ndarray, actual: np.ndarray, *, generator: np.random.Generator, resamples: int = 2000
) -> Estimate:
    """Pearson's correlation of pairs (m,), with a percentile bootstrap interval over the pairs.

    Nothing for fewer than three pairs. Draws that have no correlation, of a single pair again and again,
    don't count.

    Raises:
        ValueError: arrays of other shapes, or numbers that are not finite.
    """
    return _estimate(_pearson, predicted, actual, generator, resamples)


def spearman(
    predicted: np.ndarray, actual: np.ndarray, *, generator: np.random.Generator, resamples: int = 2000
) -> Estimate:
    """Spearman's rank correlation of pairs (m,), ties at their mean rank; otherwise as `pearson`."""
    return _estimate(_spearman, predicted, actual, generator, resamples)


def spearman_fisher(x: np.ndarray, y: np.ndarray) -> Estimate:
    """Spearman's rank correlation of pairs (m,) with an interval that takes no random numbers.

    The interval is Fisher's z with the standard error √((1 + ρ²/2)/(m − 3)) of Bonett & Wright (2000),
    Psychometrika 65, 23–28. Nothing for fewer than four pairs or where x or y is constant.
    """
    if len(x) < 4 or np.ptp(x) == 0 or np.ptp(y) == 0:
        return NOTHING
    rho = float(_spearman(x, y))
    half = scipy.stats.norm.ppf((1 + CONFIDENCE) / 2) * math.sqrt((1 + rho**2 / 2) / (len(x) - 3))
    # A perfect correlation is infinitely far out on Fisher's scale: stop just short of it.
    centre = math.atanh(min(max(rho, -1 + 1e-12), 1 - 1e-12))
    return Estimate(rho, math.tanh(centre - half), math.tanh(centre + half))


def linear_datamodelling_score(
    scores: np.ndarray,
    subsets: np.ndarray,
    outcomes: np.ndarray,
    *,
    generator: np.random.Generator,
    permutations: int = 200,
) -> DatamodellingScore:
    """How well sums of attributions rank models trained on subsets (Park et al. 2023, TRAK).

    For each test quantity, Spearman's correlation over the subsets between Σ_{i in subset} score_i and
    what the model trained on that subset gives; then the mean over the test quantities. Its interval is the
    jackknife's, by leaving out single subsets: resampled ones would repeat themselves, and ties lower a rank
    correlation that is near one.

    Args:
        scores: attributions (n, m) of n training samples to m test quantities; positive raises the quantity,
            as influence does the test loss.
        subsets: whether each sample is in each training subset (s, n), bool.
        outcomes: the quantities of the models trained on them (s, m).
        generator: draws the permutations.
        permutations: random dealings of the attributions, the same for all quantities.

    Raises:
        ValueError: fewer than three subsets, arrays of other shapes, or numbers that are not finite.
    """
    _check(scores.shape == (subsets.shape[1], outcomes.shape[1]), "scores are not (samples, quantities)")
    _check(len(subsets) == len(outcomes) >= FEWEST, f"there must be as many outcomes as subsets, ≥ {FEWEST}")
    _check(bool(np.isfinite(scores).all() and np.isfinite(outcomes).all()), "there are numbers not finite")
    members = subsets.astype(np.float64)

    def score(predicted: np.ndarray, rows: np.ndarray) -> float:
        return float(_spearman(predicted[rows].T, outcomes[rows].T).mean())

    predicted = members @ scores
    every = np.arange(len(subsets))
    value = score(predicted, every)
    without = np.array([score(predicted, np.delete(every, one)) for one in every])
    spread = math.sqrt((len(every) - 1) * without.var())
    half = scipy.stats.norm.ppf((1 + CONFIDENCE) / 2) * spread
    dealt = [score(members @ generator.permutation(scores), every) for _ in range(permutations)]
    tail = (1 - CONFIDENCE) / 2
    return DatamodellingScore(
        Estimate(value, *(float(np.clip(end, -1, 1)) for end in (value - half, value + half))),
        Estimate(float(np.mean(dealt)), *(float(end) for end in np.quantile(dealt, [tail, 1 - tail]))),
    )


def _estimate(
    statistic: Statistic,
    predicted: np.ndarray,
    actual: np.ndarray,
    generator: np.random.Generator,
    resamples: int,
) -> Estimate:
    _check(predicted.shape == actual.shape and predicted.ndim == 1, "the pairs are not two arrays (m,)")
    _check(bool(np.isfinite(predicted).all() and np.isfinite(actual).all()), "there are numbers not finite")
    if len(predicted) < FEWEST:
        return NOTHING
    value = float(statistic(predicted, actual))
    if np.isnan(value):
        return NOTHING
    with warnings.catch_warnings():
        # Its own interval, which we don't take, is not a number as soon as one draw is.
        warnings.simplefilter("ignore", scipy.stats.DegenerateDataWarning)
        drawn = scipy.stats.bootstrap(
            (predicted, actual),
            statistic,
            paired=True,
            vectorized=True,
            n_resamples=resamples,
            # Ten million numbers at a time.
            batch=max(1, 10_000_000 // len(predicted)),
            method="percentile",
            rng=generator,
        ).bootstrap_distribution
    tail = (1 - CONFIDENCE) / 2
    return Estimate(value, *(float(end) for end in np.nanquantile(drawn, [tail, 1 - tail])))


def _pearson(a: np.ndarray, b: np.ndarray, axis: int = -1) -> np.ndarray:
    with warnings.catch_warnings():
        # A constant input gives a result that is not a number, which says the same.
        warnings.simplefilter("ignore", scipy.stats.ConstantInputWarning)
        value: np.ndarray = scipy.stats.pearsonr(a, b, axis=axis).statistic
    return value


def _spearman(a: np.ndarray, b: np.ndarray, axis: int = -1) -> np.ndarray:
    return _pearson(scipy.stats.rankdata(a, axis=axis), scipy.stats.rankdata(b, axis=axis), axis=axis)


def _check(holds: bool, otherwise: str) -> None:
    if not holds:
        raise ValueError(otherwise)
