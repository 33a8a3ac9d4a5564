"""Pretrained networks that turn images into feature vectors: four recipes, one way to load them."""

from __future__ import annotations

import functools
import importlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor, nn

from undue.errors import UserError

EFFICIENTNET_LITE0_SIZE = 224
"""Side in pixels of the images that EfficientNet-Lite0 was trained on."""


@dataclass(frozen=True)
class Backbone:
    """How images become features: a transform for one image, then a network for a batch of them.

    Attributes:
        name: the recipe's name, as in the config key `features.backbone`.
        dimension: features per image; None where the images' own size decides (`none`).
        image_size: side in pixels of the network's input; None where images keep their size.
        transform: a PIL image of any mode -> float32 tensor (channels, height, width).
        description: the transform in words.
        weights: file with the pretrained state dict; None where there is nothing to load.
        network: makes the untrained network without its classifier: (b, c, h, w) -> (b, dimension).
        head: prefix of the classifier's keys in the weights file; they are not used.
    """

    name: str
    dimension: int | None
    image_size: int | None
    transform: Callable[[Image.Image], Tensor]
    description: str
    weights: Path | None
    network: Callable[[], nn.Module]
    head: str

    def build(self) -> nn.Module:
        """The network on the CPU, with its weights, ready for inference.

        Raises:
            UserError: the weights file is missing, unreadable, or not this network's.
        """
        if self.weights is None:
            return self.network().eval()
        state = _read_state(self.weights, self.name)
        # On the meta device nothing is allocated or drawn at random only to be overwritten.
        with torch.device("meta"):
            network = self.network()
        _check_state(state, network.state_dict(), self)
        network = network.to_empty(device="cpu")
        network.load_state_dict(state, strict=False)  # strictness is `_check_state`'s, with better words
        return network.eval()


def load_backbone(name: str, weights: Path | None, image_size: int | None) -> Backbone:
    """The backbone of that name; its weights are read when it is built.

    Args:
        name: `resnet50` (torchvision IMAGENET1K_V1), `resnet50_v2` (IMAGENET1K_V2),
            `efficientnet_lite0`, or `none` (the pixels themselves).
        weights: local file with the pretrained state dict; None for `none`, and only there.
        image_size: side in pixels of the network's input; None for the network's own (`none`: for
            images as they are, which must then all have one size).

    Raises:
        UserError: unknown name, a size that is no size, weights missing or given to `none`.
    """
    recipes: dict[str, Callable[[Path | None, int | None], Backbone]] = {
        "resnet50": functools.partial(_resnet50, "resnet50", "IMAGENET1K_V1"),
        "resnet50_v2": functools.partial(_resnet50, "resnet50_v2", "IMAGENET1K_V2"),
        "efficientnet_lite0": _efficientnet_lite0,
        "none": _pixels,
    }
    if name not in recipes:
        raise UserError(
            f"there is no backbone `{name}`",
            where="features.backbone",
            remedy=f"choose one of {', '.join(recipes)}",
        )
    if image_size is not None and image_size < 1:
        raise UserError(
            f"{image_size} is not a side in pixels",
            where="features.image_size",
            remedy="give a positive number, or leave it empty for the backbone's own size",
        )
    if (weights is None) != (name == "none"):
        raise UserError(
            "the pixels themselves need no weights"
            if name == "none"
            else f"`{name}` needs its pretrained weights, and no file was given",
            where="features.backbone",
            remedy="choose the backbone that the weights belong to, or `none` for plain pixels",
        )
    return recipes[name](weights, image_size)


def import_torchvision() -> Any:
    """The module torchvision, also where its compiled operators cannot be loaded.

    A torchvision wheel is compiled for one build of torch. Beside another build (say a CUDA wheel
    beside a CPU-only torch) its operators do not load, and `import torchvision` stops at describing
    two operators that nobody has declared. Everything used here, models and transforms, is plain
    Python; so where the import fails for this reason, the two are declared, and it is tried again.
    Where the wheels match, nothing is touched.
    """
    try:
        return importlib.import_module("torchvision")
    except RuntimeError as error:
        if "torchvision::" not in str(error):
            raise
        _declare_operators()
        return importlib.import_module("torchvision")


@functools.cache  # declarations live as long as the library object does, and may be made only once
def _declare_operators() -> torch.library.Library:
    library = torch.library.Library("torchvision", "DEF")  # type: ignore[no-untyped-call]
    for operator in ("nms", "qnms"):
        library.define(f"{operator}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")  # type: ignore[no-untyped-call]
    return library


def _resnet50(name: str, version: str, weights: Path | None, image_size: int | None) -> Backbone:
    """ResNet50 (He et al. 2016), pooled to 2048 features, with the transform published with its weights."""
    models = import_torchvision().models
    preset = models.ResNet50_Weights[version].transforms
    published = preset()
    crop, resize = published.crop_size[0], published.resize_size[0]
    size = image_size or crop
    # Another size keeps the published share of the image: 256 to 224, say, becomes 110 to 96.
    prepare = preset(crop_size=size, resize_size=round(size * resize / crop))

    def transform(image: Image.Image) -> Tensor:
        tensor: Tensor = prepare(image.convert("RGB"))
        return tensor

    def network() -> nn.Module:
        model: nn.Module = models.resnet50(weights=None)
        model.fc = nn.Identity()
        return model

    description = f"torchvision {version}: RGB, {' '.join(repr(prepare).split())}"
    return Backbone(name, 2048, size, transform, description, weights, network, head="fc.")


