"""`make bench`: measure, write results/bench.json, and show it in docs/.

Each size, the sweep, the memory comparison and each library of the comparison with peers are kept as soon as
they are measured, and left alone by the next run when code, settings and machine are the same; so an
interrupted run goes on where it stopped.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Mapping
from functools import cache, partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

from bench import double_backward, head, peers, show
from bench.engine import PRODUCTS
from bench.problems import SIZES, TINY
from undue.errors import UserError
from undue.files import read_json, write_json
from undue.run.code import code

ROOT = Path(__file__).resolve().parents[2]
# Lanes times classes is the width of the matrix products: wide enough at each size. Sixteen numbers are a
# register of the widest kind, and what runs along the lanes alone is fastest in whole ones.
LANES: Mapping[str, int] = {"pet": 32, "caltech": 16, "cifar": 40, "tiny": 4}
SEED = 0
# Of the comparison with other libraries alone: an edit here leaves the other measurements as they are.
PEER_MODULES = frozenset({Path(head.__file__), Path(peers.__file__)})
PEERS, PEER_REQUIREMENTS = ROOT / ".venv-peers", ROOT / "envs" / "peers.txt"
# Whatever has more than a page is given back when it is freed, so that resident memory is what is in use.
EXACT_MEMORY = {"MALLOC_MMAP_THRESHOLD_": "4096"}
# With more cores busy than this before a measurement, its times are not to be trusted.
IDLE = 0.3


def main(argv: list[str] | None = None) -> int:
    """Measure what is asked for and not there yet."""
    options = _parser().parse_args(argv)
    with tempfile.TemporaryDirectory() as folder:
        # A quick run's numbers mean nothing: they are kept only where they are asked for.
        usual = Path(folder) / "bench.json" if options.quick else ROOT / "results" / "bench.json"
        return _main(options, options.output or usual)


def _main(options: argparse.Namespace, output: Path) -> int:
    run = _Runner(options.threads)
    record = _Record(output, threads=options.threads, again=options.again)
    if not options.peers_only:
        _measure_ours(run, record, options)
    if not (options.quick or options.sizes_only or options.no_peers):
        _measure_peers(run, record)
    if not (options.quick or options.sizes_only):
        show.draw(record.content, ROOT / "docs" / "figures")
        show.write(record.content, ROOT / "docs" / "bench.md")
    for name, size in record.content.get("sizes", {}).items():
        if show.missed(size):
            print(f"warning: {name}: solves missed their residual in float64", file=sys.stderr)
    for part, table in show.SUMMARIES.items():
        if record.content.get(part):
            print(table(record.content).to_string(index=False))
    return 0


def _measure_ours(run: _Runner, record: _Record, options: argparse.Namespace) -> None:
    """The attack's steps at all sizes, and what they cost by size and memory."""
    for name, size in ({"tiny": TINY} if options.quick else {s: SIZES[s] for s in options.sizes}).items():
        settings = {
            "size": [size.train, size.half, size.features, size.classes],
            "lanes": options.lanes or LANES[name],
            "steps": options.steps,
            "products": options.products,
            "lissa_iterations": 5 if options.quick else options.lissa_iterations,
        }
        record.measure(("sizes", name), settings, partial(_measure_size, run, settings))
    if not (options.quick or options.sizes_only):
        products = {"products": options.products}
        record.measure(
            ("sweep",), products, lambda: {"rows": run("sweep", products=options.products, seed=SEED)}
        )
        record.measure(("double_backward",), {}, partial(_measure_double_backward, run))


