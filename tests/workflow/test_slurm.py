"""The smoke preset on a real SLURM: the bytes of a local run, whatever happens to single jobs."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from getpass import getuser
from pathlib import Path

import pytest
from plugins import install
from runs import RESULTS, Outcome, Project, planned_jobs, run, unavailable
from slurm import NotAvailable, single_node

pytestmark = [pytest.mark.slow, pytest.mark.network]

INTERRUPTION = Path(__file__).parent / "interruption"
PATIENCE = 1800.0  # seconds, on a machine that is busy with other tests
FOLDERS = ("results", "data")
METRICS = f"{RESULTS}/metrics.json"  # summarise_attacks writes it last


@dataclass(frozen=True)
class Slurm:
    """A SLURM of one node.

    Attributes:
        variables: the environment variables by which its commands find it.
        plugins: the folder with Snakemake's executor for it.
    """

    variables: dict[str, str]
    plugins: Path

    def environment(self, *folders: Path) -> dict[str, str]:
        """The environment in which commands find SLURM, and Python its executor and what is in folders."""
        return {"PYTHONPATH": os.pathsep.join(map(str, [self.plugins, *folders])), **self.variables}

    def snakemake(self, project: Project, *arguments: str, **variables: str) -> Outcome:
        """Run the smoke preset in a project by profiles/slurm, to its end, whatever that is."""
        started = self.start(project, *arguments, **variables)
        try:
            said, _ = started.communicate(timeout=PATIENCE)
        finally:
            started.kill()
        return Outcome(started.returncode, said)

    def start(self, project: Project, *arguments: str, **variables: str) -> subprocess.Popen[str]:
        """Start to run the smoke preset in a project by profiles/slurm."""
        command = ["--profile", "profiles/slurm", "--slurm-arrays-init-seconds-before-status-checks", "1"]
        return subprocess.Popen(
            [sys.executable, "-m", "snakemake", *project.options(*command, *arguments)],
            cwd=project.root,
            env={**project.environment(), **self.environment(INTERRUPTION), **variables},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    def scancel(self, *arguments: str) -> None:
        """Run scancel, to success."""
        subprocess.run(["scancel", *arguments], env=self.variables, check=True)

    def jobs(self, outcome: Outcome, column: str) -> list[str]:
        """What squeue says in a column of all jobs of a run, ended or not, in the order of submission."""
        (name,) = re.findall(r"SLURM run ID: (\S+)", outcome.output)
        command = ["squeue", "--states=all", "--noheader", "--sort=i", f"--name={name}", f"--format={column}"]
        said = subprocess.run(command, env=self.variables, capture_output=True, text=True, check=True)
        return said.stdout.split()


@pytest.fixture(scope="module")
def slurm(shared: Path) -> Iterator[Slurm]:
    executors = install(shared, "cluster.txt")
    try:
        with single_node() as variables:
            yield Slurm(variables, executors)
    except NotAvailable as reason:
        unavailable("slurm", reason)


@pytest.fixture
def unfinished(complete: Project) -> Project:
    """The project after a complete run, without one of the files that summarise_attacks makes."""
    (complete.root / METRICS).unlink()
    return complete


def named(checksums: dict[str, str]) -> dict[str, str]:
    """Without hidden files: a killed job leaves some behind, which have no name yet."""
    return {path: digest for path, digest in checksums.items() if not Path(path).name.startswith(".")}


def wait_for(note: Path, started: subprocess.Popen[str]) -> int:
    """The number that the stalled job leaves in its note, once it does."""
    until = time.monotonic() + PATIENCE
    while not (note.exists() and note.read_text(encoding="utf-8")):
        assert started.poll() is None, started.communicate()[0]
        assert time.monotonic() < until
        time.sleep(0.1)
    return int(note.read_text(encoding="utf-8"))


# The first task ends last, and the job 2 fails.
UNEQUAL = """
rule all:
    input: expand("{number}", number=[0, 1, 2])
