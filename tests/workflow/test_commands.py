"""Commands of the docs, as they stand there; what would take hours is planned only (`-n`)."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from runs import link_environment, planned_jobs
from tiny import ALL_JOBS, Tiny, complete

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def project(snapshot: Path, tmp_path_factory: pytest.TempPathFactory) -> Tiny:
    """The project as it is cloned, with the environment that `make` creates."""
    folder = tmp_path_factory.mktemp("commands")
    (folder / "mirror").mkdir()
    made = Tiny(snapshot, folder / "mirror").copy(folder / "project")
    link_environment(made.root)
    return made


@pytest.fixture(scope="module")
def done(shared: Path, snapshot: Path, tmp_path_factory: pytest.TempPathFactory) -> Tiny:
    """The tiny project after a complete run."""
    made = complete(shared, snapshot).copy(tmp_path_factory.mktemp("commands") / "project")
    link_environment(made.root)
    return made


def told(project: Tiny, command: str) -> str:
    """What a command says, typed in a shell."""
    return project.run("sh", "-euc", command)


def test_an_estimate_of_the_paper_s_run(project: Tiny) -> None:
    said = told(project, "make estimate PRESET=paper")
    # 3 data sets, 3 objectives, 4 radii, 7 starts, 2 blocks.
    assert re.search(r"^attack \* +168 ", said, re.MULTILINE)
    assert "at 10 TFLOP/s" in said
    said = told(project, 'make estimate PRESET=paper ARGS="--cores 64 --gpu-tflops 20"')
    assert "on 64 of them" in said
    assert "at 20 TFLOP/s" in said


def test_an_estimate_of_what_was_done(done: Tiny) -> None:
    assert "Nothing is to be done" in told(done, "make estimate")
    said = told(done, "make estimate ARGS=--all")
    assert [rule for rule in ALL_JOBS if not re.search(rf"^{rule} ", said, re.MULTILINE)] == []


def test_the_paper_s_features(project: Tiny) -> None:
    said = told(project, "snakemake features --configfile workflow/presets/paper.yaml -n")
    # CIFAR-10, Caltech-101, two files of the pets; ResNet50.
    assert planned_jobs(said) == {"download": 5, "extract_features": 3}


def test_the_paper_s_run_from_its_features(project: Tiny) -> None:
    command = (
        "snakemake --cores all --configfile workflow/presets/from_features.yaml workflow/presets/paper.yaml"
    )
    said = told(project, f"{command} -n")
    # All of it, but for the pictures, which need the images.
    assert planned_jobs(said)["attack"] == 168
    assert "plot_top_ranked" not in planned_jobs(said)
    assert "results/presets/paper/tables/table1.md" in said


def test_what_was_published(project: Tiny) -> None:
    page = (project.root / "docs" / "published-code.md").read_text(encoding="utf-8")
    (block,) = re.findall(r"^```yaml\n(# published\.yaml.*?)^```", page, re.MULTILINE | re.DOTALL)
    (project.root / "published.yaml").write_text(block, encoding="utf-8")
    planned = planned_jobs(told(project, "snakemake --cores 2 --configfile published.yaml -n"))
    assert (planned["extract_features"], planned["attack"]) == (2, 20)


def test_everything_anew(done: Tiny) -> None:
    assert planned_jobs(told(done, "snakemake --forceall -n")) == ALL_JOBS


def test_in_the_activated_environment(done: Tiny) -> None:
    assert planned_jobs(told(done, ". .venv/bin/activate && snakemake --cores 2")) == {}
