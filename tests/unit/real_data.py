"""Real data sets of a mirror folder, which are in no package."""

from __future__ import annotations

import os
from pathlib import Path

import pytest


def mirror(file: str = "") -> Path:
    """The mirror folder, if it is there and has a file; else the test is skipped."""
    folder = Path(os.environ.get("UNDUE_MIRROR") or "nowhere")
    if not (folder / file).exists():
        pytest.skip(f"no mirror folder with {file or 'the real data sets'} (UNDUE_MIRROR)")
    return folder
