"""Reading data sets in their published layouts, and a user's own, as images or arrays with labels.

Every kind gives the same two things: `Samples` (names, labels, classes and, where the publisher made one,
the split into training and test data) and either images, decoded one at a time, or a feature matrix.
"""

from __future__ import annotations

import difflib
import gzip
import io
import logging
import math
import re
import zipfile
import zlib
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import pandas as pd
import pyarrow as pa
import safetensors
import safetensors.numpy
from PIL import Image, ImageOps

from undue.data.archives import Tree, open_nested, open_tree
from undue.errors import UserError

logger = logging.getLogger(__name__)

IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".ppm", ".pgm")
# What those suffixes stand for. Left to itself Pillow would also try decoders that start other programs.
IMAGE_FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "GIF", "TIFF", "PPM")
TRAIN_FOLDERS = frozenset({"train", "training"})
TEST_FOLDERS = frozenset({"test", "testing"})
VALIDATION_FOLDERS = frozenset({"val", "valid", "validation"})

CIFAR_SIDE = 32
CIFAR_RECORD = 1 + 3 * CIFAR_SIDE**2  # bytes: the label, then a red, a green and a blue plane

CHUNK = 4096  # rows of features looked at together

Array = npt.NDArray[Any]
Pixels = npt.NDArray[np.uint8]


@dataclass(frozen=True)
class Samples:
    """What is known of n samples, in an order that depends on the data alone.

    Attributes:
        names: n unique names: the path in the archive, or the split and row.
        labels: (n,) int64, indices into `classes`.
        classes: class names; numbers in numeric order, others in natural order (a2 before a10) unless
            the publisher numbers them.
        split: (n,) strings: 'train' or 'test' for every sample where there is an official split, else ''.
    """

    names: tuple[str, ...]
    labels: npt.NDArray[np.int64]
    classes: tuple[str, ...]
    split: npt.NDArray[np.str_]


class ImageDataset(Protocol):
    """Images with labels."""

    @property
    def samples(self) -> Samples:
        """Names, labels, classes and split of all images."""

    def images(self, indices: Sequence[int] | None = None) -> Iterator[tuple[int, Image.Image]]:
        """Yield (index, image in mode 'RGB' or 'L') of the given samples (default: all), each once.

        The order is the cheapest for the source, not that of `indices`; one image is decoded at a time.

        Raises:
            IndexError: there is no such sample.
            UserError: an image can't be decoded; names the file and the member.
        """


@dataclass(frozen=True)
class ArrayDataset:
    """Features with labels: `features` is (n, d) float32, every value finite."""

    samples: Samples
    features: npt.NDArray[np.float32]


@dataclass(frozen=True)
class EncodedImages:
    """Images as files of a folder or an archive: sample i is `members[i]` of `tree`.

    `upright` turns photographs as their EXIF orientation says.
    """

    samples: Samples
    tree: Tree
    members: tuple[str, ...]
    upright: bool

    def images(self, indices: Sequence[int] | None = None) -> Iterator[tuple[int, Image.Image]]:
        """See ImageDataset."""
        chosen = _chosen(indices, len(self.members))
        index = {self.members[i]: i for i in chosen}
        for member, content in self.tree.read(index):
            yield index[member], decode(content, where=f"{self.tree.label}: {member}", upright=self.upright)


@dataclass(frozen=True)
class PixelImages:
    """Images as one uint8 array: (n, height, width) grey, or (n, 3, height, width) in colour planes."""

    samples: Samples
    pixels: Pixels

    def images(self, indices: Sequence[int] | None = None) -> Iterator[tuple[int, Image.Image]]:
        """See ImageDataset."""
        for index in _chosen(indices, len(self.pixels)):
            image = self.pixels[index]
            yield index, Image.fromarray(image if image.ndim == 2 else image.transpose(1, 2, 0).copy())


