"""The recipes against their own libraries, and every way in which a weights file can be wrong."""

from __future__ import annotations

import importlib
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from efficientnet_lite_pytorch import EfficientNet
from PIL import Image, ImageDraw
from torch import Tensor, nn

from undue.data.backbones import Backbone, import_torchvision, load_backbone
from undue.data.registry import fetch, read_registry
from undue.errors import UserError

NAMES = ("resnet50", "resnet50_v2", "efficientnet_lite0")


def random_image(mode: str = "RGB", size: tuple[int, int] = (40, 30), seed: int = 0) -> Image.Image:
    pixels = np.random.default_rng(seed).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    return Image.fromarray(pixels).convert(mode)


def original(name: str) -> nn.Module:
    """The whole network with its classifier, as its own library builds it."""
    with torch.random.fork_rng():
        torch.manual_seed(7)
        model: nn.Module
        if name == "efficientnet_lite0":
            model = EfficientNet.from_name("efficientnet-lite0", image_size=64)
        else:
            model = import_torchvision().models.resnet50(weights=None)
        for module in model.modules():
            if isinstance(module, nn.BatchNorm2d):  # statistics that are not the identity
                module.running_mean = torch.randn_like(module.running_mean) * 0.1  # type: ignore[arg-type]
                module.running_var = torch.rand_like(module.running_var) + 0.5  # type: ignore[arg-type]
    return model.eval()


@pytest.fixture(scope="module")
def originals(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[nn.Module, Path]]:
    """Each network and the file with its state dict; both ResNet50 recipes share one."""
    folder = tmp_path_factory.mktemp("weights")
    found = {}
    for name in ("resnet50", "efficientnet_lite0"):
        model = original(name)
        torch.save(model.state_dict(), folder / f"{name}.pth")
        found[name] = (model, folder / f"{name}.pth")
    return {**found, "resnet50_v2": found["resnet50"]}


@pytest.fixture
def altered(
    originals: dict[str, tuple[nn.Module, Path]], tmp_path: Path
) -> Callable[[Callable[[dict[str, Tensor]], object]], Backbone]:
    """EfficientNet-Lite0 with a weights file that a function has changed in place."""

    def alter(change: Callable[[dict[str, Tensor]], object]) -> Backbone:
        state = {key: value.clone() for key, value in originals["efficientnet_lite0"][0].state_dict().items()}
        change(state)
        torch.save(state, tmp_path / "altered.pth")
        return load_backbone("efficientnet_lite0", tmp_path / "altered.pth", 64)

    return alter


@pytest.mark.parametrize("name", NAMES)
def test_network_gives_the_pooled_features_of_the_original(
    name: str, originals: dict[str, tuple[nn.Module, Path]]
) -> None:
    model, weights = originals[name]
    backbone = load_backbone(name, weights, 64)
    network = backbone.build()
    batch = torch.stack([backbone.transform(random_image(seed=seed)) for seed in range(2)])
    with torch.inference_mode():
        if name == "efficientnet_lite0":
            expected = model.extract_features(batch).mean((2, 3))  # type: ignore[operator]
        else:
            expected = nn.Sequential(*list(model.children())[:-1])(batch).flatten(1)
        features = network(batch)
    assert not network.training
    assert batch.shape == (2, 3, 64, 64)
    assert features.shape == (2, backbone.dimension)
    assert features.std() > 0
    torch.testing.assert_close(features, expected)


@pytest.mark.parametrize(
    ("name", "version"), [("resnet50", "IMAGENET1K_V1"), ("resnet50_v2", "IMAGENET1K_V2")]
)
def test_resnet_transform_is_the_published_one(name: str, version: str) -> None:
    backbone = load_backbone(name, Path("any.pth"), None)
    image = random_image(size=(300, 260))
    published = import_torchvision().models.ResNet50_Weights[version].transforms()
    torch.testing.assert_close(backbone.transform(image), published(image), rtol=0, atol=0)
    assert backbone.image_size == 224
    assert version in backbone.description
    assert "crop_size=[224]" in backbone.description


def test_resnet_versions_differ_in_how_much_they_crop() -> None:
    first, second = (
        load_backbone(name, Path("any.pth"), 112).description for name in ("resnet50", "resnet50_v2")
    )
    assert "resize_size=[128]" in first
    assert "resize_size=[116]" in second


def test_efficientnet_transform() -> None:
    """Scaled to about [-1, 1] as it was trained, on a square image of the right size exactly."""
    image = random_image(size=(32, 32))
    tensor = load_backbone("efficientnet_lite0", Path("any.pth"), 32).transform(image)
    expected = (np.asarray(image, dtype=np.float32).transpose(2, 0, 1) - 127) / 128
    np.testing.assert_array_equal(tensor.numpy(), expected)
    default = load_backbone("efficientnet_lite0", Path("any.pth"), None)
    assert default.image_size == 224
    assert default.transform(image).shape == (3, 224, 224)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("mode", ["L", "P", "RGBA", "CMYK", "1"])
