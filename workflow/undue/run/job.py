"""What every script does around its work: logging, threads, readable failures."""

from __future__ import annotations

import glob
import logging
import shutil
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from undue.errors import UserError


@contextmanager
def job(snakemake: Any) -> Iterator[logging.Logger]:
    """Run a script's work: log to the rule's log file and to the terminal, use the rule's threads.

    A `UserError` is printed without a traceback and ends the script with status 1, and so does a failure
    for lack of memory or because of a damaged input; anything else is a defect and is logged with its
    traceback.

    Args:
        snakemake: the object that Snakemake gives to scripts.
    """
    log = Path(snakemake.log[0])
    log.parent.mkdir(parents=True, exist_ok=True)
    described = " ".join(f"{key}={value}" for key, value in snakemake.wildcards.items())
    logging.basicConfig(
        level=logging.INFO,
        format="%(asctime)s %(message)s",
        datefmt="%H:%M:%S",
        handlers=[logging.FileHandler(log, mode="w", encoding="utf-8"), _terminal(snakemake.rule, described)],
        force=True,
    )
    logger = logging.getLogger(snakemake.rule)
    if "torch" in sys.modules:
        sys.modules["torch"].set_num_threads(snakemake.threads)
    sweep(snakemake.output)
    try:
        yield logger
    except UserError as error:
        logger.error("%s", error)
        sys.exit(1)
    except Exception as error:
        # Only now, because the libraries that it needs would slow every start.
        from undue.run.damage import explain

        explanation = explain(error, rule=snakemake.rule, inputs=snakemake.input)
        if explanation is None:
            logger.exception("%s failed", snakemake.rule)
        else:
            logger.error("%s", explanation)
        sys.exit(1)


def sweep(outputs: Iterable[str]) -> None:
    """Remove the unfinished files that a killed job left beside its outputs (see `undue.files.atomic`)."""
    for output in map(Path, outputs):
        for leftover in output.parent.glob(f".{glob.escape(output.name)}.*"):
            shutil.rmtree(leftover) if leftover.is_dir() else leftover.unlink()


def _terminal(rule: str, described: str) -> logging.Handler:
    handler = logging.StreamHandler(sys.stderr)
    label = f"{rule} [{described}]" if described else rule
    handler.setFormatter(logging.Formatter(f"%(asctime)s {label}: %(message)s", datefmt="%H:%M:%S"))
    return handler
