"""The view of a run."""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime, timedelta
from pathlib import Path

import pytest

from undue.run.history import History, Job
from undue.run.watch import View, duration, last_line, line, look, main, page

BEGUN = datetime(2026, 11, 22, 12)
NOW = BEGUN + timedelta(minutes=10)
SAID = {
    1: "101/101 steps, 2/s, 0 s left, rank ≤ 1 reached by 3 of 4 attacks",
    2: "50/100 steps, 2/s, 25 s left, rank ≤ 1 reached by 1 of 4 attacks",
}


def attack(number: int, radius: str = "0.2") -> Job:
    wildcards = {"dataset": "mnist5k", "objective": "min_higher", "radius": radius}
    return Job(number, "attack", wildcards, outputs=(f"a/{number}.parquet",), log=f"logs/{number}.log")


PLOT = Job(9, "plot", {}, outputs=("figure.svg",))


def history() -> History:
    """Of four attacks and a figure, one attack done and one running."""
    return History(
        counts={"attack": 4, "plot": 1},
        jobs={1: attack(1), 2: attack(2, "0.5")},
        started={1: BEGUN, 2: BEGUN},
        finished={1: BEGUN + timedelta(minutes=5)},
        begun=BEGUN,
        latest=BEGUN + timedelta(minutes=5),
    )


WAITING = [attack(2, "0.5"), attack(3), attack(4), PLOT]


def cost(job: Job) -> float:
    return 8.0 if job.rule == "attack" else 1.0


def view(past: History, **changes: object) -> View:
    given = {
        "expected": cost,
        "waiting": WAITING,
        "last_lines": SAID,
        "now": NOW,
        "last_sign": NOW,
        **changes,
    }
    return look(past, **given)  # type: ignore[arg-type]


def test_done_running_and_left() -> None:
    seen = view(history())
    assert (seen.total, seen.done) == (5, 1)
    assert seen.by_rule == {"attack": (4, 1, 1), "plot": (1, 0, 0)}
    assert [(job.number, said) for job, said in seen.running] == [(2, SAID[2])]
    assert seen.elapsed == timedelta(minutes=10)


def test_what_is_left_takes_as_long_as_what_is_done() -> None:
    # Done: a whole attack and half of one, 12; left: two and a half, and the figure, 21.
    assert view(history()).left == timedelta(minutes=10) * (21 / 12)


def test_a_dry_run_of_something_else_leaves_the_number_of_jobs() -> None:
    # Done: 1.5 jobs; left: 3.5.
    assert view(history(), waiting=[]).left == timedelta(minutes=10) * (3.5 / 1.5)
    assert view(history(), expected=lambda job: 0.0).left == timedelta(minutes=10) * (3.5 / 1.5)


def test_failed_jobs_are_still_to_be_done() -> None:
    past = history()
    past.failed.add(2)
    seen = view(past)
    assert [job.number for job in seen.failed] == [2]
    # Done: 8; left: three attacks and the figure, 25.
    assert seen.left == timedelta(minutes=10) * (25 / 8)


def test_nothing_is_foretold_before_anything_was_done() -> None:
    past = history()
    past.finished.clear()
    assert view(past, last_lines={}).left is None
    assert "no telling yet" in line(view(past, last_lines={}))


def test_success_is_counted_by_data_objective_and_radius() -> None:
    seen = view(history())
    assert seen.success == {
        ("mnist5k", "min_higher", "0.2"): (1, 3, 4),
        ("mnist5k", "min_higher", "0.5"): (1, 1, 4),
    }
    assert "rank ≤ 1 reached by 4 of 8 attacks" in line(seen)


def test_one_line_says_it_all() -> None:
    assert line(view(history())) == (
        "1 of 5 jobs done, 1 running, 10 min so far, about 18 min left, rank ≤ 1 reached by 4 of 8 attacks"
    )


def test_silence_is_told() -> None:
    silent = view(history(), last_sign=NOW - timedelta(minutes=7))
    assert "last sign of life 7 min ago" in line(silent)
    assert "last sign" not in line(view(history(), last_sign=NOW - timedelta(seconds=90)))


def test_an_ended_run_has_no_time_left() -> None:
    past = history()
    past.over = True
    seen = view(past)
    assert seen.left is None
    assert seen.elapsed == timedelta(minutes=5)
    assert "ended" in line(seen)
    assert "left" not in line(seen)


def test_the_page_fits_and_shows_everything() -> None:
    past = history()
    past.failed.add(2)
    text = "\n".join(page(view(past), 200))
    assert "1/4" in text
    assert "attack dataset=mnist5k objective=min_higher radius=0.5: see logs/2.log" in text
    assert " 75% of 4      mnist5k min_higher C=0.2, rank ≤ 1" in text
    assert "50/100 steps" in "\n".join(page(view(history()), 200))
    assert max(map(len, page(view(history()), 40))) <= 40


def test_rules_that_are_done_take_one_line_together() -> None:
    past = replace(history(), counts={"attack": 1, "plot": 1})
    lines = page(view(past), 100)
    assert any(text == "done: 1 other rules" for text in lines)
    assert not any(text.startswith("attack ") for text in lines)


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(-5, "0 s"), (40, "40 s"), (725, "12 min"), (3600 * 3 + 1200, "3 h 20 min"), (3600 * 52, "2 d 4 h")],
)
def test_durations(seconds: int, text: str) -> None:
    assert duration(timedelta(seconds=seconds)) == text


def test_the_last_whole_line_of_a_log(tmp_path: Path) -> None:
    log = tmp_path / "attack.log"
    assert last_line(log) == ""
    log.write_text("")
    assert last_line(log) == ""
    log.write_text("x" * 10_000 + "\n12:00:01 1/9 steps\n12:00:02 2/9 st")
    assert last_line(log) == "1/9 steps"


def run_log(folder: Path, end: str) -> None:
    logs = folder / ".snakemake" / "log"
    logs.mkdir(parents=True)
    text = "Job stats:\nattack 1\ntotal 1\n[Sun Nov 22 12:00:00 2026]\nrule attack:\n    jobid: 1\n"
    (logs / "1.snakemake.log").write_text(f"\n{text}{end}", encoding="utf-8")


def test_the_command_ends_with_the_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run_log(tmp_path, "Finished jobid: 1 (Rule: attack)\nComplete log(s): 1.log\n")
    assert main([str(tmp_path)]) == 0
    assert "1 of 1 jobs done, 0 running" in capsys.readouterr().out


def test_the_command_s_status_tells_an_incomplete_run(tmp_path: Path) -> None:
    run_log(tmp_path, "Complete log(s): 1.log\n")
    assert main([str(tmp_path)]) == 1


def test_the_command_without_a_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([str(tmp_path)]) == 1
    assert "start a run first" in capsys.readouterr().err
