"""What every script does around its work."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from undue.errors import UserError
from undue.progress import Progress
from undue.run.job import job


@pytest.fixture(autouse=True)
def restored() -> Iterator[None]:
    """Logging and threads as they were."""
    threads, handlers, level = torch.get_num_threads(), logging.root.handlers[:], logging.root.level
    yield
    torch.set_num_threads(threads)
    logging.root.handlers[:] = handlers
    logging.root.setLevel(level)


@pytest.fixture
def snakemake(tmp_path: Path) -> SimpleNamespace:
    return SimpleNamespace(
        rule="attack",
        wildcards={"radius": "0.1"},
        log=[str(tmp_path / "logs" / "attack.log")],
        input=[],
        output=[str(tmp_path / "out[1].npy")],
        threads=2,
    )


def test_logs_to_the_file_and_to_the_terminal(
    snakemake: SimpleNamespace, capsys: pytest.CaptureFixture[str]
) -> None:
    with job(snakemake) as log:
        log.info("half of it")
        assert torch.get_num_threads() == 2
    assert "half of it" in Path(snakemake.log[0]).read_text()
    assert "attack [radius=0.1]: half of it" in capsys.readouterr().err


def test_a_user_error_ends_the_job_without_a_traceback(snakemake: SimpleNamespace) -> None:
    with pytest.raises(SystemExit) as ended, job(snakemake):
        raise UserError("it is wrong", where="attack.radii", remedy="make it right")
    assert ended.value.code == 1
    written = Path(snakemake.log[0]).read_text()
    assert "attack.radii: it is wrong" in written
    assert "make it right" in written
    assert "Traceback" not in written


def test_a_defect_keeps_its_traceback(snakemake: SimpleNamespace) -> None:
    with pytest.raises(SystemExit) as ended, job(snakemake):
        raise KeyError("ours")
    assert ended.value.code == 1
    assert "Traceback" in Path(snakemake.log[0]).read_text()


def test_what_a_killed_job_left_is_removed(snakemake: SimpleNamespace, tmp_path: Path) -> None:
    leftover, other = tmp_path / ".out[1].npy.x1.npy", tmp_path / ".out1.npy.x1.npy"
    for path in (leftover, other):
        path.write_bytes(b"half")
    with job(snakemake):
        assert not leftover.exists()
    assert other.exists()


def test_progress_is_said_at_the_end(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO):
        progress = Progress(logging.getLogger("test"), 3, "steps")
        for done in (1, 2, 3):
            progress.update(done, "fine")
    (line,) = caplog.messages
    assert line.startswith("3/3 steps")
    assert line.endswith("0 s left, fine")