def open_dataset(
    kind: str, files: Mapping[str, Path], options: Mapping[str, Any]
) -> ImageDataset | ArrayDataset:
    """Open a data set: read its labels, check them, and be ready to give the images or features.

    Args:
        kind: a key of KINDS.
        files: path by role; the roles of each kind are in KINDS.
        options: for `arrays` `features_key`, `label_key` and `split_key` (None: the default); else empty.

    Raises:
        UserError: an unknown kind, role or option; a missing, damaged or misshapen file; fewer than two
            classes; a class that can't be in both training and test data.
    """
    if kind not in KINDS:
        raise UserError(
            f"unknown kind of data set {kind!r}{_nearest(kind, KINDS)}",
            where="datasets: kind",
            remedy=f"use one of {', '.join(KINDS)}",
        )
    layout = KINDS[kind]
    if set(files) not in [set(alternative) for alternative in layout.roles]:
        wanted = " or ".join("{" + ", ".join(alternative) + "}" for alternative in layout.roles)
        raise UserError(
            f"the kind {kind!r} needs the files {wanted}, not {{{', '.join(files) or 'none'}}}",
            where="datasets: files",
            remedy="name exactly these files",
        )
    given = {key: value for key, value in options.items() if value is not None}
    if unknown := sorted(given.keys() - layout.options):
        raise UserError(
            f"the kind {kind!r} has no option {unknown[0]!r}{_nearest(unknown[0], layout.options)}",
            where="datasets",
            remedy=f"use {', '.join(sorted(layout.options)) or 'no options'}",
        )
    for role, path in files.items():
        if not Path(path).exists():
            raise UserError(
                f"there is no such file or folder ({role} of a data set of kind {kind!r})",
                where=str(path),
                remedy="correct the path in the config, or put the data there",
            )
    return layout.read({role: Path(path) for role, path in files.items()}, given)


def decode(content: bytes, *, where: str, upright: bool) -> Image.Image:
    """Decode an image file to mode 'L' if it is grey, else 'RGB' (transparency is dropped).

    Raises:
        UserError: it isn't an image of IMAGE_FORMATS, or is damaged, or of absurd size.
    """
    try:
        image: Image.Image = Image.open(io.BytesIO(content), formats=IMAGE_FORMATS)
        image.load()
        if upright:
            image = ImageOps.exif_transpose(image)
        if image.mode.startswith("I"):  # 16 bits a pixel; Pillow would clip them to 8 instead of scaling
            return Image.fromarray((np.asarray(image).clip(0, 65535) >> 8).astype(np.uint8))
        return image.convert("L" if image.mode in ("1", "L", "LA") else "RGB")
    except (OSError, ValueError, SyntaxError, EOFError, Image.DecompressionBombError) as error:
        raise UserError(
            f"the image can't be decoded: {error}",
            where=where,
            remedy="replace the image or take it out of the data set",
        ) from error


# --- images ---


def _read_mnist_csv(files: Mapping[str, Path], options: Mapping[str, Any]) -> ImageDataset:
    """A line an image, no header: the pixels 0..255 row by row, then the label."""
    path = files["archive"]
    try:
        table = pd.read_csv(path, header=None, dtype=np.int64).to_numpy()
    except (ValueError, OSError, EOFError, zlib.error) as error:
        raise _damaged(path, error) from error
    side = math.isqrt(max(table.shape[1] - 1, 0))
    if side == 0 or side**2 != table.shape[1] - 1:
        raise _misshapen(path, f"{table.shape[1]} columns are not those of a square image and a label")
    pixels = table[:, :-1]
    if pixels.min() < 0 or pixels.max() > 255:
        raise _misshapen(path, "a pixel is not in 0..255")
    samples = _samples(_numbered("", len(table)), _strings(table[:, -1]), None, where=str(path))
    return PixelImages(samples, pixels.astype(np.uint8).reshape(-1, side, side))


