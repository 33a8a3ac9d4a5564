"""Data sets: every layout gives the right samples and pixels, and every defect a clear error."""

from __future__ import annotations

import gzip
import io
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import layouts
import numpy as np
import pandas as pd
import pytest
import safetensors.numpy
from PIL import Image
from real_data import mirror

from undue.data.datasets import ArrayDataset, ImageDataset, decode, open_dataset
from undue.errors import UserError


def images_of(kind: str, files: Mapping[str, Path]) -> ImageDataset:
    dataset = open_dataset(kind, files, {})
    assert not isinstance(dataset, ArrayDataset)
    return dataset


def arrays_of(files: Mapping[str, Path], **options: Any) -> ArrayDataset:
    dataset = open_dataset("arrays", files, options)
    assert isinstance(dataset, ArrayDataset)
    return dataset


def all_images(dataset: ImageDataset) -> dict[int, Image.Image]:
    images = list(dataset.images())
    assert sorted(index for index, _ in images) == list(range(len(dataset.samples.names)))
    return dict(images)


# --- official layouts ---


def test_mnist_csv(tmp_path: Path) -> None:
    dataset = images_of("mnist_csv", layouts.mnist_csv(tmp_path, [7, 0, 7, 0]))
    assert dataset.samples.classes == ("0", "7")
    assert dataset.samples.labels.tolist() == [1, 0, 1, 0]
    assert dataset.samples.labels.dtype == np.int64
    assert dataset.samples.split.tolist() == [""] * 4
    assert dataset.samples.names == ("0", "1", "2", "3")
    for index, image in all_images(dataset).items():
        assert (image.mode, image.size) == ("L", (28, 28))
        assert image.getpixel((3, 4)) == index


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("1,2,3,0\n1,2,3,1\n", "4 columns are not those of a square image"),
        ("0\n1\n", "1 columns"),
        ("1,2,3,256,0\n" * 2, r"not in 0\.\.255"),
        ("1,2,3,-1,0\n" * 2, r"not in 0\.\.255"),
        ("a,b,c,d,label\n1,2,3,4,0\n", "can't be read"),
        ("", "can't be read"),
    ],
)
def test_mnist_csv_defects(tmp_path: Path, text: str, why: str) -> None:
    path = tmp_path / "mnist.csv"
    path.write_text(text)
    with pytest.raises(UserError, match=why):
        open_dataset("mnist_csv", {"archive": path}, {})


@pytest.mark.parametrize("zipped", [True, False])
def test_mnist_idx(tmp_path: Path, zipped: bool) -> None:
    dataset = images_of("mnist_idx", layouts.mnist_idx(tmp_path, train=11, test=4, zipped=zipped))
    samples = dataset.samples
    assert samples.names[:2] == ("train/00", "train/01")
    assert samples.names[-1] == "test/3"
    assert Counter(samples.split.tolist()) == {"train": 11, "test": 4}
    assert samples.labels.tolist() == [i % 2 for i in range(11)] + [0, 1, 0, 1]
    images = all_images(dataset)
    assert images[10].getpixel((0, 0)) == 10
    assert images[11 + 3].getpixel((0, 0)) == 3


def test_mnist_idx_defects(tmp_path: Path) -> None:
    files = layouts.mnist_idx(tmp_path, zipped=False)
    images, labels = files["train_images"].read_bytes(), files["train_labels"].read_bytes()

    def refused(role: str, content: bytes, why: str) -> None:
        kept = files[role].read_bytes()
        files[role].write_bytes(content)
        with pytest.raises(UserError, match=why) as error:
            open_dataset("mnist_idx", files, {})
        assert str(files[role]) in str(error.value)
        files[role].write_bytes(kept)

    refused("train_images", images[:-1], "4704 values and it holds 4703")
    refused("train_images", images + b"\0", "holds at least 4705")
    refused("train_images", labels, "not an IDX file")
    refused("train_images", b"", "not an IDX file")
    refused("train_images", gzip.compress(images)[:-20], "can't be read")
    refused("train_labels", layouts.idx(np.arange(5) % 2), "5 labels for 6 images")
    refused("test_images", layouts.idx(np.zeros((4, 27, 28))), "not of the size")


