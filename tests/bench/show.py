"""The benchmark's tables and figures."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pandas as pd
from matplotlib import pyplot as plt
from matplotlib.axes import Axes

from bench.double_backward import DEPTH, PUBLISHED_DEPTH
from bench.engine import RESIDUAL
from bench.peers import METHODS, OURS
from bench.problems import SIZES
from bench.sweep import BASE, BASE_LANES, STEPS
from undue.files import atomic
from undue.plots import COLOURS, save, style

Bench = Mapping[str, Any]

AXES = {
    "n": "training samples n",
    "d": "features d",
    "k": "classes k",
    "lanes": "lanes",
    "threads": "threads",
}
ROUTES = {
    "hessian": "through the Hessian",
    "unrolled": "through the solver's iterations",
    "ours": "backward-friendly (ours)",
}
# Seconds of a step of the authors' own code, without and with the pristine half, on two idle cores of another
# machine: what the published recipe here is to be near.
AUTHORS = {"pet": (29, 44), "caltech": (52, 75), "cifar": (40, 55)}
PEER_NUMBERS = ("seconds", "slower than ours", "peak memory", "error", "1 − Pearson", "1 − Spearman")
DPI = 150


def sizes_table(bench: Bench) -> pd.DataFrame:
    """One row for each size: ours beside the published recipe."""
    return pd.DataFrame([_size_row(name, size) for name, size in bench["sizes"].items()])


def _size_row(name: str, size: Mapping[str, Any]) -> dict[str, str]:
    sign = "~" if size["extrapolated"] else ""
    n, d, k = size["shape"]
    return {
        "size": f"{name} ({n:,} × {d - 1:,} × {k})",
        "ours, s": f"{size['lane_step_s']:.3g} / {size['lane_step_monitored_s']:.3g}",
        "published, s": f"{sign}{size['published_step_s']:.3g} / {size['published_step_monitored_s']:.3g}",
        "faster": f"{size['ratio']:,.0f} × / {size['ratio_monitored']:,.0f} ×",
        "authors' code elsewhere, s": _pair(AUTHORS.get(name)),
        "published, vectorised, s": f"{sign}{size['published_vectorised_step_s']:.3g}",
        "our matrix products, s": f"{size['matmul_s']:.3g}",
        "ours / products": f"{size['ratio_matmul']:.2f}",
        "iterations": f"{size['iterations']:.1f}",
        "lanes": str(size["lanes"]),
        "dtype (of the solver's products)": f"{size['dtype']} ({size['dtype_solver_products']})",
        "residual": f"{size['residual_float64']:.1e}" + (" (!)" if missed(size) else ""),
        "peak memory": f"{size['peak_rss_bytes'] / 2**30:.1f} GiB",
    }


def _pair(seconds: tuple[float, float] | None) -> str:
    return "–" if seconds is None else f"{seconds[0]:g} / {seconds[1]:g}"


def missed(size: Mapping[str, Any]) -> bool:
    """Whether a solve was less accurate than it said: the times are then not to be trusted."""
    return bool(size["residual_float64"] > RESIDUAL)


def sweep_table(bench: Bench) -> pd.DataFrame:
    """One row for each point of the sweep."""
    rows = bench["sweep"]["rows"]
    return pd.DataFrame(
        {
            "varied": [AXES[row["axis"]] for row in rows],
            "value": [f"{row['value']:,}" for row in rows],
            "lane-step, ms": [f"{1e3 * row['lane_step_s']:.2f}" for row in rows],
            "iterations": [f"{row['iterations']:.1f}" for row in rows],
        }
    )


def memory_table(bench: Bench) -> pd.DataFrame:
    """One row for each data size: memory of a gradient by each route, predictions marked."""
    rows = [
        {"n": f"{row['n']:,}", "d": f"{row['d']:,}", "k": str(row["k"]), "route": ROUTES[row["route"]]}
        | {"memory": _bytes(row["bytes"]), "seconds": f"{row['seconds']:.2g}"}
        for row in bench["double_backward"]["rows"]
    ]
    for row in bench["double_backward"]["predicted"]:
        size = SIZES[row["size"]]
        rows.append(
            {"n": f"{size.train:,}", "d": f"{size.features:,}", "k": str(size.classes)}
            | {"route": ROUTES[row["route"]]}
            | {"memory": f"{_bytes(row['bytes'])} (predicted)", "seconds": "–"}
        )
    return pd.DataFrame(rows)


def _bytes(count: float) -> str:
    for unit in ("MB", "GB", "TB"):
        count /= 1e6 if unit == "MB" else 1e3
        if count < 1e3:
            break
    return f"{count:,.3g} {unit}"


def peers_table(bench: Bench) -> pd.DataFrame:
    """One row for each library and way: influence scores by this project and by others."""
    measured = {name: row for name, row in bench["peers"].items() if name in METHODS}
    ours = measured.get(OURS, {}).get("seconds")
    return pd.DataFrame([_peers_row(name, row, ours) for name, row in measured.items()])


def _peers_row(name: str, row: Mapping[str, Any], ours: float | None) -> dict[str, str]:
    library, _, variant = name.partition(", ")
    about = {
        "library": " ".join(filter(None, [library, row.get("version")]))
        + (f", {variant}" if variant else ""),
        "how": row["how"],
    }
    if "error" in row:
        return {**about, **dict.fromkeys(PEER_NUMBERS, "–"), PEER_NUMBERS[0]: f"failed: {row['error']}"}
    slower = "–" if ours is None else f"{row['seconds'] / ours:,.1f} ×"
    memory = f"{row['peak_rss_bytes'] / 2**30:.1f} GiB"
    error, below = f"{row['error_max']:.1e}", [f"{1 - row[key]:.1e}" for key in ("pearson", "spearman")]
    numbers = [f"{row['seconds']:,.1f}", slower, memory, error, *below]
    return {**about, **dict(zip(PEER_NUMBERS, numbers, strict=True))}


def write(bench: Bench, path: Path) -> None:
    """All tables that have been measured as one Markdown file."""
    text = [
        "# The benchmark",
        "Written by `make bench` from `results/bench.json`, which has every number and how it was made.",
        *(_sizes_text(bench) if "sizes" in bench else []),
        *(_sweep_text(bench) if "sweep" in bench else []),
        *(_memory_text(bench) if "double_backward" in bench else []),
        *(_peers_text(bench) if bench.get("peers") else []),
    ]
    with atomic(path) as temporary:
        temporary.write_text("\n\n".join(text) + "\n", encoding="utf-8")


def _sizes_text(bench: Bench) -> list[str]:
    sizes = bench["sizes"]
    first = max(sizes.values(), key=lambda size: size.get("busy_before", 0))
    alike = all(size["machine"] == first["machine"] for size in sizes.values())
    return [
        _where(first) if alike else " ".join(f"{name}: {_where(size)}" for name, size in sizes.items()),
        "Seconds of one attack's step, without / with ranking on the pristine half; ours is the mean over "
        f"{first['steps']} steps from a cold start. Residual: the worst of the solves at three of them, in "
        f"float64, (!) where it exceeds {RESIDUAL:g}. The published step goes through the samples one by "
        "one; vectorised is the same recipe in batches. Our matrix products: those of a step, alone, each in "
        "the fastest of several ways; the solvers' are among them, and those of their preconditioner in the "
        "principal features. Where a step takes less, the machine was slower while they were timed. "
        f"~: extrapolated from fewer than its {PUBLISHED_DEPTH} iterations a solve. The authors' code was "
        "measured once, on two idle cores of another machine.",
        _markdown(sizes_table(bench)),
    ]


def _sweep_text(bench: Bench) -> list[str]:
    drawn = ["![Seconds of a step by size of the problem](figures/bench.png)"] if _is_whole(bench) else []
    n, d, k = BASE.train, BASE.features, BASE.classes
    return [
        "## Cost by size of the problem",
        _where(bench["sweep"]),
        f"Where nothing else is said: n = {n:,}, d = {d}, {k} classes, {BASE_LANES} lanes, {BASE.half} test "
        f"samples a half, all threads; mean over {STEPS} steps. That point stands in every block: how far "
        "its rows differ is how far the machine's speed changed meanwhile.",
        *drawn,
        _markdown(sweep_table(bench)),
    ]


def _memory_text(bench: Bench) -> list[str]:
    return [
        "## Memory of one gradient",
        f"Beyond data and libraries, float32. Through the solver's iterations: {DEPTH} of them, and "
        f"{PUBLISHED_DEPTH}, as published, in the predictions, which come from a fit to the measurements.",
        *(["![Memory of one gradient](figures/double_backward.png)"] if _is_whole(bench) else []),
        _markdown(memory_table(bench)),
    ]


def _peers_text(bench: Bench) -> list[str]:
    first = next(iter(bench["peers"].values()))
    settings = first["settings"]
    return [
        "## Influence scores, beside other libraries",
        _where(first),
        f"Influence of all {settings['train_samples']:,} MNIST training images on the summed loss of the "
        "10,000 test images, by every library from the same tensors: softmax head on pixels, "
        f"λ = {settings['l2']:g}, a real minimum. Seconds (without imports and reading) and peak memory are "
        "those of a process of its own. Error: max |I − I*| / max |I*| against a dense solve in float64; "
        "then how far the correlations are from 1. Of each library the fastest way we found, and its exact "
        "one where that is another. Peers compute in float32, their default. A way is stopped after "
        f"{settings['time_limit_s']:,} s or at {settings['memory_limit_gib']} GiB.",
        _markdown(peers_table(bench)),
    ]


def _where(measured: Mapping[str, Any]) -> str:
    machine = measured["machine"]
    busy = f"; {measured['busy_before']:.1f} cores busy beforehand" if "busy_before" in measured else ""
    return f"{machine['cpu']}, {measured['threads']} threads, torch {machine['torch']}{busy}."


def _markdown(table: pd.DataFrame) -> str:
    rows = [list(table.columns), ["---"] * table.shape[1], *table.to_numpy().tolist()]
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


def draw(bench: Bench, folder: Path) -> None:
    """bench.png (times) and double_backward.png (memory), once all of it has been measured."""
    if not _is_whole(bench):
        return
    with style():
        figure, axes = plt.subplots(2, 3, figsize=(9.5, 5.2))
        _draw_sizes(axes[0, 0], bench)
        for axis, name in zip(axes.flat[1:], AXES, strict=True):
            _draw_sweep(axis, bench, name)
        lowest = min(axis.get_ylim()[0] for axis in axes.flat[1:])
        highest = max(axis.get_ylim()[1] for axis in axes.flat[1:])
        for axis in axes.flat[1:]:
            axis.set_ylim(lowest, highest)
        save(figure, [str(folder / "bench.png")], dpi=DPI)

        figure, pair = plt.subplots(1, 2, figsize=(8, 3.2), sharey=True)
        _draw_memory(pair[0], bench, "d")
        _draw_memory(pair[1], bench, "n")
        pair[0].set_ylabel("memory of one gradient, GB")
        pair[0].legend(fontsize=8)
        save(figure, [str(folder / "double_backward.png")], dpi=DPI)


def _is_whole(bench: Bench) -> bool:
    """Whether all that the figures show has been measured."""
    return {"sizes", "sweep", "double_backward"} <= bench.keys()


def _draw_sizes(axis: Axes, bench: Bench) -> None:
    names = list(bench["sizes"])
    series = {
        "published": ("published_step_s", COLOURS[1]),
        "published, vectorised": ("published_vectorised_step_s", COLOURS[4]),
        "ours": ("lane_step_s", COLOURS[0]),
        "ours, products alone": ("matmul_s", COLOURS[2]),
    }
    for number, (label, (key, colour)) in enumerate(series.items()):
        places = [place + 0.2 * (number - 1.5) for place in range(len(names))]
        axis.bar(places, [bench["sizes"][name][key] for name in names], 0.18, label=label, color=colour)
    axis.set_yscale("log")
    axis.set_xticks(range(len(names)), names)
    axis.set_ylabel("seconds a step and target")
    axis.set_ylim(top=axis.get_ylim()[1] * 30)
    axis.legend(fontsize=7, loc="upper left")


def _draw_sweep(axis: Axes, bench: Bench, name: str) -> None:
    rows = [row for row in bench["sweep"]["rows"] if row["axis"] == name]
    values = [row["value"] for row in rows]
    axis.loglog(values, [1e3 * row["lane_step_s"] for row in rows], "o-", markersize=4)
    axis.set_xticks(values, [f"{value:,}" for value in values])
    axis.minorticks_off()
    axis.set_xlabel(AXES[name])
    axis.set_ylabel("ms a lane-step")
    axis.margins(y=0.3)


def _draw_memory(axis: Axes, bench: Bench, varied: str) -> None:
    fixed = {"d": "n", "n": "d"}[varied]
    rows = bench["double_backward"]["rows"]
    common = max({row[fixed] for row in rows}, key=[row[fixed] for row in rows].count)
    for number, (route, label) in enumerate(ROUTES.items()):
        part = sorted(
            (row[varied], row["bytes"] / 1e9)
            for row in rows
            if row["route"] == route and row[fixed] == common
        )
        axis.loglog(*zip(*part, strict=True), "o-", markersize=4, label=label, color=COLOURS[number])
    values = sorted({row[varied] for row in rows if row[fixed] == common})
    axis.set_xticks(values, [f"{value:,}" for value in values])
    axis.minorticks_off()
    axis.set_xlabel(f"{AXES[varied]}, at {fixed} = {common:,}")


# What the command prints at its end, by the part of the record.
SUMMARIES: Mapping[str, Callable[[Bench], pd.DataFrame]] = {"sizes": sizes_table, "peers": peers_table}
