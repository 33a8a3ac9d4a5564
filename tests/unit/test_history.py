"""What is read from Snakemake's log and from a dry run."""

from __future__ import annotations

from datetime import datetime
from pathlib import Path
from textwrap import dedent

import pytest

from undue.errors import UserError
from undue.run.history import History, latest_log, plan, read_history

LOG = dedent("""\
    Assuming unrestricted shared filesystem usage.

    SNAKEMAKE
    =========
      Command: /my work/bin/snakemake --cores 2 --configfile smoke.yaml my own.yaml --until attack
      Working directory: /somewhere/project
      Config file(s): [PosixPath('/here/smoke.yaml'), PosixPath('/here/my own.yaml'), 'config.yaml']

    Building DAG of jobs...
    Provided cores: 2
    Job stats:
    job         count
    --------  -------
    attack          3
    all             1
    total           4

    Select jobs to execute...
    [Sun Nov 22 12:00:00 2026]
    localrule attack:
        input: a/features.npy, a/split.parquet
        output: a/block=0.parquet, a/block=0.candidates.parquet
        log: logs/attack/block=0.log
        jobid: 3
        benchmark: benchmarks/attack/block=0.tsv
        reason: Missing output files: a/block=0.parquet
        wildcards: dataset=mnist5k, radius=0.2, seed=-1, block=0
        threads: 2
        resources: tmpdir=/tmp, gpu=0, mem_mb=3122, mem=3.12 GB, mem_mib=2978
    [Sun Nov 22 12:00:00 2026]
    rule attack:
        output: a/block=1.parquet
        jobid: 4
        wildcards: dataset=mnist5k, radius=0.2, seed=-1, block=1
        resources: tmpdir=/tmp, mem_mb=<TBD>, mem=<TBD>
    [Sun Nov 22 12:01:00 2026]
    Finished jobid: 3 (Rule: attack)
    1 of 4 steps (25%) done
    """)
FAILURE = dedent("""\
    [Sun Nov  1 12:02:00 2026]
    Error in rule attack:
        message: None
        jobid: 4
        output: a/block=1.parquet
    """)
AGAIN = dedent("""\
    Trying to restart job 4.
    [Sun Nov 22 12:03:00 2026]
    rule attack:
        output: a/block=1.parquet
        jobid: 4
    """)


def read(text: str) -> History:
    return read_history(text.splitlines(keepends=True))


def test_the_jobs_of_a_run() -> None:
    history = read(LOG)
    assert history.counts == {"attack": 3, "all": 1}
    assert history.total == 4
    first, second = history.jobs[3], history.jobs[4]
    assert first.wildcards == {"dataset": "mnist5k", "radius": "0.2", "seed": "-1", "block": "0"}
    assert first.inputs == ("a/features.npy", "a/split.parquet")
    assert first.outputs == ("a/block=0.parquet", "a/block=0.candidates.parquet")
    assert (first.log, first.benchmark) == ("logs/attack/block=0.log", "benchmarks/attack/block=0.tsv")
    assert (first.threads, first.memory) == (2, 3122)
    assert (second.threads, second.memory, second.log) == (1, None, "")
    assert first.key != second.key


def test_how_a_run_was_started() -> None:
    history = read(LOG)
    assert history.folder == Path("/somewhere/project")
    # Each is laid over those before it, as Snakemake does it.
    here = Path("/here")
    assert history.configs == [Path("config.yaml"), here / "smoke.yaml", here / "my own.yaml"]
    overlays = ["--configfile", str(here / "smoke.yaml"), str(here / "my own.yaml")]
    assert history.arguments == ["--cores", "2", "--until", "attack", *overlays]
    assert history.cores == 2


@pytest.mark.parametrize(
    "program", ["/a b/bin/snakemake", "/a b/site-packages/snakemake/__main__.py", "snakemake"]
)
def test_any_program_and_no_configuration_of_its_own(program: str) -> None:
    history = History(command=f"{program} --cores 2 all", configs=[Path("config.yaml")])
    assert history.arguments == ["--cores", "2", "all"]
    assert History(command=program).arguments == []


def test_what_is_done_and_what_runs() -> None:
    history = read(LOG)
    assert history.finished == {3: datetime(2026, 11, 22, 12, 1)}
    assert [job.number for job in history.running] == [4]
    assert (history.begun, history.latest) == (datetime(2026, 11, 22, 12), datetime(2026, 11, 22, 12, 1))
    assert not history.over


def test_a_failed_job_runs_no_more_until_it_is_started_again() -> None:
    failed = read(LOG + FAILURE)
    assert (failed.failed, failed.running) == ({4}, [])
    again = read(LOG + FAILURE + AGAIN)
    assert again.failed == set()
    assert [job.number for job in again.running] == [4]


@pytest.mark.parametrize("end", ["Complete log(s): x.log", "Nothing to be done (all ...)."])
def test_the_end(end: str) -> None:
    assert read(LOG + end).over


def test_a_job_on_the_log_s_last_line_counts() -> None:
    cut = LOG[: LOG.index("[Sun Nov 22 12:01")]
    assert set(read(cut).jobs) == {3, 4}


def test_an_empty_log_is_a_run_without_jobs() -> None:
    assert read("") == History()


def test_the_latest_log_is_that_of_a_run(tmp_path: Path) -> None:
    folder = tmp_path / ".snakemake" / "log"
    folder.mkdir(parents=True)
    (folder / "2026-11-22T100000.0.snakemake.log").write_text(LOG)
    expected = folder / "2026-11-22T110000.0.snakemake.log"
    expected.write_text(LOG)
    (folder / "2026-11-22T120000.0.snakemake.log").write_text("Congratulations, nothing to lint")
    assert latest_log(tmp_path) == expected


def test_a_folder_without_runs_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no log of a run"):
        latest_log(tmp_path)


def test_what_snakemake_refuses_is_passed_on(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="No Snakefile found"):
        plan(["--cores", "1"], tmp_path)


def test_a_dry_run_is_a_plan(tmp_path: Path) -> None:
    (tmp_path / "Snakefile").write_text(
        'rule all:\n    input: "b-1.txt"\n'
        'rule make:\n    output: "b-{n}.txt"\n    threads: 3\n    shell: "touch {output}"\n'
    )
    history = plan(["--cores", "4"], tmp_path)
    assert history.counts == {"make": 1, "all": 1}
    (made,) = (job for job in history.jobs.values() if job.rule == "make")
    assert (made.wildcards, made.outputs, made.threads) == ({"n": "1"}, ("b-1.txt",), 3)
    assert history.folder == tmp_path.resolve()
    assert not (tmp_path / "b-1.txt").exists()
