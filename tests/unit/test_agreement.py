"""Correlations with intervals, and the datamodelling score, against their definitions."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
import scipy.stats

from undue.agreement import Estimate, linear_datamodelling_score, pearson, spearman

measures = pytest.mark.parametrize("measure", [pearson, spearman])


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def pairs(correlation: float, size: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Normal pairs of a given correlation."""
    a, noise = rng(seed).standard_normal((2, size))
    return a, correlation * a + np.sqrt(1 - correlation**2) * noise


def test_values_are_scipys_own() -> None:
    a, b = pairs(0.7, 80, 1)
    a[:20] = a[0]
    assert pearson(a, b, generator=rng()).value == pytest.approx(scipy.stats.pearsonr(a, b).statistic)
    assert spearman(a, b, generator=rng()).value == pytest.approx(scipy.stats.spearmanr(a, b).statistic)


@measures
def test_intervals_cover_the_truth_as_often_as_they_say(measure: object) -> None:
    assert callable(measure)
    rho = 0.8
    truth = rho if measure is pearson else 6 / np.pi * np.arcsin(rho / 2)
    covered = 0
    for seed in range(120):
        found = measure(*pairs(rho, 150, seed), generator=rng(seed), resamples=300)
        assert found.low < found.value < found.high
        covered += found.low <= truth <= found.high
    assert 0.87 * 120 <= covered <= 0.995 * 120


@measures
def test_pairs_are_resampled_as_pairs(measure: object) -> None:
    """Perfect agreement stays perfect in every resample; independent resampling would destroy it."""
    assert callable(measure)
    a = rng().standard_normal(50)
    found = measure(a, 3 * a + 1, generator=rng())
    assert (found.value, found.low, found.high) == pytest.approx((1, 1, 1))


def test_the_interval_narrows_with_more_pairs() -> None:
    few, many = (pearson(*pairs(0.5, size, 3), generator=rng()) for size in (50, 2000))
    assert many.high - many.low < (few.high - few.low) / 3


def test_memory_is_bounded_by_batches() -> None:
    found = spearman(*pairs(0.5, 20_000, 3), generator=rng(), resamples=20)
    assert found.low < found.value < found.high


@measures
def test_a_constant_has_no_correlation_and_no_warning(measure: object) -> None:
    assert callable(measure)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = measure(np.ones(10), np.arange(10.0), generator=rng())
    assert all(np.isnan([found.value, found.low, found.high]))


@measures
def test_few_pairs_have_nothing_or_an_interval_without_the_draws_of_one_pair(measure: object) -> None:
    assert callable(measure)
    nothing = measure(np.arange(2.0), np.arange(2.0), generator=rng())
    assert all(np.isnan([nothing.value, nothing.low, nothing.high]))
    # One draw in nine has a single pair three times.
    found = measure(np.array([0.0, 1.0, 3.0]), np.array([0.0, 2.0, 1.0]), generator=rng())
    assert -1 <= found.low <= found.value <= found.high <= 1


def test_the_same_generator_gives_the_same_interval() -> None:
    a, b = pairs(0.5, 60, 4)
    assert pearson(a, b, generator=rng(1)) == pearson(a, b, generator=rng(1))
    assert pearson(a, b, generator=rng(1)) != pearson(a, b, generator=rng(2))


@measures
@pytest.mark.parametrize(
    ("a", "b", "message"),
    [
        (np.zeros(4), np.zeros(5), "two arrays"),
        (np.zeros((4, 2)), np.zeros((4, 2)), "two arrays"),
        (np.array([0, 1, np.nan]), np.zeros(3), "not finite"),
        (np.zeros(3), np.array([0, 1, np.inf]), "not finite"),
    ],
)
def test_what_is_refused(measure: object, a: np.ndarray, b: np.ndarray, message: str) -> None:
    assert callable(measure)
    with pytest.raises(ValueError, match=message):
        measure(a, b, generator=rng())


