"""Tiny data sets in each official layout, for tests. Every builder returns the files by role."""

from __future__ import annotations

import gzip
import io
import tarfile
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from PIL import Image

CIFAR_CLASSES = (
    "airplane",
    "automobile",
    "bird",
    "cat",
    "deer",
    "dog",
    "frog",
    "horse",
    "ship",
    "truck",
)


def image(colour: tuple[int, int, int] | int = (200, 30, 30), *, side: int = 8, form: str = "PNG") -> bytes:
    """A square image file of one colour (an int: grey)."""
    mode = "L" if isinstance(colour, int) else "RGB"
    stream = io.BytesIO()
    Image.new(mode, (side, side), colour).save(stream, form)
    return stream.getvalue()


def pack(path: Path, members: Mapping[str, bytes]) -> Path:
    """Write members as a zip or a tar(.gz, .bz2, .xz), by the suffix of `path`, else as a folder."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".zip":
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
            for name, content in members.items():
                archive.writestr(name, content)
    elif ".tar" in path.suffixes:
        compression = path.suffix[1:] if path.suffix != ".tar" else ""
        path.write_bytes(tar(members, compression))
    else:
        for name, content in members.items():
            (path / name).parent.mkdir(parents=True, exist_ok=True)
            (path / name).write_bytes(content)
    return path


def tar(members: Mapping[str, bytes], compression: str = "") -> bytes:
    """The bytes of a tar; `compression` is "", "gz", "bz2" or "xz"."""
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode=f"w:{compression}") as archive:  # type: ignore[call-overload]
        for name, content in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    return stream.getvalue()


def class_folders(
    classes: Sequence[str] = ("cat", "dog"), per_class: int = 2, prefix: str = ""
) -> dict[str, bytes]:
    """Members `<prefix><class>/<i>.png`; the red value of image i of class c is 10 c + i."""
    return {
        f"{prefix}{name}/{i}.png": image((10 * c + i, 0, 0))
        for c, name in enumerate(classes)
        for i in range(per_class)
    }


def mnist_csv(folder: Path, labels: Sequence[int] = (0, 1, 0, 1), *, side: int = 28) -> dict[str, Path]:
    """MNIST-5k: gzipped CSV of pixels and label; every pixel of row i is i."""
    lines = [",".join([str(row)] * side**2 + [str(label)]) for row, label in enumerate(labels)]
    path = folder / "mnist.csv.gz"
    path.write_bytes(gzip.compress(("\n".join(lines) + "\n").encode()))
    return {"archive": path}


def idx(values: np.ndarray) -> bytes:
    """An IDX file of unsigned bytes."""
    sizes = np.array(values.shape, ">u4").tobytes()
    return bytes([0, 0, 8, values.ndim]) + sizes + values.astype(np.uint8).tobytes()


def mnist_idx(folder: Path, *, train: int = 6, test: int = 4, zipped: bool = True) -> dict[str, Path]:
    """MNIST's four files: image i is all i, its label is i % 2."""
    files = {}
    for part, count in (("train", train), ("test", test)):
        numbers = np.arange(count)
        images = np.broadcast_to(numbers[:, None, None], (count, 28, 28))
        for what, values in (("images", images), ("labels", numbers % 2)):
            path = folder / f"{part}-{what}{'.gz' if zipped else ''}"
            content = idx(values)
            path.write_bytes(gzip.compress(content) if zipped else content)
            files[f"{part}_{what}"] = path
    return files


def cifar_members(*, per_batch: int = 10, test: int = 10) -> dict[str, bytes]:
    """The members of the binary CIFAR-10: label i % 10, then planes of red i, green 1, blue 2."""

    def batch(count: int) -> bytes:
        plane = 32 * 32
        return b"".join(
            bytes([i % 10]) + bytes([i]) * plane + bytes([1]) * plane + bytes([2]) * plane
            for i in range(count)
        )

    root = "cifar-10-batches-bin"
    members = {f"{root}/data_batch_{number}.bin": batch(per_batch) for number in range(1, 6)}
    members[f"{root}/test_batch.bin"] = batch(test)
    members[f"{root}/batches.meta.txt"] = ("\n".join(CIFAR_CLASSES) + "\n\n").encode()
    return members


def cifar10_binary(folder: Path) -> dict[str, Path]:
    """The archive cifar-10-binary.tar.gz with 50 training and 10 test images."""
    return {"archive": pack(folder / "cifar-10-binary.tar.gz", cifar_members())}


def oxford_pet(folder: Path) -> dict[str, Path]:
    """Oxford-IIIT Pet: two breeds, two training images and one test image each, and one unlisted image."""
    breeds = {1: "Abyssinian", 2: "american_bulldog"}
    images = {f"images/{b}_{i}.jpg": image(form="JPEG") for b in breeds.values() for i in (1, 2, 10)}
    images["images/Abyssinian_99.jpg"] = image()
    images["images/Abyssinian_100.mat"] = b"stray"
    trainval = "".join(f"{b}_{i} {c} 1 1\n" for c, b in breeds.items() for i in (10, 2))
    test = "".join(f"{b}_1 {c} 1 1\n" for c, b in breeds.items())
    lists = {
        "annotations/trainval.txt": ("#Image CLASS-ID SPECIES BREED ID\n" + trainval).encode(),
        "annotations/test.txt": test.encode(),
        "annotations/xmls/Abyssinian_1.xml": b"<annotation/>",
    }
    return {
        "images": pack(folder / "images.tar.gz", images),
        "annotations": pack(folder / "annotations.tar.gz", lists),
    }


def caltech101(folder: Path, *, nested: bool = True) -> dict[str, Path]:
    """Caltech-101: two categories of two images and the background; as the zip around the tar, or the tar."""
    root = "101_ObjectCategories/"
    members = class_folders(("accordion", "wild_cat"), prefix=root)
    members |= {f"{root}BACKGROUND_Google/image_0001.jpg": image(), f"{root}BACKGROUND_Google/tmp": b""}
    inner = pack(folder / "101_ObjectCategories.tar.gz", members)
    if not nested:
        return {"archive": inner}
    outer = {
        "caltech-101/101_ObjectCategories.tar.gz": inner.read_bytes(),
        "caltech-101/Annotations.tar": b"not read",
        "caltech-101/show_annotation.m": b"",
        "__MACOSX/caltech-101/._101_ObjectCategories.tar.gz": b"junk",
    }
    return {"archive": pack(folder / "caltech-101.zip", outer)}
