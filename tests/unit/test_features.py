"""Feature extraction against what it must compute, whatever the batches, the order and the damage."""

from __future__ import annotations

import contextlib
import dataclasses
import errno
import json
import logging
import os
import runpy
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
import pytest
import torch
from efficientnet_lite_pytorch import EfficientNet
from PIL import Image
from torch import Tensor, nn

from undue.data import features as module
from undue.data.backbones import Backbone, load_backbone
from undue.data.datasets import ArrayDataset, Samples
from undue.data.features import SAMPLE_COLUMNS, extract, samples_table
from undue.errors import UserError
from undue.files import sha256, write_json
from undue.tables import write_table

SCRIPT = Path(__file__).parents[2] / "workflow" / "scripts" / "extract_features.py"


def make_samples(n: int) -> Samples:
    return Samples(
        names=tuple(f"cat/{i}.png" for i in range(n)),
        labels=np.arange(n, dtype=np.int64) % 2,
        classes=("cat", "dög"),
        split=np.array(["train" if i % 3 else "test" for i in range(n)]),
    )


@dataclasses.dataclass
class FakeImages:
    """Images in memory, yielded in any order asked for."""

    pictures: list[Image.Image]
    order: Sequence[int] | None = None
    yielded: int = 0

    @property
    def samples(self) -> Samples:
        return make_samples(len(self.pictures))

    def images(self, indices: Sequence[int] | None = None) -> Iterator[tuple[int, Image.Image]]:
        assert indices is None
        for index in range(len(self.pictures)) if self.order is None else self.order:
            self.yielded += 1
            yield index, self.pictures[index]


def make_images(n: int, mode: str = "RGB", size: tuple[int, int] = (12, 10)) -> FakeImages:
    pixels = np.random.default_rng(n).integers(0, 256, (n, size[1], size[0], 3), dtype=np.uint8)
    return FakeImages([Image.fromarray(image).convert(mode) for image in pixels])


def make_arrays(features: npt.NDArray[np.float32]) -> ArrayDataset:
    return ArrayDataset(make_samples(len(features)), features)


def with_network(network: nn.Module) -> Backbone:
    """The pixels, put through a network."""
    return dataclasses.replace(load_backbone("none", None, None), network=lambda: network)


PIXELS = load_backbone("none", None, None)


@pytest.fixture(scope="module")
def lite0(tmp_path_factory: pytest.TempPathFactory) -> Backbone:
    """EfficientNet-Lite0 at 64 pixels, weights drawn at random."""
    path = tmp_path_factory.mktemp("weights") / "lite0.pth"
    with torch.random.fork_rng():
        torch.manual_seed(3)
        torch.save(EfficientNet.from_name("efficientnet-lite0").state_dict(), path)
    return load_backbone("efficientnet_lite0", path, 64)


@pytest.mark.parametrize("mode", ["L", "RGB"])
def test_pixels_in_the_order_of_the_samples(mode: str, tmp_path: Path) -> None:
    dataset = make_images(11, mode)
    dataset.order = np.random.default_rng(0).permutation(11).tolist()
    metadata = extract(dataset, PIXELS, tmp_path / "features.npy", batch_size=4, device="cpu")
    features = np.load(tmp_path / "features.npy", allow_pickle=False)
    expected = [
        np.asarray(p, dtype=np.float64).reshape(10, 12, -1).transpose(2, 0, 1) for p in dataset.pictures
    ]
    assert features.dtype == np.float32
    assert features.shape == (11, metadata["dimension"])
    np.testing.assert_allclose(features, np.stack(expected).reshape(11, -1) / 255, rtol=1e-6)
    assert [path.name for path in tmp_path.iterdir()] == ["features.npy"]


def test_network_features_one_by_one_are_those_in_batches(lite0: Backbone, tmp_path: Path) -> None:
    dataset = make_images(7)
    network = lite0.build()
    with torch.inference_mode():
        expected = torch.cat([network(lite0.transform(image)[None]) for image in dataset.pictures]).numpy()
    for batch_size in (1, 3, 7, 100):
        path = tmp_path / f"{batch_size}.npy"
        metadata = extract(dataset, lite0, path, batch_size=batch_size, device="cpu")
        assert metadata["dimension"] == 1280
        np.testing.assert_allclose(np.load(path), expected, rtol=1e-4, atol=1e-5 * np.abs(expected).max())
    assert expected.std(axis=0).max() > 0


