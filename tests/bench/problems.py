"""Made-up data of the paper's sizes, written as the pipeline writes its own.

Features have a power-law spectrum in a random basis, as those of convolutional networks do, and are
standardised on loading; labels come from a noisy linear teacher. The attack then starts from the same
kind of files as in a real run, through `load_setting`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch

from undue.arrays import read_arrays, write_arrays
from undue.data.problem import Problem, load_problem
from undue.data.split import PRISTINE, SHARED, SPLIT_COLUMNS, TRAIN
from undue.files import write_json
from undue.randomness import stream
from undue.tables import write_table
from undue.training import train
from undue.valuation.calculator import Setting, load_setting

# The i-th largest variance among the directions of feature space is proportional to 1/i.
DECAY = 1.0
# Standard deviation of the noise on the teacher's scores, relative to theirs.
LABEL_NOISE = 0.3
L2 = 1e-3
DAMPING = 0.25
# Of θ*: enough for a place to start from.
GRADIENT_NORM = 1e-4
SETTINGS: Mapping[str, Any] = {
    "scaling": "standardise",
    "model.regularise_bias": True,
    "influence.damping": DAMPING,
    "influence.rank_sign": 1,
}


@dataclass(frozen=True)
class Size:
    """How much data there is.

    Attributes:
        train: training samples n.
        half: samples in each half of the test set.
        features: d, without the bias.
        classes: k.
    """

    train: int
    half: int
    features: int
    classes: int


SIZES: Mapping[str, Size] = {
    "pet": Size(3_680, 1_835, 2_048, 37),
    "caltech": Size(6_941, 868, 2_048, 101),
    "cifar": Size(50_000, 5_000, 2_048, 10),
}
TINY = Size(200, 50, 16, 3)


def draw(size: Size, *, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Features and labels: training samples first, then the two halves of the test set.

    Returns:
        x (n + 2·half, d), float32, and y (n + 2·half,), int64; every class has a training sample.
    """
    samples, d = size.train + 2 * size.half, size.features
    generator = stream(seed, "bench", samples, d, size.classes)
    rotation = np.linalg.qr(generator.standard_normal((d, d)))[0]
    deviation = np.arange(1, d + 1) ** (-DECAY / 2)
    x = generator.standard_normal((samples, d), dtype=np.float32) @ (deviation[:, None] * rotation.T).astype(
        np.float32
    )
    scores = x @ generator.standard_normal((d, size.classes), dtype=np.float32)
    noise = generator.standard_normal(scores.shape, dtype=np.float32)
    y = (scores + LABEL_NOISE * scores.std() * noise).argmax(axis=1)
    y[: size.classes] = np.arange(size.classes)
    return x, y


def write(folder: Path, size: Size, *, seed: int) -> None:
    """Draw a problem, solve for θ*, and write what `read` reads into a folder."""
    x, y = draw(size, seed=seed)
    parts = np.repeat([TRAIN, SHARED, PRISTINE], [size.train, size.half, size.half])
    np.save(folder / "features.npy", x)
    del x
    table = pd.DataFrame({"index": np.arange(len(y)), "label": y, "part": parts})
    write_table(folder / "split.parquet", SPLIT_COLUMNS, table)
    problem = load_problem(folder / "features.npy", folder / "split.parquet", scaling=SETTINGS["scaling"])
    found = train(
        problem.train,
        l2=L2,
        regularise_bias=SETTINGS["model.regularise_bias"],
        gradient_norm=GRADIENT_NORM,
    )
    write_arrays(folder / "model.safetensors", {"theta": found.theta[..., 0].numpy()})
    write_json(folder / "model.json", {"l2": L2, "gradient_norm": float(found.gradient_norm)})


def read_unrotated(folder: Path) -> tuple[Problem, torch.Tensor]:
    """Load a problem as it is, and θ* (d, k, 1), float32: for code that is not ours."""
    problem = load_problem(folder / "features.npy", folder / "split.parquet", scaling=SETTINGS["scaling"])
    return problem, torch.from_numpy(read_arrays(folder / "model.safetensors")["theta"]).float()[..., None]


def read(folder: Path, *, coarse: bool = False) -> Setting:
    """Load a problem as an attack's job does, float32.

    Args:
        folder: what `write` filled.
        coarse: whether solves take most of their products in bfloat16.
    """
    return load_setting(
        folder / "features.npy",
        folder / "split.parquet",
        folder / "model.safetensors",
        SETTINGS,
        dtype=torch.float32,
        device=torch.device("cpu"),
        coarse=coarse,
    )
