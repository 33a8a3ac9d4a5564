"""What Snakemake says about a run: its jobs as planned, started, finished and failed, read from its log.

The same text is in a dry run's output (the plan) and in `.snakemake/log/` (a run that goes on, or ended),
whatever executes the jobs. It is read as text because nothing has to be installed or asked for beforehand,
and the pinned version of Snakemake keeps its form; a test compares both with a real run.
"""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path

from undue.errors import UserError

LOGS = Path(".snakemake/log")

_HEADER = re.compile(r"  (Command|Working directory|Config file\(s\)): (.*)")
_PROGRAM = re.compile(r".*?\bsnakemake(?:/__main__\.py)?(?: |$)")
_TIME = re.compile(r"\[(\w{3} \w{3} +\d+ [\d:]{8} \d{4})\]$")
_JOB = re.compile(r"(?:local)?(?:rule|checkpoint) (\w+):$")
_FAILED = re.compile(r"Error in (?:rule|checkpoint) \w+:$")
_FINISHED = re.compile(r"Finished jobid: (\d+)")
_DETAIL = re.compile(r"    ([\w ]+): (.*)")
_COUNT = re.compile(r"(\w+) +(\d+)$")


@dataclass(frozen=True)
class Job:
    """One job of a run.

    Attributes:
        number: Snakemake's jobid, unique in its run.
        rule: the rule's name.
        wildcards: their values.
        inputs, outputs: paths.
        log, benchmark: paths; empty where the rule has none.
        threads: that it asks for.
        memory: MB that it asks for; None where that depends on files that aren't there yet.
    """

    number: int
    rule: str
    wildcards: Mapping[str, str]
    inputs: tuple[str, ...] = ()
    outputs: tuple[str, ...] = ()
    log: str = ""
    benchmark: str = ""
    threads: int = 1
    memory: int | None = None

    @property
    def key(self) -> tuple[str, ...]:
        """What tells jobs apart in different runs of a workflow."""
        return (self.rule, *self.outputs)


@dataclass
class History:
    """What a log says so far.

    Attributes:
        command: as it was started, without the quotes it may have had.
        folder: the working directory.
        configs: files of the configuration, each laid over those before it.
        cores: that Snakemake may use; None on a cluster.
        counts: rule → jobs of the run, as stated at its start.
        jobs: number → job, of those started (in a dry run: planned).
        started, finished: number → time.
        failed: numbers of jobs that failed and weren't started again.
        begun, latest: the first and the last time stated.
        over: the run has ended.
    """

    command: str = ""
    folder: Path = field(default_factory=Path)
    configs: list[Path] = field(default_factory=list)
    cores: int | None = None
    counts: dict[str, int] = field(default_factory=dict)
    jobs: dict[int, Job] = field(default_factory=dict)
    started: dict[int, datetime] = field(default_factory=dict)
    finished: dict[int, datetime] = field(default_factory=dict)
    failed: set[int] = field(default_factory=set)
    begun: datetime | None = None
    latest: datetime | None = None
    over: bool = False

    @property
    def arguments(self) -> list[str]:
        """What Snakemake was started with: its words, but files of the configuration whole.

        The log doesn't keep quotes, so that names with blanks in them fall apart; those of the
        configuration are in it once more.
        """
        words, skipping = [], False
        for word in _PROGRAM.sub("", self.command, count=1).split():
            if word.startswith("-"):
                skipping = word.partition("=")[0] in {"--configfile", "--configfiles"}
            if not skipping:
                words.append(word)
        overlays = list(map(str, self.configs[1:]))
        return [*words, *(["--configfile", *overlays] if overlays else [])]

    @property
    def name(self) -> str:
        """What was run: "default", or the overlays' names."""
        return "+".join(path.stem for path in self.configs[1:]) or "default"

    @property
    def total(self) -> int:
        """Jobs of the run."""
        return sum(self.counts.values())

    @property
    def running(self) -> list[Job]:
        """Jobs that were started and neither finished nor failed, in the order of their start."""
        ended = self.finished.keys() | self.failed
        return [self.jobs[number] for number in self.started if number not in ended]


