"""Noticing changes in a user's own folder of images without reading all of it."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path


def fingerprint(folder: str | Path) -> str:
    """A digest of the names and sizes of all files below a folder.

    Times do not count, so that copying or touching the folder changes nothing. An edit in place that
    keeps a file's size is not seen.
    """
    digest = hashlib.sha256()
    for path, size in sorted(_files(Path(folder), "")):
        digest.update(f"{path}\0{size}\0".encode())
    return digest.hexdigest()


def _files(folder: Path, prefix: str) -> list[tuple[str, int]]:
    found: list[tuple[str, int]] = []
    with os.scandir(folder) as entries:
        for entry in entries:
            if entry.is_dir():
                found.extend(_files(Path(entry.path), f"{prefix}{entry.name}/"))
            else:
                found.append((prefix + entry.name, entry.stat().st_size))
    return found
