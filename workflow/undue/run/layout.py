"""What a run consists of, by its configuration: for the rules, and for what foretells their costs.

Imported at every start of Snakemake, so it imports nothing heavy.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

Config = Mapping[str, Any]

NATIVE_SIZE = 224
"""Side in pixels of the images that the backbones take if none is configured."""


def definition(config: Config, dataset: str) -> dict[str, Any]:
    """A data set's entry in the config; a variant's with all that it has from its base."""
    entry = config["datasets"][dataset]
    return {**config["datasets"][entry["base"]], **entry} if "base" in entry else dict(entry)


def feature_folder(config: Config, dataset: str) -> str:
    """Where a data set's features are, named by what they were made with; a variant has its base's."""
    entry = definition(config, dataset)
    block = entry["features"]
    size = f"-{block['image_size']}px" if block["image_size"] else ""
    return f"data/features/{entry.get('base', dataset)}/{block['backbone']}{size}"


def main_objective(config: Config) -> str:
    """The attack that is shown where there is room for one only: the paper's own."""
    objectives: list[str] = config["attack"]["objectives"]
    return "min_higher" if "min_higher" in objectives else objectives[0]


def starts_of(config: Config, objective: str) -> list[int]:
    """The seeds from which an objective is attacked: as in the paper's ablation, one for all but the main."""
    seeds: list[int] = config["attack"]["seeds"]
    return seeds if objective == main_objective(config) else seeds[:1]


def lissa_stretch(attack: Config, train_samples: int) -> float:
    """How many times as long a step of an attack takes by LiSSA as by conjugate gradients; 1 for these.

    A step's two solves, in passes over the training samples; by conjugate gradients it is about ten passes.
    """
    if attack["solver"] != "lissa":
        return 1.0
    rows: int = attack["lissa_depth"] * attack["lissa_batch"]
    return max(1.0, 2 * rows / train_samples / 10)


def block_places(config: Config, block: int) -> dict[str, int]:
    """The places in the lists of targets that a block takes: the first, and how many."""
    attack = config["attack"]
    first = block * attack["targets_per_block"]
    return {"first": first, "count": min(attack["targets_per_block"], attack["targets"] - first)}