def _read_mnist_idx(files: Mapping[str, Path], options: Mapping[str, Any]) -> ImageDataset:
    """The IDX files of MNIST and its relatives, gzipped or not."""
    images, labels, names = {}, {}, []
    for part in ("train", "test"):
        image_path, label_path = files[f"{part}_images"], files[f"{part}_labels"]
        images[part] = _read_idx(image_path, dimensions=3)
        labels[part] = _read_idx(label_path, dimensions=1)
        if len(images[part]) != len(labels[part]):
            raise _misshapen(
                label_path, f"{len(labels[part])} labels for {len(images[part])} images of {image_path.name}"
            )
        names += _numbered(f"{part}/", len(labels[part]))
    if images["train"].shape[1:] != images["test"].shape[1:]:
        raise _misshapen(files["test_images"], "the images are not of the size of the training images")
    split = ["train"] * len(labels["train"]) + ["test"] * len(labels["test"])
    digits = _strings(np.concatenate([labels["train"], labels["test"]]))
    samples = _samples(names, digits, split, where=str(files["train_labels"]))
    return PixelImages(samples, np.concatenate([images["train"], images["test"]]))


def _read_idx(path: Path, dimensions: int) -> Pixels:
    """An IDX file of unsigned bytes: two zeros, 8, the number of dimensions, the sizes, the values."""
    try:
        with path.open("rb") as file:
            is_gzip = file.read(2) == b"\x1f\x8b"
        with gzip.open(path) if is_gzip else path.open("rb") as file:
            header = file.read(4 + 4 * dimensions)
            if header[:4] != bytes([0, 0, 8, dimensions]) or len(header) != 4 + 4 * dimensions:
                raise _misshapen(path, f"this is not an IDX file of bytes with {dimensions} dimension(s)")
            sizes = tuple(int(size) for size in np.frombuffer(header, ">u4", offset=4))
            values = file.read(math.prod(sizes) + 1)
    except (OSError, EOFError, zlib.error) as error:
        raise _damaged(path, error) from error
    if len(values) != math.prod(sizes):
        held = f"at least {len(values)}" if len(values) > math.prod(sizes) else f"{len(values)}"
        raise _misshapen(path, f"its header says {math.prod(sizes)} values and it holds {held}")
    return np.frombuffer(values, np.uint8).reshape(sizes)


def _read_cifar10_binary(files: Mapping[str, Path], options: Mapping[str, Any]) -> ImageDataset:
    """The binary version of CIFAR-10: five training batches, a test batch and the class names."""
    path = files["archive"]
    tree = open_tree(path)
    batches = [f"data_batch_{number}.bin" for number in range(1, 6)]
    members = {name.rpartition("/")[2]: name for name in tree.names}
    wanted = [*batches, "test_batch.bin", "batches.meta.txt"]
    if missing := [name for name in wanted if name not in members]:
        raise _misshapen(path, f"it has no {missing[0]}")
    content = {name.rpartition("/")[2]: data for name, data in tree.read(members[name] for name in wanted)}
    classes = content["batches.meta.txt"].decode("utf-8", "replace").split()
    records = {}
    for name in [*batches, "test_batch.bin"]:
        if not content[name] or len(content[name]) % CIFAR_RECORD:
            raise _misshapen(
                path, f"{name} has {len(content[name])} bytes, no multiple of the {CIFAR_RECORD} of an image"
            )
        records[name] = np.frombuffer(content.pop(name), np.uint8).reshape(-1, CIFAR_RECORD)
        if name in batches and len(records[name]) != len(records[batches[0]]):
            raise _misshapen(
                path, f"{name} has {len(records[name])} images, {batches[0]} {len(records[batches[0]])}"
            )
        if records[name][:, 0].max() >= len(classes):
            raise _misshapen(
                path, f"{name} has label {records[name][:, 0].max()}, but there are {len(classes)} classes"
            )
    everything = np.concatenate(list(records.values()))
    n_test = len(records["test_batch.bin"])
    n_train = len(everything) - n_test
    samples = _samples(
        _numbered("train/", n_train) + _numbered("test/", n_test),
        [classes[label] for label in everything[:, 0]],
        ["train"] * n_train + ["test"] * n_test,
        where=str(path),
        classes=classes,
    )
    return PixelImages(samples, everything[:, 1:].reshape(-1, 3, CIFAR_SIDE, CIFAR_SIDE))


