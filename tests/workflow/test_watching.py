"""How a run goes on and what it costs, told from a real run's log, plan and benchmark files."""

from __future__ import annotations

import re
import shutil
import time
from pathlib import Path

import pytest
from runs import link_environment
from test_interruption import PATIENCE, interrupted
from tiny import ALL_JOBS, Tiny, complete

from undue.run.history import latest_log, read_history

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def done(shared: Path, snapshot: Path, tmp_path_factory: pytest.TempPathFactory) -> Tiny:
    """The tiny project after a complete run, with the environment that `make` creates."""
    made = complete(shared, snapshot).copy(tmp_path_factory.mktemp("watching") / "project")
    link_environment(made.root)
    return made


def test_a_run_s_log_is_read(done: Tiny) -> None:
    history = read_history(latest_log(done.root).read_text(encoding="utf-8").splitlines())
    assert history.counts == {**ALL_JOBS, "all": 1}
    assert history.finished.keys() == history.jobs.keys()
    assert history.running == []
    assert history.over
    assert all((done.root / job.log).is_file() for job in history.jobs.values() if job.log)


def test_a_run_that_has_ended_is_shown(done: Tiny) -> None:
    shown = done.run("make", "watch")
    assert f"{len(ALL_JOBS) + 1} of {len(ALL_JOBS) + 1} jobs done, 0 running" in shown
    assert "of 2 attacks" in shown  # two targets, one learning rate


def test_a_run_that_goes_on_is_shown(done: Tiny, tmp_path: Path) -> None:
    project = done.copy(tmp_path / "project")
    shutil.rmtree(project.root / ".venv")
    link_environment(project.root)
    # One job, the choice of targets, is done when the attack stands still, its steps behind it.
    shutil.rmtree(project.root / "results/tiny/attack")
    note = tmp_path / "note"
    target = "results/tiny/attack/min_higher/radius=0.8/seed=0/block=0.parquet"
    run = interrupted(project, "attack", 1, "stall", note).start("snakemake", target)
    try:
        until = time.monotonic() + PATIENCE
        while not note.exists():
            assert run.poll() is None, run.communicate()[0]
            assert time.monotonic() < until
            time.sleep(0.05)
        shown = project.run("make", "watch", "ARGS=--once")
        assert re.search(r" 1 of 2 jobs done, 1 running, ", shown), shown
        assert re.search(r", about \d+ \w+ left, ", shown)
        assert re.search(r", rank ≤ 1 reached by \d of 2 attacks", shown)
    finally:
        note.unlink(missing_ok=True)
        run.communicate(timeout=PATIENCE)
    assert run.returncode == 0
    assert (project.root / target).read_bytes() == (done.root / target).read_bytes()


def test_a_run_is_measured(done: Tiny) -> None:
    assert f"{len(ALL_JOBS)} measured jobs" in done.run("make", "fit-costs")
    table = (done.root / "data" / "costs.tsv").read_text(encoding="utf-8")
    assert "\nattack\tattack/results/tiny/attack/" in table
