"""How the cost of our attack's step grows with each quantity, the others held fixed."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import torch

from bench import engine, problems
from bench.problems import Size

BASE = Size(train=4_000, half=500, features=512, classes=10)
BASE_LANES = 16
STEPS = 5
GRID: Mapping[str, Sequence[int]] = {
    "n": (1_000, 2_000, 4_000, 8_000, 16_000),
    "d": (128, 256, 512, 1_024, 2_048),
    "k": (2, 5, 10, 20, 50),
    "lanes": (1, 2, 4, 8, 16, 32, 64),
    "threads": (1, 2, 4, 8, 16, 32),
}
FIELDS = {"n": "train", "d": "features", "k": "classes"}


def measure(
    *,
    products: str,
    seed: int,
    base: Size = BASE,
    lanes: int = BASE_LANES,
    steps: int = STEPS,
    grid: Mapping[str, Sequence[int]] = GRID,
) -> list[dict[str, object]]:
    """Seconds of a lane-step without monitoring along each axis, and its Hessian products.

    The first step is cold. Threads beyond the machine's cores are left out.
    """
    usual = torch.get_num_threads()
    rows: list[dict[str, object]] = []
    for axis, values in grid.items():
        for value in values:
            if axis == "threads" and value > (os.cpu_count() or 1):
                continue
            size = replace(base, **{FIELDS[axis]: value}) if axis in FIELDS else base
            count = value if axis == "lanes" else lanes
            torch.set_num_threads(usual)
            with tempfile.TemporaryDirectory() as folder:
                problems.write(Path(folder), size, seed=seed)
                setting = problems.read(Path(folder), coarse=engine.coarse(products))
            torch.set_num_threads(value if axis == "threads" else usual)
            attacks = engine.lanes_of(size.train, count, seed=seed)
            engine.walk(setting, attacks, steps=1, monitor=False, seed=seed)  # warm the libraries up
            taken = engine.walk(setting, attacks, steps=steps, monitor=False, seed=seed)
            rows.append(
                {
                    "axis": axis,
                    "value": value,
                    "lane_step_s": taken.seconds / (steps * count),
                    "iterations": float(taken.iterations.mean()),
                }
            )
    torch.set_num_threads(usual)
    return rows