def _read_oxford_pet(files: Mapping[str, Path], options: Mapping[str, Any]) -> ImageDataset:
    """Oxford-IIIT Pet: the images, and the lists `trainval.txt` and `test.txt` (name, class from 1, …).

    Images in neither list are left out, as the publishers do.
    """
    tree, lists = open_tree(files["images"]), open_tree(files["annotations"])
    by_file = {name.rpartition("/")[2]: name for name in lists.names}
    if missing := [name for name in ("trainval.txt", "test.txt") if name not in by_file]:
        raise _misshapen(files["annotations"], f"it has no {missing[0]}")
    text = dict(lists.read([by_file["trainval.txt"], by_file["test.txt"]]))
    breeds: dict[int, str] = {}
    names, labels, split = [], [], []
    for part, file in (("train", "trainval.txt"), ("test", "test.txt")):
        for line in text[by_file[file]].decode("utf-8", "replace").splitlines():
            match = re.match(r"(\S+)_\d+ (\d+) ", line + " ")
            if not line.strip() or line.startswith("#"):
                continue
            if match is None:
                raise _misshapen(files["annotations"], f"{file} has the line {line!r}")
            breed, number = match[1], int(match[2])
            if breeds.setdefault(number, breed) != breed:
                raise _misshapen(files["annotations"], f"class {number} is both {breeds[number]} and {breed}")
            names.append(line.split()[0])
            labels.append(breed)
            split.append(part)
    members = {Path(name).stem: name for name in tree.names if _is_image(name)}
    if absent := [name for name in names if name not in members]:
        raise _misshapen(files["images"], f"{len(absent)} listed images are missing, first {absent[0]}.jpg")
    classes = [breeds[number] for number in sorted(breeds)]
    samples = _samples(names, labels, split, where=str(files["annotations"]), classes=classes)
    return EncodedImages(samples, tree, tuple(members[name] for name in names), upright=False)


def _read_caltech101(files: Mapping[str, Path], options: Mapping[str, Any]) -> ImageDataset:
    """Caltech-101 as published, or the archive within: a folder a category, no split; no background."""
    tree = open_tree(files["archive"])
    inner = [name for name in tree.names if name.rpartition("/")[2] == "101_ObjectCategories.tar.gz"]
    if inner:
        tree = open_nested(tree, inner[0])
    members = [name for name in tree.names if _is_image(name) and "BACKGROUND_Google" not in name.split("/")]
    return _image_folder(tree, members, upright=False)


def _read_image_folder(files: Mapping[str, Path], options: Mapping[str, Any]) -> ImageDataset:
    """Class-named folders of images, as a folder or an archive, under at most one common root.

    Where all top folders are named train/test (training/testing), that is the official split. A
    val/valid/validation folder beside both is left out; beside train alone it is the test data.
    """
    tree = open_tree(files["archive"])
    members = [name for name in tree.names if _is_image(name)]
    if others := len(tree.names) - len(members):
        logger.info("%s: %d files that are not images are left out", tree.label, others)
    return _image_folder(tree, members, upright=True)