def test_same_input_same_bytes(lite0: Backbone, tmp_path: Path) -> None:
    for run in ("one", "two"):
        metadata = extract(make_images(5), lite0, tmp_path / run / "features.npy", batch_size=2, device="cpu")
        write_table(tmp_path / run / "samples.parquet", SAMPLE_COLUMNS, samples_table(make_samples(5)))
        write_json(tmp_path / run / "features.json", metadata)
    for name in ("features.npy", "samples.parquet", "features.json"):
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "two" / name).read_bytes()


def test_metadata(lite0: Backbone, tmp_path: Path) -> None:
    metadata = extract(make_images(3), lite0, tmp_path / "f.npy", batch_size=2, device="cpu")
    assert lite0.weights is not None
    assert metadata["weights_sha256"] == sha256(lite0.weights)
    assert metadata["transform"] == lite0.description
    assert metadata["versions"]["torch"] == torch.__version__
    assert (metadata["backbone"], metadata["n"], metadata["image_size"]) == ("efficientnet_lite0", 3, 64)
    assert (metadata["device"], metadata["dtype"]) == ("cpu", "float32")
    assert metadata["classes"] == ["cat", "dög"]
    written = json.dumps(metadata)
    assert str(tmp_path) not in written
    assert str(lite0.weights) not in written
    assert extract(make_images(3), PIXELS, tmp_path / "p.npy", batch_size=2)["weights_sha256"] is None


def test_arrays_pass_through(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "ROWS_PER_BLOCK", 7)
    rows = np.random.default_rng(0).normal(size=(20, 3)).astype(np.float32) * 1e6
    metadata = extract(make_arrays(rows), PIXELS, tmp_path / "features.npy", batch_size=2)
    np.testing.assert_array_equal(np.load(tmp_path / "features.npy"), rows)
    assert (metadata["dimension"], metadata["n"], metadata["image_size"]) == (3, 20, None)


def test_arrays_need_no_backbone(lite0: Backbone, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="holds arrays, and `efficientnet_lite0` needs images") as caught:
        extract(make_arrays(np.zeros((4, 2), np.float32)), lite0, tmp_path / "f.npy", batch_size=2)
    assert caught.value.where == "features.backbone"
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_array_features_that_are_not_finite(value: float, tmp_path: Path) -> None:
    rows = np.zeros((6, 3), np.float32)
    rows[4, 1:] = value
    with pytest.raises(UserError, match="2 of its 3 features are NaN or infinite") as caught:
        extract(make_arrays(rows), PIXELS, tmp_path / "f.npy", batch_size=2)
    assert "`cat/4.png`" in caught.value.where
    assert not list(tmp_path.iterdir())


def test_network_features_that_are_not_finite(tmp_path: Path) -> None:
    class Overflow(nn.Flatten):
        def forward(self, inputs: Tensor) -> Tensor:
            return torch.where(super().forward(inputs) == 1, torch.inf, 0.0)

    dataset = make_images(5, "L")
    dataset.pictures = [picture.point(lambda grey: min(grey, 200)) for picture in dataset.pictures]
    dataset.pictures[3] = dataset.pictures[3].copy()
    dataset.pictures[3].putpixel((0, 0), 255)
    with pytest.raises(UserError, match="1 of its 120 features") as caught:
        extract(dataset, with_network(Overflow()), tmp_path / "f.npy", batch_size=2, device="cpu")
    assert "`cat/3.png`" in caught.value.where
    assert "features.device" in caught.value.remedy
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("other", "complaint"),
    [
        (make_images(1, "RGB", (12, 11)), "12 x 11 RGB, and `cat/0.png` is 12 x 10 RGB"),
        (make_images(1, "L"), "12 x 10 grey, and `cat/0.png` is 12 x 10 RGB"),
    ],
    ids=["size", "mode"],
)
def test_images_of_different_shapes(other: FakeImages, complaint: str, tmp_path: Path) -> None:
    dataset = make_images(5)
    dataset.pictures[4] = other.pictures[0]
    for batch_size in (2, 5):  # in a batch of its own, and in the same
        with pytest.raises(UserError, match=complaint) as caught:
            extract(dataset, PIXELS, tmp_path / "f.npy", batch_size=batch_size)
        assert caught.value.where == "image `cat/4.png`"
        assert "features.image_size" in caught.value.remedy
        assert not list(tmp_path.iterdir())


