"""Snakemake's executors for clusters, which the project's own environment goes without."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

from runs import ROOT, once, unavailable


def install(shared: Path, requirements: str) -> Path:
    """A folder with the packages of a file in envs/, from the package registry, made once a test session.

    Args:
        shared: the folder of all workers of the test session.
        requirements: the file's name.
    """

    def make(folder: Path) -> None:
        # From a copy: pip builds where the sources are.
        sources = folder / "sources"
        shutil.copytree(ROOT / "profiles", sources / "profiles", ignore=shutil.ignore_patterns("build"))
        shutil.copytree(ROOT / "envs", sources / "envs")
        command = [sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
        command += ["--no-deps", "--target", str(folder), "--requirement", f"envs/{requirements}"]
        done = subprocess.run(command, cwd=sources, capture_output=True, text=True, check=False)
        if done.returncode != 0:
            unavailable("registry", f"envs/{requirements} can't be installed: {done.stderr[-500:]}")
        shutil.rmtree(sources)

    return once(shared / Path(requirements).stem, make)