def _image_folder(tree: Tree, members: Iterable[str], *, upright: bool) -> ImageDataset:
    """Images whose first folder below the root (and below the split's folder) is the class."""
    members = sorted(members, key=_natural)
    if not members:
        raise UserError(
            f"there are no images in it ({', '.join(IMAGE_SUFFIXES)})",
            where=tree.label,
            remedy="put images of two or more classes there, in a folder a class",
        )
    paths = _without_root([tuple(member.split("/")) for member in members])
    top = {path[0].lower() for path in paths if len(path) > 1}
    parts = _split_folders(top)
    if parts is None and top & TRAIN_FOLDERS and top & (TEST_FOLDERS | VALIDATION_FOLDERS):
        stray = sorted(top - TRAIN_FOLDERS - TEST_FOLDERS - VALIDATION_FOLDERS)
        if any(len(path) > 2 for path in paths if path[0].lower() in TRAIN_FOLDERS):
            raise _misshapen(Path(tree.label), f"the folder {stray[0]!r} stands beside the train folder")
    depth = 2 if parts is None else 3
    chosen, labels, split = [], [], []
    for member, path in zip(members, paths, strict=True):
        if len(path) < depth:
            raise _misshapen(
                Path(tree.label),
                "there are no class folders" if not top else f"the image {member} is in no class folder",
            )
        part = "" if parts is None else parts[path[0].lower()]
        if part is None:
            continue
        chosen.append(member)
        labels.append(path[depth - 2])
        split.append(part)
    if len(chosen) < len(members):
        logger.info("%s: %d validation images are left out", tree.label, len(members) - len(chosen))
    samples = _samples(chosen, labels, None if parts is None else split, where=tree.label)
    return EncodedImages(samples, tree, tuple(chosen), upright=upright)


def _without_root(paths: list[tuple[str, ...]]) -> list[tuple[str, ...]]:
    """Drop the folders that all paths share, as long as a folder is left for the class."""
    while min(len(path) for path in paths) > 2 and len({path[0] for path in paths}) == 1:
        paths = [path[1:] for path in paths]
    return paths


def _split_folders(top: set[str]) -> dict[str, str | None] | None:
    """The part of the split that each top folder holds (None: left out), or None if there is no split."""
    if not top & TRAIN_FOLDERS or top - TRAIN_FOLDERS - TEST_FOLDERS - VALIDATION_FOLDERS:
        return None
    test = TEST_FOLDERS if top & TEST_FOLDERS else VALIDATION_FOLDERS
    if not top & test:
        return None
    return {name: "train" if name in TRAIN_FOLDERS else "test" if name in test else None for name in top}


# --- arrays ---


def _read_arrays(files: Mapping[str, Path], options: Mapping[str, Any]) -> ArrayDataset:
    """Features and labels from one archive or table, or from two `.npy` files."""
    if "features" in files:
        if options:
            raise UserError(
                f"two .npy files have no names in them for {', '.join(sorted(options))} to choose from",
                where=str(files["features"]),
                remedy="leave the options out, or use an .npz or .safetensors file",
            )
        features = _load_npy(files["features"])
        return _array_dataset(features, _load_npy(files["labels"]), None, files["features"], files["labels"])
    path = files["archive"]
    if path.suffix == ".npz":
        return _from_mapping(path, _load_npz(path), options)
    if path.suffix == ".safetensors":
        return _from_mapping(path, _load_safetensors(path), options)
    if path.name.endswith((".csv", ".csv.gz")):
        return _from_table(path, _load_csv(path, options), options)
    if path.suffix == ".parquet":
        return _from_table(path, _load_parquet(path), options)
    raise UserError(
        f"arrays can't be read from a file that ends in {path.suffix!r}",
        where=str(path),
        remedy="use .npz, .safetensors, .csv, .csv.gz or .parquet, or `features` and `labels` as .npy files",
    )


def _load_npy(path: Path) -> Array:
    try:
        loaded = np.load(path, allow_pickle=False)
    except (OSError, ValueError, EOFError, zipfile.BadZipFile) as error:
        raise _damaged(path, error) from error
    if not isinstance(loaded, np.ndarray):
        raise _misshapen(path, "it is an archive of arrays, not one array")
    return loaded


def _load_npz(path: Path) -> dict[str, Array]:
    try:
        with np.load(path, allow_pickle=False) as loaded:
            return dict(loaded)
    except (OSError, ValueError, EOFError, TypeError, zipfile.BadZipFile, zlib.error) as error:
        raise _damaged(path, error) from error