def test_image_size_makes_one_size_of_all(tmp_path: Path) -> None:
    dataset = make_images(5)
    dataset.pictures[2] = dataset.pictures[2].resize((30, 50))
    metadata = extract(dataset, load_backbone("none", None, 6), tmp_path / "f.npy", batch_size=2)
    assert (metadata["dimension"], metadata["image_size"]) == (3 * 6 * 6, 6)


@pytest.mark.parametrize(
    ("order", "complaint"),
    [([0, 1, 2], "1 never came and 0"), ([0, 1, 2, 2], "1 never came and 1"), ([], "4 never came and 0")],
)
def test_a_dataset_that_breaks_its_promise(order: list[int], complaint: str, tmp_path: Path) -> None:
    dataset = make_images(4)
    dataset.order = order
    with pytest.raises(RuntimeError, match=complaint):
        extract(dataset, PIXELS, tmp_path / "f.npy", batch_size=2)
    assert not list(tmp_path.iterdir())


def test_an_error_of_the_dataset_comes_through(tmp_path: Path) -> None:
    class Damaged(FakeImages):
        def images(self, indices: Sequence[int] | None = None) -> Iterator[tuple[int, Image.Image]]:
            yield from list(super().images())[:2]
            raise UserError("it cannot be decoded", where="cats.zip: cat/2.png", remedy="remove it")

    with pytest.raises(UserError, match="cannot be decoded"):
        extract(Damaged(make_images(4).pictures), PIXELS, tmp_path / "f.npy", batch_size=1)
    assert not list(tmp_path.iterdir())


def test_a_failure_leaves_the_earlier_file(tmp_path: Path) -> None:
    extract(make_images(4), PIXELS, tmp_path / "f.npy", batch_size=2)
    before = (tmp_path / "f.npy").read_bytes()
    with pytest.raises(UserError):
        extract(make_arrays(np.full((4, 2), np.nan, np.float32)), PIXELS, tmp_path / "f.npy", batch_size=2)
    assert (tmp_path / "f.npy").read_bytes() == before


def test_full_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "posix_fallocate", full, raising=False)
    with pytest.raises(UserError, match="no space left"):
        extract(make_images(4), PIXELS, tmp_path / "f.npy", batch_size=2)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("threads", [1, 2, 5])
def test_images_are_decoded_a_little_ahead(threads: int, tmp_path: Path) -> None:
    """Memory depends on the batch size and the threads, not on how many images there are."""
    dataset = make_images(60, size=(4, 4))
    ahead: list[int] = []

    class Counting(nn.Flatten):
        done = 0

        def forward(self, inputs: Tensor) -> Tensor:
            time.sleep(0.005)  # time enough for the decoding to run away, if it could
            with lock:
                ahead.append(dataset.yielded - self.done)
                self.done += len(inputs)
            return super().forward(inputs)

    lock = threading.Lock()
    backbone = with_network(Counting())
    extract(dataset, backbone, tmp_path / "f.npy", batch_size=2, device="cpu", threads=threads)
    assert len(ahead) == 30
    assert 2 < max(ahead) <= 2 * (threads + 2)


def test_threads_work_side_by_side_and_change_nothing(lite0: Backbone, tmp_path: Path) -> None:
    written = set()
    for threads in (1, 2, 3):
        extract(make_images(9), lite0, tmp_path / "f.npy", batch_size=2, device="cpu", threads=threads)
        written.add((tmp_path / "f.npy").read_bytes())
    assert len(written) == 1

    together = threading.Barrier(3, timeout=30)  # is passed only if three are there at the same time
    results = module._concurrently(lambda item: (item, together.wait())[0], range(6), workers=3)
    assert list(results) == list(range(6))