# The datamodelling score ------------------------------------------------------------------------------------


def additive(noise: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Attributions of 60 samples to 4 quantities, 40 half-size subsets, and outcomes that add up."""
    scores = rng(1).standard_normal((60, 4))
    subsets = np.argsort(rng(2).random((40, 60)), axis=1) < 30
    outcomes = subsets @ scores + noise * rng(3).standard_normal((40, 4))
    return scores, subsets, outcomes


def test_the_score_is_the_mean_rank_correlation() -> None:
    scores, subsets, outcomes = additive(3.0)
    found = linear_datamodelling_score(scores, subsets, outcomes, generator=rng())
    expected = np.mean(
        [
            scipy.stats.spearmanr([scores[s, j].sum() for s in subsets], outcomes[:, j]).statistic
            for j in range(4)
        ]
    )
    assert found.score.value == pytest.approx(expected)
    assert 0.4 < found.score.low < expected < found.score.high < 1


def test_exact_attributions_score_one_and_their_negatives_minus_one() -> None:
    scores, subsets, outcomes = additive(0.0)
    for sign in (1, -1):
        found = linear_datamodelling_score(sign * scores, subsets, outcomes, generator=rng())
        assert (found.score.value, found.score.low, found.score.high) == pytest.approx((sign,) * 3)


def test_the_interval_of_a_score_near_one_has_it_inside() -> None:
    scores, subsets, outcomes = additive(0.3)
    found = linear_datamodelling_score(scores, subsets, outcomes, generator=rng()).score
    assert 0.95 < found.low < found.value < found.high <= 1


def test_a_constant_quantity_has_no_score() -> None:
    scores, subsets, outcomes = additive(1.0)
    outcomes[:, 0] = 1.0
    found = linear_datamodelling_score(scores, subsets, outcomes, generator=rng()).score
    assert np.isnan([found.value, found.low, found.high]).all()


def test_the_jackknife_covers_the_truth_as_often_as_it_says() -> None:
    """Against the score of very many subsets."""
    scores = rng(1).standard_normal((60, 1))

    def score(seed: int, count: int) -> Estimate:
        subsets = np.argsort(rng(seed).random((count, 60)), axis=1) < 30
        outcomes = subsets @ scores + 3 * rng(seed + 1).standard_normal((count, 1))
        return linear_datamodelling_score(scores, subsets, outcomes, generator=rng(), permutations=2).score

    truth = score(10**6, 1000).value
    found = [score(2 * number, 60) for number in range(100)]
    assert 0.88 <= np.mean([one.low <= truth <= one.high for one in found]) <= 0.995


def test_chance_is_about_zero_and_below_a_good_score() -> None:
    scores, subsets, outcomes = additive(3.0)
    found = linear_datamodelling_score(scores, subsets, outcomes, generator=rng())
    assert abs(found.chance.value) < 0.1
    assert found.chance.low < 0 < found.chance.high < found.score.low
    random = rng(9).standard_normal(scores.shape)
    lost = linear_datamodelling_score(random, subsets, outcomes, generator=rng())
    assert lost.chance.low < lost.score.value < lost.chance.high


def test_what_the_score_refuses() -> None:
    scores, subsets, outcomes = additive(1.0)
    with pytest.raises(ValueError, match="samples, quantities"):
        linear_datamodelling_score(scores[:-1], subsets, outcomes, generator=rng())
    with pytest.raises(ValueError, match="as many outcomes as subsets"):
        linear_datamodelling_score(scores, subsets[:-1], outcomes, generator=rng())
    with pytest.raises(ValueError, match="≥ 3"):
        linear_datamodelling_score(scores, subsets[:2], outcomes[:2], generator=rng())
    outcomes[0, 0] = np.nan
    with pytest.raises(ValueError, match="not finite"):
        linear_datamodelling_score(scores, subsets, outcomes, generator=rng())
