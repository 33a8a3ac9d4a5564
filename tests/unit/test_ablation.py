"""Several starts and the parts of the objective: tables with answers worked out by hand."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from undue.arrays import write_arrays
from undue.intervals import wilson
from undue.tables import write_markdown, write_table
from undue.valuation.ablation import (
    IDEAS,
    STARTS_COLUMNS,
    TABLE2_COLUMNS,
    pretty_starts,
    pretty_table2,
    starts_rates,
    table2,
)
from undue.valuation.analysis_figures import success_against_size, success_against_starts
from undue.valuation.figures import success_against_accuracy
from undue.valuation.paper import HONEST_ACCURACY, TABLE1, TABLE2, paper_dataset
from undue.valuation.publish import (
    BY_STARTS_COLUMNS,
    PUBLISHED_COLUMNS,
    choose,
    choose_by_starts,
    gather,
    judge,
    judge_by_starts,
    publish,
)
from undue.valuation.summary import success

HONEST = {"shared": 0.90, "pristine": 0.88}

# Publication by number of starts ----------------------------------------------------------------------------

TARGETS = pd.DataFrame({"index": [5, 8], "k": [1, 1], "position": [0, 1], "rank": [40, 70]})
# Seeds are tried in the order 7, 2, 4; a run is a seed here. Target 8 is reached by the second seed only.
SEEDS = [7, 2, 4]
CANDIDATES = pd.DataFrame(
    [
        (5, 1, 7, 0, 0.1, 3, 0.80, 0),
        (5, 1, 7, 0, 0.01, 5, 0.70, 1),
        (5, 1, 2, 1, 0.1, 3, 0.75, 0),
        (5, 1, 4, 2, 0.1, 3, 0.88, 0),
        (8, 1, 2, 1, 0.1, 9, 0.89, 1),
    ],
    columns=["target", "k", "seed", "run", "learning_rate", "step", "accuracy_shared", "theta"],
)


def gathered(folder: Path) -> tuple[pd.DataFrame, np.ndarray]:
    """Every number of starts, with models (m, 2, 1) filled with ten times the run plus the row."""
    paths = [folder / f"{run}.safetensors" for run in range(3)]
    for run, path in enumerate(paths):
        rows = [np.full((2, 1), 10 * run + row, dtype=np.float32) for row in range(2)]
        write_arrays(path, {"theta": np.stack(rows)})
    return gather(choose_by_starts(TARGETS, CANDIDATES, SEEDS), paths)


def test_only_the_first_starts_count() -> None:
    chosen = choose_by_starts(TARGETS, CANDIDATES, SEEDS).set_index(["starts", "target"])
    assert chosen.loc[(1, 5), ["seed", "learning_rate"]].tolist() == [7, 0.1]
    assert chosen.loc[(2, 5), "seed"] == 7
    assert chosen.loc[(3, 5), "seed"] == 4
    assert chosen["reached"].unstack()[8].to_dict() == {1: False, 2: True, 3: True}
    assert len(chosen) == 6


def test_all_starts_are_what_the_plain_rule_chooses() -> None:
    chosen = choose_by_starts(TARGETS, CANDIDATES, SEEDS)
    every = chosen[chosen["starts"] == 3].drop(columns="starts")
    # Missing numbers, of fewer starts, make a column of floats.
    pd.testing.assert_frame_equal(every, choose(TARGETS, CANDIDATES), check_dtype=False)


def test_each_iterate_is_checked_once_and_published_models_come_first(tmp_path: Path) -> None:
    chosen, theta = gathered(tmp_path)
    # All starts publish run 2 for target 5 and run 1, row 1 for target 8; fewer starts also run 0.
    assert theta[:, 0, 0].tolist() == [20.0, 11.0, 0.0]
    assert chosen.set_index(["starts", "target"])["theta"].dropna().to_dict() == {
        (3, 5): 0,
        (3, 8): 1,
        (2, 5): 2,
        (2, 8): 1,
        (1, 5): 2,
    }


def checked_of(*rows: tuple[int, int, float, float]) -> pd.DataFrame:
    return pd.DataFrame(
        rows, columns=["rank_shared", "rank_pristine", "accuracy_shared", "accuracy_pristine"]
    )


def test_verdicts_by_number_of_starts(tmp_path: Path) -> None:
    chosen, _ = gathered(tmp_path)
    checked = checked_of((1, 1, 0.88, 0.87), (1, 9, 0.89, 0.88), (1, 4, 0.80, 0.81))
    verdicts = judge_by_starts(chosen, checked, honest=HONEST, budget=0.03)
    published, by_starts, models = publish(verdicts)
    assert models == 2
    plain = judge(chosen[chosen["starts"] == 3].reset_index(), checked, honest=HONEST, budget=0.03)
    pd.testing.assert_frame_equal(published, plain, check_dtype=False)
    assert by_starts["starts"].tolist() == [1, 1, 2, 2, 3, 3]
    assert by_starts["confirmed"].tolist() == [True, False, True, True, True, True]
    assert by_starts["within_budget"].tolist() == [False, False, False, True, True, True]
    # The model that only fewer starts publish is not kept.
    assert by_starts["theta"].tolist() == [-1, -1, -1, 1, 0, 1]
    write_table(tmp_path / "published.parquet", PUBLISHED_COLUMNS, published)
    write_table(tmp_path / "by_starts.parquet", BY_STARTS_COLUMNS, by_starts)


def test_nothing_reached_by_any_number_of_starts(tmp_path: Path) -> None:
    paths = [tmp_path / "0.safetensors"]
    write_arrays(paths[0], {"theta": np.zeros((0, 2, 1), dtype=np.float32)})
    chosen, theta = gather(choose_by_starts(TARGETS, CANDIDATES.head(0), [0, 1]), paths)
    assert theta.shape == (0, 2, 1)
    checked = checked_of().astype(float)
    published, by_starts, models = publish(judge_by_starts(chosen, checked, honest=HONEST, budget=0.03))
    assert models == 0
    assert len(published) == 2
    assert not by_starts["confirmed"].any()
    write_table(tmp_path / "by_starts.parquet", BY_STARTS_COLUMNS, by_starts)


# Rates ------------------------------------------------------------------------------------------------------


def by_starts_of(*rows: tuple[int, int, bool, bool]) -> pd.DataFrame:
    """Verdicts as (starts, k, confirmed, within_budget)."""
    table = pd.DataFrame(rows, columns=["starts", "k", "confirmed", "within_budget"])
    return table.assign(
        reached=table["confirmed"],
        transfers=False,
        accuracy_lost_shared=0.02,
        accuracy_lost_pristine=0.01,
        target=range(len(rows)),
    )


def test_rates_by_number_of_starts(tmp_path: Path) -> None:
    table = by_starts_of(
        (1, 10, True, False),
        (1, 10, False, False),
        (2, 10, True, True),
        (2, 10, True, False),
        (2, 300, True, True),
    )
    rates = starts_rates(table, "mnist", "min_higher", 0.2)
    assert rates[["starts", "k", "targets", "success", "best_success"]].to_numpy().tolist() == [
        [1, 10, 2, 0.0, 0.5],
        [2, 10, 2, 0.5, 1.0],
        [2, 300, 1, 1.0, 1.0],
    ]
    assert rates.loc[0, ["best_success_low", "best_success_high"]].tolist() == list(wilson(1, 2))
    assert rates.loc[1, "success"] == success(table[(table["starts"] == 2) & (table["k"] == 10)])["success"]
    write_table(tmp_path / "rates.parquet", STARTS_COLUMNS, rates)
    pretty = pretty_starts(rates)
    assert pretty["starts"].tolist() == [1, 2, 2]
    assert pretty["success [95 %]"].iloc[1].startswith("0.50 [")
    assert pretty["accuracy lost"].tolist() == ["–", "1.0 %", "1.0 %"]


# Table 2 ----------------------------------------------------------------------------------------------------


def rate(
    objective: str, starts: int, radius: float, found: float, best: float, **more: Any
) -> dict[str, Any]:
    """A row of `attack_starts`; accuracies lost on the pristine half can be told from the radius."""
    return (
        dict.fromkeys(STARTS_COLUMNS, 0.0)
        | {
            "dataset": "caltech101_webp",
            "objective": objective,
            "starts": starts,
            "radius": radius,
            "k": 10,
            "targets": 50,
            "success": found,
            "accuracy_lost_shared": radius / 10,
            "accuracy_lost_pristine": radius,
            "best_success": best,
            "best_accuracy_lost_shared": radius,
            "best_accuracy_lost_pristine": 2 * radius,
            "best_transfer": 0.5,
        }
        | more
    )


RATES = pd.DataFrame(
    [
        rate("max_target", 1, 0.1, 0.2, 0.2),
        rate("max_target", 1, 0.5, 0.1, 0.6),
        rate("max_target", 2, 0.1, 0.9, 0.9),
        rate("min_topk", 1, 0.1, 0.3, 0.3),
        rate("min_higher", 1, 0.1, 0.4, 0.4),
        rate("min_higher", 1, 0.2, 0.4, 0.5),
        rate("min_higher", 2, 0.1, 0.4, 0.4),
        rate("min_higher", 2, 0.2, 0.6, 0.7),
        rate("min_higher", 1, 0.1, 1.0, 1.0, k=300),
    ]
)


def test_table2_has_one_start_and_then_all_of_them(tmp_path: Path) -> None:
    table = table2(RATES, k=10)
    shown = table[["idea", "objective", "starts", "success", "radius", "best_success", "best_radius"]]
    assert shown.to_numpy().tolist() == [
        ["maximise target", "max_target", 1, 0.2, 0.1, 0.6, 0.5],
        ["+ minimise top K", "min_topk", 1, 0.3, 0.1, 0.3, 0.1],
        # Of two radii that succeed equally the one that costs less on the shared half.
        ["+ minimise all higher", "min_higher", 1, 0.4, 0.1, 0.5, 0.2],
        ["+ several starts", "min_higher", 2, 0.6, 0.2, 0.7, 0.2],
    ]
    assert table["accuracy_lost"].tolist() == [0.1, 0.1, 0.1, 0.2]
    assert table["best_accuracy_lost"].tolist() == [1.0, 0.2, 0.4, 0.4]
    assert table["best_transfer"].tolist() == [0.5] * 4
    assert table["paper_success"].tolist() == [0.52, 0.68, 0.74, 0.74]
    assert table["paper_best_success"].tolist() == [0.72, 0.68, 0.77, 0.85]
    assert table["paper_best_accuracy_lost"].tolist() == [0.117, 0.036, 0.083, 0.071]
    write_table(tmp_path / "table2.parquet", TABLE2_COLUMNS, table)


def test_table2_has_the_rows_that_it_can() -> None:
    of_one_objective = RATES[RATES["objective"] == "min_higher"]
    assert table2(of_one_objective, k=10)["idea"].tolist() == ["+ minimise all higher", "+ several starts"]
    of_one_start = RATES[RATES["starts"] == 1]
    assert table2(of_one_start, k=10)["idea"].tolist() == [idea.label for idea in IDEAS[:3]]
    of_max_target = of_one_start[of_one_start["objective"] == "max_target"]
    assert len(table2(of_max_target, k=10)) == 1


def test_table2_keeps_data_sets_apart() -> None:
    two = pd.concat([RATES, RATES.assign(dataset="mine", success=0.01)], ignore_index=True)
    table = table2(two, k=10)
    assert table["dataset"].tolist() == ["caltech101_webp"] * 4 + ["mine"] * 4
    assert table["success"].tolist() == [0.2, 0.3, 0.4, 0.6, 0.01, 0.01, 0.01, 0.01]
    assert table["paper_success"].isna().tolist() == [False] * 4 + [True] * 4


def test_the_papers_numbers_are_for_its_own_k() -> None:
    table = table2(RATES, k=300)
    assert table["idea"].tolist() == ["+ minimise all higher"]
    assert table["paper_success"].isna().all()


def test_table2_for_reading(tmp_path: Path) -> None:
    rates = RATES.assign(success_low=0.1, success_high=0.9)
    pretty = pretty_table2(table2(rates, k=10), 0.03)
    assert pretty["success, loss ≤ 3 % [95 %]"].iloc[0] == "0.20 [0.10, 0.90]"
    assert pretty["paper"].tolist() == ["0.52", "0.68", "0.74", "0.74"]
    assert pretty["paper, best"].iloc[3] == "0.85 (7.1 %)"
    unknown = pretty_table2(table2(rates.assign(dataset="mine"), k=10), 0.03)
    assert unknown["paper"].tolist() == unknown["paper, best"].tolist() == ["–"] * 4
    write_markdown(tmp_path / "table2.md", pretty)
    assert "nan" not in (tmp_path / "table2.md").read_text(encoding="utf-8")


def test_table2_where_nothing_succeeds(tmp_path: Path) -> None:
    nothing = RATES.assign(success=0.0, best_success=0.0)
    lost = [name for name in nothing if "accuracy_lost" in name]
    nothing[lost] = math.nan
    table = table2(nothing, k=10)
    assert table["radius"].tolist() == [0.1] * 4
    write_table(tmp_path / "table2.parquet", TABLE2_COLUMNS, table)
    assert pretty_table2(table, 0.03)["accuracy lost"].tolist() == ["–"] * 4


def test_the_paper_has_no_variant_of_its_data_sets() -> None:
    variant = RATES.assign(dataset="pet_500")
    assert table2(variant, k=10)["paper_success"].notna().all()
    assert table2(variant, k=10, variants=["pet_500"])["paper_success"].isna().all()


# The paper --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("cifar10", "cifar10"),
        ("cifar10_jpeg", "cifar10"),
        ("caltech101_webp", "caltech101"),
        ("pet", "pet"),
        ("mnist5k", None),
        ("petals", None),
        ("my_cifar10", None),
        ("cifar100", None),
    ],
)
def test_which_of_the_papers_data_sets_one_is(name: str, expected: str | None) -> None:
    assert paper_dataset(name) == expected


def test_the_papers_tables_are_whole() -> None:
    """Every data set has every cell, and one start of `min_higher` is never better than five."""
    names = set(HONEST_ACCURACY)
    assert set(TABLE1) == {(n, k, who) for n in names for k in (1, 300) for who in ("baseline", "attack")}
    assert set(TABLE2) == {(n, idea.objective, idea.every_start) for n in names for idea in IDEAS}
    for name in names:
        one, all_starts = (TABLE2[name, "min_higher", every] for every in (False, True))
        assert one.success <= all_starts.success
        assert one.best_success < all_starts.best_success
        # k = 10 lies between k = 1 and k = 300.
        first, last = (TABLE1[name, k, "attack"] for k in (1, 300))
        assert first.success <= all_starts.success <= last.success


# Figures ----------------------------------------------------------------------------------------------------


def test_figure4_has_every_k_on_both_halves_with_intervals() -> None:
    rates = pd.DataFrame(
        [
            rate("min_higher", 5, radius, 0.0, best, k=k, best_transfer=transfer)
            for k, numbers in ((1, ((0.2, 0.0), (0.6, 0.1))), (300, ((0.4, 0.2), (0.9, 0.5))))
            for radius, (best, transfer) in zip((0.1, 0.5), numbers, strict=True)
        ]
    )
    for name in ("best_success", "best_transfer"):
        bounds = [wilson(round(50 * share), 50) for share in rates[name]]
        rates[[f"{name}_low", f"{name}_high"]] = bounds
    figure = success_against_accuracy(rates, budget=0.03)
    panels: list[Any] = figure.axes
    left, right = panels
    drawn = [(line.get_linestyle(), line.get_ydata().tolist()) for line in left.lines]
    assert drawn == [("-", [0.2, 0.6]), ("--", [0.0, 0.1]), ("-", [0.4, 0.9]), ("--", [0.2, 0.5])]
    bars = [[segment[:, 1].tolist() for segment in bar.get_segments()] for bar in left.collections]
    assert bars == [
        [pytest.approx(wilson(counted, 50)) for counted in counts]
        for counts in ((10, 30), (0, 5), (20, 45), (10, 25))
    ]
    assert [line.get_linestyle() for line in right.lines] == ["-", "--", "-", "--", ":"]
    assert right.lines[0].get_xdata().tolist() == pytest.approx([10, 50])
    assert right.lines[1].get_xdata().tolist() == pytest.approx([20, 100])
    assert right.lines[4].get_xdata() == pytest.approx([3, 3])


def test_the_figure_of_starts() -> None:
    rates = RATES[RATES["objective"] == "min_higher"].assign(
        success_low=0.0, success_high=1.0, best_success_low=0.0, best_success_high=1.0
    )
    two = pd.concat([rates[rates["k"] == 10], rates[rates["k"] == 10].assign(dataset="mine")])
    figure = success_against_starts(two, budget=0.03)
    assert [axis.get_title(loc="left") for axis in figure.axes] == [
        "caltech101_webp, loss ≤ 3 %",
        "caltech101_webp, whatever the accuracy",
        "mine, loss ≤ 3 %",
        "mine, whatever the accuracy",
    ]
    panels: list[Any] = figure.axes
    left, right = panels[:2]
    assert [bar.lines[0].get_ydata().tolist() for bar in left.containers] == [[0.4, 0.4], [0.4, 0.6]]
    assert [bar.lines[0].get_ydata().tolist() for bar in right.containers] == [[0.4, 0.4], [0.5, 0.7]]
    (legend,) = figure.legends
    assert [text.get_text() for text in legend.get_texts()] == ["C = 0.1", "C = 0.2"]


def test_the_figure_of_sizes() -> None:
    rates = pd.DataFrame(
        [
            {"dataset": name, "k": k, "success": value, "success_low": value - 0.1, "success_high": 1.0}
            for name, values in (("large", (0.2, 0.3)), ("small", (0.6, 0.9)))
            for k, value in zip((1, 300), values, strict=True)
        ]
    )
    figure = success_against_size(rates, {"large": 50000, "small": 4000}, budget=0.03)
    panels: list[Any] = figure.axes
    (axis,) = panels
    assert [text.get_text() for text in axis.get_xticklabels()] == ["4,000\nsmall", "50,000\nlarge"]
    assert [bar.lines[0].get_ydata().tolist() for bar in axis.containers] == [[0.6, 0.2], [0.9, 0.3]]
    first, second = (bar.lines[0].get_xdata() for bar in axis.containers)
    assert first == pytest.approx([4000, 50000], rel=0.02)
    assert (first < second).all()
    assert axis.get_ylabel() == "success rate, loss ≤ 3 %"
