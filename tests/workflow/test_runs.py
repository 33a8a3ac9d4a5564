"""What the tests of the workflow stand on."""

from __future__ import annotations

import pytest
from runs import unavailable


def test_what_a_machine_is_said_to_have_is_not_skipped(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("UNDUE_REQUIRE", "registry,slurm")
    with pytest.raises(pytest.fail.Exception, match="slurm is required here: no sbatch"):
        unavailable("slurm", "no sbatch")
    with pytest.raises(pytest.skip.Exception, match="no sshd"):
        unavailable("ssh", "no sshd")