def _efficientnet_lite0(weights: Path | None, image_size: int | None) -> Backbone:
    """EfficientNet-Lite0 (Tan & Le 2019, without squeeze-and-excitation), pooled to 1280 features."""
    size = image_size or EFFICIENTNET_LITE0_SIZE

    def transform(image: Image.Image) -> Tensor:
        return (_to_tensor(_fit(image, size).convert("RGB")) - 127) / 128

    def network() -> nn.Module:
        from efficientnet_lite_pytorch import EfficientNet

        # The padding of every convolution is worked out for this size.
        model: nn.Module = EfficientNet.from_name("efficientnet-lite0", image_size=size)
        model._fc = nn.Identity()
        return model

    description = f"{_fit_in_words(size)}, RGB, (x - 127) / 128 of x in 0..255"
    return Backbone("efficientnet_lite0", 1280, size, transform, description, weights, network, head="_fc.")


def _pixels(weights: Path | None, image_size: int | None) -> Backbone:
    """The flattened pixels in [0, 1], channels first; a grey image stays one channel."""

    def transform(image: Image.Image) -> Tensor:
        return _to_tensor(_plain(image) if image_size is None else _fit(image, image_size)) / 255

    fitted = "" if image_size is None else f"{_fit_in_words(image_size)}, "
    description = f"{fitted}grey or RGB, x / 255 of x in 0..255, flattened channels first"
    return Backbone("none", None, image_size, transform, description, weights, nn.Flatten, head="")


def _plain(image: Image.Image) -> Image.Image:
    """The image as 8-bit grey where it is that, else as RGB."""
    return image if image.mode in ("L", "RGB") else image.convert("RGB")


def _fit(image: Image.Image, size: int) -> Image.Image:
    """The largest central square of the image, at size x size pixels."""
    return ImageOps.fit(_plain(image), (size, size), Image.Resampling.BICUBIC)


def _fit_in_words(size: int) -> str:
    return f"largest central square, resized to {size} x {size} (bicubic, antialiased)"


def _to_tensor(image: Image.Image) -> Tensor:
    """Grey or RGB image -> float32 tensor (1 or 3, height, width) with values 0..255."""
    pixels = np.asarray(image, dtype=np.float32)
    return torch.from_numpy(np.ascontiguousarray(np.atleast_3d(pixels).transpose(2, 0, 1)))


def _read_state(path: Path, name: str) -> dict[str, Tensor]:
    """The tensors in a weights file. Nothing but tensors and plain containers is ever unpickled."""
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError as error:
        raise UserError(
            f"the weights of `{name}` are not there",
            where=str(path),
            remedy="let the download rule fetch them, or put the file there by hand",
        ) from error
    except Exception as error:  # a damaged file can make the reader fail in any way whatever
        raise UserError(
            f"cannot be read as the weights of `{name}`: it is damaged, or no file of tensors that "
            f"torch.save wrote ({type(error).__name__})",
            where=str(path),
            remedy="delete it and let the download rule fetch it again; weights of your own must be "
            "saved by torch.save(model.state_dict(), file)",
        ) from error
    if not isinstance(content, Mapping) or not content:
        found = "nothing" if content == {} else f"a {type(content).__name__}"
    elif foreign := [str(key) for key, value in content.items() if not isinstance(value, Tensor)]:
        found = f"entries that are no tensors ({_few(foreign)})"
    else:
        return dict(content)
    raise UserError(
        f"holds {found} where the weights of `{name}` were expected, a dictionary of named tensors",
        where=str(path),
        remedy="save the state dict itself, by torch.save(model.state_dict(), file)",
    )


def _check_state(state: Mapping[str, Tensor], expected: Mapping[str, Tensor], backbone: Backbone) -> None:
    """Hold a state dict against the network's own: same names, same shapes, finite values.

    The classifier's entries may be anything, as it is dropped. So may the count of batches seen,
    which inference does not use and older files lack.

    Raises:
        UserError: says what is missing, left over or of another shape.
    """
    state = {
        key: value for key, value in state.items() if not backbone.head or not key.startswith(backbone.head)
    }
    missing = [key for key in expected if key not in state and not key.endswith("num_batches_tracked")]
    unexpected = [key for key in state if key not in expected]
    shapes = [
        f"{key} is {tuple(state[key].shape)} where {tuple(value.shape)} was expected"
        for key, value in expected.items()
        if key in state and state[key].shape != value.shape
    ]
    infinite = [key for key, value in state.items() if not torch.isfinite(value).all()]
    problems = [
        f"{len(keys)} {what} ({_few(keys)})"
        for keys, what in (
            (missing, "missing"),
            (unexpected, "unknown"),
            (shapes, "of another shape"),
            (infinite, "with NaN or infinite values"),
        )
        if keys
    ]
    if problems:
        raise UserError(
            f"these are not the weights of `{backbone.name}`: of its tensors, {'; '.join(problems)}",
            where=str(backbone.weights),
            remedy="choose the backbone that the file belongs to (features.backbone), or delete the file "
            "and let the download rule fetch the right one",
        )


def _few(items: list[str]) -> str:
    """The first few of a list, and that there are more."""
    return ", ".join(items[:3]) + (", …" if len(items) > 3 else "")
