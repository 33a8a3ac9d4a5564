"""One complete run of the smoke preset, from which the tests start."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from runs import ROOT, Project, copy_sources, once, unavailable

from undue.data.registry import fetch, mirror_folder, read_registry
from undue.errors import UserError


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The longest first, so that the last of it doesn't run alone."""
    items.sort(key=lambda item: item.path.name != "test_slurm.py")


@pytest.fixture(scope="session")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder that all workers of this test session have in common."""
    base = tmp_path_factory.getbasetemp()
    return base.parent if "PYTEST_XDIST_WORKER" in os.environ else base


@pytest.fixture(scope="session")
def snapshot(shared: Path) -> Path:
    """The project's sources as they were when the session began."""
    return once(shared / "sources", copy_sources)


@pytest.fixture(scope="session")
def mirror(shared: Path) -> Path:
    """A mirror folder with the one file that the smoke preset downloads."""
    entry = read_registry(ROOT / "data" / "registry.tsv")["mnist5k"]

    def make(folder: Path) -> None:
        destination = folder / entry.mirror
        destination.parent.mkdir(parents=True)
        earlier = ROOT / "data" / "downloads" / entry.file
        if earlier.is_file():
            shutil.copyfile(earlier, destination)
        else:
            fetch(entry, destination, mirror=mirror_folder(None))

    try:
        return once(shared / "mirror", make)
    except UserError as error:
        unavailable("registry", f"MNIST-5k can't be had: {error}")


@pytest.fixture(scope="session")
def smoke_run(shared: Path, snapshot: Path, mirror: Path) -> Project:
    """The project after a complete run; not to be altered."""

    def make(folder: Path) -> None:
        shutil.copytree(snapshot, folder, dirs_exist_ok=True)
        Project(folder, mirror).complete()

    return Project(once(shared / "smoke", make), mirror)


@pytest.fixture
def complete(smoke_run: Project, tmp_path: Path) -> Iterator[Project]:
    """A copy of the project after a complete run."""
    yield smoke_run.copy(tmp_path / "project")
    shutil.rmtree(tmp_path / "project")


@pytest.fixture
def fresh(snapshot: Path, tmp_path: Path) -> Iterator[Project]:
    """A copy of the project in which nothing was run, without anything to download from."""
    nothing = tmp_path / "mirror"
    nothing.mkdir()
    yield Project(snapshot, nothing).copy(tmp_path / "project")
    shutil.rmtree(tmp_path / "project")
