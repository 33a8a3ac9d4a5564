"""Objectives and ranks against steps, on small trajectories."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from undue.plots import style
from undue.valuation.analysis_figures import objectives_against_steps
from undue.valuation.convergence import COLUMNS, better_runs, quartiles

NAN = math.nan


def run(
    target: int, rate: float, ranks: list[int], objectives: list[float], valid: list[bool] | None = None
) -> pd.DataFrame:
    """One run, and a column that isn't read."""
    return pd.DataFrame(
        {
            "target": target,
            "learning_rate": rate,
            "step": range(len(ranks)),
            "objective": [*objectives, NAN],
            "rank_shared": ranks,
            "valid": valid or [True] * len(ranks),
            "distance": 0.1,
        }
    )


def test_the_run_that_gets_lowest_is_the_better_one() -> None:
    """Wherever along the way; it is the lowest rank that is published."""
    runs = pd.concat([run(5, 0.01, [9, 8, 7], [3.0, 2.0]), run(5, 0.1, [9, 2, 30], [5.0, 1.0])])
    better = better_runs(runs)
    assert better["learning_rate"].tolist() == [0.1] * 3
    assert better["rank_shared"].tolist() == [9, 2, 30]


@pytest.mark.parametrize(
    ("first", "second", "expected"), [([9, 3, 3], [9, 9, 3], 0.1), ([9, 3, 4], [9, 3, 3], 0.01)]
)
def test_of_equal_runs_the_faster_then_the_slower_rate(
    first: list[int], second: list[int], expected: float
) -> None:
    runs = pd.concat([run(5, 0.1, first, [0.0, 0.0]), run(5, 0.01, second, [0.0, 0.0])])
    assert better_runs(runs)["learning_rate"].unique().tolist() == [expected]


def test_steps_that_were_not_solved_do_not_count() -> None:
    broken = run(5, 0.1, [9, 1, 1], [0.0, 0.0], [True, False, False])
    whole = run(5, 0.01, [9, 8, 7], [0.0, 0.0])
    assert better_runs(pd.concat([broken, whole]))["rank_shared"].tolist() == [9, 8, 7]
    assert better_runs(broken)["step"].tolist() == [0]


def written(folder: Path, *blocks: pd.DataFrame) -> list[Path]:
    paths = [folder / f"{number}.parquet" for number in range(len(blocks))]
    for path, block in zip(paths, blocks, strict=True):
        block.to_parquet(path)
    return paths


def test_quartiles_over_targets(tmp_path: Path) -> None:
    """Three targets in two blocks; the one that is in both counts once."""
    first = pd.concat([run(1, 0.1, [40, 10], [4.0]), run(2, 0.1, [20, 30], [8.0])])
    second = pd.concat([run(2, 0.1, [20, 30], [8.0]), run(3, 0.1, [30, 20], [16.0])])
    table = quartiles(written(tmp_path, first, second), spread=4.0)
    assert table["step"].tolist() == [0, 1]
    assert table.loc[0, ["rank_low", "rank_median", "rank_high"]].tolist() == [25, 30, 35]
    assert table.loc[1, ["rank_low", "rank_median", "rank_high"]].tolist() == [15, 20, 25]
    objective = ["objective_low", "objective_median", "objective_high"]
    assert table.loc[0, objective].tolist() == [1.5, 2.0, 3.0]
    # There is no objective at the last iterate.
    assert table.loc[1, objective].isna().all()


def test_only_the_needed_columns_are_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    paths = written(tmp_path, run(1, 0.1, [40, 10], [4.0]))
    read, asked = pd.read_parquet, []

    def record(path: Path, *, columns: list[str]) -> pd.DataFrame:
        asked.append(tuple(columns))
        table: pd.DataFrame = read(path, columns=columns)
        return table

    monkeypatch.setattr(pd, "read_parquet", record)
    quartiles(paths, spread=1.0)
    assert asked == [COLUMNS]


def test_the_figure_of_steps(tmp_path: Path) -> None:
    paths = written(tmp_path, run(1, 0.1, [40, 10, 1], [4.0, 2.0]))
    curve = quartiles(paths, spread=2.0)
    curves = pd.concat(
        [
            curve.assign(dataset=dataset, objective=objective)
            for dataset in ("mnist", "pet")
            for objective in ("min_topk", "min_higher")
        ]
    )
    with style():
        figure = objectives_against_steps(curves)
    assert [axis.get_title(loc="left") for axis in figure.axes] == ["mnist", "", "pet", ""]
    panels: list[Any] = figure.axes
    left, right = panels[:2]
    assert left.lines[0].get_ydata()[:2].tolist() == [2.0, 1.0]
    assert right.lines[0].get_ydata().tolist() == [40, 10, 1]
    assert len(right.lines) == 2
    assert right.yaxis_inverted()
    assert np.diff([line.get_color() == right.lines[0].get_color() for line in right.lines]).any()
    (legend,) = figure.legends
    assert [text.get_text() for text in legend.get_texts()] == ["min_topk", "min_higher"]
