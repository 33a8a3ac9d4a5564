"""Random choices: streams, splits, folds and targets; and the arrays that a split makes of features."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from problems import make_problem

from undue.calculus.basis import Eigenbasis
from undue.data.problem import load_problem
from undue.data.split import (
    PRISTINE,
    SHARED,
    SPLIT_COLUMNS,
    TRAIN,
    UNUSED,
    split,
    stratified_folds,
    stratified_share,
    thin,
)
from undue.errors import UserError
from undue.randomness import stream
from undue.tables import write_table
from undue.valuation.targets import TARGET_COLUMNS, target_block

# Streams ----------------------------------------------------------------------------------------------------


def test_a_stream_is_its_name_and_seed() -> None:
    def draw(seed: int, *name: str | int) -> list[int]:
        drawn: list[int] = stream(seed, *name).integers(0, 2**62, size=4).tolist()
        return drawn

    first = draw(0, "start", 3, "row", 17)
    assert draw(0, "start", 3, "row", 17) == first
    others = [
        draw(1, "start", 3, "row", 17),
        draw(0, "start", 31, "row", 7),
        draw(0, "start", "3", "row", 17),
        draw(0, "start", 3, "row", 17, 0),
        draw(0, "start3row17"),
        draw(0),
    ]
    assert all(other != first for other in others)
    assert len({tuple(other) for other in others}) == len(others)


def test_a_streams_numbers_never_change() -> None:
    """Results of an earlier version can be computed again."""
    assert stream(0, "targets").integers(0, 1000, size=5).tolist() == [977, 393, 20, 489, 629]


# Splits -----------------------------------------------------------------------------------------------------


def labels_of(*sizes: int) -> np.ndarray:
    """Labels 0, 1, … of classes of these sizes, shuffled."""
    labels = np.repeat(np.arange(len(sizes)), sizes)
    return np.random.default_rng(0).permutation(labels)


def caltech() -> np.ndarray:
    """8,677 labels in 101 classes of 31 to 800, as uneven as Caltech-101's."""
    sizes = np.sort(31 + np.random.default_rng(1).exponential(55, size=101).astype(int))
    sizes[-4:] = [435, 435, 798, 800]
    sizes[:-4] += (8677 - sizes.sum()) // 97
    sizes[50] += 8677 - sizes.sum()
    assert sizes.sum() == 8677
    assert sizes.min() > 10
    return labels_of(*sizes)


def none_official(labels: np.ndarray) -> np.ndarray:
    return np.full(len(labels), "", dtype=object)


@pytest.mark.parametrize(
    ("labels", "sizes"),
    [
        (labels_of(*[500] * 10), (4000, 500, 500)),
        (caltech(), (6941, 868, 868)),
        (labels_of(600, 400), (800, 100, 100)),
        (labels_of(4, 3), (5, 1, 1)),
        (labels_of(9, 6), (12, 2, 1)),
    ],
    ids=["mnist5k", "caltech101", "two classes", "seven samples", "odd test part"],
)
def test_sizes_and_class_ratios(labels: np.ndarray, sizes: tuple[int, int, int]) -> None:
    part = split(labels, none_official(labels), test_fraction=0.2, seed=0)
    assert tuple(int((part == name).sum()) for name in (TRAIN, SHARED, PRISTINE)) == sizes
    test = part != TRAIN
    for label in np.unique(labels):
        members = labels == label
        assert abs(int((test & members).sum()) - test.sum() * members.sum() / len(labels)) < 1
        halves = [int(((part == half) & members).sum()) for half in (SHARED, PRISTINE)]
        assert abs(halves[0] - halves[1]) <= 1


