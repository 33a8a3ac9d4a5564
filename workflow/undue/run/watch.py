"""A view of the run that goes on in this folder: `python -m undue.run.watch --help`.

It only reads: Snakemake's log and those of the jobs. So it can be started and stopped at any time, in another
terminal or on another machine that sees the folder, whatever executes the jobs.
"""

from __future__ import annotations

import argparse
import re
import shutil
import sys
import textwrap
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path

from undue.errors import UserError
from undue.run.history import History, Job, latest_log, plan, read_history

_PROGRESS = re.compile(r"\b(\d+)/(\d+) [a-z]")
_SUCCESS = re.compile(r"rank ≤ (\d+) reached by (\d+) of (\d+) attacks")
# Where a job has nothing to say for so long, the view says so.
SILENCE = timedelta(minutes=2)
TAIL = 4096  # bytes of a log in which its last line is looked for

Expected = Callable[[Job], float]
"""What a job will take, in any unit that all jobs have in common."""


@dataclass(frozen=True)
class View:
    """A run at a moment.

    Attributes:
        total, done: jobs.
        running: with the last line of their logs.
        failed: jobs.
        by_rule: rule → jobs, done, running.
        elapsed: since the start.
        left: until the end; None where nothing is known yet.
        success: (data set, objective, C) → rank, attacks that reached it, attacks.
        silent: since the last sign of life.
        over: the run has ended.
    """

    total: int
    done: int
    running: tuple[tuple[Job, str], ...]
    failed: tuple[Job, ...]
    by_rule: Mapping[str, tuple[int, int, int]]
    elapsed: timedelta
    left: timedelta | None
    success: Mapping[tuple[str, str, str], tuple[int, int, int]]
    silent: timedelta
    over: bool


def look(
    history: History,
    expected: Expected,
    waiting: Sequence[Job],
    last_lines: Mapping[int, str],
    *,
    now: datetime,
    last_sign: datetime,
) -> View:
    """Put together what is to be seen of a run.

    Args:
        history: its log.
        expected: what jobs take.
        waiting: jobs that were to be done at some moment of the run, from a dry run; those that were started
            since are recognised. May be empty: then all jobs are taken to be alike.
        last_lines: number of a job → last line of its log.
        now: the time.
        last_sign: when the run or one of its jobs last wrote something.
    """
    running = history.running
    finished = [history.jobs[number] for number in history.finished if number in history.jobs]
    shares = {job.number: _share(last_lines.get(job.number, "")) for job in running}
    begun = history.begun or now
    end = (history.latest or now) if history.over else now
    started = Counter(job.rule for job in running)
    done = Counter(job.rule for job in finished)
    return View(
        total=history.total,
        done=len(history.finished),
        running=tuple((job, last_lines.get(job.number, "")) for job in running),
        failed=tuple(history.jobs[number] for number in sorted(history.failed) if number in history.jobs),
        by_rule={rule: (count, done[rule], started[rule]) for rule, count in history.counts.items()},
        elapsed=end - begun,
        left=None if history.over else _left(history, expected, waiting, finished, shares, end - begun),
        success=_success([*finished, *running], last_lines),
        silent=now - last_sign,
        over=history.over,
    )


def _share(line: str) -> float:
    """How much of a job is done, by its last line."""
    found = _PROGRESS.search(line)
    return int(found[1]) / max(int(found[2]), 1) if found else 0.0


def _left(
    history: History,
    expected: Expected,
    waiting: Sequence[Job],
    finished: Sequence[Job],
    shares: Mapping[int, float],
    elapsed: timedelta,
) -> timedelta | None:
    """What is left takes as long as what is done took, by what was expected of both."""
    known = {job.key for job in history.jobs.values()}
    later = [job for job in waiting if job.key not in known]
    unknown = history.total - len(history.jobs) - len(later)
    if unknown > 0 or not any(map(expected, [*later, *history.jobs.values()])):
        # Not the run that the dry run is of, or nothing is known of its jobs.
        expected, later = (lambda job: 1.0), []
        rest = float(history.total - len(history.jobs))
    else:
        rest = sum(map(expected, later))
    done = sum(map(expected, finished))
    for number, share in shares.items():
        whole = expected(history.jobs[number])
        done += share * whole
        rest += (1 - share) * whole
    rest += sum(expected(history.jobs[number]) for number in history.failed if number in history.jobs)
    return elapsed * (rest / done) if done > 0 else None


