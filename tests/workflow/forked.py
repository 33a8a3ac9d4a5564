"""Snakemake, the scripts of its jobs, and DVC, in processes that have their imports behind them.

Half of the time of a dry run is imports, and nearly all of a small job's. A server process with Snakemake,
DVC, torch and the other libraries forks a process for each run; that of Snakemake forks one for each script,
and that of DVC one for each stage, in place of starting Python anew. The project's own modules are imported
there, from that project. What tests start by other commands (make, a shell, SLURM) begins as for everyone.
"""

from __future__ import annotations

import gc
import os
import runpy
import subprocess
import sys
import tempfile
import traceback
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from multiprocessing import get_context
from multiprocessing.context import ForkServerContext
from pathlib import Path
from typing import Any

import dvc.cli
import dvc.stage.run
import snakemake.cli
from dvc.stage.exceptions import StageCmdFailedError
from snakemake.benchmark import benchmarked
from snakemake.script import PythonScript

ROOT = Path(__file__).resolve().parents[2]
MAIN = {"snakemake": snakemake.cli.main, "dvc": dvc.cli.main}


def server() -> ForkServerContext:
    """Whose processes have the programs' and the scripts' libraries imported."""
    context = get_context("forkserver")
    # Not modules of the tests' own folders: Python 3.11's server doesn't find them.
    programs = ["snakemake.cli", "snakemake.report.html_reporter", "dvc.cli.parser", "dvc.stage.run"]
    rules = ["jsonschema", "pypi_simple", "smart_open"]
    scripts = ["torch", "pandas", "pyarrow.parquet", "scipy.stats", "matplotlib.pyplot", "PIL.Image", "cvxpy"]
    context.set_forkserver_preload([*programs, *rules, *scripts])
    return context


def forked(
    program: str, arguments: Sequence[str], folder: Path, environment: Mapping[str, str], timeout: float
) -> tuple[int, str]:
    """Do what the command `program` does with these arguments; it is one of `MAIN`.

    Returns:
        The exit status and all that was printed.

    Raises:
        TimeoutError: it took more than `timeout` seconds; it is killed.
    """
    with tempfile.NamedTemporaryFile("r", encoding="utf-8") as said:
        given = (program, list(arguments), folder, dict(environment), said.name)
        process = server().Process(target=_main, args=given)
        process.start()
        process.join(timeout)
        if process.exitcode is None:
            process.kill()
            process.join()
            raise TimeoutError(f"{program} {' '.join(arguments)} took more than {timeout} s")
        return process.exitcode, said.read()


def _main(program: str, arguments: list[str], folder: Path, environment: dict[str, str], output: str) -> None:
    """In the new process."""
    with Path(os.devnull).open() as nothing, Path(output).open("a") as said:
        for descriptor, file in ((0, nothing), (1, said), (2, said)):
            os.dup2(file.fileno(), descriptor)
    # What is there already is neither looked through nor copied again and again for want of memory.
    gc.freeze()
    os.environ.clear()
    os.environ.update(environment)
    sys.dont_write_bytecode = "PYTHONDONTWRITEBYTECODE" in environment
    os.chdir(folder)
    # Modules are to be the project's and the environment's, not those under test in this process's parent.
    tested = {str(ROOT / "workflow"), str(ROOT / "tests")}
    added = list(filter(None, environment.get("PYTHONPATH", "").split(os.pathsep)))
    sys.path[:] = [str(folder), *added, *(path for path in sys.path if path not in tested)]
    sys.argv = [program, *arguments]
    for customised in (Path(path, "sitecustomize.py") for path in added):
        if customised.exists():
            runpy.run_path(str(customised))
    PythonScript._execute_cmd = _run_script
    dvc.stage.run._run = partial(_run_stage, dvc.stage.run._run)
    sys.exit(MAIN[program](arguments))


def _run_script(job: PythonScript, command: str, *, fname: str, **_: Any) -> None:
    """In place of a shell that runs `command`, which is a new Python with a script."""

    def script() -> None:
        os.environ.update(OMP_NUM_THREADS=str(job.threads), TMPDIR=job.resources.get("tmpdir", ""))
        sys.argv = [fname]
        runpy.run_path(fname, run_name="__main__")

    process = _fork(script)
    with benchmarked(process, job.bench_record):
        status = _wait(process)
    if status:
        raise subprocess.CalledProcessError(status, command)


def _run_stage(
    usual: Callable[..., None], interpreter: str, command: str, *, cwd: str, env: dict[str, str], **rest: Any
) -> None:
    """In place of a shell that runs a stage's command, if that is Snakemake."""
    program, *arguments = command.split()
    if program != "snakemake":
        usual(interpreter, command, cwd=cwd, env=env, **rest)
        return

    def stage() -> None:
        os.environ.update(env)
        os.chdir(cwd)
        sys.argv = [program, *arguments]
        MAIN[program](arguments)

    if status := _wait(_fork(stage)):
        raise StageCmdFailedError(command, status)


def _fork(act: Callable[[], None]) -> int:
    """A new process that does this and ends; its number."""
    sys.stdout.flush()
    sys.stderr.flush()
    process = os.fork()
    if process:
        return process
    status = 1
    try:
        act()
        status = 0
    except SystemExit as ended:
        status = int(ended.code or 0)
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        # Its main thread may have been another of its parent's: it can't leave in the usual way.
        os._exit(status)


def _wait(process: int) -> int:
    """The exit status of a process once it has ended."""
    return os.waitstatus_to_exitcode(os.waitpid(process, 0)[1])