@pytest.mark.parametrize(
    "labels",
    [
        # Webster's method without quotas would take 214 of the large class here, for a share of 200.
        labels_of(1000, *[7] * 50),
        labels_of(1000, *[1] * 1000),
        labels_of(3, 5, 7, 11, 900),
        labels_of(10),
    ],
)
@pytest.mark.parametrize("fraction", [0.0, 0.03, 0.2, 0.5, 0.97, 1.0])
def test_every_class_gives_its_share_rounded_down_or_up(labels: np.ndarray, fraction: float) -> None:
    count = round(fraction * len(labels))
    chosen = stratified_share(labels, count, np.random.default_rng(3))
    assert chosen.sum() == count
    given = np.bincount(labels[chosen], minlength=labels.max() + 1)
    assert (np.abs(given - count * np.bincount(labels) / len(labels)) < 1).all()


def test_a_class_of_one_sample_stays_in_training() -> None:
    labels = labels_of(100, 100, 100, 1)
    for seed in range(20):
        part = split(labels, none_official(labels), test_fraction=0.2, seed=seed)
        assert part[labels == 3] == [TRAIN]


def test_equal_claims_are_settled_at_random() -> None:
    """Ten classes of three give six of their samples: which classes give differs."""
    labels = labels_of(*[3] * 10)
    givers = {
        tuple(np.unique(labels[stratified_share(labels, 6, np.random.default_rng(seed))]))
        for seed in range(30)
    }
    assert len(givers) > 20
    assert {label for giver in givers for label in giver} == set(range(10))


def test_every_sample_is_as_likely_as_its_classmates() -> None:
    labels = np.repeat([0, 1], [8, 4])
    taken = sum(stratified_share(labels, 3, np.random.default_rng(seed)).astype(int) for seed in range(2000))
    np.testing.assert_allclose(np.asarray(taken) / 2000, 0.25, atol=0.05)


def test_a_split_is_its_seed() -> None:
    labels = caltech()
    first = split(labels, none_official(labels), test_fraction=0.2, seed=0)
    assert (split(labels, none_official(labels), test_fraction=0.2, seed=0) == first).all()
    assert (split(labels, none_official(labels), test_fraction=0.2, seed=1) != first).any()


def test_an_official_split_is_kept_and_its_test_part_halved() -> None:
    labels = labels_of(40, 30, 31)
    official = np.where(np.random.default_rng(0).random(101) < 0.4, "test", "train").astype(object)
    part = split(labels, official, test_fraction=0.2, seed=0)
    assert ((part == TRAIN) == (official == "train")).all()
    test = official == "test"
    assert (part == SHARED).sum() == (test.sum() + 1) // 2
    for label in range(3):
        halves = [int(((part == half) & (labels == label)).sum()) for half in (SHARED, PRISTINE)]
        assert abs(halves[0] - halves[1]) <= 1


@pytest.mark.parametrize("sizes", [(30, 30), (1, 17, 41), (2, 2, 2)])
@pytest.mark.parametrize("folds", [2, 5])
def test_folds_are_even(sizes: tuple[int, ...], folds: int) -> None:
    labels = labels_of(*sizes)
    fold = stratified_folds(labels, folds, np.random.default_rng(0))
    counts = np.bincount(fold, minlength=folds)
    assert counts.sum() == len(labels)
    assert np.ptp(counts) <= 1
    for label in np.unique(labels):
        assert np.ptp(np.bincount(fold[labels == label], minlength=folds)) <= 1
    other = stratified_folds(labels, folds, np.random.default_rng(1))
    assert (fold != other).any()


# Targets ----------------------------------------------------------------------------------------------------

INDEX = np.arange(0, 400, 2)
RANK = np.random.default_rng(0).permutation(200) + 1


def block(first: int, count: int, *, ranks: tuple[int, ...] = (1, 50), seed: int = 0) -> pd.DataFrame:
    return target_block(INDEX, RANK, ranks=ranks, first=first, count=count, seed=seed)


def test_targets_are_the_first_outside_the_top_of_one_permutation(tmp_path: Path) -> None:
    found = block(0, 20)
    order = stream(0, "targets").permutation(200)
    for k in (1, 50):
        rows = found[found["k"] == k]
        expected = [row for row in order if RANK[row] > k][:20]
        assert rows["index"].tolist() == INDEX[expected].tolist()
        assert rows["rank"].tolist() == RANK[expected].tolist()
        assert rows["position"].tolist() == list(range(20))
        assert (rows["rank"] > k).all()
    # The permutation is the same for both, so that most targets are shared.
    assert found["index"].nunique() < 40
    write_table(tmp_path / "targets.parquet", TARGET_COLUMNS, found)


