"""Named arrays on disk as safetensors: no pickle, and equal arrays are equal bytes."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence

import numpy as np
import safetensors
import safetensors.numpy

from undue.files import atomic


def write_arrays(path: str | os.PathLike[str], arrays: Mapping[str, np.ndarray]) -> None:
    """Write named arrays."""
    contiguous = {name: np.ascontiguousarray(array) for name, array in arrays.items()}
    with atomic(path) as temporary:
        # Not `save_file`: its errors are not OSErrors, so that `atomic` would not see a full disk.
        temporary.write_bytes(safetensors.numpy.save(contiguous))


def read_arrays(path: str | os.PathLike[str]) -> dict[str, np.ndarray]:
    """Read all arrays of a file."""
    arrays: dict[str, np.ndarray] = safetensors.numpy.load_file(path)
    return arrays


def read_rows(path: str | os.PathLike[str], name: str, rows: Sequence[int]) -> np.ndarray:
    """Read some rows of one array, without the others."""
    with safetensors.safe_open(path, framework="numpy") as file:
        if not rows:
            none: np.ndarray = file.get_tensor(name)[:0]
            return none
        part = file.get_slice(name)
        return np.concatenate([part[row : row + 1] for row in rows])