def _load_safetensors(path: Path) -> dict[str, Array]:
    try:
        return safetensors.numpy.load_file(path)
    except (OSError, ValueError, TypeError, KeyError, safetensors.SafetensorError) as error:
        raise _damaged(path, error) from error


def _load_csv(path: Path, options: Mapping[str, Any]) -> pd.DataFrame:
    """Read a CSV with its label and split columns as text: a class may be called 01 or NA."""
    try:
        columns = [str(column) for column in pd.read_csv(path, nrows=0).columns]
        text = {_table_label(path, columns, options), options.get("split_key", "split")} & set(columns)
        missing = {
            column: ["", "NA", "N/A", "nan", "NaN", "null"] for column in columns if column not in text
        }
        return pd.read_csv(
            path, dtype=dict.fromkeys(text, str), keep_default_na=False, na_values=missing, low_memory=False
        )
    except (ValueError, OSError, EOFError, zlib.error) as error:
        raise _damaged(path, error) from error


def _load_parquet(path: Path) -> pd.DataFrame:
    try:
        table = pd.read_parquet(path)
    except (ValueError, OSError, pa.ArrowException) as error:
        raise _damaged(path, error) from error
    return table.rename(columns=str)


def _table_label(path: Path, columns: Sequence[str], options: Mapping[str, Any]) -> str:
    return _key(path, columns, options.get("label_key"), ("label", "labels"), "label_key", "column")


def _from_mapping(path: Path, arrays: Mapping[str, Array], options: Mapping[str, Any]) -> ArrayDataset:
    features = _key(path, arrays, options.get("features_key"), ("features",), "features_key", "array")
    labels = _key(path, arrays, options.get("label_key"), ("labels", "label"), "label_key", "array")
    split = options.get("split_key", "split" if "split" in arrays else None)
    parts = None if split is None else arrays[_key(path, arrays, split, (), "split_key", "array")]
    return _array_dataset(arrays[features], arrays[labels], parts, path, path)


def _from_table(path: Path, table: pd.DataFrame, options: Mapping[str, Any]) -> ArrayDataset:
    if "features_key" in options:
        raise UserError(
            "a table has no `features_key`: every column but the label and the split is a feature",
            where=str(path),
            remedy="leave the option out",
        )
    columns = list(table.columns)
    label = _table_label(path, columns, options)
    split = options.get("split_key", "split" if "split" in columns else None)
    if split is not None:
        split = _key(path, columns, split, (), "split_key", "column")
    features = table.drop(columns=[label] if split is None else [label, split])
    for column in features.columns:
        if len(features) and not pd.api.types.is_numeric_dtype(features[column]):
            rest = pd.to_numeric(features[column], errors="coerce").isna()
            row = int(np.flatnonzero(rest)[0]) if rest.any() else 0
            raise UserError(
                f"column {column!r}, row {row} (from 0) is {features[column].iloc[row]!r}, not a number",
                where=str(path),
                remedy="encode the column as numbers or leave it out of the file",
            )
    with np.errstate(over="ignore"):  # as in _array_dataset
        values = features.to_numpy(dtype=np.float32, na_value=np.nan)
    parts = None if split is None else table[split].to_numpy(dtype=object)
    labels = table[label].to_numpy(dtype=object)
    return _array_dataset(values, labels, parts, path, path, columns=[str(name) for name in features.columns])


def _key(
    path: Path, known: Iterable[str], given: str | None, defaults: Sequence[str], option: str, what: str
) -> str:
    """The name to use: the one given, or the first of the defaults that is there."""
    known = list(known)
    wanted = defaults if given is None else (given,)
    for name in wanted:
        if name in known:
            return name
    raise UserError(
        f"it has no {what} {wanted[0]!r}{_nearest(wanted[0], known)}",
        where=str(path),
        remedy=f"set `{option}` of the data set to one of: {', '.join(known[:20])}",
    )


