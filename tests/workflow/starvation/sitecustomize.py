"""Lets a script of a run have hardly any more memory. Python imports this by itself, from PYTHONPATH.

STARVE=<rule>:<n> means: once the rule's script opens its log, its process gets n MB more and no byte beyond.
"""

from __future__ import annotations

import os
import resource
import sys
from pathlib import Path

if "STARVE" in os.environ:
    rule, allowed = os.environ["STARVE"].split(":")

    def starve(event: str, arguments: tuple[object, ...]) -> None:
        # Snakemake runs a copy of the script, of this name; its own process has another.
        if event != "open" or not sys.argv[0].endswith(f".{rule}.py"):
            return
        if not str(arguments[0]).endswith(".log") or f"logs/{rule}" not in str(arguments[0]):
            return
        pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[0])
        limit = pages * resource.getpagesize() + int(allowed) * 1_000_000
        resource.setrlimit(resource.RLIMIT_AS, (limit, limit))

    sys.addaudithook(starve)