def _measure_peers(run: _Runner, record: _Record) -> None:
    """Influence scores by this project and by other libraries; without images or packages there are none."""
    settings = {
        "train_samples": head.TRAIN_SAMPLES,
        "l2": head.L2,
        "time_limit_s": peers.TIME_LIMIT_S,
        "memory_limit_gib": peers.MEMORY_LIMIT_GIB,
        "packages": peers.pinned(PEER_REQUIREMENTS),
    }
    with tempfile.TemporaryDirectory(prefix="peers-") as folder:

        @cache
        def prepared() -> dict[str, Any]:
            print("peers: installing, training and solving exactly", flush=True)
            peers.install(PEER_REQUIREMENTS, PEERS)
            drawn: dict[str, Any] = run("head", root=str(ROOT), folder=folder)
            if "error" in drawn:
                raise UserError(drawn["error"], where="the images", remedy="name a mirror in UNDUE_MIRROR")
            return drawn

        def measure(method: str) -> dict[str, Any]:
            given = {"folder": folder, "packages": str(PEERS), "memory_limit_gib": peers.MEMORY_LIMIT_GIB}
            return {**prepared(), **peers.attempt(partial(run, limit_s=peers.TIME_LIMIT_S), method, **given)}

        try:
            for method in peers.METHODS:
                record.measure(("peers", method), settings, partial(measure, method), code=_peers_code())
        except UserError as error:
            print(f"the comparison with other libraries is left out: {error}", file=sys.stderr)


class _Runner:
    """Runs measurements, each in a process of its own, so that its peak memory is its own."""

    def __init__(self, threads: int) -> None:
        self._threads = threads

    def __call__(
        self,
        name: str,
        *,
        limit_s: float | None = None,
        variables: Mapping[str, str] | None = None,
        **arguments: Any,
    ) -> Any:
        environment = {
            **os.environ,
            **(variables or {}),
            "PYTHONPATH": os.pathsep.join([str(ROOT / "workflow"), str(ROOT / "tests")]),
            "OMP_NUM_THREADS": str(self._threads),
            # As in the workflow's jobs.
            "OMP_WAIT_POLICY": "passive",
            "GOMP_SPINCOUNT": "20000",
        }
        with tempfile.TemporaryDirectory() as folder:
            output = Path(folder) / "result.json"
            given = json.dumps({"threads": self._threads, **arguments})
            command = [sys.executable, "-m", "bench.worker", name, given, str(output)]
            subprocess.run(command, check=True, env=environment, timeout=limit_s)
            return read_json(output)


class _Record:
    """results/bench.json: what has been measured, and how.

    Attributes:
        content: all of it.
    """

    def __init__(self, path: Path, *, threads: int, again: bool) -> None:
        self._path, self._again = path, again
        self._how = {"machine": _machine(), "threads": threads, "code": _fingerprint()}
        self.content: dict[str, Any] = read_json(path) if path.exists() else {}

    def measure(
        self,
        place: tuple[str, ...],
        settings: Mapping[str, Any],
        measure: Callable[[], dict[str, Any]],
        *,
        code: str | None = None,
    ) -> None:
        """Measure and write, unless the same was measured in the same way before.

        Args:
            place: its keys in the record.
            settings: what it depends on beside code, machine and threads.
            measure: measures.
            code: fingerprint of the code, if not that of the attack's measurements.
        """
        name, how = " ".join(place), {"settings": dict(settings), **self._how}
        if code is not None:
            how["code"] = code
        group = self.content
        for key in place[:-1]:
            group = group.setdefault(key, {})
        known = group.get(place[-1], {})
        if not self._again and all(known.get(key) == value for key, value in how.items()):
            print(f"{name}: measured already (--again measures anew)")
            return
        print(f"{name}: measuring", flush=True)
        if (busy := _busy_cores()) > IDLE:
            print(f"warning: {name}: {busy:.1f} cores are busy: times will be too long", file=sys.stderr)
        group[place[-1]] = {**measure(), **how, "commit": _commit(), "busy_before": round(busy, 2)}
        write_json(self._path, self.content)


def _measure_size(run: _Runner, settings: Mapping[str, Any]) -> dict[str, Any]:
    with tempfile.TemporaryDirectory(prefix="bench-") as folder:
        run("draw", folder=folder, size=settings["size"], seed=SEED)
        asked = {key: settings[key] for key in ("lanes", "steps", "products")}
        ours = run("ours", folder=folder, seed=SEED, **asked)
        published = run("published", folder=folder, timed=settings["lissa_iterations"], seed=SEED)
    return {
        **ours,
        **published,
        "ratio": published["published_step_s"] / ours["lane_step_s"],
        "ratio_monitored": published["published_step_monitored_s"] / ours["lane_step_monitored_s"],
        "ratio_vectorised": published["published_vectorised_step_s"] / ours["lane_step_s"],
        "ratio_matmul": ours["lane_step_s"] / ours["matmul_s"],
    }


