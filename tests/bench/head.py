"""A softmax head on MNIST's pixels, and every training image's influence by a dense solve in float64.

What all methods of the comparison with other libraries start from, and what they are held against. The images
are those of the validation preset: 55,000 to train on, the official 10,000 to test on, pixels in [0, 1] and a
column of ones.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import yaml
from torch import Tensor

from undue.arrays import read_arrays, write_arrays
from undue.calculus.factor import Factor
from undue.calculus.functional import summed_loss
from undue.calculus.influence import influence
from undue.calculus.linear import LinearRisk
from undue.calculus.objective import Objective
from undue.data.backbones import load_backbone
from undue.data.datasets import open_dataset
from undue.data.features import SAMPLE_COLUMNS, extract, samples_table
from undue.data.registry import fetch, mirror_folder, read_registry
from undue.errors import UserError
from undue.tables import write_table
from undue.training import train
from undue.validation.images import Images, load_images

DATASET = "mnist_pixels"
TRAIN_SAMPLES = 55_000
L2 = 0.01
# Of θ*: a real minimiser.
GRADIENT_NORM = 1e-8


@dataclass(frozen=True)
class Head:
    """A trained softmax head with its data; influence is measured on the summed loss of the test set.

    Attributes:
        train, test: the risks; the last feature is one.
        theta: θ* (d, k, 1), float64.
        l2: λ of the training objective, bias included.
    """

    train: LinearRisk
    test: LinearRisk
    theta: Tensor
    l2: float

    def to(self, dtype: torch.dtype) -> Head:
        """The same with its data in another precision; θ* stays what it is."""
        return Head(self.train.to(dtype), self.test.to(dtype), self.theta, self.l2)


def fetch_images(root: Path, folder: Path) -> Images:
    """MNIST by the project's own readers, from a mirror or from where the registry says.

    Args:
        root: the project, with config.yaml and data/registry.tsv.
        folder: where downloads and features go.

    Raises:
        UserError: there is no source that has the images.
    """
    config = yaml.safe_load((root / "config.yaml").read_text(encoding="utf-8"))
    registry, described = read_registry(root / "data" / "registry.tsv"), config["datasets"][DATASET]
    files = {role: folder / registry[name].file for role, name in described["files"].items()}
    for role, name in described["files"].items():
        fetch(registry[name], files[role], mirror=mirror_folder(config["data"]["mirror"]))
    dataset = open_dataset(described["kind"], files, {})
    features, samples = folder / "features.npy", folder / "samples.parquet"
    extract(dataset, load_backbone("none", None, None), features, batch_size=1024)
    write_table(samples, SAMPLE_COLUMNS, samples_table(dataset.samples))
    return load_images(
        features, samples, {"split": config["split"], "validation.train_samples": TRAIN_SAMPLES}
    )


def train_head(images: Images) -> Head:
    """Solve for θ*, in float64."""
    training, test = images.risk(images.train), images.risk(images.test)
    found = train(training, l2=L2, regularise_bias=True, gradient_norm=GRADIENT_NORM)
    return Head(training, test, found.theta, L2)


def exact_influence(head: Head) -> tuple[Tensor, float]:
    """Influence of every training sample (n,) with a factorised Hessian in float64, and the residual."""
    exact = head.to(torch.float64)
    factor = Factor.of_head(Objective(exact.train, exact.l2), exact.theta)
    gradient = summed_loss(exact.test).gradient(exact.theta)
    values, solution = influence(exact.train.at(exact.theta), gradient, factor.solve)
    return values[:, 0], float(solution.residual)


def write(folder: Path, head: Head) -> dict[str, Any]:
    """Write a head and its exact influences into a folder.

    Returns:
        How exact they are, and what kind of model it is.
    """
    values, residual = exact_influence(head)
    arrays = {
        "x": head.train.x.float(),
        "y": head.train.y,
        "test_x": head.test.x.float(),
        "test_y": head.test.y,
        "theta": head.theta[..., 0],
        "l2": torch.tensor([head.l2], dtype=torch.float64),
        "influence": values,
    }
    write_arrays(folder / "head.safetensors", {name: array.numpy() for name, array in arrays.items()})
    return {"accuracy": float(head.test.at(head.theta).accuracy()), "residual_dense": residual}


def read(folder: Path) -> tuple[Head, Tensor]:
    """A written head, its data in float32, and its exact influences (n,), float64."""
    arrays = {
        name: torch.from_numpy(array) for name, array in read_arrays(folder / "head.safetensors").items()
    }
    classes = arrays["theta"].shape[1]
    head = Head(
        LinearRisk(arrays["x"], arrays["y"], classes),
        LinearRisk(arrays["test_x"], arrays["test_y"], classes),
        arrays["theta"][..., None],
        float(arrays["l2"]),
    )
    return head, arrays["influence"]


def draw(*, root: str, folder: str) -> dict[str, Any]:
    """Fetch the images, train, solve, and write what `read` reads; why not, if there are no images."""
    try:
        images = fetch_images(Path(root), Path(folder))
    except UserError as error:
        return {"error": str(error)}
    return write(Path(folder), train_head(images))