def test_any_mode_becomes_three_channels(name: str, mode: str) -> None:
    backbone = load_backbone(name, Path("any.pth"), 32)
    image = random_image(mode)
    assert backbone.transform(image).shape == (3, 32, 32)
    if mode == "L":  # grey stays grey: the channels differ by their normalisation alone
        torch.testing.assert_close(backbone.transform(image), backbone.transform(image.convert("RGB")))


@pytest.mark.parametrize("name", ["efficientnet_lite0", "none"])
def test_resizing_takes_the_central_square(name: str) -> None:
    """Beyond the reach of the resampling filter, two output pixels here, what is outside has no influence."""
    weights = None if name == "none" else Path("any.pth")
    backbone = load_backbone(name, weights, 20)
    inner = random_image(size=(40, 40))
    wide = Image.new("RGB", (100, 40), "red")
    wide.paste(inner, (30, 0))
    interior = np.s_[:, :, 2:-2]
    torch.testing.assert_close(backbone.transform(wide)[interior], backbone.transform(inner)[interior])


def test_pixels() -> None:
    backbone = load_backbone("none", None, None)
    network = backbone.build()
    for mode, channels in (("L", 1), ("RGB", 3)):
        image = random_image(mode, size=(5, 4))
        features = network(backbone.transform(image)[None])
        pixels = np.asarray(image, dtype=np.float64).reshape(4, 5, channels)
        np.testing.assert_allclose(features[0].numpy(), pixels.transpose(2, 0, 1).ravel() / 255, rtol=1e-6)
    assert backbone.dimension is None
    assert load_backbone("none", None, 8).transform(random_image("L")).shape == (1, 8, 8)


def test_head_and_batch_counts_do_not_matter(
    altered: Callable[[Callable[[dict[str, Tensor]], object]], Backbone],
    originals: dict[str, tuple[nn.Module, Path]],
) -> None:
    def other_head(state: dict[str, Tensor]) -> None:
        state["_fc.weight"] = torch.zeros(37, 1280)
        del state["_fc.bias"]
        for key in [key for key in state if key.endswith("num_batches_tracked")]:
            del state[key]

    batch = torch.randn(1, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    whole = load_backbone("efficientnet_lite0", originals["efficientnet_lite0"][1], 64)
    with torch.inference_mode():
        torch.testing.assert_close(altered(other_head).build()(batch), whole.build()(batch), rtol=0, atol=0)


def test_building_draws_no_random_numbers(originals: dict[str, tuple[nn.Module, Path]]) -> None:
    before = torch.random.get_rng_state()
    load_backbone("efficientnet_lite0", originals["efficientnet_lite0"][1], 64).build()
    assert torch.equal(before, torch.random.get_rng_state())


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        (lambda state: state.pop("_conv_stem.weight"), r"1 missing \(_conv_stem.weight\)"),
        (lambda state: state.update(extra=torch.zeros(2)), r"1 unknown \(extra\)"),
        (
            lambda state: state.update({"_bn0.weight": torch.ones(5)}),
            r"_bn0.weight is \(5,\) where \(32,\) was expected",
        ),
        (lambda state: state["_bn0.bias"].fill_(torch.nan), r"NaN or infinite values \(_bn0.bias\)"),
    ],
    ids=["missing", "unknown", "shape", "nan"],
)
def test_weights_that_differ_are_refused(
    altered: Callable[[Callable[[dict[str, Tensor]], object]], Backbone],
    change: Callable[[dict[str, Tensor]], object],
    complaint: str,
) -> None:
    backbone = altered(change)
    with pytest.raises(UserError, match=complaint) as caught:
        backbone.build()
    assert "altered.pth" in caught.value.where
    assert "features.backbone" in caught.value.remedy


def test_weights_of_another_network_are_refused(originals: dict[str, tuple[nn.Module, Path]]) -> None:
    for name, other in (("resnet50", "efficientnet_lite0"), ("efficientnet_lite0", "resnet50")):
        with pytest.raises(UserError, match=f"not the weights of `{name}`.*missing.*, ….*unknown"):
            load_backbone(name, originals[other][1], 64).build()


