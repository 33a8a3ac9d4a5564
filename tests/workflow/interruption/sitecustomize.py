"""Interrupts one script of a run at a chosen moment. Python imports this by itself, from PYTHONPATH.

INTERRUPT=<rule>:<n>:<how> means: when the rule's script has written its n-th file, but has not yet given it
its name, then `kill` the script with SIGKILL, or `stall`: leave the process number in the file
INTERRUPT_NOTE and wait until that file is gone, or `exceed`: hold a gigabyte for a while and go on.
"""

from __future__ import annotations

import os
import signal
import sys
import time
from pathlib import Path
from typing import Any

if "INTERRUPT" in os.environ:
    rule, number, how = os.environ["INTERRUPT"].split(":")
    fsync = os.fsync
    written: list[Any] = []

    def interrupting(fd: Any) -> None:
        fsync(fd)
        # Snakemake runs a copy of the script, of this name; its own process has another.
        if not sys.argv[0].endswith(f".{rule}.py"):
            return
        written.append(fd)
        if len(written) != int(number):
            return
        if how == "kill":
            os.kill(os.getpid(), signal.SIGKILL)
        if how == "exceed":
            held = b"x" * 10**9
            time.sleep(10)
            del held
            return
        note = Path(os.environ["INTERRUPT_NOTE"])
        note.write_text(str(os.getpid()), encoding="utf-8")
        while note.exists():
            time.sleep(0.05)

    os.fsync = interrupting
