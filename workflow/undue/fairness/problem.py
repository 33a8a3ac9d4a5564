"""The encoded data of a fairness experiment, as risks of the logistic model."""

from __future__ import annotations

import os
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from undue.arrays import read_arrays, write_arrays
from undue.calculus.linear import LinearPoint, LinearRisk, Logistic
from undue.calculus.objective import Objective
from undue.fairness.encode import Encoded
from undue.fairness.tables import PARTS


@dataclass(frozen=True)
class Part:
    """One part of the data.

    Attributes:
        risk: the data losses (features (n, d) without a bias, labels (n,); 1 is favourable), float64.
        group: (n,) bool; true is the privileged group.
    """

    risk: LinearRisk
    group: Tensor

    def at(self, theta: Tensor) -> LinearPoint:
        """The losses at θ (d, 1, L)."""
        return self.risk.at(theta)

    def scores(self, theta: Tensor) -> Tensor:
        """z (n,) of one θ (d, 1, 1)."""
        return self.risk.x @ theta[:, 0, 0]


@dataclass(frozen=True)
class Problem:
    """The three parts of a data set and its regulariser.

    Attributes:
        train: what models are trained on.
        validation: what everyone sees: influences are computed on it, the attacker chooses by it.
        test: what results are reported on.
        l2: the published regulariser, of Σ ℓ_i + (l2/2)‖θ‖²; λ = l2/n.
    """

    train: Part
    validation: Part
    test: Part
    l2: float

    def objective(self, removed: Tensor | None = None) -> Objective[LinearRisk]:
        """R(θ) = (1/n) Σ (1 − x_i) ℓ_i + (λ/2)‖θ‖² with a share x_i (n,) of each sample removed.

        As published, removing samples keeps λ: n is the number of all samples.
        """
        n = self.train.risk.samples
        kept = torch.ones(n, dtype=torch.float64) if removed is None else 1 - removed
        return Objective(self.train.risk, self.l2 / n, kept / n)


def write_problem(path: str | os.PathLike[str], encoded: Encoded) -> None:
    """Write the encoded data, a block of arrays for each part."""
    write_arrays(
        path,
        {
            f"{name}.{sort}": values[encoded.part == name]
            for name in PARTS
            for sort, values in (("x", encoded.x), ("label", encoded.label), ("group", encoded.group))
        },
    )


def load_problem(path: str | os.PathLike[str], *, l2: float) -> Problem:
    """Read what `write_problem` wrote."""
    arrays = read_arrays(path)
    train, validation, test = (
        make_part(*(arrays[f"{name}.{sort}"] for sort in ("x", "label", "group"))) for name in PARTS
    )
    return Problem(train, validation, test, l2)


def make_part(x: np.ndarray, label: np.ndarray, group: np.ndarray) -> Part:
    """A part from features (n, d), labels (n,) and groups (n,), both 0 or 1."""
    risk = LinearRisk(torch.from_numpy(x).double(), torch.from_numpy(label).long(), 2, Logistic())
    return Part(risk, torch.from_numpy(group).bool())