def test_each_thread_uses_one_core_and_torch_is_left_as_it_was() -> None:
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(2)
        assert list(module._concurrently(lambda _: torch.get_num_threads(), range(3), workers=2)) == [1, 1, 1]
        assert torch.get_num_threads() == 2
        with pytest.raises(ZeroDivisionError):
            list(module._concurrently(lambda item: 1 // item, [1, 0, 1], workers=2))
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)


def test_settings_that_make_no_sense(tmp_path: Path) -> None:
    for batch_size, threads, where in ((0, 1, "features.batch_size"), (1, 0, "threads")):
        with pytest.raises(UserError, match="0 is too small") as caught:
            extract(make_images(2), PIXELS, tmp_path / "f.npy", batch_size=batch_size, threads=threads)
        assert caught.value.where == where
    assert not list(tmp_path.iterdir())


def test_out_of_memory(tmp_path: Path) -> None:
    class Hungry(nn.Module):
        def forward(self, inputs: Tensor) -> Tensor:
            raise torch.OutOfMemoryError("tried to allocate 40 GiB")

    with pytest.raises(UserError, match="2 images at a time do not fit") as caught:
        extract(make_images(4), with_network(Hungry()), tmp_path / "f.npy", batch_size=2, device="cpu")
    assert caught.value.where == "features.batch_size"


def test_progress_is_logged(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO):
        extract(make_images(9), PIXELS, tmp_path / "f.npy", batch_size=2)
    lines = [record.message for record in caplog.records if record.name == "undue.data.features"]
    assert len(lines) == 1  # quick work: only that it is done
    assert lines[0].startswith("9/9 images")


def test_samples_table(tmp_path: Path) -> None:
    samples = make_samples(4)
    write_table(tmp_path / "samples.parquet", SAMPLE_COLUMNS, samples_table(samples))
    table = pd.read_parquet(tmp_path / "samples.parquet")
    assert list(table) == list(SAMPLE_COLUMNS) == ["index", "name", "label", "class", "split"]
    assert [str(table[name].dtype) for name in ("index", "label")] == ["int64", "int64"]
    assert table["index"].tolist() == [0, 1, 2, 3]
    assert table["name"].tolist() == list(samples.names)
    assert table["class"].tolist() == ["cat", "dög", "cat", "dög"]
    assert table["split"].tolist() == ["test", "train", "train", "test"]
    unsplit = dataclasses.replace(samples, split=np.array([""] * 4))
    write_table(tmp_path / "samples.parquet", SAMPLE_COLUMNS, samples_table(unsplit))
    assert set(pd.read_parquet(tmp_path / "samples.parquet")["split"]) == {""}


@pytest.mark.parametrize("images", [True, False])
def test_script(images: bool, lite0: Backbone, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The script reads its job's description and writes the three files."""
    dataset = make_images(5) if images else make_arrays(np.eye(5, dtype=np.float32))
    opened = []

    def open_dataset(*arguments: object) -> Any:
        opened.append(arguments)
        return dataset

    job = SimpleNamespace(
        input=SimpleNamespace(weights=[str(lite0.weights)] if images else []),
        output=SimpleNamespace(
            **{name: str(tmp_path / name) for name in ("features", "samples", "metadata")}
        ),
        params=SimpleNamespace(
            cfg={
                "kind": "image_folder",
                "options": {"a": 1},
                "backbone": "efficientnet_lite0" if images else "none",
                "image_size": 32 if images else None,
            },
            paths={"archive": "data/downloads/cats.zip"},
        ),
        resources=SimpleNamespace(batch_size=2, device="cpu"),
        threads=2,
    )
    monkeypatch.setattr("undue.run.job.job", contextlib.nullcontext)
    monkeypatch.setattr("undue.data.datasets.open_dataset", open_dataset)
    runpy.run_path(str(SCRIPT), {"snakemake": job})
    assert opened == [("image_folder", {"archive": Path("data/downloads/cats.zip")}, {"a": 1})]
    features = np.load(tmp_path / "features")
    metadata = json.loads((tmp_path / "metadata").read_text())
    assert features.shape == (5, 1280 if images else 5) == (metadata["n"], metadata["dimension"])
    assert len(pd.read_parquet(tmp_path / "samples")) == 5
