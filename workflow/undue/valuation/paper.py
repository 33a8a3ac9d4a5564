"""What Yadav, Wu & Chaudhuri (2024) report, to stand beside what is found here.

Success rates over 50 targets, and accuracy lost as a share, copied from their Tables 1 and 2.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class Reported:
    """A cell of Table 1 or 2.

    Attributes:
        success: success rate where the accuracy lost is at most 3 %.
        best_success: success rate whatever the accuracy.
        best_accuracy_lost: the accuracy lost there; not a number where nothing succeeds.
    """

    success: float
    best_success: float
    best_accuracy_lost: float


NOTHING = Reported(math.nan, math.nan, math.nan)
"""What the paper says of data sets, k or attacks that it doesn't have."""

TARGETS, STARTS, STEPS, DROP_AT, BUDGET = 50, 5, 100, 0.5, 0.03
BASELINE_STEPS, BASELINE_BATCH, BASELINE_RATE = 1400, 256, 0.01
RADII, LEARNING_RATES = (0.05, 0.1, 0.2, 0.5), (0.01, 0.1)
BACKBONE, FEATURES, SCALING = "resnet50", 2048, "standardise"
DAMPING = 0.25
"""δ of the published code; the paper doesn't mention it."""

SAMPLES: Mapping[str, tuple[int, int]] = {
    "cifar10": (50_000, 10_000),
    "pet": (3_680, 3_669),
    "caltech101": (6_941, 1_736),
}
"""Data set → numbers of training and of test samples."""

HONEST_ACCURACY: Mapping[str, float] = {"cifar10": 0.898, "pet": 0.922, "caltech101": 0.949}
"""Data set → test accuracy of θ*."""

BASELINE, ATTACK = "baseline", "attack"

TABLE1: Mapping[tuple[str, int, str], Reported] = {
    ("cifar10", 1, BASELINE): Reported(0.00, 0.00, math.nan),
    ("cifar10", 1, ATTACK): Reported(0.64, 0.90, 0.057),
    ("cifar10", 300, BASELINE): Reported(0.00, 0.00, math.nan),
    ("cifar10", 300, ATTACK): Reported(0.76, 0.90, 0.057),
    ("pet", 1, BASELINE): Reported(0.00, 0.00, math.nan),
    ("pet", 1, ATTACK): Reported(0.88, 0.94, 0.054),
    ("pet", 300, BASELINE): Reported(0.10, 1.00, 0.873),
    ("pet", 300, ATTACK): Reported(0.88, 0.94, 0.054),
    ("caltech101", 1, BASELINE): Reported(0.00, 0.00, math.nan),
    ("caltech101", 1, ATTACK): Reported(0.74, 0.85, 0.038),
    ("caltech101", 300, BASELINE): Reported(0.08, 0.84, 0.936),
    ("caltech101", 300, ATTACK): Reported(0.74, 0.85, 0.038),
}
"""(data set, k, attack) → what Table 1 reports."""

TABLE2_K = 10

TABLE2: Mapping[tuple[str, str, bool], Reported] = {
    ("cifar10", "max_target", False): Reported(0.44, 0.64, 0.159),
    ("cifar10", "min_topk", False): Reported(0.60, 0.72, 0.200),
    ("cifar10", "min_higher", False): Reported(0.60, 0.80, 0.060),
    ("cifar10", "min_higher", True): Reported(0.64, 0.90, 0.055),
    ("pet", "max_target", False): Reported(0.64, 0.70, 0.152),
    ("pet", "min_topk", False): Reported(0.74, 0.74, 0.016),
    ("pet", "min_higher", False): Reported(0.88, 0.88, 0.021),
    ("pet", "min_higher", True): Reported(0.88, 0.94, 0.053),
    ("caltech101", "max_target", False): Reported(0.52, 0.72, 0.117),
    ("caltech101", "min_topk", False): Reported(0.68, 0.68, 0.036),
    ("caltech101", "min_higher", False): Reported(0.74, 0.77, 0.083),
    ("caltech101", "min_higher", True): Reported(0.74, 0.85, 0.071),
}
"""(data set, objective, whether five starts or one) → what Table 2 reports for k = 10."""


def paper_dataset(name: str, variants: Collection[str] = ()) -> str | None:
    """The paper's data set that one of ours is a copy of, by its name: cifar10_jpeg is cifar10's.

    Args:
        name: our data set.
        variants: those of ours that are variants: the paper has none of them.
    """
    if name in variants:
        return None
    return next((known for known in HONEST_ACCURACY if name == known or name.startswith(f"{known}_")), None)


def reported_success(name: str, k: int, objective: str, variants: Collection[str] = ()) -> Reported:
    """What the paper says of its final attack or of the baseline, to stand beside a row of our Table 1.

    Its Table 1 has k = 1 and 300; the attack's k = 10 is the last row of its Table 2.

    Args:
        name: our data set.
        k: success is rank ≤ k.
        objective: BASELINE or the attack's; the final attack's is min_higher.
        variants: see `paper_dataset`.
    """
    attack = {BASELINE: BASELINE, "min_higher": ATTACK}.get(objective)
    if (k, attack) == (TABLE2_K, ATTACK):
        return reported_idea(name, k, objective, every_start=True, variants=variants)
    known = paper_dataset(name, variants)
    if known is None or attack is None:
        return NOTHING
    return TABLE1.get((known, k, attack), NOTHING)


def reported_idea(
    name: str, k: int, objective: str, *, every_start: bool, variants: Collection[str] = ()
) -> Reported:
    """What the paper's Table 2, which is for k = 10, says of an idea.

    Args:
        name: our data set.
        k: success is rank ≤ k.
        objective: the idea's.
        every_start: whether from five starts or one.
        variants: see `paper_dataset`.
    """
    known = paper_dataset(name, variants)
    if known is None or k != TABLE2_K:
        return NOTHING
    return TABLE2.get((known, objective, every_start), NOTHING)
