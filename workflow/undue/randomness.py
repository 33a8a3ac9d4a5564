"""Named random streams: numbers that depend on a root seed and on what they are for, and on nothing else."""

from __future__ import annotations

import hashlib

import numpy as np

AT_THETA = -1
"""As the number of an attack's start: none is drawn, it is θ* itself."""


def stream(seed: int, *name: str | int) -> np.random.Generator:
    """A generator that depends on the root seed and the name alone.

    Streams of different names are independent, so that adding a target, a radius or a start
    never changes the numbers that another one draws.

    Args:
        seed: the config's root seed.
        name: what the numbers are for, e.g. `("start", 3, "target", 17)`.
    """
    digest = hashlib.sha256(repr((seed, *name)).encode()).digest()
    return np.random.Generator(np.random.Philox(key=int.from_bytes(digest[:16], "little")))