def _success(
    jobs: Sequence[Job], last_lines: Mapping[int, str]
) -> dict[tuple[str, str, str], tuple[int, int, int]]:
    found: dict[tuple[str, str, str], list[tuple[int, int, int]]] = defaultdict(list)
    for job in jobs:
        said = _SUCCESS.search(last_lines.get(job.number, ""))
        if said:
            key = tuple(job.wildcards.get(name, "") for name in ("dataset", "objective", "radius"))
            found[(key[0], key[1], key[2])].append((int(said[1]), int(said[2]), int(said[3])))
    return {
        key: (min(k for k, _, _ in said), sum(hits for _, hits, _ in said), sum(of for _, _, of in said))
        for key, said in sorted(found.items())
    }


# Showing ----------------------------------------------------------------------------------------------------


def line(view: View) -> str:
    """The view in one line, for log files."""
    parts = [f"{view.done} of {view.total} jobs done, {len(view.running)} running"]
    if view.failed:
        parts.append(f"{len(view.failed)} failed")
    parts.append(f"{duration(view.elapsed)} so far")
    if view.over:
        parts.append("ended")
    else:
        parts.append(
            f"about {duration(view.left)} left" if view.left is not None else "no telling yet how long"
        )
    if view.success:
        hits, of = (sum(said[place] for said in view.success.values()) for place in (1, 2))
        rank = min(k for k, _, _ in view.success.values())
        parts.append(f"rank ≤ {rank} reached by {hits} of {of} attacks")
    if view.silent > SILENCE and not view.over:
        parts.append(f"last sign of life {duration(view.silent)} ago")
    return ", ".join(parts)


def page(view: View, width: int) -> list[str]:
    """The view in lines of at most so many characters, for a terminal."""
    share = view.done / max(view.total, 1)
    bar = "█" * round(40 * share)
    lines = [*textwrap.wrap(line(view), width), f"{bar:░<40} {share:4.0%}", ""]
    lines.append(f"{'rule':<24}{'done':>9}{'running':>9}{'left':>6}")
    for rule, (jobs, done, running) in view.by_rule.items():
        if done < jobs:
            lines.append(f"{rule:<24}{f'{done}/{jobs}':>9}{running or '':>9}{jobs - done - running:>6}")
    if complete := sum(done == jobs for jobs, done, _ in view.by_rule.values()):
        lines.append(f"done: {complete} other rules")
    if view.running:
        lines += ["", "running:"]
        for job, said in view.running:
            lines += [f"  {name(job)}", f"    {said or 'no word yet'}"]
    if view.failed:
        lines += ["", "failed:", *(f"  {name(job)}: see {job.log}" for job in view.failed)]
    if view.success:
        lines += ["", "attacks that succeeded so far:"]
        for (dataset, objective, radius), (k, hits, of) in view.success.items():
            what = " ".join(filter(None, [dataset, objective, f"C={radius}"]))
            lines.append(f"  {hits / max(of, 1):4.0%} of {of:<6} {what}, rank ≤ {k}")
    return [text if len(text) <= width else text[: width - 1] + "…" for text in lines]


def name(job: Job) -> str:
    """A job in words."""
    return " ".join([job.rule, *(f"{key}={value}" for key, value in job.wildcards.items())])


def duration(span: timedelta) -> str:
    """A span of time, in two units at most: "40 s", "12 min", "3 h 20 min", "2 d 4 h"."""
    seconds = max(int(span.total_seconds()), 0)
    if seconds < 90:
        return f"{seconds} s"
    minutes = round(seconds / 60)
    if minutes < 60:
        return f"{minutes} min"
    hours, minutes = divmod(minutes, 60)
    if hours < 24:
        return f"{hours} h {minutes} min"
    return f"{hours // 24} d {hours % 24} h"


