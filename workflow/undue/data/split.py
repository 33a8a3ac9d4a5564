"""Stratified splits: every class is shared out in proportion, whatever its size."""

from __future__ import annotations

import math

import numpy as np

from undue.errors import UserError
from undue.tables import INT, TEXT, Columns

TRAIN, SHARED, PRISTINE, UNUSED = "train", "shared", "pristine", "unused"

SPLIT_COLUMNS: Columns = {
    "index": (INT, "sample, a row of samples.parquet"),
    "label": (INT, "class number"),
    "part": (TEXT, "train, shared (the test half the attacker sees), pristine (for judging) or unused"),
}


def split(labels: np.ndarray, official: np.ndarray, *, test_fraction: float, seed: int) -> np.ndarray:
    """Which part each sample belongs to.

    The test set is the official one if there is one, else a stratified share of the samples. It is
    halved, class ratios kept: the attacker sees the `shared` half, the `pristine` half is for
    judging (Yadav et al. 2024, §6.1).

    Args:
        labels: class of each sample (n,).
        official: "train", "test" or "" for each sample (n,); "" everywhere means no official split.
        test_fraction: share of the samples to test on where there is no official split.
        seed: of the draw.

    Returns:
        "train", "shared" or "pristine" for each sample (n,).

    Raises:
        UserError: a class would have no training sample, or a test half no sample at all.
    """
    generator = np.random.default_rng(seed)
    if (official == "").all():
        test = stratified_share(labels, math.ceil(test_fraction * len(labels)), generator)
    else:
        test = official == "test"
    part = np.full(len(labels), TRAIN, dtype=object)
    members = np.flatnonzero(test)
    shared = stratified_share(labels[members], (len(members) + 1) // 2, generator)
    part[members] = np.where(shared, SHARED, PRISTINE)
    untrained = np.setdiff1d(labels, labels[part == TRAIN])
    if len(untrained) or (part == PRISTINE).sum() == 0:
        raise UserError(
            f"{len(untrained)} classes would have no training sample"
            if len(untrained)
            else "the pristine half of the test set would be empty",
            where="split.test_fraction",
            remedy="choose another share of the samples to test on, or add samples",
        )
    return part


def thin(
    labels: np.ndarray,
    part: np.ndarray,
    train_samples: int,
    *,
    seed: int,
    key: str = "datasets.<name>.train_samples",
) -> np.ndarray:
    """Keep some of the training samples, class ratios kept; the others are `unused`.

    Args:
        labels: class of each sample (n,).
        part: from `split` (n,).
        train_samples: how many to keep.
        seed: of the draw.
        key: the config key of `train_samples`.

    Raises:
        UserError: there are fewer training samples, or a class would have none.
    """
    members = np.flatnonzero(part == TRAIN)
    if train_samples > len(members):
        problem = f"{train_samples} training samples are asked for, but there are {len(members)}"
    else:
        generator = np.random.default_rng([seed, train_samples])
        kept = stratified_share(labels[members], train_samples, generator)
        lost = np.setdiff1d(labels[members], labels[members[kept]])
        if not len(lost):
            thinned = part.copy()
            thinned[members[~kept]] = UNUSED
            return thinned
        problem = f"with {train_samples} training samples {len(lost)} classes would have none"
    raise UserError(problem, where=key, remedy="choose another number")


def stratified_share(labels: np.ndarray, count: int, generator: np.random.Generator) -> np.ndarray:
    """Choose `count` samples at random so that each class gives its share, rounded down or up.

    Who rounds up is decided as in Webster's method of apportionment: the class that giving one more
    sample distorts least, so that a class of one sample is left alone while others can give.

    Returns:
        Whether each sample was chosen (n,).
    """
    chosen = np.zeros(len(labels), dtype=bool)
    spare: list[tuple[float, float, int]] = []
    for label in np.unique(labels):
        members = generator.permutation(np.flatnonzero(labels == label))
        given, remainder = divmod(count * len(members), len(labels))
        chosen[members[:given]] = True
        if remainder:
            # Equal claims in random order.
            spare.append(((given + 0.5) / len(members), generator.random(), members[given]))
    for _, _, member in sorted(spare)[: count - int(chosen.sum())]:
        chosen[member] = True
    return chosen


def stratified_folds(labels: np.ndarray, folds: int, generator: np.random.Generator) -> np.ndarray:
    """A fold number for each sample (n,); sizes, and each class in them, differ by at most one."""
    order = generator.permutation(len(labels))
    fold = np.empty(len(labels), dtype=np.int64)
    # Dealing out the samples class by class keeps both the classes and the folds even.
    fold[order[np.argsort(labels[order], kind="stable")]] = np.arange(len(labels)) % folds
    return fold