def test_cifar10_binary(tmp_path: Path) -> None:
    dataset = images_of("cifar10_binary", layouts.cifar10_binary(tmp_path))
    samples = dataset.samples
    assert samples.classes == layouts.CIFAR_CLASSES
    assert Counter(samples.split.tolist()) == {"train": 50, "test": 10}
    assert samples.labels.tolist() == list(range(10)) * 6
    assert samples.names[10] == "train/10"
    image = all_images(dataset)[13]
    assert (image.mode, image.size) == ("RGB", (32, 32))
    assert image.getpixel((31, 0)) == (3, 1, 2)


def test_cifar10_planes_are_rows_of_pixels(tmp_path: Path) -> None:
    members = layouts.cifar_members()
    plane = np.arange(1024, dtype=np.uint16).reshape(32, 32) % 251
    members["cifar-10-batches-bin/test_batch.bin"] = b"".join(
        bytes([i]) + plane.astype(np.uint8).tobytes() * 3 for i in range(10)
    )
    dataset = images_of("cifar10_binary", {"archive": layouts.pack(tmp_path / "c.tar.gz", members)})
    ((_, image),) = dataset.images([50])
    np.testing.assert_array_equal(np.asarray(image)[..., 1], plane)


@pytest.mark.parametrize(
    ("member", "change", "why"),
    [
        ("data_batch_3.bin", lambda b: b[:-1], r"data_batch_3\.bin has 30729 bytes"),
        ("data_batch_3.bin", lambda b: b[:-3073], r"data_batch_3\.bin has 9 images, data_batch_1\.bin 10"),
        ("test_batch.bin", lambda b: b"", r"test_batch\.bin has 0 bytes"),
        ("test_batch.bin", lambda b: b"\x0a" + b[1:], "label 10, but there are 10 classes"),
        ("test_batch.bin", None, r"it has no test_batch\.bin"),
        ("test_batch.bin", lambda b: b[3073:], "1 classes have no test sample, first 'airplane'"),
    ],
)
def test_cifar10_binary_defects(tmp_path: Path, member: str, change: Any, why: str) -> None:
    members = layouts.cifar_members()
    name = f"cifar-10-batches-bin/{member}"
    content = members.pop(name)
    if change is not None:
        members[name] = change(content)
    with pytest.raises(UserError, match=why):
        open_dataset("cifar10_binary", {"archive": layouts.pack(tmp_path / "c.tar.gz", members)}, {})


def test_oxford_pet(tmp_path: Path) -> None:
    dataset = images_of("oxford_pet", layouts.oxford_pet(tmp_path))
    samples = dataset.samples
    assert samples.classes == ("Abyssinian", "american_bulldog")
    assert samples.names == (
        "Abyssinian_10",
        "Abyssinian_2",
        "american_bulldog_10",
        "american_bulldog_2",
        "Abyssinian_1",
        "american_bulldog_1",
    )
    assert samples.split.tolist() == ["train"] * 4 + ["test"] * 2
    assert samples.labels.tolist() == [0, 0, 1, 1, 0, 1]
    assert {image.mode for image in all_images(dataset).values()} == {"RGB"}


@pytest.mark.parametrize(
    ("line", "why"),
    [
        ("Abyssinian_7 1 1 1", "1 listed images are missing, first Abyssinian_7.jpg"),
        ("beagle_1 1 1 1", "class 1 is both Abyssinian and beagle"),
        ("Abyssinian", "has the line 'Abyssinian'"),
        ("Abyssinian_1 1 1 1", "'Abyssinian_1' is listed twice"),
    ],
)
def test_oxford_pet_defects(tmp_path: Path, line: str, why: str) -> None:
    files = layouts.oxford_pet(tmp_path)
    lists = {
        "trainval.txt": f"Abyssinian_1 1 1 1\namerican_bulldog_1 2 1 1\n{line}\n".encode(),
        "test.txt": b"Abyssinian_2 1 1 1\namerican_bulldog_2 2 1 1\n",
    }
    files["annotations"] = layouts.pack(tmp_path / "lists", lists)
    with pytest.raises(UserError, match=why):
        open_dataset("oxford_pet", files, {})
    (tmp_path / "lists" / "test.txt").unlink()
    with pytest.raises(UserError, match=r"it has no test\.txt"):
        open_dataset("oxford_pet", files, {})


