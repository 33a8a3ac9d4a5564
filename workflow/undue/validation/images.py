"""The images that validation trains on: plain pixels, a training and a test set."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch

from undue.calculus.linear import LinearRisk, Link, Softmax
from undue.calculus.risk import Risk
from undue.data.split import PRISTINE, SHARED, TRAIN, split, stratified_share, thin
from undue.errors import UserError


@dataclass(frozen=True)
class Images:
    """Features with a column of ones last, and labels.

    Attributes:
        x: (samples, d), float32.
        y: labels (samples,), int64.
        train, test: sample numbers, ascending.
    """

    x: torch.Tensor
    y: torch.Tensor
    train: np.ndarray
    test: np.ndarray

    def risk(self, rows: np.ndarray, *, dtype: torch.dtype = torch.float64) -> LinearRisk:
        """The softmax risk of some of the samples."""
        index = torch.from_numpy(rows)
        return LinearRisk(self.x[index].to(dtype), self.y[index], int(self.y.max()) + 1, Softmax())

    def fewer(self, train_samples: int, *, seed: int) -> Images:
        """At most so many training samples, class ratios kept."""
        if train_samples >= len(self.train):
            return self
        labels = self.y.numpy()[self.train]
        kept = stratified_share(labels, train_samples, np.random.default_rng([seed, train_samples]))
        return replace(self, train=self.train[kept])

    def pair(
        self, classes: tuple[int, int], link: Link
    ) -> tuple[LinearRisk, LinearRisk, np.ndarray, np.ndarray]:
        """Only two of the classes, as a problem with labels 0 and 1.

        Args:
            classes: the labels that become 0 and 1.
            link: logistic or smooth hinge.

        Returns:
            Training risk, test risk (float64), and the sample numbers of the rows of each.

        Raises:
            UserError: one of the two has no training or no test sample.
        """
        risks, numbers = [], []
        for rows in (self.train, self.test):
            labels = self.y.numpy()[rows]
            kept = rows[np.isin(labels, classes)]
            index = torch.from_numpy(kept)
            y = (self.y[index] == classes[1]).long()
            if not 0 < int(y.sum()) < len(y):
                raise UserError(
                    f"of the classes {classes[0]} and {classes[1]} one has no sample to train or to test on",
                    where="validation.pair",
                    remedy="name two classes (numbers from 0) that the dataset has",
                )
            risks.append(LinearRisk(self.x[index].double(), y, 2, link))
            numbers.append(kept)
        return risks[0], risks[1], numbers[0], numbers[1]


def load_images(features: str | Path, samples: str | Path, settings: Mapping[str, Any]) -> Images:
    """Read what `extract_features` wrote of plain pixels, and split it as `split_data` does.

    Args:
        features: features.npy (samples, d), float32.
        samples: samples.parquet, with columns label and split.
        settings: of the config: split (test_fraction, seed), and validation.train_samples, so many of the
            training samples, class ratios kept; all if it is None.
    """
    test_fraction, seed = settings["split"]["test_fraction"], settings["split"]["seed"]
    train_samples = settings["validation.train_samples"]
    table = pd.read_parquet(samples)
    labels = table["label"].to_numpy()
    part = split(labels, table["split"].to_numpy(dtype=object), test_fraction=test_fraction, seed=seed)
    if train_samples is not None:
        part = thin(labels, part, train_samples, seed=seed, key="validation.train_samples")
    raw = torch.from_numpy(np.load(features, allow_pickle=False))
    return Images(
        torch.cat([raw, torch.ones(len(raw), 1)], dim=1),
        torch.from_numpy(labels.copy()),
        np.flatnonzero(part == TRAIN),
        np.flatnonzero(np.isin(part, (SHARED, PRISTINE))),
    )


def first_mistake(test: Risk, theta: torch.Tensor) -> int:
    """The first test sample that a model θ (d, k, 1) gets wrong; where there is none, the least certain.

    Koh & Liang pick theirs "arbitrarily"; the first one leaves nothing to pick.
    """
    point = test.at(theta)
    wrong = torch.nonzero(~point.correct()[:, 0])[:, 0]
    return int(wrong[0]) if len(wrong) else int(point.losses()[:, 0].argmax())
