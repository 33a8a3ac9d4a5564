"""From a dataset to one feature matrix on disk: batched, in bounded memory, the same bytes every time."""

from __future__ import annotations

import logging
import os
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from importlib.metadata import version
from itertools import islice
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import pandas as pd
import torch
from numpy.lib.format import open_memmap
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor, nn

from undue.data.backbones import Backbone
from undue.data.datasets import ArrayDataset, ImageDataset, Samples
from undue.device import choose_device
from undue.errors import UserError
from undue.files import atomic, sha256
from undue.progress import Progress
from undue.tables import INT, TEXT, Columns

Item = TypeVar("Item")
Result = TypeVar("Result")
Block = tuple[NDArray[np.int64], NDArray[np.float32]]
"""Indices (b,) of some samples, and their features (b, d)."""

ROWS_PER_BLOCK = 4096
"""How many rows of an array dataset are copied at a time."""

PACKAGES = ("torch", "torchvision", "efficientnet-lite-pytorch", "pillow", "numpy")
"""What the features depend on beside the weights; their versions are recorded."""

SAMPLE_COLUMNS: Columns = {
    "index": (INT, "row of the sample in features.npy, from 0"),
    "name": (TEXT, "the sample's name in its dataset: a file in the archive, or a row"),
    "label": (INT, "index of the sample's class"),
    "class": (TEXT, "name of the sample's class"),
    "split": (TEXT, "`train` or `test` in the dataset's official split; empty where it has none"),
}


def extract(
    dataset: ImageDataset | ArrayDataset,
    backbone: Backbone,
    destination: Path,
    *,
    batch_size: int,
    device: str = "auto",
    threads: int = 1,
) -> dict[str, Any]:
    """Write the features of every sample, raw, as float32 (n, d) in `.npy`, and say how they were made.

    Row i belongs to sample i, in whatever order the dataset yields its images. The file appears
    only when it is complete. On a CPU the same input and batch size give the same bytes, whatever
    the number of threads; another batch size changes nothing beyond rounding.

    Args:
        dataset: images, or arrays, whose features are copied as they are.
        backbone: what turns images into features; `none` for arrays.
        destination: the `.npy` file to write.
        batch_size: images per batch. On a CPU 32 is best: larger batches leave the caches.
        device: `auto` (CUDA where there is one), `cpu` or `cuda` (in mixed precision).
        threads: batches computed side by side on a CPU, a core each. Memory is that of so many
            batches and two more, whatever n is.

    Returns:
        What the features depend on, ready for JSON; nothing in it changes from run to run.

    Raises:
        UserError: arrays with another backbone than `none`, images of different sizes without an
            image size, features that are not finite, a device that is not there or whose memory
            is too small, weights that do not fit, a full disk.
    """
    samples = dataset.samples
    if isinstance(dataset, ArrayDataset):
        if backbone.name != "none":
            raise UserError(
                f"the dataset holds arrays, and `{backbone.name}` needs images",
                where="features.backbone",
                remedy="set it to `none`: arrays are taken as they are",
            )
        blocks, unit, used = _array_blocks(dataset.features), "rows", torch.device("cpu")
        transform, image_size = "none: arrays as they are", None
    else:
        used, unit = choose_device(device, key="features.device"), "images"
        blocks = _image_blocks(dataset, backbone, batch_size, used, threads)
        transform, image_size = backbone.description, backbone.image_size
    with closing(blocks):
        dimension = _store(blocks, samples.names, unit, destination)
    return {
        "backbone": backbone.name,
        "dimension": dimension,
        "n": len(samples.names),
        "dtype": "float32",
        "classes": list(samples.classes),
        "weights_sha256": None if backbone.weights is None else sha256(backbone.weights),
        "transform": transform,
        "image_size": image_size,
        "device": used.type,
        "versions": {package: version(package) for package in PACKAGES},
    }


def samples_table(samples: Samples) -> pd.DataFrame:
    """Who is in which row of the features: `SAMPLE_COLUMNS`."""
    return pd.DataFrame(
        {
            "index": np.arange(len(samples.names)),
            "name": list(samples.names),
            "label": samples.labels,
            "class": [samples.classes[label] for label in samples.labels],
            "split": [str(part) for part in samples.split],
        }
    )


def _array_blocks(features: NDArray[np.float32]) -> Generator[Block, None, None]:
    """The rows as they are, some thousands at a time."""
    for start in range(0, len(features), ROWS_PER_BLOCK):
        rows = np.asarray(features[start : start + ROWS_PER_BLOCK], dtype=np.float32)
        yield np.arange(start, start + len(rows)), rows


def _image_blocks(
    dataset: ImageDataset, backbone: Backbone, batch_size: int, device: torch.device, threads: int
) -> Generator[Block, None, None]:
    """The features of the images, a batch at a time, later ones being decoded and computed meanwhile."""
    for key, value in (("features.batch_size", batch_size), ("threads", threads)):
        if value < 1:
            raise UserError(f"{value} is too small", where=key, remedy="give a positive number")
    # Channels last: up to twice as fast on a CPU, and what tensor cores want.
    network = backbone.build().to(device=device, memory_format=torch.channels_last)  # type: ignore[call-overload]

    def compute(batch: tuple[NDArray[np.int64], list[Tensor]]) -> Block:
        indices, inputs = batch
        return indices, _features(network, torch.stack(inputs), device)

    batches = _batches(dataset, backbone.transform, batch_size)
    return _concurrently(compute, batches, workers=threads if device.type == "cpu" else 1)


