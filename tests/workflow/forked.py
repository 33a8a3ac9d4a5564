"""Snakemake in processes that have its imports behind them.

Most tests of the workflow ask what a dry run plans, and half of the time of a dry run is imports. A server
process with Snakemake and what it imports forks a process for each run; what a project's own Snakefile
imports is imported there, from that project. Plugins are found as Snakemake is imported: where PYTHONPATH may
name more of them, a process of its own has to do it.
"""

from __future__ import annotations

import os
import sys
import tempfile
from collections.abc import Mapping, Sequence
from multiprocessing import get_context
from multiprocessing.context import ForkServerContext
from pathlib import Path

import snakemake.cli

ROOT = Path(__file__).resolve().parents[2]


def server() -> ForkServerContext:
    """Whose processes have Snakemake imported."""
    context = get_context("forkserver")
    # What a run of Snakemake imports; not modules of the tests' own folders: Python 3.11's server doesn't
    # find them.
    imported = ["snakemake.cli", "snakemake.report.html_reporter", "pandas", "jsonschema"]
    context.set_forkserver_preload(imported)
    return context


def snakemake_main(
    arguments: Sequence[str], folder: Path, environment: Mapping[str, str], timeout: float
) -> tuple[int, str]:
    """Do what `python -m snakemake` does with these arguments.

    Returns:
        The exit status and all that was printed.

    Raises:
        TimeoutError: it took more than `timeout` seconds; it is killed.
    """
    with tempfile.NamedTemporaryFile("r", encoding="utf-8") as said:
        given = (list(arguments), folder, dict(environment), said.name)
        process = server().Process(target=_main, args=given)
        process.start()
        process.join(timeout)
        if process.exitcode is None:
            process.kill()
            process.join()
            raise TimeoutError(f"snakemake {' '.join(arguments)} took more than {timeout} s")
        return process.exitcode, said.read()


def _main(arguments: list[str], folder: Path, environment: dict[str, str], output: str) -> None:
    """In the new process."""
    with Path(os.devnull).open() as nothing, Path(output).open("a") as said:
        for descriptor, file in ((0, nothing), (1, said), (2, said)):
            os.dup2(file.fileno(), descriptor)
    os.environ.clear()
    os.environ.update(environment)
    os.chdir(folder)
    # Modules are to be the project's and the environment's, not those under test in this process's parent.
    tested = {str(ROOT / "workflow"), str(ROOT / "tests")}
    sys.path[:] = [str(folder), *(path for path in sys.path if path not in tested)]
    sys.argv = ["snakemake", *arguments]
    snakemake.cli.main(arguments)