def _array_dataset(
    features: Array,
    labels: Array,
    split: Array | None,
    path: Path,
    label_path: Path,
    columns: Sequence[str] | None = None,
) -> ArrayDataset:
    if features.ndim != 2 or features.shape[1] == 0 or features.dtype.kind not in "fiub":
        raise _misshapen(path, f"features are {features.dtype} of shape {features.shape}, not numbers (n, d)")
    if labels.shape != features.shape[:1]:
        raise _misshapen(label_path, f"labels have shape {labels.shape}, features {features.shape}")
    if split is not None and split.shape != labels.shape:
        raise _misshapen(path, f"the split has shape {split.shape}, features {features.shape}")
    with np.errstate(over="ignore"):  # a value beyond float32 becomes infinite and is reported as such
        single = np.ascontiguousarray(features, dtype=np.float32)
    _refuse_non_finite(single, path, columns)
    parts = None if split is None else _parts(split, path)
    samples = _samples(_numbered("", len(labels)), _strings(labels, label_path), parts, where=str(label_path))
    return ArrayDataset(samples, single)


def _refuse_non_finite(features: npt.NDArray[np.float32], path: Path, columns: Sequence[str] | None) -> None:
    for start in range(0, len(features), CHUNK):
        rows, found = np.nonzero(~np.isfinite(features[start : start + CHUNK]))
        if len(rows):
            row, index = start + int(rows[0]), int(found[0])
            column = str(index) if columns is None else repr(columns[index])
            raise UserError(
                f"column {column}, row {row} (from 0) is {features[row, index]} in float32",
                where=str(path),
                remedy="fill in or leave out missing and infinite values",
            )


def _parts(split: Array, path: Path) -> list[str]:
    """The split as 'train'/'test': given so, or as 0 and 1 where an array can't hold text."""
    names = {"train": "train", "test": "test", "0": "train", "1": "test", "False": "train", "True": "test"}
    texts = _strings(split, path)
    if unknown := sorted(set(texts) - names.keys()):
        raise UserError(
            f"the split has the value {unknown[0]!r}",
            where=str(path),
            remedy="use 'train' and 'test' (or 0 and 1); leave other rows out of the file",
        )
    return [names[text] for text in texts]


def _strings(labels: Array, path: Path | None = None) -> list[str]:
    """Labels as class names, 3.0 as 3; a missing label is the user's error."""
    values = labels.tolist()
    for row, value in enumerate(values):
        if value is None or value is pd.NA or value == "" or value != value:
            raise UserError(
                f"the label of row {row} (from 0) is missing",
                where=str(path),
                remedy="give every row a label, or leave the row out of the file",
            )
    return [_class_name(value) for value in values]


def _class_name(label: Any) -> str:
    if isinstance(label, bytes):
        return label.decode("utf-8", "replace")
    return str(int(label)) if isinstance(label, float) and label.is_integer() else str(label)


# --- what all kinds share ---


def _samples(
    names: Iterable[str],
    labels: Sequence[str],
    split: Sequence[str] | None,
    *,
    where: str,
    classes: Sequence[str] | None = None,
) -> Samples:
    """Index the labels by class and check that every class can be both trained on and tested."""
    classes = _ordered(set(labels)) if classes is None else classes
    position = {name: index for index, name in enumerate(classes)}
    samples = Samples(
        names=tuple(names),
        labels=np.array([position[label] for label in labels], dtype=np.int64),
        classes=tuple(classes),
        split=np.array([""] * len(labels) if split is None else list(split), dtype="<U5"),
    )
    counts = Counter(labels)
    if twice := [name for name, count in Counter(samples.names).items() if count > 1]:
        raise UserError(f"{twice[0]!r} is listed twice", where=where, remedy="list every sample once")
    if not labels:
        raise UserError("the data set is empty", where=where, remedy="give it samples of two or more classes")
    if len(counts) < 2:
        raise UserError(
            f"there is only one class, {labels[0]!r}",
            where=where,
            remedy="give it samples of two or more classes",
        )
    if split is None:
        if single := [name for name in classes if counts[name] < 2]:
            raise UserError(
                f"{len(single)} classes have fewer than two samples, first {single[0]!r}, "
                "so that training and test data can't both have one",
                where=where,
                remedy="add samples of these classes or leave the classes out",
            )
        return samples
    for part in ("train", "test"):
        present = set(np.unique(samples.labels[samples.split == part]).tolist())
        if absent := [name for name in classes if position[name] not in present]:
            raise UserError(
                f"{len(absent)} classes have no {part} sample, first {absent[0]!r}",
                where=where,
                remedy=f"add {part} samples of these classes or leave the classes out",
            )
    return samples