def _features(network: nn.Module, inputs: Tensor, device: torch.device) -> NDArray[np.float32]:
    """(b, c, h, w) -> (b, d), in mixed precision on CUDA only."""
    try:
        with torch.inference_mode(), torch.autocast(device.type, enabled=device.type == "cuda"):
            outputs = network(inputs.to(device, memory_format=torch.channels_last))
        return outputs.float().cpu().numpy()  # type: ignore[no-any-return]
    except torch.OutOfMemoryError as error:
        raise UserError(
            f"{len(inputs)} images at a time do not fit in the memory of the device",
            where="features.batch_size",
            remedy="choose a smaller one, or features.device: cpu",
        ) from error


def _batches(
    dataset: ImageDataset, transform: Callable[[Image.Image], Tensor], batch_size: int
) -> Iterator[tuple[NDArray[np.int64], list[Tensor]]]:
    """Transformed images with their indices, in batches, all of one shape."""
    names = dataset.samples.names
    first: tuple[str, tuple[int, ...]] | None = None
    images = iter(dataset.images())
    while batch := list(islice(((index, transform(image)) for index, image in images), batch_size)):
        for index, tensor in batch:
            shape = tuple(tensor.shape)
            first = first or (names[index], shape)
            if shape != first[1]:
                raise UserError(
                    f"it is {_size(shape)}, and `{first[0]}` is {_size(first[1])}",
                    where=f"image `{names[index]}`",
                    remedy="set features.image_size, so that all become one size; grey and coloured images "
                    "together need another features.backbone than `none`",
                )
        indices, tensors = zip(*batch, strict=True)
        yield np.array(indices, dtype=np.int64), list(tensors)


def _size(shape: tuple[int, ...]) -> str:
    channels, height, width = shape
    return f"{width} x {height} {'grey' if channels == 1 else 'RGB'}"


def _concurrently(
    function: Callable[[Item], Result], items: Iterable[Item], *, workers: int
) -> Generator[Result, None, None]:
    """The function's results in the items' order, by several threads that each use one core.

    The items are made in the caller's thread meanwhile, one beyond those being worked on.

    Torch's own way, all cores on each operation of one batch, is slower here: by a quarter on two
    idle cores, several times where they are shared with other work, because its threads wait for
    each other at every operation. And the same bytes come out whatever the number of threads.
    """
    threads_before = torch.get_num_threads()
    try:
        with ThreadPoolExecutor(workers, initializer=torch.set_num_threads, initargs=(1,)) as pool:
            pending: deque[Future[Result]] = deque()
            for item in items:
                pending.append(pool.submit(function, item))
                if len(pending) > workers:
                    yield pending.popleft().result()
            while pending:
                yield pending.popleft().result()
    finally:
        torch.set_num_threads(threads_before)


def _store(blocks: Iterator[Block], names: tuple[str, ...], unit: str, destination: Path) -> int:
    """Write blocks of rows, in any order, as one float32 array (n, d); return d.

    Raises:
        UserError: a feature that is not finite, or a full disk.
        RuntimeError: not every sample came exactly once.
    """
    n = len(names)
    progress = Progress(logging.getLogger(__name__), n, unit)
    seen = np.zeros(n, dtype=np.int64)
    with atomic(destination) as temporary:
        matrix: NDArray[np.float32] | None = None
        for indices, rows in blocks:
            _check_finite(rows, [names[index] for index in indices])
            if matrix is None:
                matrix = _allocate(temporary, (n, rows.shape[1]))
            matrix[indices] = rows
            np.add.at(seen, indices, 1)
            progress.update(int(seen.sum()))
        if matrix is None or (seen != 1).any():
            raise RuntimeError(
                f"of {n} samples {(seen == 0).sum()} never came and {(seen > 1).sum()} came more than once"
            )
        matrix.flush()  # type: ignore[attr-defined]
        return int(matrix.shape[1])


def _allocate(path: Path, shape: tuple[int, int]) -> NDArray[np.float32]:
    """A float32 array in an `.npy` file whose room on the disk is already taken.

    Without that a full disk would end the process by a signal at some later write to the map.
    """
    matrix = open_memmap(path, mode="w+", dtype=np.float32, shape=shape)
    if hasattr(os, "posix_fallocate"):
        with path.open("r+b") as file:
            os.posix_fallocate(file.fileno(), 0, path.stat().st_size)
    return matrix


def _check_finite(rows: NDArray[np.float32], names: list[str]) -> None:
    bad = np.flatnonzero(~np.isfinite(rows).all(axis=1))
    if len(bad):
        raise UserError(
            f"{(~np.isfinite(rows[bad[0]])).sum()} of its {rows.shape[1]} features are NaN or infinite",
            where=f"sample `{names[bad[0]]}`",
            remedy="mend or remove the sample; with images on a GPU, whose half precision can overflow, "
            "try features.device: cpu",
        )