def test_asking_for_more_targets_leaves_the_earlier_ones() -> None:
    many, few = block(0, 30), block(0, 10)
    pd.testing.assert_frame_equal(many[many["position"] < 10].reset_index(drop=True), few)
    later = many[many["position"].between(10, 19)].reset_index(drop=True)
    pd.testing.assert_frame_equal(later, block(10, 10))


def test_adding_a_k_leaves_the_targets_of_the_others() -> None:
    more = block(0, 10, ranks=(1, 10, 50))
    kept = more[more["k"] != 10].reset_index(drop=True)
    pd.testing.assert_frame_equal(kept, block(0, 10))


def test_another_seed_draws_other_targets() -> None:
    assert block(0, 10, seed=1)["index"].tolist() != block(0, 10)["index"].tolist()


def test_tied_ranks_are_excluded_by_rank_not_by_place() -> None:
    """A tie for first place has rank 2, so that it is outside the top 1."""
    rank = np.array([2, 2, 3, 4])
    found = target_block(np.arange(4), rank, ranks=(1,), first=0, count=4, seed=0)
    assert sorted(found["index"]) == [0, 1, 2, 3]


@pytest.mark.parametrize(("first", "count", "enough"), [(0, 150, True), (140, 10, True), (140, 11, False)])
def test_more_targets_than_there_are(first: int, count: int, enough: bool) -> None:
    if enough:
        assert len(block(first, count, ranks=(50,))) == count
        return
    with pytest.raises(UserError, match=r"151 targets with rank above 50 .* only 150 of the 200") as caught:
        block(first, count, ranks=(50,))
    assert caught.value.where == "attack.targets"


# Problems ---------------------------------------------------------------------------------------------------


def write_inputs(
    folder: Path, features: np.ndarray, labels: np.ndarray, part: np.ndarray
) -> tuple[Path, Path]:
    np.save(folder / "features.npy", features)
    table = pd.DataFrame({"index": np.arange(len(labels)), "label": labels, "part": part})
    write_table(folder / "split.parquet", SPLIT_COLUMNS, table)
    return folder / "features.npy", folder / "split.parquet"


