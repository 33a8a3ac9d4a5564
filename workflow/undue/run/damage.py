"""Telling apart, after a job has failed, what its user can put right: too little memory, a damaged file."""

from __future__ import annotations

import errno
from collections.abc import Callable, Iterable
from pathlib import Path

import numpy as np
import pyarrow.parquet
import safetensors

from undue.errors import UserError
from undue.files import read_json

# How torch says it, which has no error of its own for a CPU's memory.
NO_MEMORY = ("can't allocate memory", "out of memory")


def _check_arrays(path: Path) -> None:
    with safetensors.safe_open(path, framework="numpy"):
        pass


CHECKS: dict[str, Callable[[Path], object]] = {
    ".npy": lambda path: np.load(path, mmap_mode="r", allow_pickle=False),
    ".safetensors": _check_arrays,
    ".parquet": pyarrow.parquet.read_table,
    ".json": read_json,
}


def explain(error: Exception, *, rule: str, inputs: Iterable[str]) -> UserError | None:
    """What the user can put right about a failure that no code has foreseen, or None.

    It reads the inputs, so it is for jobs that have failed: those that succeed needn't pay for it.

    Args:
        error: what ended the job.
        rule: the job's rule.
        inputs: paths of the job's input files.
    """
    if _is_no_memory(error):
        return UserError(
            f"there is not enough memory ({error or type(error).__name__})",
            where=f"rule {rule}",
            remedy="free some, or let fewer jobs run side by side (--cores 1), or for attacks set a smaller "
            "attack.memory_gb, and run again",
        )
    for path in map(Path, inputs):
        if (reason := damage(path)) is not None:
            return UserError(
                f"the file is damaged ({reason})",
                where=str(path),
                remedy="remove it and run again: what the workflow made it makes anew; restore what is yours",
            )
    return None


def damage(path: Path) -> str | None:
    """Why a file can't be what its suffix says, or None if it can, or the suffix says nothing.

    What is checked: that an array is as long as it says, that a table can be read, that JSON is JSON.
    """
    if path.suffix not in CHECKS or not path.is_file():
        return None
    try:
        CHECKS[path.suffix](path)
    except Exception as error:  # whatever a library makes of rubbish
        return str(error) or type(error).__name__
    return None


def _is_no_memory(error: Exception) -> bool:
    if isinstance(error, OSError):
        return error.errno == errno.ENOMEM
    return isinstance(error, MemoryError) or (
        isinstance(error, RuntimeError) and any(words in str(error) for words in NO_MEMORY)
    )
