"""The real workflow, run by the real Snakemake in throw-away copies of the project."""

from __future__ import annotations

import fcntl
import hashlib
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

import pytest
import yaml
from forked import MAIN, forked

ROOT = Path(__file__).resolve().parents[2]
PRESET = "workflow/presets/smoke.yaml"
RESULTS = "results/presets/smoke"

# What the caller's shell may have set must not decide what is tested.
UNSET = (
    *("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "SNAKEMAKE_PROFILE"),
    *("PYTHONPATH", "PYTHONDONTWRITEBYTECODE"),
    # Nor what a `make` that runs the tests hands down to its like.
    *("MAKEFLAGS", "MFLAGS", "MAKEOVERRIDES", "MAKELEVEL", "PRESET", "CORES", "ARGS", "PIP_ARGS"),
)
TIMEOUT = 1800  # seconds, on a machine that is busy with other tests


@dataclass(frozen=True)
class Outcome:
    """How a command ended: its exit status, and all that it printed."""

    status: int
    output: str


@dataclass(frozen=True)
class Project:
    """A copy of the project, to be run and altered at will.

    Attributes:
        root: its folder.
        mirror: the folder that its downloads come from.
    """

    root: Path
    mirror: Path

    def snakemake(
        self, *arguments: str, changes: Mapping[str, Any] | None = None, preset: str = PRESET
    ) -> Outcome:
        """Run Snakemake on the smoke preset.

        Args:
            arguments: options and targets.
            changes: a further overlay on the configuration.
            preset: the overlay to take in place of the smoke preset.
        """
        options = self.options(*arguments, changes=changes, preset=preset)
        return run(["snakemake", *options], self.root, self.environment())

    def options(
        self, *arguments: str, changes: Mapping[str, Any] | None = None, preset: str = PRESET
    ) -> list[str]:
        """What `snakemake` is called with."""
        files = [preset]
        if changes is not None:
            (self.root / "changes.yaml").write_text(yaml.safe_dump(dict(changes)), encoding="utf-8")
            files.append("changes.yaml")
        return ["--cores", "2", *arguments, "--configfile", *files]

    def environment(self) -> dict[str, str]:
        """The environment of `snakemake`."""
        return environment_with(self.mirror)

    def plan(self, *arguments: str, changes: Mapping[str, Any] | None = None) -> dict[str, int]:
        """What a dry run says will be done: rule → number of jobs, without the target rule."""
        outcome = self.dry_run(*arguments, changes=changes)
        assert outcome.status == 0, outcome.output
        return planned_jobs(outcome.output)

    def dry_run(self, *arguments: str, changes: Mapping[str, Any] | None = None) -> Outcome:
        """A dry run of Snakemake."""
        return self.snakemake("--dry-run", *arguments, changes=changes)

    def complete(self, *arguments: str, changes: Mapping[str, Any] | None = None) -> Outcome:
        """Run Snakemake, to success."""
        outcome = self.snakemake(*arguments, changes=changes)
        assert outcome.status == 0, outcome.output
        return outcome

    def copy(self, to: Path) -> Project:
        """A copy of it all, modification times included."""
        shutil.copytree(self.root, to, symlinks=True)
        return Project(to, self.mirror)

    def edit(self, path: str, change: Callable[[str], str]) -> None:
        """Rewrite a file; it has to become another one."""
        file = self.root / path
        before = file.read_text(encoding="utf-8")
        after = change(before)
        assert after != before, f"{path} stays as it is"
        file.write_text(after, encoding="utf-8")

    def checksums(self, *folders: str) -> dict[str, str]:
        """Path → sha256 of every file below the folders that a run writes to."""
        return {
            path.relative_to(self.root).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
            for folder in folders
            for path in sorted((self.root / folder).rglob("*"))
            if path.is_file()
        }


def environment_with(mirror: Path) -> dict[str, str]:
    """This environment, without what decides what is tested; programs of these tests' own come first."""
    kept = {name: value for name, value in os.environ.items() if name not in UNSET}
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    return {**kept, "PATH": path, "UNDUE_MIRROR": str(mirror)}


def run(command: list[str], folder: Path, environment: Mapping[str, str]) -> Outcome:
    """Run a command to its end, whatever that is; Snakemake and DVC without waiting for their imports."""
    program, *arguments = command
    if program in MAIN and not _plugins(environment):
        return Outcome(*forked(program, arguments, folder, environment, TIMEOUT))
    done = subprocess.run(
        command,
        cwd=folder,
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
        timeout=TIMEOUT,
    )
    return Outcome(done.returncode, done.stdout)


def _plugins(environment: Mapping[str, str]) -> bool:
    """Whether PYTHONPATH has plugins for Snakemake, which finds them as it is imported."""
    folders = filter(None, environment.get("PYTHONPATH", "").split(os.pathsep))
    return any(any(Path(folder).glob("snakemake_executor_plugin_*")) for folder in folders)


def required(need: str) -> bool:
    """Whether UNDUE_REQUIRE says that this machine has "registry", "slurm", "ssh" or "browser"."""
    return need in os.environ.get("UNDUE_REQUIRE", "").split(",")


def unavailable(need: str, reason: object) -> NoReturn:
    """Skip a test for want of something; fail it where this machine is said to have it."""
    if required(need):
        pytest.fail(f"{need} is required here: {reason}")
    pytest.skip(str(reason))


def planned_jobs(output: str) -> dict[str, int]:
    """The table of jobs in Snakemake's output, {} if it says that nothing is to be done."""
    table = re.search(r"^Job stats:\njob +count\n-+ +-+\n((?:\S+ +\d+\n)+)", output, re.MULTILINE)
    if table is None:
        assert "Nothing to be done" in output, output
        return {}
    counts = {rule: int(count) for rule, count in map(str.split, table[1].splitlines())}
    total = counts.pop("total")
    assert total == sum(counts.values())
    # Stage targets do no work.
    return {rule: count for rule, count in counts.items() if rule not in {"all", "data", "features"}}


def sources() -> list[Path]:
    """The project's own files, relative to it: those in git, and new ones that git wouldn't ignore."""
    listing = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard", "-z"],
        cwd=ROOT,
        check=True,
        capture_output=True,
        text=True,
    )
    paths = map(Path, filter(None, listing.stdout.split("\0")))
    return [path for path in paths if path.parts[0] != "results" and (ROOT / path).is_file()]


def copy_sources(to: Path) -> None:
    """Write the project's own files to a new folder."""
    for path in sources():
        (to / path).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(ROOT / path, to / path)


def link_environment(root: Path) -> None:
    """Give a copy of the project the environment that runs the tests, as if `make` had created it there."""
    folder = root / ".venv"
    folder.mkdir()
    for entry in Path(sys.prefix).iterdir():
        if not entry.name.startswith("installed-"):
            (folder / entry.name).symlink_to(entry)
    # As envs/create.sh names it.
    stamp = "{ cat envs/requirements.txt && pwd; } | cksum | tr ' ' '-'"
    named = subprocess.run(["sh", "-c", stamp], cwd=root, check=True, capture_output=True, text=True)
    (folder / f"installed-{named.stdout.strip()}").touch()


def once(folder: Path, make: Callable[[Path], None]) -> Path:
    """`folder`, made by whichever process needs it first while the others wait.

    It is made under another name, so that what is found under its own is whole.
    """
    with folder.with_suffix(".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not folder.exists():
            unfinished = folder.with_suffix(".unfinished")
            shutil.rmtree(unfinished, ignore_errors=True)
            unfinished.mkdir()
            make(unfinished)
            unfinished.rename(folder)
    return folder