@pytest.mark.parametrize("nested", [True, False])
def test_caltech101(tmp_path: Path, nested: bool) -> None:
    dataset = images_of("caltech101", layouts.caltech101(tmp_path, nested=nested))
    assert dataset.samples.classes == ("accordion", "wild_cat")
    assert dataset.samples.names == tuple(
        f"101_ObjectCategories/{name}/{i}.png" for name in ("accordion", "wild_cat") for i in range(2)
    )
    assert [all_images(dataset)[i].getpixel((0, 0)) for i in range(4)] == [
        (0, 0, 0),
        (1, 0, 0),
        (10, 0, 0),
        (11, 0, 0),
    ]


# --- class folders ---


@pytest.mark.parametrize("container", ["d.zip", "d.tar", "d.tar.gz", "d.tar.bz2", "d.tar.xz", "d"])
@pytest.mark.parametrize("root", ["", "root/", "root/deeper/"])
def test_image_folder(tmp_path: Path, container: str, root: str) -> None:
    members = layouts.class_folders(("b10", "b2"), per_class=12, prefix=root) | {f"{root}README": b"hello"}
    dataset = images_of("image_folder", {"archive": layouts.pack(tmp_path / container, members)})
    samples = dataset.samples
    assert samples.classes == ("b2", "b10")
    assert samples.names[:2] == (f"{root}b2/0.png", f"{root}b2/1.png")
    assert samples.names[11] == f"{root}b2/11.png"
    assert samples.labels.tolist() == [0] * 12 + [1] * 12
    assert set(samples.split.tolist()) == {""}
    images = all_images(dataset)
    assert images[2].getpixel((0, 0)) == (12, 0, 0)
    assert images[12].getpixel((0, 0)) == (0, 0, 0)
    assert sorted(index for index, _ in dataset.images([20, 3, 3])) == [3, 20]
    assert list(dataset.images([])) == []
    with pytest.raises(IndexError, match="no sample 24 of 24"):
        list(dataset.images([24]))
    with pytest.raises(IndexError, match="no sample -1 of 24"):
        list(dataset.images([-1]))


@pytest.mark.parametrize("root", ["", "root/"])
@pytest.mark.parametrize(
    ("folders", "expected"),
    [
        (("train", "test"), {"train": 4, "test": 4}),
        (("Training", "Testing"), {"train": 4, "test": 4}),
        (("train", "test", "val"), {"train": 4, "test": 4}),
        (("train", "val"), {"train": 4, "test": 4}),
        (("train",), {"": 4}),
    ],
)
def test_official_split_of_an_image_folder(
    tmp_path: Path, root: str, folders: tuple[str, ...], expected: dict[str, int]
) -> None:
    members: dict[str, bytes] = {}
    for folder in folders:
        members |= layouts.class_folders(prefix=f"{root}{folder}/")
    samples = images_of("image_folder", {"archive": layouts.pack(tmp_path / "d.zip", members)}).samples
    assert Counter(samples.split.tolist()) == expected
    assert samples.classes == ("cat", "dog")
    assert not any("val/" in name for name in samples.names if "test" in folders)
    for name, part in zip(samples.names, samples.split.tolist(), strict=True):
        assert part == "" or (part == "train") == ("rain" in name.split("/")[-3])


def test_train_and_test_can_be_classes(tmp_path: Path) -> None:
    members = layouts.class_folders(("car", "test", "train"))
    samples = images_of("image_folder", {"archive": layouts.pack(tmp_path / "d", members)}).samples
    assert samples.classes == ("car", "test", "train")


def test_numeric_class_folders_are_in_numeric_order(tmp_path: Path) -> None:
    members = layouts.class_folders(("10", "9", "-1", "1.5"))
    samples = images_of("image_folder", {"archive": layouts.pack(tmp_path / "d", members)}).samples
    assert samples.classes == ("-1", "1.5", "9", "10")