def _measure_double_backward(run: _Runner) -> dict[str, Any]:
    rows = [
        run("double_backward", variables=EXACT_MEMORY, route=route, n=n, d=d, seed=SEED)
        for n, d in double_backward.GRID
        for route in double_backward.ROUTES
    ]
    return {"rows": rows, "predicted": double_backward.predict(rows)}


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="make bench", description=__doc__.partition("\n")[0])
    parser.add_argument("--sizes", nargs="+", choices=SIZES, default=list(SIZES))
    usual = ", ".join(f"{size} {LANES[size]}" for size in SIZES)
    parser.add_argument("--lanes", type=int, help=f"attacks side by side (default: {usual})")
    parser.add_argument("--steps", type=int, default=20, help="of the attack (default: 20)")
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1, help="(default: all cores)")
    parser.add_argument("--products", choices=PRODUCTS, default="auto", help="in our solver (default: auto)")
    parser.add_argument(
        "--lissa-iterations",
        type=int,
        default=977,
        help="run so many of the published recipe's 977 iterations, and extrapolate (default: all)",
    )
    parser.add_argument("--sizes-only", action="store_true", help="no sweep, no memory comparison, no docs")
    some = parser.add_mutually_exclusive_group()
    some.add_argument("--peers-only", action="store_true", help="only the comparison with other libraries")
    some.add_argument("--no-peers", action="store_true", help="all but that")
    parser.add_argument("--again", action="store_true", help="measure anew what is there")
    parser.add_argument("--quick", action="store_true", help="a tiny problem, to see that it runs")
    parser.add_argument(
        "--output", type=Path, help="(default: results/bench.json; with --quick, nothing is kept)"
    )
    return parser


def _busy_cores(seconds: float = 1.0) -> float:
    """How many cores are at work."""
    before = _core_seconds()
    time.sleep(seconds)
    idle, every = (after - earlier for after, earlier in zip(_core_seconds(), before, strict=True))
    return (os.cpu_count() or 1) * (1 - idle / every)


def _core_seconds() -> tuple[float, float]:
    """What all cores have waited, and what they have been there for, in some unit."""
    _, *spent = Path("/proc/stat").read_text(encoding="utf-8").partition("\n")[0].split()
    # User, nice, system, idle, waiting for disks, interrupts (two kinds), taken by other machines. What comes
    # after is in the first two already.
    times = [float(each) for each in spent[:8]]
    return times[3] + times[4], sum(times)


def _machine() -> dict[str, Any]:
    return {
        "cpu": _processor(),
        "cores": os.cpu_count(),
        "python": platform.python_version(),
        "torch": version("torch"),
    }


def _processor() -> str:
    described = Path("/proc/cpuinfo")
    if described.exists():
        for line in described.read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def _fingerprint() -> str:
    """Of all code that the attack's measurements run; how they are shown does not count."""
    shown = {Path(__file__), Path(show.__file__)}
    return _digest(set(Path(__file__).parent.glob("*.py")) - shown - PEER_MODULES)


def _peers_code() -> str:
    """Of the code that the comparison with other libraries runs."""
    return _digest(PEER_MODULES)


def _digest(modules: Iterable[Path]) -> str:
    found = [code(module, ROOT / "workflow") for module in sorted(modules)]
    return hashlib.sha256(repr(found).encode()).hexdigest()[:16]


def _commit() -> str | None:
    """The commit of the code, "+" behind it if there are changes; None outside a repository."""
    try:
        commit = _git("rev-parse", "--short", "HEAD")
        return commit + ("+" if _git("status", "--porcelain", "workflow", "tests/bench") else "")
    except (OSError, subprocess.CalledProcessError):
        return None


def _git(*arguments: str) -> str:
    command = ["git", *arguments]
    return subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True).stdout.strip()


if __name__ == "__main__":
    sys.exit(main())