def _ordered(classes: Iterable[str]) -> list[str]:
    """Class names in numeric order if all are numbers, else in natural order."""
    names = list(classes)
    try:
        return sorted(names, key=lambda name: (float(name), name))
    except ValueError:
        return sorted(names, key=_natural)


def _natural(text: str) -> tuple[list[tuple[int, int, str]], str]:
    """Sort key that puts a2 before a10; the text itself decides between equals such as a1 and a01."""
    pieces = [
        (0, int(piece), "") if piece.isascii() and piece.isdecimal() else (1, 0, piece)
        for piece in re.split(r"([0-9]+)", text)
    ]
    return pieces, text


def _numbered(prefix: str, count: int) -> list[str]:
    width = len(str(max(count - 1, 0)))
    return [f"{prefix}{index:0{width}d}" for index in range(count)]


def _chosen(indices: Sequence[int] | None, count: int) -> list[int]:
    """The given indices in order, once each; IndexError if one isn't in 0..count-1."""
    if indices is None:
        return list(range(count))
    chosen = sorted({int(index) for index in indices})
    if chosen and not 0 <= chosen[0] <= chosen[-1] < count:
        raise IndexError(f"no sample {chosen[0] if chosen[0] < 0 else chosen[-1]} of {count}")
    return chosen


def _is_image(name: str) -> bool:
    return name.lower().endswith(IMAGE_SUFFIXES)


def _nearest(name: str, known: Iterable[str]) -> str:
    near = difflib.get_close_matches(name, list(known), n=3)
    return f" (near: {', '.join(near)})" if near else ""


def _damaged(path: Path, error: Exception) -> UserError:
    return UserError(
        f"the file can't be read: {error}",
        where=str(path),
        remedy="it is damaged, cut short or of another format: fetch or make it again",
    )


def _misshapen(path: Path, what: str) -> UserError:
    return UserError(
        what,
        where=str(path),
        remedy="compare it with the layout that README.md describes for this kind of data set",
    )


@dataclass(frozen=True)
class Kind:
    """A layout: how it is read, the alternative sets of files it needs, the options it knows."""

    read: Callable[[Mapping[str, Path], Mapping[str, Any]], ImageDataset | ArrayDataset]
    roles: tuple[tuple[str, ...], ...] = (("archive",),)
    options: frozenset[str] = frozenset()


KINDS: Mapping[str, Kind] = {
    "mnist_csv": Kind(_read_mnist_csv),
    "mnist_idx": Kind(
        _read_mnist_idx, roles=(("train_images", "train_labels", "test_images", "test_labels"),)
    ),
    "cifar10_binary": Kind(_read_cifar10_binary),
    "oxford_pet": Kind(_read_oxford_pet, roles=(("images", "annotations"),)),
    "caltech101": Kind(_read_caltech101),
    "image_folder": Kind(_read_image_folder),
    "arrays": Kind(
        _read_arrays,
        roles=(("archive",), ("features", "labels")),
        options=frozenset({"features_key", "label_key", "split_key"}),
    ),
}
"""What `open_dataset` knows, by kind."""