class Payload:
    """Would leave a trace if it were ever unpickled."""

    def __init__(self, trace: Path) -> None:
        self.trace = trace

    def __reduce__(self) -> tuple[Any, ...]:
        return (Path.touch, (self.trace,))


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        (b"", "damaged"),
        (b"<html>404 Not Found</html>", "damaged"),
        (bytes(range(256)) * 9, "damaged"),
        ([torch.zeros(1)], "holds a list"),
        (torch.zeros(3), "holds a Tensor"),
        ({}, "holds nothing"),
        ({"epoch": 3, "state_dict": {}}, r"no tensors \(epoch, state_dict\)"),
    ],
    ids=["empty", "html", "bytes", "list", "tensor", "nothing", "checkpoint"],
)
def test_files_that_hold_no_weights_are_refused(
    name: str, content: object, complaint: str, tmp_path: Path
) -> None:
    path = tmp_path / "weights.pth"
    if isinstance(content, bytes):
        path.write_bytes(content)
    else:
        torch.save(content, path)
    with pytest.raises(UserError, match=complaint) as caught:
        load_backbone(name, path, 64).build()
    assert caught.value.where == str(path)
    assert name in caught.value.what


def test_truncated_and_missing_files(originals: dict[str, tuple[nn.Module, Path]], tmp_path: Path) -> None:
    whole = originals["efficientnet_lite0"][1].read_bytes()
    (tmp_path / "part.pth").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(UserError, match="damaged"):
        load_backbone("efficientnet_lite0", tmp_path / "part.pth", None).build()
    with pytest.raises(UserError, match="not there"):
        load_backbone("efficientnet_lite0", tmp_path / "absent.pth", None).build()


def test_nothing_but_tensors_is_unpickled(tmp_path: Path) -> None:
    torch.save({"weight": Payload(tmp_path / "trace")}, tmp_path / "evil.pth")
    with pytest.raises(UserError, match="damaged, or no file of tensors"):
        load_backbone("resnet50", tmp_path / "evil.pth", None).build()
    assert not (tmp_path / "trace").exists()


@pytest.mark.parametrize(
    ("arguments", "where", "complaint"),
    [
        (("resnet5", Path("w.pth"), None), "features.backbone", "no backbone `resnet5`"),
        (("resnet50", Path("w.pth"), 0), "features.image_size", "not a side"),
        (("none", None, -3), "features.image_size", "not a side"),
        (("efficientnet_lite0", None, None), "features.backbone", "needs its pretrained weights"),
        (("none", Path("w.pth"), None), "features.backbone", "need no weights"),
    ],
)
def test_settings_that_make_no_sense(
    arguments: tuple[str, Path | None, int | None], where: str, complaint: str
) -> None:
    with pytest.raises(UserError, match=complaint) as caught:
        load_backbone(*arguments)
    assert caught.value.where == where
    if "resnet5`" in complaint:
        assert "resnet50, resnet50_v2, efficientnet_lite0, none" in caught.value.remedy


def test_torchvision_imports_also_after_a_failed_import() -> None:
    """A failed import leaves half of torchvision behind; whether it fails here depends on the wheels."""
    script = """
import contextlib
with contextlib.suppress(RuntimeError):
    import torchvision
from undue.data.backbones import import_torchvision
assert import_torchvision() is import_torchvision()
assert len(import_torchvision().models.resnet50(weights=None).state_dict()) == 320
"""
    library = str(Path(importlib.import_module("undue").__path__[0]).parent)
    subprocess.run([sys.executable, "-c", script], check=True, env={"PYTHONPATH": library}, timeout=120)


def test_other_import_failures_are_not_hidden(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(name: str) -> None:
        raise RuntimeError(f"{name} is broken")

    monkeypatch.setattr("undue.data.backbones.importlib.import_module", broken)
    with pytest.raises(RuntimeError, match="torchvision is broken"):
        import_torchvision()


@pytest.mark.network
def test_pretrained_efficientnet_sees_what_is_there(tmp_path: Path) -> None:
    """With the real weights, and the classifier that is dropped otherwise, a traffic light is one."""
    weights = tmp_path / "lite0.pth"
    registry = Path(__file__).parents[2] / "data" / "registry.tsv"
    fetch(read_registry(registry)["efficientnet_lite0"], weights, mirror=None)
    picture = Image.new("RGB", (224, 224), (120, 170, 230))
    draw = ImageDraw.Draw(picture)
    draw.rectangle((80, 20, 144, 204), fill=(30, 30, 30))
    for top, colour in ((30, (255, 0, 0)), (90, (90, 90, 0)), (150, (0, 80, 0))):
        draw.ellipse((90, top, 134, top + 44), fill=colour)
    backbone = load_backbone("efficientnet_lite0", weights, None)
    head = torch.load(weights, weights_only=True)
    with torch.inference_mode():
        features = backbone.build()(backbone.transform(picture)[None])
        classes = features @ head["_fc.weight"].T + head["_fc.bias"]
    assert classes.argmax() == 920  # ImageNet's "traffic light"