rule unequal:
    output: "{number}"
    resources: mem_mb=1000, runtime=5
    shell: "[ $SLURM_ARRAY_TASK_ID != 0 ] || sleep 20; [ {wildcards.number} != 2 ] && touch {output}"
"""


def test_tasks_of_an_array_end_in_any_order(slurm: Slurm, tmp_path: Path) -> None:
    (tmp_path / "Snakefile").write_text(UNEQUAL, encoding="utf-8")
    settings = {"array-jobs": "unequal", "status-command": "squeue", "init-seconds-before-status-checks": "2"}
    options = [f"--slurm-arrays-{key}={value}" for key, value in settings.items()]
    command = [sys.executable, "-m", "snakemake", "--executor", "slurm-arrays", "--jobs", "9", "--keep-going"]
    outcome = run([*command, *options], tmp_path, {**os.environ, **slurm.environment()})
    assert "3 jobs of unequal are submitted as SLURM array" in outcome.output
    assert outcome.output.count("Error in rule unequal:") == 1, outcome.output
    assert [(tmp_path / number).exists() for number in "012"] == [True, True, False]


def test_a_run_gives_the_bytes_of_a_local_run(
    slurm: Slurm, smoke_run: Project, snapshot: Path, mirror: Path, tmp_path: Path
) -> None:
    project = Project(snapshot, mirror).copy(tmp_path / "project")
    outcome = slurm.snakemake(project)
    assert outcome.status == 0, outcome.output
    expected, found = smoke_run.checksums(*FOLDERS), project.checksums(*FOLDERS)
    assert found.keys() == expected.keys()
    assert [name for name in expected if found[name] != expected[name]] == []
    # SLURM ran every rule but the one that needs a network, and the attacks in arrays.
    submitted = {re.sub("(rule_|_wildcards_.*)", "", comment) for comment in slurm.jobs(outcome, "%k")}
    assert submitted == planned_jobs(outcome.output).keys() - {"download"}
    assert re.search(r"\d+ jobs of attack are submitted as SLURM array", outcome.output)
    # And whoever goes on locally goes on from there.
    assert project.plan() == {}


def test_a_job_cancelled_from_outside(
    slurm: Slurm, smoke_run: Project, unfinished: Project, tmp_path: Path
) -> None:
    note = tmp_path / "note"
    stall = {"INTERRUPT": "summarise_attacks:2:stall", "INTERRUPT_NOTE": str(note)}
    started = slurm.start(unfinished, METRICS, "--retries", "0", **stall)
    try:
        process = wait_for(note, started)
        slurm.scancel("--state=RUNNING", f"--user={getuser()}")
        said, _ = started.communicate(timeout=PATIENCE)
    finally:
        note.unlink(missing_ok=True)
        started.kill()
    assert started.returncode != 0
    assert re.search(r"Error in rule summarise_attacks:\n +message: .*SLURM status is: 'CANCELLED'", said), (
        said
    )
    assert not Path(f"/proc/{process}").exists()
    expected = smoke_run.checksums(*FOLDERS)
    assert named(unfinished.checksums(*FOLDERS)).items() < expected.items()
    again = slurm.snakemake(unfinished, METRICS)
    assert again.status == 0, again.output
    assert "summarise_attacks" in planned_jobs(again.output)
    assert unfinished.checksums(*FOLDERS) == expected


def test_a_job_out_of_memory_is_killed_and_tried_again_with_more(
    slurm: Slurm, smoke_run: Project, unfinished: Project
) -> None:
    # More than the 1000 MB that the rule asks for at first, less than the 2000 MB of the second attempt.
    outcome = slurm.snakemake(unfinished, METRICS, "--retries", "1", INTERRUPT="summarise_attacks:2:exceed")
    assert slurm.jobs(outcome, "%m")[:2] == ["1000M", "2000M"], outcome.output
    assert "Error in rule summarise_attacks:" in outcome.output
    assert outcome.status == 0, outcome.output
    assert named(unfinished.checksums(*FOLDERS)) == smoke_run.checksums(*FOLDERS)
