"""What the tests of the workflow stand on."""

from __future__ import annotations

from pathlib import Path

import pytest
from forked import server
from runs import unavailable


def test_what_a_machine_is_said_to_have_is_not_skipped(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("UNDUE_REQUIRE", "registry,slurm")
    with pytest.raises(pytest.fail.Exception, match="slurm is required here: no sbatch"):
        unavailable("slurm", "no sbatch")
    with pytest.raises(pytest.skip.Exception, match="no sshd"):
        unavailable("ssh", "no sshd")


def test_dry_runs_begin_with_snakemake_imported(tmp_path: Path) -> None:
    told = tmp_path / "told"
    code = f"import pathlib, sys; pathlib.Path({str(told)!r}).write_text(str('snakemake.cli' in sys.modules))"
    process = server().Process(target=exec, args=(code,))
    process.start()
    process.join()
    assert told.read_text(encoding="utf-8") == "True"