@pytest.fixture
def raw() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Features of different scales, labels and parts of 30 samples."""
    generator = np.random.default_rng(0)
    features = (generator.normal(size=(30, 4)) * [1, 50, 0.01, 3] + [0, 1000, 0, -2]).astype(np.float32)
    return features, np.arange(30) % 3, np.array([TRAIN, SHARED, TRAIN, PRISTINE, TRAIN] * 6, dtype=object)


def test_features_are_standardised_by_the_training_part(
    tmp_path: Path, raw: tuple[np.ndarray, np.ndarray, np.ndarray]
) -> None:
    features, labels, part = raw
    problem = load_problem(*write_inputs(tmp_path, *raw), scaling="standardise")
    training = features[part == TRAIN].astype(np.float64)
    mean, deviation = training.mean(axis=0), training.std(axis=0)
    for name in (TRAIN, SHARED, PRISTINE):
        risk = getattr(problem, name)
        assert risk.x.dtype == torch.float32
        assert risk.classes == 3
        assert risk.y.tolist() == labels[part == name].tolist()
        expected = (features[part == name] - mean) / deviation
        np.testing.assert_allclose(risk.x[:, :-1].numpy(), expected, rtol=1e-4, atol=1e-5)
        assert (risk.x[:, -1] == 1).all()
    assert problem.train_index.tolist() == np.flatnonzero(part == TRAIN).tolist()


def test_features_are_centred(tmp_path: Path, raw: tuple[np.ndarray, np.ndarray, np.ndarray]) -> None:
    features, _, part = raw
    problem = load_problem(*write_inputs(tmp_path, *raw), scaling="centre")
    expected = features[part == SHARED] - features[part == TRAIN].astype(np.float64).mean(axis=0)
    np.testing.assert_allclose(problem.shared.x[:, :-1].numpy(), expected, rtol=1e-4, atol=1e-4)
    assert (problem.shared.x[:, -1] == 1).all()


def test_features_as_they_are(tmp_path: Path, raw: tuple[np.ndarray, np.ndarray, np.ndarray]) -> None:
    features, _, part = raw
    problem = load_problem(*write_inputs(tmp_path, *raw), scaling="none")
    assert np.array_equal(problem.shared.x[:, :-1].numpy(), features[part == SHARED])
    assert (problem.shared.x[:, -1] == 1).all()


@pytest.mark.parametrize("value", [0.0, 5.0, 1e-12, -3e7])
def test_a_feature_that_is_constant_in_training_becomes_zero(
    tmp_path: Path, raw: tuple[np.ndarray, np.ndarray, np.ndarray], value: float
) -> None:
    """Also where it varies in the test part, and where it varies by rounding alone."""
    features, labels, part = raw
    features[part == TRAIN, 2] = value
    features[np.flatnonzero(part == TRAIN)[0], 2] = np.nextafter(np.float32(value), np.float32(value))
    features[np.flatnonzero(part == TRAIN)[1], 2] *= np.float32(1 + 2e-7)
    problem = load_problem(*write_inputs(tmp_path, features, labels, part), scaling="standardise")
    for risk in (problem.train, problem.shared, problem.pristine):
        assert (risk.x[:, 2] == 0).all()
        assert torch.isfinite(risk.x).all()


def test_a_problem_in_another_basis_and_precision() -> None:
    problem = make_problem()
    basis = Eigenbasis.of(problem.train.x)
    turned = problem.rotated(basis).to(torch.float32)
    for name in ("train", "shared", "pristine"):
        expected = basis.rotate(getattr(problem, name).x).float()
        assert torch.equal(getattr(turned, name).x, expected)
        assert torch.equal(getattr(turned, name).y, getattr(problem, name).y)
    assert turned.train_index is problem.train_index


@pytest.mark.parametrize(
    ("labels", "fraction", "complaint"),
    [(np.arange(10) % 5, 0.7, "no training sample"), (np.arange(4) % 2, 0.2, "pristine half")],
)
def test_a_split_that_leaves_nothing_is_refused(labels: np.ndarray, fraction: float, complaint: str) -> None:
    with pytest.raises(UserError, match=complaint) as caught:
        split(labels, np.full(len(labels), "", dtype=object), test_fraction=fraction, seed=0)
    assert caught.value.where == "split.test_fraction"


# Fewer training samples -------------------------------------------------------------------------------------


def test_thinning_keeps_class_ratios_and_the_test_halves() -> None:
    labels = np.repeat([0, 1, 2], [60, 30, 10])
    part = np.array([TRAIN] * 100, dtype=object)
    part[::5] = SHARED
    thinned = thin(labels, part, 40, seed=3)
    assert (thinned[::5] == SHARED).all()
    assert (thinned == TRAIN).sum() == 40
    assert (thinned == UNUSED).sum() == 40
    assert np.bincount(labels[thinned == TRAIN]).tolist() == [24, 12, 4]
    assert (thin(labels, part, 40, seed=3) == thinned).all()
    assert not (thin(labels, part, 40, seed=4) == thinned).all()


def test_more_training_samples_than_there_are() -> None:
    part = np.array([TRAIN] * 8 + [SHARED] * 2, dtype=object)
    with pytest.raises(UserError, match="9 training samples are asked for, but there are 8") as caught:
        thin(np.tile([0, 1], 5), part, 9, seed=0)
    assert caught.value.where == "datasets.<name>.train_samples"


def test_so_few_training_samples_that_a_class_has_none() -> None:
    part = np.array([TRAIN] * 100, dtype=object)
    with pytest.raises(UserError, match="with 2 training samples 1 classes would have none"):
        thin(np.repeat([0, 1, 2], [60, 30, 10]), part, 2, seed=0)
