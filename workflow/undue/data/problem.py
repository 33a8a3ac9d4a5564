"""The arrays that a linear model is trained, ranked, attacked and judged on."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pandas as pd
import torch

from undue.calculus.basis import Eigenbasis
from undue.calculus.linear import LinearRisk
from undue.data.split import PRISTINE, SHARED, TRAIN


@dataclass(frozen=True)
class Problem:
    """One data set, ready for the calculus: features scaled, a column of ones last.

    Attributes:
        train: the training risk; row r is sample `train_index[r]`.
        shared: the half of the test set that the attacker sees.
        pristine: the half kept for judging.
        train_index: sample number of each training row (n,), ascending.
    """

    train: LinearRisk
    shared: LinearRisk
    pristine: LinearRisk
    train_index: np.ndarray

    def rotated(self, basis: Eigenbasis) -> Problem:
        """The same problem with features in another orthogonal basis."""

        def turn(risk: LinearRisk) -> LinearRisk:
            return replace(risk, x=basis.rotate(risk.x))

        return replace(
            self, train=turn(self.train), shared=turn(self.shared), pristine=turn(self.pristine)
        )

    def to(self, target: torch.dtype | torch.device) -> Problem:
        """The same problem in another precision or on another device."""
        return replace(
            self,
            train=self.train.to(target),
            shared=self.shared.to(target),
            pristine=self.pristine.to(target),
        )


def load_problem(features: str | Path, split: str | Path, *, scaling: str) -> Problem:
    """Read features and their split from disk.

    Args:
        features: `.npy` of raw features (samples, d), float32.
        split: table with columns index, label, part.
        scaling: "centre" subtracts the training mean of each feature, "standardise" also divides by its
            training standard deviation (a feature that is constant on the training part becomes zero),
            "none" does neither.

    Returns:
        The problem in float32, a column of ones appended.
    """
    raw = np.load(features, mmap_mode="r", allow_pickle=False)
    table = pd.read_parquet(split)
    labels = table["label"].to_numpy()
    classes = int(labels.max()) + 1
    rows = {part: np.flatnonzero((table["part"] == part).to_numpy()) for part in (TRAIN, SHARED, PRISTINE)}
    x = {part: torch.from_numpy(np.ascontiguousarray(raw[index])) for part, index in rows.items()}
    if scaling != "none":
        mean = x[TRAIN].double().mean(dim=0)
        factor = torch.ones_like(mean) if scaling == "centre" else _inverse_deviation(x[TRAIN], mean)
        x = {part: ((values - mean) * factor).float() for part, values in x.items()}

    def risk(part: str) -> LinearRisk:
        ones = torch.ones(len(x[part]), 1)
        return LinearRisk(torch.cat([x[part], ones], dim=1), torch.from_numpy(labels[rows[part]]), classes)

    return Problem(risk(TRAIN), risk(SHARED), risk(PRISTINE), rows[TRAIN])


def _inverse_deviation(x: torch.Tensor, mean: torch.Tensor) -> torch.Tensor:
    """1 / standard deviation of each feature (d,), zero for a constant one."""
    deviation = x.double().std(dim=0, correction=0)
    # A feature that hardly varies beside its own size is rounding noise: it counts as constant.
    constant = deviation <= 1e-6 * mean.abs().clamp(min=1e-30)
    return torch.where(constant, 0, 1 / deviation)
