"""Knowing before a run whether a file will be there without asking an official site."""

from __future__ import annotations

from pathlib import Path

from undue.data.registry import Entry


def obtainable(entry: Entry, download: str | Path, mirror: Path | None) -> bool:
    """Whether a registry's file is here already, in the mirror folder, or in a package."""
    here = Path(download).is_file()
    return here or bool(entry.wheel) or (mirror is not None and (mirror / entry.mirror).is_file())
