"""The section `validation` of the configuration: what it refuses, in words."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from undue.errors import UserError
from undue.run.config import RESERVED, validate

ROOT = Path(__file__).resolve().parents[2]


def configured(**changes: Any) -> dict[str, Any]:
    config: dict[str, Any] = yaml.safe_load((ROOT / "config.yaml").read_text(encoding="utf-8"))
    config["validation"].update(changes)
    return config


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"dataset": "mnist5k_pixel"}, r"validation\.dataset.*mnist5k_pixels.*null leaves it out"),
        ({"dataset": "mnist5k"}, r"validation\.dataset: takes plain pixels.*efficientnet_lite0"),
        ({"pair": [3, 3]}, r"validation\.pair: takes two different classes"),
        ({"pair": [3]}, r"validation\.pair"),
        ({"l2": 0}, r"validation\.l2: 0 is not a number > 0"),
        ({"hinge_temperatures": [-1]}, r"validation\.hinge_temperatures\[0\]"),
        ({"subsets": 2}, r"validation\.subsets: 2 is not a whole number >= 3"),
        ({"damping": [0]}, r"validation\.damping: unknown key; did you mean validation\.dampings"),
    ],
)
def test_what_cannot_be_is_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        validate(configured(**changes))


def test_rankings_need_a_head_with_one_minimum() -> None:
    config = configured()
    config["model"]["l2"] = 0
    with pytest.raises(
        UserError, match=r"model\.l2: with 0 mnist5k has no one minimum.*ranking_samples to 0"
    ):
        validate(config)
    config = configured()
    config["datasets"]["plain"] = {"base": "mnist5k", "l2": 0}
    validate(config)
    config["data"]["use"] = ["mnist5k", "plain"]
    with pytest.raises(UserError, match=r"datasets\.plain\.l2: with 0 plain has no one minimum"):
        validate(config)
    config["validation"]["ranking_samples"] = 0
    validate(config)


def test_a_variant_has_no_images_of_its_own() -> None:
    config = configured(dataset="few")
    config["datasets"]["few"] = {"base": "mnist5k_pixels", "train_samples": 500}
    with pytest.raises(UserError, match=r"validation\.dataset: few is a variant: name the dataset"):
        validate(config)


def test_heads_that_are_no_minima_are_not_ranked() -> None:
    config = configured()
    config["model"].update(l2=0, training="paper_sgd")
    validate(config)


def test_it_can_be_left_out() -> None:
    checked = validate(configured(dataset=None, ranking_samples=0))
    assert checked["validation"]["dataset"] is None


def test_its_folder_is_no_dataset() -> None:
    assert "validation" in RESERVED