@pytest.mark.parametrize(
    ("members", "why"),
    [
        ({"a.png": b"", "b.png": b""}, "there are no class folders"),
        ({"a/1.png": b"", "b/1.png": b"", "c.png": b""}, r"the image c\.png is in no class folder"),
        ({"train/1.png": b"", "test/a/1.png": b""}, r"the image train/1\.png is in no class folder"),
        ({"a/notes.txt": b""}, "there are no images in it"),
        ({"a/1.png": b"", "a/2.png": b""}, "there is only one class, 'a'"),
        (
            {"a/1.png": b"", "a/2.png": b"", "b/1.png": b""},
            "1 classes have fewer than two samples, first 'b'",
        ),
        (layouts.class_folders(("a", "b"), 1, "train/") | {"test/a/1.png": b""}, "no test sample, first 'b'"),
        (
            layouts.class_folders(("a", "b"), 1, "test/") | {"train/a/1.png": b""},
            "no train sample, first 'b'",
        ),
        (
            {"train/a/1.png": b"", "test/a/1.png": b"", "extra/a/1.png": b""},
            "the folder 'extra' stands beside the train folder",
        ),
    ],
)
def test_image_folder_defects(tmp_path: Path, members: dict[str, bytes], why: str) -> None:
    for container in ("d.tar.gz", "d"):
        path = layouts.pack(tmp_path / container, members)
        with pytest.raises(UserError, match=why) as error:
            open_dataset("image_folder", {"archive": path}, {})
        assert str(path) in str(error.value)


def test_one_train_sample_a_class_is_enough_with_a_split(tmp_path: Path) -> None:
    members = layouts.class_folders(per_class=1, prefix="train/") | layouts.class_folders(
        per_class=1, prefix="test/"
    )
    samples = images_of("image_folder", {"archive": layouts.pack(tmp_path / "d", members)}).samples
    assert len(samples.names) == 4


def test_an_empty_folder(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="there are no images"):
        open_dataset("image_folder", {"archive": tmp_path}, {})


@pytest.mark.parametrize("content", [b"", b"no image", layouts.image(form="JPEG", side=64)[:-200]])
def test_undecodable_image_is_named(tmp_path: Path, content: bytes) -> None:
    members = layouts.class_folders() | {"dog/bad.png": content}
    path = layouts.pack(tmp_path / "d.zip", members)
    dataset = images_of("image_folder", {"archive": path})
    with pytest.raises(UserError, match="can't be decoded") as error:
        all_images(dataset)
    assert f"{path}: dog/bad.png" in str(error.value)


# --- decoding ---


def encoded(image: Image.Image, form: str = "PNG", **options: Any) -> bytes:
    stream = io.BytesIO()
    image.save(stream, form, **options)
    return stream.getvalue()


@pytest.mark.parametrize(
    ("image", "mode", "pixel"),
    [
        (Image.new("L", (2, 2), 7), "L", 7),
        (Image.new("1", (2, 2), 1), "L", 255),
        (Image.new("LA", (2, 2), (7, 0)), "L", 7),
        (Image.new("RGBA", (2, 2), (1, 2, 3, 0)), "RGB", (1, 2, 3)),
        (Image.new("RGB", (2, 2), (1, 2, 3)).convert("P", palette=Image.Palette.ADAPTIVE), "RGB", (1, 2, 3)),
        (Image.fromarray(np.full((2, 2), 0x7FFF, np.uint16)), "L", 0x7F),
    ],
)
def test_modes(image: Image.Image, mode: str, pixel: Any) -> None:
    decoded = decode(encoded(image), where="x", upright=True)
    assert decoded.mode == mode
    assert decoded.getpixel((0, 0)) == pixel


def test_orientation_is_kept_or_applied() -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned by 90 degrees
    content = encoded(Image.new("RGB", (4, 2)), "JPEG", exif=exif)
    assert decode(content, where="x", upright=False).size == (4, 2)
    assert decode(content, where="x", upright=True).size == (2, 4)


def test_other_formats_and_absurd_sizes_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UserError, match="can't be decoded"):
        decode(encoded(Image.new("RGB", (4, 4)), "PCX"), where="x", upright=True)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 10)
    with pytest.raises(UserError, match="can't be decoded"):
        decode(encoded(Image.new("RGB", (5, 5))), where="x", upright=True)


# --- arrays ---

FEATURES = np.arange(12, dtype=np.float64).reshape(6, 2)
LABELS = np.array([2, 10, 2, 10, 2, 10])
SPLIT = np.array(["train", "train", "train", "train", "test", "test"])