def read_history(lines: Iterable[str]) -> History:
    """Read a log, or the output of a dry run."""
    history = History()
    now: datetime | None = None
    rule = ""  # of the job whose details are being read; "error" for a failed one
    details: dict[str, str] = {}
    counting = False

    def close() -> None:
        nonlocal rule
        if rule == "error":
            if details.get("jobid", "").isdigit():
                history.failed.add(int(details["jobid"]))
        elif rule and "jobid" in details:
            job = _job(rule, details)
            history.jobs[job.number] = job
            history.failed.discard(job.number)
            if now:
                history.started[job.number] = now
        rule = ""
        details.clear()

    for line in (line.rstrip("\n") for line in lines):
        if rule:
            if detail := _DETAIL.match(line):
                details[detail[1]] = detail[2]
                continue
            close()
        if stamp := _TIME.match(line):
            now = datetime.strptime(stamp[1], "%a %b %d %H:%M:%S %Y")
            history.begun, history.latest = history.begun or now, now
        elif opened := _JOB.match(line):
            rule = opened[1]
        elif _FAILED.match(line):
            rule = "error"
        elif done := _FINISHED.match(line):
            if now:
                history.finished[int(done[1])] = now
        elif line == "Job stats:":
            counting = True
        elif counting and (count := _COUNT.match(line)):
            if count[1] == "total":
                counting = False
            else:
                history.counts[count[1]] = int(count[2])
        elif line.startswith("Provided cores: "):
            history.cores = int(line.split()[2])
        elif header := _HEADER.match(line):
            if header[1] == "Command":
                history.command = header[2]
            elif header[1] == "Working directory":
                history.folder = Path(header[2])
            else:
                # Snakemake names its own file last, but it is the one that all others are laid over.
                named = [Path(name) for name in re.findall(r"'([^']+)'", header[2])]
                history.configs = [*named[-1:], *named[:-1]]
        elif line.startswith(("Complete log", "Nothing to be done")):
            history.over = True
    close()
    return history


def plan(arguments: Sequence[str], folder: Path) -> History:
    """The jobs that `snakemake <arguments>` would run, by a dry run.

    Args:
        arguments: Snakemake's own.
        folder: the project's.

    Raises:
        UserError: Snakemake refuses; its own words are in the message.
    """
    command = [sys.executable, "-m", "snakemake", *arguments, "--dry-run", "--nocolor"]
    ran = subprocess.run(
        command,
        cwd=folder,
        text=True,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        check=False,
    )
    if ran.returncode:
        raise UserError(
            "a dry run failed; its last words were\n" + "\n".join(ran.stdout.splitlines()[-15:]),
            where=shlex.join(["snakemake", *arguments]),
            remedy="give the options that the run itself is to have",
        )
    return read_history(ran.stdout.splitlines())


def latest_log(folder: Path) -> Path:
    """The log of the run that was started last in a project's folder.

    Raises:
        UserError: there is none.
    """
    for path in sorted((folder / LOGS).glob("*.snakemake.log"), reverse=True):
        # Linting and reporting leave logs, too.
        if "\nJob stats:\n" in path.read_text(encoding="utf-8", errors="replace"):
            return path
    raise UserError(
        "there is no log of a run",
        where=str(folder / LOGS),
        remedy="start a run first, in this folder: snakemake --cores 2",
    )


def _job(rule: str, details: Mapping[str, str]) -> Job:
    resources = dict(re.findall(r"(\w+)=([^,]+)", details.get("resources", "")))
    memory = resources.get("mem_mb", "")
    return Job(
        number=int(details["jobid"]),
        rule=rule,
        wildcards=dict(re.findall(r"(\w+)=([^,]*)", details.get("wildcards", ""))),
        inputs=_paths(details.get("input", "")),
        outputs=_paths(details.get("output", "")),
        log=details.get("log", ""),
        benchmark=details.get("benchmark", ""),
        threads=int(details.get("threads", 1)),
        memory=int(memory) if memory.isdigit() else None,
    )


def _paths(text: str) -> tuple[str, ...]:
    return tuple(filter(None, text.split(", ")))
