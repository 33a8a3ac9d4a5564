"""Whatever ends a run, nothing half-written counts as done, and the next run ends with the same bytes."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest
from tiny import ALL_JOBS, Tiny, complete, fresh, ran

INTERRUPTION = Path(__file__).parent / "interruption"
FROM_SUMMARISE = {"summarise_attacks": 1, "analyse_easy_targets": 1, "plot_attack_success": 1}
# The script is killed when it has written so many files; more are to come of those with more outputs.
KILLS = [
    ("download", 1),
    ("extract_features", 2),
    ("train_model", 2),
    ("attack", 3),
    ("publish_attacks", 1),
    ("summarise_attacks", 4),
    ("plot_attack_success", 2),
]
ATTACKS = "results/tiny/attack/min_higher/radius=0.8"
PATIENCE = 120.0  # seconds


@pytest.fixture
def reference(shared: Path, snapshot: Path) -> Tiny:
    return complete(shared, snapshot)


@pytest.fixture
def project(reference: Tiny, tmp_path: Path) -> Tiny:
    return reference.copy(tmp_path / "project")


def interrupted(project: Tiny, rule: str, files: int, how: str, note: Path | None = None) -> Tiny:
    """The project with the environment that interrupts a rule's script after it wrote so many files."""
    extra = {
        "PYTHONPATH": str(INTERRUPTION),
        "INTERRUPT": f"{rule}:{files}:{how}",
        "INTERRUPT_NOTE": str(note),
    }
    return replace(project, extra=extra)


def finished(output: str) -> Counter[str]:
    """How many jobs of each rule ended well, by the output of a run."""
    return Counter(re.findall(r"^Finished jobid: \d+ \(Rule: (\w+)\)", output, re.MULTILINE))


# Killed jobs ------------------------------------------------------------------------------------------------


def test_killed_jobs(reference: Tiny, snapshot: Path, tmp_path: Path) -> None:
    project = fresh(tmp_path, snapshot)
    left = Counter(ALL_JOBS)
    expected = reference.checksums()
    for rule, files in KILLS:
        outcome = interrupted(project, rule, files, "kill").attempt("snakemake")
        assert outcome.status != 0, rule
        done = finished(outcome.output)
        assert rule in ran(outcome.output)
        assert rule not in done
        # What was finished before is not done again.
        assert done <= left
        assert not (Counter(ran(outcome.output)) - left)
        left -= done
        # All that is there under a name is whole.
        assert project.checksums().items() <= expected.items()
    assert ran(project.run("snakemake")) == dict(left)
    assert project.checksums() == expected
    assert project.plan() == {}


# Snakemake itself -------------------------------------------------------------------------------------------


@contextmanager
def stalled_summary(project: Tiny, note: Path) -> Iterator[tuple[subprocess.Popen[str], int]]:
    """A run that stands still, some of the summary's files written, and the number of that job's process."""
    (project.root / "results/metrics.json").unlink()
    run = interrupted(project, "summarise_attacks", 4, "stall", note).start("snakemake")
    job = 0
    try:
        until = time.monotonic() + PATIENCE
        while not (note.exists() and note.read_text(encoding="utf-8")):
            assert run.poll() is None, run.communicate()[0]
            assert time.monotonic() < until
            time.sleep(0.05)
        job = int(note.read_text(encoding="utf-8"))
        yield run, job
    finally:
        note.unlink(missing_ok=True)
        if run.poll() is None:
            run.kill()
        run.communicate()
        if job:
            wait_for_end(job)


def wait_for_end(process: int) -> None:
    """Wait until a process that isn't ours to wait for is gone."""
    until = time.monotonic() + PATIENCE
    while Path(f"/proc/{process}").exists():
        assert time.monotonic() < until
        time.sleep(0.05)


def test_interrupt_from_the_keyboard(reference: Tiny, project: Tiny, tmp_path: Path) -> None:
    with stalled_summary(project, tmp_path / "note") as (run, job):
        # Ctrl-C reaches every process of the terminal.
        os.kill(run.pid, signal.SIGINT)
        os.kill(job, signal.SIGINT)
        said, _ = run.communicate(timeout=PATIENCE)
        assert run.returncode != 0, said
    assert project.checksums().items() <= reference.checksums().items()
    assert ran(project.run("snakemake")) == FROM_SUMMARISE
    assert project.checksums() == reference.checksums()


@pytest.mark.parametrize("job_ends", ["killed", "well"])
def test_snakemake_killed(reference: Tiny, project: Tiny, tmp_path: Path, job_ends: str) -> None:
    note = tmp_path / "note"
    with stalled_summary(project, note) as (run, job):
        run.kill()
        run.wait(timeout=PATIENCE)
        if job_ends == "killed":
            os.kill(job, signal.SIGKILL)
        else:
            note.unlink()
        wait_for_end(job)
    outcome = project.attempt("snakemake")
    assert outcome.status != 0
    assert "--unlock" in outcome.output
    project.run("snakemake", "--unlock")
    # Even if the job came to its end: nobody has seen it end well.
    assert ran(project.run("snakemake")) == FROM_SUMMARISE
    assert project.checksums() == reference.checksums()
    assert project.plan() == {}


# A full disk ------------------------------------------------------------------------------------------------

SMALL_DISK = """
set -u
mount -t tmpfs -o "size=$3,mode=755" tmpfs "$1"
snakemake "$4"
status=$?
find "$1" -type f
[ $status -ne 0 ] || exit 3
mount -o remount,size=16m "$1"
snakemake "$4" || exit 4
mkdir "$2"
cp -R data results "$2"
"""


def mounting() -> list[str] | None:
    """The command that runs another with mounts of its own, if this machine lets us."""
    if shutil.which("unshare") is None:
        return None
    for options in (["--mount"], ["--user", "--map-root-user", "--mount"]):
        command = ["unshare", *options]
        probe = [*command, "mount", "-t", "tmpfs", "-o", "size=4k", "tmpfs", "/mnt"]
        if subprocess.run(probe, capture_output=True, check=False).returncode == 0:
            return command
    return None


@pytest.mark.parametrize(
    ("folder", "size", "file", "target"),
    [
        # Whichever of the tables comes second.
        ("results/tables", "4k", r"results/tables/\w+\.\w+", "all"),
        # Room for the attack's two tables, not for its models.
        (ATTACKS, "12k", r"seed=0/block=0\.candidates\.safetensors", f"{ATTACKS}/published.parquet"),
    ],
)
def test_full_disk(
    reference: Tiny, project: Tiny, tmp_path: Path, folder: str, size: str, file: str, target: str
) -> None:
    prefix = mounting()
    if prefix is None:
        pytest.skip("no small disk to be had: neither root nor a user namespace may mount one here")
    kept = Tiny(tmp_path / "kept", project.mirror)
    outcome = project.attempt(*prefix, "sh", "-c", SMALL_DISK, "sh", folder, str(kept.root), size, target)
    assert outcome.status == 0, outcome.output
    failed, second = outcome.output.split("Exiting because a job execution failed", 1)
    assert re.search(rf"{file}: no space left on the device", failed)
    assert "Traceback" not in failed
    # Of what the failing job wrote nothing is left, not even files of which only it knows the name.
    listing, _ = second.split("Using workflow specific profile", 1)
    left = [line for line in listing.splitlines() if line.startswith(folder)]
    assert all(path in reference.checksums() for path in left)
    assert kept.checksums() == reference.checksums()