def write_arrays(path: Path, arrays: Mapping[str, Any]) -> dict[str, Path]:
    """The same data in any of the formats, by suffix."""
    name = path.name
    if name.endswith(".npz"):
        np.savez(path, **arrays)
    elif name.endswith(".safetensors"):
        tensors = {key: np.asarray(value) for key, value in arrays.items()}
        tensors = {
            k: (v == "test").astype(np.uint8) if v.dtype.kind == "U" else v for k, v in tensors.items()
        }
        safetensors.numpy.save_file(tensors, path)
    else:
        columns: dict[str, Any] = {}
        for key, value in arrays.items():
            if np.ndim(value) == 2:
                columns |= {f"f{i}": value[:, i] for i in range(np.shape(value)[1])}
            else:
                columns[key.removesuffix("s")] = value
        table = pd.DataFrame(columns)
        if name.endswith(".parquet"):
            table.to_parquet(path)
        else:
            table.to_csv(path, index=False)
    return {"archive": path}


FORMATS = ["a.npz", "a.safetensors", "a.csv", "a.csv.gz", "a.parquet"]


@pytest.mark.parametrize("name", FORMATS)
@pytest.mark.parametrize("with_split", [True, False])
def test_arrays(tmp_path: Path, name: str, with_split: bool) -> None:
    arrays: dict[str, Any] = {"features": FEATURES, "labels": LABELS}
    if with_split:
        arrays["split"] = SPLIT
    dataset = arrays_of(write_arrays(tmp_path / name, arrays))
    assert dataset.features.dtype == np.float32
    np.testing.assert_array_equal(dataset.features, FEATURES)
    assert dataset.samples.classes == ("2", "10")
    assert dataset.samples.labels.tolist() == [0, 1] * 3
    assert dataset.samples.split.tolist() == (SPLIT.tolist() if with_split else [""] * 6)
    assert dataset.samples.names == tuple("012345")


@pytest.mark.parametrize("labels", [LABELS, np.array(list("babaab")), LABELS.astype(float), LABELS == 2])
def test_npy_pair(tmp_path: Path, labels: np.ndarray) -> None:
    files = {"features": tmp_path / "x.npy", "labels": tmp_path / "y.npy"}
    np.save(files["features"], FEATURES.astype(np.float16))
    np.save(files["labels"], labels)
    dataset = arrays_of(files)
    np.testing.assert_array_equal(dataset.features, FEATURES)
    names = [dataset.samples.classes[i] for i in dataset.samples.labels]
    assert names == [str(int(v)) if isinstance(v, float) else str(v) for v in labels.tolist()]
    with pytest.raises(UserError, match="no names in them for label_key"):
        arrays_of(files, label_key="y")
    np.save(files["labels"], labels[:-1])
    with pytest.raises(UserError, match=r"labels have shape \(5,\), features \(6, 2\)"):
        arrays_of(files)
    with files["labels"].open("wb") as file:  # an archive of arrays under the name of an array
        np.savez(file, y=labels)
    with pytest.raises(UserError, match="archive of arrays"):
        arrays_of(files)


@pytest.mark.parametrize("name", ["a.npz", "a.safetensors"])
def test_keys_of_array_files(tmp_path: Path, name: str) -> None:
    files = write_arrays(tmp_path / name, {"x": FEATURES, "target": LABELS, "fold": SPLIT})
    dataset = arrays_of(files, features_key="x", label_key="target", split_key="fold")
    assert dataset.samples.split.tolist() == SPLIT.tolist()
    with pytest.raises(UserError, match="it has no array 'features'"):
        arrays_of(files, label_key="target")
    with pytest.raises(UserError, match=r"no array 'tarjet' \(near: target\)"):
        arrays_of(files, features_key="x", label_key="tarjet")
    with pytest.raises(UserError, match=r"no array 'folds' \(near: fold\)"):
        arrays_of(files, features_key="x", label_key="target", split_key="folds")