# Reading ----------------------------------------------------------------------------------------------------


def last_line(path: Path) -> str:
    """The last whole line of a log, without its time; empty where there is none."""
    try:
        with path.open("rb") as file:
            file.seek(0, 2)
            file.seek(max(0, file.tell() - TAIL))
            text = file.read().decode("utf-8", errors="replace")
    except OSError:
        return ""
    whole = text.rpartition("\n")[0].splitlines()
    return re.sub(r"^\d\d:\d\d:\d\d ", "", whole[-1]) if whole else ""


def cost_of_jobs(history: History) -> Expected:
    """What the cost model expects; 0 for all where it knows nothing of the run."""
    # Imports that take a second or two, which a view that only reads logs can do without.
    from undue.run.cost import TABLE, Model, costs, read_measured, setting_of

    try:
        setting = setting_of(history)
        model = Model.of(read_measured(setting.folder / TABLE))
    except (UserError, OSError):
        return lambda job: 0.0

    found: dict[tuple[str, ...], float] = {}

    def expected(job: Job) -> float:
        if job.key not in found:
            try:
                wanted = costs(job, setting)
            except (UserError, LookupError):
                # Data of unknown size, or set by --config, which the log doesn't tell.
                return 0.0
            found[job.key] = model.predict(job.rule, wanted, gflops=1.0)["core_seconds"]
        return found[job.key]

    return expected


def waiting_jobs(history: History, folder: Path) -> list[Job]:
    """What is still to be done, by a dry run of the command that the run was started with; else nothing."""
    try:
        return list(plan(history.arguments, folder).jobs.values())
    except UserError:
        return []


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line: 0 at the end of a run that is complete, 1 of one that isn't."""
    parser = argparse.ArgumentParser(prog="python -m undue.run.watch", description=__doc__)
    parser.add_argument(
        "folder", nargs="?", type=Path, default=Path(), help="the project's folder (this one)"
    )
    parser.add_argument(
        "--every", type=float, metavar="SECONDS", help="between two looks (2; 60 in a log file)"
    )
    parser.add_argument("--once", action="store_true", help="look once")
    options = parser.parse_args(arguments)
    terminal = sys.stdout.isatty()
    every = options.every or (2.0 if terminal else 60.0)
    watched = None
    try:
        while True:
            log = latest_log(options.folder)
            history = _read(log)
            if log != watched:
                watched = log
                expected = cost_of_jobs(history)
                waiting = [] if history.over else waiting_jobs(history, options.folder)
            logs = {job.number: options.folder / job.log for job in history.jobs.values() if job.log}
            view = look(
                history,
                expected,
                waiting,
                {number: last_line(path) for number, path in logs.items()},
                now=datetime.now(),
                last_sign=_last_written([log, *(logs[job.number] for job in history.running if job.log)]),
            )
            _show(view, terminal=terminal)
            if view.over or options.once:
                return int(view.over and view.done < view.total)
            time.sleep(every)
    except UserError as error:
        print(error, file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130


def _read(log: Path) -> History:
    with log.open(encoding="utf-8", errors="replace") as lines:
        return read_history(lines)


def _last_written(paths: Sequence[Path]) -> datetime:
    return datetime.fromtimestamp(max(path.stat().st_mtime for path in paths if path.exists()))


def _show(view: View, *, terminal: bool) -> None:
    if not terminal:
        print(f"{datetime.now():%Y-%m-%d %H:%M:%S} {line(view)}", flush=True)
        return
    width, height = shutil.get_terminal_size()
    # From the top left corner, clearing what was there; the prompt takes the last line.
    print("\x1b[H\x1b[2J" + "\n".join(page(view, width)[: height - 1]), flush=True)


if __name__ == "__main__":
    sys.exit(main())
