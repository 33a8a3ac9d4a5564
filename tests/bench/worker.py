"""One measurement in a process of its own, so that its peak memory is its own.

python -m bench.worker NAME '{"argument": value}' OUTPUT.json
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch

from bench import double_backward, engine, head, peers, published, sweep
from bench.problems import Size, write


def draw(*, folder: str, size: list[int], seed: int) -> None:
    """Write a problem into a folder."""
    write(Path(folder), Size(*size), seed=seed)


MEASUREMENTS: Mapping[str, Callable[..., Any]] = {
    "draw": draw,
    "ours": engine.measure,
    "published": published.measure,
    "sweep": sweep.measure,
    "double_backward": double_backward.measure,
    "head": head.draw,
    "peer": peers.measure,
}


def main(name: str, arguments: str, output: str) -> None:
    """Run a measurement and write its result."""
    given = json.loads(arguments)
    torch.set_num_threads(given.pop("threads"))
    Path(output).write_text(json.dumps(MEASUREMENTS[name](**given)), encoding="utf-8")


if __name__ == "__main__":
    main(*sys.argv[1:])