@pytest.mark.parametrize("name", ["a.csv", "a.parquet"])
def test_keys_of_tables(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    table = pd.DataFrame({"income": [1, 2, 3, 4], "class": ["b", "a", "b", "a"], "age": [0.5, 1, 2, 3]})
    table.to_csv(path, index=False) if name == "a.csv" else table.to_parquet(path)
    dataset = arrays_of({"archive": path}, label_key="class")
    assert dataset.features.tolist() == [[1, 0.5], [2, 1], [3, 2], [4, 3]]
    assert dataset.samples.labels.tolist() == [1, 0, 1, 0]
    with pytest.raises(UserError, match=r"no column 'clas' \(near: class\)"):
        arrays_of({"archive": path}, label_key="clas")
    with pytest.raises(UserError, match="no column 'label'") as error:
        arrays_of({"archive": path})
    assert "income, class, age" in str(error.value)
    with pytest.raises(UserError, match="no column 'part'"):
        arrays_of({"archive": path}, label_key="class", split_key="part")
    with pytest.raises(UserError, match="a table has no `features_key`"):
        arrays_of({"archive": path}, label_key="class", features_key="x")


def test_csv_labels_stay_as_they_are_written(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_text("x,label\n1,NA\n2,01\n3,NA\n4,01\n")
    assert arrays_of({"archive": path}).samples.classes == ("01", "NA")


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf, 1e39])
@pytest.mark.parametrize("name", FORMATS)
def test_values_that_are_not_finite_are_named(tmp_path: Path, name: str, value: float) -> None:
    features = np.ones((5000, 3))
    features[4500, 1] = value
    files = write_arrays(tmp_path / name, {"features": features, "labels": np.arange(5000) % 2})
    column = "'f1'" if "csv" in name or "parquet" in name else "1"
    with pytest.raises(UserError, match=f"column {column}, row 4500 .* is -?(nan|inf)") as error:
        arrays_of(files)
    assert str(files["archive"]) in str(error.value)


def test_constant_features_are_fine(tmp_path: Path) -> None:
    arrays_of(write_arrays(tmp_path / "a.npz", {"features": np.zeros((4, 2)), "labels": [0, 1, 0, 1]}))


@pytest.mark.parametrize(
    ("arrays", "why"),
    [
        ({"features": FEATURES[0], "labels": LABELS}, r"float64 of shape \(2,\), not numbers"),
        ({"features": FEATURES[:, :0], "labels": LABELS}, r"shape \(6, 0\)"),
        ({"features": FEATURES.astype(complex), "labels": LABELS}, "complex128"),
        ({"features": FEATURES.astype(str), "labels": LABELS}, "<U32"),
        ({"features": FEATURES, "labels": LABELS[:, None]}, r"labels have shape \(6, 1\)"),
        ({"features": FEATURES, "labels": LABELS[:5]}, r"labels have shape \(5,\)"),
        ({"features": FEATURES, "labels": np.float64(1)}, r"labels have shape \(\)"),
        ({"features": FEATURES, "labels": LABELS, "split": SPLIT[:5]}, r"split has shape \(5,\)"),
        (
            {"features": FEATURES, "labels": LABELS, "split": ["train", "dev"] * 3},
            "split has the value 'dev'",
        ),
        (
            {"features": FEATURES, "labels": LABELS, "split": ["train", "test"] * 3},
            "no train sample, first '10'",
        ),
        ({"features": FEATURES, "labels": [1, 1, 1, 2, 2, np.nan]}, "label of row 5 .* is missing"),
        ({"features": FEATURES, "labels": [1] * 6}, "only one class, '1'"),
        ({"features": FEATURES, "labels": [1, 1, 1, 2, 2, 3]}, "fewer than two samples, first '3'"),
        ({"features": FEATURES[:0], "labels": LABELS[:0]}, "the data set is empty"),
        ({"features": FEATURES, "labels": np.array([None] * 6)}, "can't be read"),  # would need pickle
    ],
)
def test_array_defects(tmp_path: Path, arrays: dict[str, Any], why: str) -> None:
    with pytest.raises(UserError, match=why) as error:
        arrays_of(write_arrays(tmp_path / "a.npz", arrays))
    assert str(tmp_path / "a.npz") in str(error.value)


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("x,label\n1,a\nlow,b\n", "column 'x', row 1 .* is 'low', not a number"),
        ("x,label\n1,a\n,b\n", "column 'x', row 1 .* is nan"),
        ("x,label\n1,a\n2,\n", "label of row 1 .* is missing"),
        ("x,label\n", "the data set is empty"),
        ("label\na\nb\n", r"shape \(2, 0\)"),
        ("", "can't be read"),
        ("x,label\n1,a\n1,2,3,4\n", "can't be read"),
    ],
)
def test_csv_defects(tmp_path: Path, text: str, why: str) -> None:
    (tmp_path / "a.csv").write_text(text)
    with pytest.raises(UserError, match=why):
        arrays_of({"archive": tmp_path / "a.csv"})


def test_parquet_text_columns_and_missing_values(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    pd.DataFrame({"x": ["1", "2"], "label": [0, 1]}).to_parquet(path)
    with pytest.raises(UserError, match=r"column 'x', row 0 .* is '1', not a number"):
        arrays_of({"archive": path})
    pd.DataFrame({"x": pd.array([1, None], "Int64"), "label": [0, 1]}).to_parquet(path)
    with pytest.raises(UserError, match=r"column 'x', row 1 .* is nan"):
        arrays_of({"archive": path})
    pd.DataFrame({"x": [1, 2], "label": pd.array([0, None], "Int64")}).to_parquet(path)
    with pytest.raises(UserError, match=r"label of row 1 .* is missing"):
        arrays_of({"archive": path})


@pytest.mark.parametrize("name", FORMATS)
def test_damaged_array_files(tmp_path: Path, name: str) -> None:
    files = write_arrays(tmp_path / name, {"features": FEATURES, "labels": LABELS})
    content = files["archive"].read_bytes()
    for bad in (b"", b"\0\1\2" * 50, content[: len(content) // 2] if name != "a.csv" else b""):
        files["archive"].write_bytes(bad)
        with pytest.raises(UserError):
            arrays_of(files)


def test_other_suffixes_are_refused(tmp_path: Path) -> None:
    (tmp_path / "a.pkl").write_bytes(b"")
    with pytest.raises(UserError, match=r"ends in '\.pkl'"):
        arrays_of({"archive": tmp_path / "a.pkl"})


# --- the front door ---


def test_unknown_kind_role_option_and_missing_file(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"unknown kind of data set 'image_folders' \(near: image_folder\)"):
        open_dataset("image_folders", {"archive": tmp_path}, {})
    with pytest.raises(UserError, match=r"needs the files \{archive\}, not \{images\}"):
        open_dataset("image_folder", {"images": tmp_path}, {})
    with pytest.raises(UserError, match=r"\{archive\} or \{features, labels\}, not \{none\}"):
        open_dataset("arrays", {}, {})
    with pytest.raises(UserError, match=r"no option 'lable_key' \(near: label_key\)"):
        open_dataset("arrays", {"archive": tmp_path}, {"lable_key": "y"})
    with pytest.raises(UserError, match="no option 'label_key'"):
        open_dataset("image_folder", {"archive": tmp_path}, {"label_key": "y"})
    with pytest.raises(UserError, match=r"no such file or folder \(archive of"):
        open_dataset("image_folder", {"archive": tmp_path / "absent"}, {"label_key": None})


# --- the real ones ---


@pytest.mark.mirror
def test_real_cifar10_jpeg() -> None:
    path = mirror() / "cifar10" / "cifar10-jpeg.tar.xz"
    dataset = images_of("image_folder", {"archive": path})
    samples = dataset.samples
    assert samples.classes == layouts.CIFAR_CLASSES
    counts = Counter(zip(samples.split.tolist(), samples.labels.tolist(), strict=True))
    assert counts == {(s, c): n for s, n in (("train", 5000), ("test", 1000)) for c in range(10)}
    (index, image), *rest = dataset.images([7, 8])
    assert (index in (7, 8), image.size, image.mode, len(rest)) == (True, (32, 32), "RGB", 1)


@pytest.mark.mirror
@pytest.mark.parametrize("kind", ["image_folder", "caltech101"])
def test_real_caltech101(kind: str) -> None:
    path = mirror() / "caltech101" / "caltech101-s224-webp.tar"
    dataset = images_of(kind, {"archive": path})
    assert (len(dataset.samples.names), len(dataset.samples.classes)) == (8677, 101)
    assert min(next(iter(dataset.images([8676])))[1].size) <= 224


@pytest.mark.mirror
def test_real_mnist() -> None:
    folder = mirror() / "mnist"
    files = {
        f"{part}_{what}": folder / f"{stem}-{what}-idx{number}-ubyte.gz"
        for part, stem in (("train", "train"), ("test", "t10k"))
        for what, number in (("images", 3), ("labels", 1))
    }
    samples = images_of("mnist_idx", files).samples
    assert Counter(samples.split.tolist()) == {"train": 60000, "test": 10000}
    assert samples.labels[:5].tolist() == [5, 0, 4, 1, 9]
    assert samples.classes == tuple("0123456789")
