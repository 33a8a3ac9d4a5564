"""From candidates to verdicts to the tables of success, on tables with answers worked out by hand."""

from __future__ import annotations

import json
import math
import tempfile
from collections import defaultdict
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from problems import exact_influence, make_calculator, make_problem, normal

from undue.arrays import write_arrays
from undue.calculus.basis import Eigenbasis
from undue.calculus.solvers import conjugate_gradient
from undue.intervals import wilson
from undue.tables import write_table
from undue.training import train
from undue.valuation.attack import Lane, Plan, attack, candidate_table, starts
from undue.valuation.evaluate import confirm
from undue.valuation.examples import choose_examples
from undue.valuation.objectives import min_higher
from undue.valuation.publish import PUBLISHED_COLUMNS, choose, gather, judge
from undue.valuation.summary import (
    ATTACK_SUCCESS_COLUMNS,
    SUCCESS_COLUMNS,
    TABLE1_COLUMNS,
    count_invalid,
    metrics,
    pretty_success,
    pretty_table1,
    success,
    success_rates,
    table1,
)

HONEST = {"shared": 0.90, "pristine": 0.88}

DAMPING: Mapping[str, float] = defaultdict(lambda: 0.25)


def targets_of(*rows: tuple[int, int, int]) -> pd.DataFrame:
    """Targets as (index, k, rank)."""
    return pd.DataFrame(rows, columns=["index", "k", "rank"]).assign(position=0)


CANDIDATE = ["target", "k", "seed", "run", "learning_rate", "step", "accuracy_shared", "theta"]


def candidates_of(*rows: tuple[int, int, int, int, float, int, float, int]) -> pd.DataFrame:
    """Candidates; typed as files are even if there are none."""
    table = pd.DataFrame(rows, columns=CANDIDATE)
    return table.astype({name: float if name in CANDIDATE[4:7:2] else int for name in CANDIDATE})


TARGETS = targets_of((5, 1, 40), (8, 1, 70), (5, 3, 40), (9, 3, 50))
CANDIDATES = candidates_of(
    (5, 1, 0, 0, 0.1, 7, 0.80, 0),
    (5, 1, 1, 1, 0.1, 3, 0.85, 0),
    (5, 1, 1, 1, 0.01, 9, 0.85, 1),
    (5, 1, 2, 2, 0.01, 2, 0.85, 0),
    (5, 3, 1, 1, 0.01, 9, 0.85, 2),
    (5, 3, 0, 0, 0.01, 1, 0.70, 1),
    (9, 3, 2, 2, 0.1, 4, 0.60, 1),
    # Not a target for this k, and no target at all.
    (8, 3, 0, 0, 0.1, 4, 0.99, 2),
    (77, 1, 0, 0, 0.1, 4, 0.99, 3),
)


def models_of(candidates: pd.DataFrame) -> list[np.ndarray]:
    """Parameters (m, 2, 1) of three runs, filled with a number that tells run and row."""
    rows = [int(candidates.loc[candidates["run"] == run, "theta"].max()) + 1 for run in range(3)]
    return [
        np.stack([np.full((2, 1), 10.0 * run + row, dtype=np.float32) for row in range(count)])
        for run, count in enumerate(rows)
    ]


def test_the_most_accurate_candidate_is_published() -> None:
    """Of equals the lowest seed, then the lowest learning rate; every target keeps its row."""
    chosen = choose(TARGETS, CANDIDATES)
    assert chosen[["target", "k", "original_rank"]].to_numpy().tolist() == [
        [5, 1, 40],
        [8, 1, 70],
        [5, 3, 40],
        [9, 3, 50],
    ]
    assert chosen["reached"].tolist() == [True, False, True, True]
    reached = chosen[chosen["reached"]]
    assert reached[["seed", "run", "learning_rate", "step", "theta"]].to_numpy().tolist() == [
        [1, 1, 0.01, 9, 1],
        [1, 1, 0.01, 9, 2],
        [2, 2, 0.1, 4, 1],
    ]
    assert chosen.loc[1, ["seed", "run", "learning_rate", "step", "theta"]].isna().all()


def test_the_choice_does_not_depend_on_the_order_of_candidates() -> None:
    shuffled = CANDIDATES.sample(frac=1, random_state=0, ignore_index=True)
    pd.testing.assert_frame_equal(choose(TARGETS, shuffled), choose(TARGETS, CANDIDATES))


def collect(chosen: pd.DataFrame, models: list[np.ndarray]) -> tuple[pd.DataFrame, np.ndarray]:
    """`gather` from the files that the attack jobs write."""
    with tempfile.TemporaryDirectory() as folder:
        paths = [Path(folder) / f"{run}.safetensors" for run in range(len(models))]
        for path, theta in zip(paths, models, strict=True):
            write_arrays(path, {"theta": theta})
        return gather(chosen, paths)


def test_each_published_model_is_kept_once() -> None:
    chosen, theta = collect(choose(TARGETS, CANDIDATES), models_of(CANDIDATES))
    # Target 5 has the same iterate for both k: run 1, row 1. Target 9 has run 2, row 1.
    assert theta[:, 0, 0].tolist() == [11.0, 21.0]
    assert theta.dtype == np.float32
    assert chosen["theta"].tolist()[::2] == [0.0, 0.0]
    assert chosen["theta"].tolist()[3] == 1.0
    assert math.isnan(chosen["theta"].tolist()[1])
    assert chosen["target"].tolist() == [5, 8, 5, 9]


def checked_of(*rows: tuple[int, int, float, float]) -> pd.DataFrame:
    names = ["rank_shared", "rank_pristine", "accuracy_shared", "accuracy_pristine"]
    return pd.DataFrame(rows, columns=names)


def test_iterates_of_two_learning_rates_are_two_models() -> None:
    candidates = candidates_of((5, 1, 0, 0, 0.1, 9, 0.8, 0), (5, 3, 0, 0, 0.01, 9, 0.9, 1))
    models = [np.arange(4, dtype=np.float32).reshape(2, 2, 1)]
    chosen, theta = collect(choose(targets_of((5, 1, 40), (5, 3, 40)), candidates), models)
    assert len(chosen) == 2
    assert theta[chosen["theta"].astype(int), 0, 0].tolist() == [0.0, 2.0]


def verdicts(*rows: tuple[int, int, float, float], budget: float = 0.03) -> pd.DataFrame:
    """The verdicts on TARGETS, given the checks of the models of targets 5 and 9."""
    chosen, _ = collect(choose(TARGETS, CANDIDATES), models_of(CANDIDATES))
    return judge(chosen, checked_of(*rows), honest=HONEST, budget=budget)


def test_verdicts(tmp_path: Path) -> None:
    # The model of target 5 has rank 1 and costs 2 points; that of target 9 has rank 3 and costs 30.
    table = verdicts((1, 2, 0.88, 0.87), (3, 3, 0.60, 0.70))
    assert table["target"].tolist() == [5, 8, 5, 9]
    assert table["reached"].tolist() == [True, False, True, True]
    assert table["confirmed"].tolist() == [True, False, True, True]
    assert table["within_budget"].tolist() == [True, False, True, False]
    # Rank 2 on the pristine half is no top 1, but is in the top 3.
    assert table["transfers"].tolist() == [False, False, True, True]
    assert table["accuracy_lost_shared"].tolist() == pytest.approx([0.02, math.nan, 0.02, 0.30], nan_ok=True)
    assert table["accuracy_lost_pristine"].tolist() == pytest.approx(
        [0.01, math.nan, 0.01, 0.18], nan_ok=True
    )
    np.testing.assert_array_equal(table["rank_shared"], [1, np.nan, 1, 3])
    assert table["seed"].tolist() == [1, -1, 1, 2]
    assert table["step"].tolist() == [9, -1, 9, 4]
    assert table["theta"].tolist() == [0, -1, 0, 1]
    write_table(tmp_path / "published.parquet", PUBLISHED_COLUMNS, table)
    for column in ("reached", "confirmed", "within_budget", "transfers"):
        assert table[column].dtype == bool


def test_a_claim_that_double_precision_refuses_is_a_failure() -> None:
    """Rank 2 in float64: target 5 is not top 1, but is in the top 3."""
    table = verdicts((2, 1, 0.88, 0.87), (4, 1, 0.89, 0.88))
    assert table["reached"].tolist() == [True, False, True, True]
    assert table["confirmed"].tolist() == [False, False, True, False]
    assert table["within_budget"].tolist() == [False, False, True, False]
    assert table["transfers"].tolist() == [False, False, True, False]
    assert [success(table[table["k"] == k])["unconfirmed"] for k in (1, 3)] == [1, 1]


@pytest.mark.parametrize(("accuracy", "within"), [(0.87, True), (0.8699, False), (0.95, True)])
def test_the_budget_is_inclusive_and_gains_are_no_loss(accuracy: float, within: bool) -> None:
    """0.90 − 0.87 is above 0.03 by rounding."""
    table = verdicts((1, 1, accuracy, 0.0), (3, 3, 0.6, 0.7))
    assert bool(table["within_budget"].iloc[0]) is within


def test_nothing_reached(tmp_path: Path) -> None:
    none = candidates_of()
    chosen = choose(TARGETS, none)
    assert not chosen["reached"].any()
    chosen, theta = collect(chosen, [np.zeros((0, 5, 3), dtype=np.float32)])
    assert theta.shape == (0, 5, 3)
    problem = make_problem()
    basis = Eigenbasis.of(problem.train.x)
    checked = confirm(make_calculator(problem, basis), basis, theta, np.zeros(0, dtype=np.int64))
    assert len(checked) == 0
    table = judge(chosen, checked, honest=HONEST, budget=0.03)
    assert table["target"].tolist() == [5, 8, 5, 9]
    assert not table[["reached", "confirmed", "within_budget", "transfers"]].to_numpy().any()
    write_table(tmp_path / "published.parquet", PUBLISHED_COLUMNS, table)
    rates = success_rates(table, "mnist", "min_higher", 0.1)
    assert rates["targets"].tolist() == [2, 2]
    assert rates["success"].tolist() == rates["best_success"].tolist() == [0.0, 0.0]
    assert rates["accuracy_lost_shared"].isna().all()
    write_table(tmp_path / "rates.parquet", SUCCESS_COLUMNS, rates)


# Confirmation -----------------------------------------------------------------------------------------------


def small_attack() -> tuple[Any, ...]:
    """Three targets attacked in single precision; everything that publishing needs."""
    problem = make_problem()
    theta = train(problem.train, l2=0.01, regularise_bias=True, gradient_norm=1e-9).theta
    basis = Eigenbasis.of(problem.train.x)
    lanes = [Lane(row, rate) for row in (2, 17, 31) for rate in (0.01, 0.1)]
    plan = Plan(min_higher, 0.5, 20, 0.5, (1, 10), 1e-4, 10, 1e9)
    rows = [lane.row for lane in lanes]
    begin = starts(theta, plan.radius, rows, seed=0, start=0)
    single = make_calculator(problem.to(torch.float32), basis)
    trajectories, candidates = attack(single, basis, theta, begin, lanes, plan)
    table = candidate_table(candidates, trajectories, np.array(rows), [lane.learning_rate for lane in lanes])
    return problem, theta, basis, candidates, table.assign(seed=0, run=0)


def test_confirming_a_real_attack(tmp_path: Path) -> None:
    """From attack to table; ranks and accuracies recomputed by definition, in double precision."""
    problem, honest_theta, basis, candidates, table = small_attack()
    targets = targets_of(*((row, k, 50) for k in (1, 10) for row in (2, 17, 31)))
    chosen, theta = collect(choose(targets, table), [candidates.theta])
    reached = chosen[chosen["reached"]].drop_duplicates("theta").sort_values("theta")
    assert 0 < len(reached) < len(targets)
    rows = reached["target"].to_numpy()
    checked = confirm(make_calculator(problem, basis), basis, theta, rows)
    plain = make_calculator(problem)
    for number, row in enumerate(rows):
        model = torch.from_numpy(theta[number]).double()
        for half in ("shared", "pristine"):
            risk = getattr(problem, half)
            score = exact_influence(plain, model, risk)
            others = torch.cat([score[:row], score[row + 1 :]])
            rank = 1 + int((others >= score[row]).sum())
            accuracy = float(((risk.x @ model).argmax(dim=1) == risk.y).double().mean())
            assert checked[f"rank_{half}"][number] == rank
            assert checked[f"accuracy_{half}"][number] == pytest.approx(accuracy, abs=1e-12)
    honest = {half: float(getattr(problem, half).at(honest_theta).accuracy()) for half in HONEST}
    published = judge(chosen, checked, honest=honest, budget=0.03)
    assert (published["confirmed"] == published["reached"]).all()
    write_table(tmp_path / "published.parquet", PUBLISHED_COLUMNS, published)


def test_many_models_are_confirmed_in_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    problem = make_problem()
    basis = Eigenbasis.of(problem.train.x)
    calculator = make_calculator(problem, basis)
    theta = normal(7, 5, 3, seed=0).numpy()
    rows = np.arange(7)
    whole = confirm(calculator, basis, theta, rows)
    monkeypatch.setattr("undue.valuation.evaluate.MEMORY", 0.0)
    pd.testing.assert_frame_equal(confirm(calculator, basis, theta, rows), whole)
    assert whole.index.tolist() == list(range(7))


def test_a_model_whose_solve_fails_has_the_last_rank(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    problem = make_problem()
    basis = Eigenbasis.of(problem.train.x)
    theta = normal(2, 5, 3, seed=0).numpy()
    theta[1] = np.nan
    ranks = ["rank_shared", "rank_pristine"]
    checked = confirm(make_calculator(problem, basis), basis, theta, np.array([3, 3]))
    assert checked[ranks].iloc[1].tolist() == [60, 60]
    assert checked["rank_shared"].iloc[0] < 60
    assert "2 of 4 solves in float64 missed a relative residual of 1e-09 (the worst: nan)" in caplog.text
    hurried = partial(conjugate_gradient, max_iterations=1)
    monkeypatch.setattr("undue.valuation.calculator.conjugate_gradient", hurried)
    checked = confirm(make_calculator(problem, basis), basis, theta, np.array([3, 3]))
    assert checked[ranks].iloc[0].tolist() == [60, 60]


# Rates ------------------------------------------------------------------------------------------------------


def published_of(*rows: tuple[bool, bool, bool, bool, float, float], k: int = 1) -> pd.DataFrame:
    names = [
        "reached",
        "confirmed",
        "within_budget",
        "transfers",
        "accuracy_lost_shared",
        "accuracy_lost_pristine",
    ]
    return pd.DataFrame(rows, columns=names).assign(k=k, target=range(len(rows)))


NAN = math.nan
FIVE = published_of(
    (True, True, True, True, 0.01, 0.02),
    (True, True, True, False, 0.03, 0.00),
    (True, True, False, True, 0.20, 0.25),
    (True, False, False, False, 0.00, 0.00),
    (False, False, False, False, NAN, NAN),
)


def test_success_counts_every_target() -> None:
    found = success(FIVE)
    assert found["targets"] == 5
    assert found["successes"] == 2
    assert found["success"] == pytest.approx(2 / 5)
    assert found["best_success"] == pytest.approx(3 / 5)
    assert found["transfer"] == pytest.approx(1 / 5)
    assert found["best_transfer"] == pytest.approx(2 / 5)
    assert found["accuracy_lost_shared"] == pytest.approx(0.02)
    assert found["accuracy_lost_pristine"] == pytest.approx(0.01)
    assert found["best_accuracy_lost_shared"] == pytest.approx(0.08)
    assert found["best_accuracy_lost_pristine"] == pytest.approx(0.09)
    assert found["unconfirmed"] == 1
    assert (found["success_low"], found["success_high"]) == wilson(2, 5)
    assert (found["best_success_low"], found["best_success_high"]) == wilson(3, 5)
    assert (found["transfer_low"], found["transfer_high"]) == wilson(1, 5)
    assert (found["best_transfer_low"], found["best_transfer_high"]) == wilson(2, 5)


def test_attacks_with_a_solve_that_missed_its_tolerance_are_counted(tmp_path: Path) -> None:
    steps = pd.DataFrame(
        {
            "target": [1, 1, 2, 2],
            "learning_rate": 0.1,
            "step": [0, 1, 0, 1],
            "valid": [True, True, True, False],
        }
    )
    paths = [tmp_path / f"{number}.parquet" for number in range(2)]
    steps.to_parquet(paths[0])
    steps.assign(valid=True).to_parquet(paths[1])
    assert count_invalid(paths) == (1, 4)


def test_rates_of_each_k(tmp_path: Path) -> None:
    both = pd.concat([FIVE.assign(k=300), FIVE.head(2)], ignore_index=True)
    rates = success_rates(both, "mnist", "min_higher", 0.1)
    assert rates["k"].tolist() == [1, 300]
    assert rates["targets"].tolist() == [2, 5]
    assert rates["success"].tolist() == pytest.approx([1.0, 0.4])
    write_table(tmp_path / "rates.parquet", SUCCESS_COLUMNS, rates)


def test_wilson_intervals() -> None:
    """Closed form with z = 1.959964; the first is 64 % of 50 targets."""
    for successes, trials in ((32, 50), (0, 50), (50, 50), (1, 3)):
        rate, z2 = successes / trials, 1.959963984540054**2
        centre = (rate + z2 / (2 * trials)) / (1 + z2 / trials)
        half = math.sqrt(z2 * (rate * (1 - rate) / trials + z2 / (4 * trials**2))) / (1 + z2 / trials)
        assert wilson(successes, trials) == pytest.approx((centre - half, centre + half), abs=1e-9)
    assert wilson(32, 50) == pytest.approx((0.5014, 0.7586), abs=5e-5)
    assert wilson(0, 50)[0] == 0.0
    assert wilson(50, 50)[1] == 1.0


def rate_of(radius: float, success: float, lost: float, best: float, best_lost: float) -> dict[str, Any]:
    """A row of `attack_success`; pristine numbers can be told from the radius."""
    numbers = dict.fromkeys(ATTACK_SUCCESS_COLUMNS, 0.0)
    return numbers | {
        "dataset": "mnist",
        "objective": "min_higher",
        "k": 1,
        "targets": 50,
        "radius": radius,
        "success": success,
        "unconfirmed": 1,
        "accuracy_lost_shared": lost,
        "accuracy_lost_pristine": radius,
        "transfer": 10 * radius,
        "best_success": best,
        "best_accuracy_lost_shared": best_lost,
        "best_accuracy_lost_pristine": 100 * radius,
        "best_transfer": 1000 * radius,
    }


MODELS = {
    "mnist": {
        "accuracy_shared": 0.9,
        "accuracy_pristine": 0.8,
        "samples_shared": 300,
        "samples_pristine": 100,
        "l2": 0.01,
        "theta_norm": 2.5,
        "gradient_norm": 1e-7,
    }
}


def test_table1_takes_the_radius_that_succeeds_most_on_the_shared_half(tmp_path: Path) -> None:
    rates = pd.DataFrame(
        [
            rate_of(0.5, 0.2, 0.01, 0.9, 0.3),
            rate_of(0.2, 0.6, 0.02, 0.9, 0.2),
            rate_of(0.1, 0.6, 0.01, 0.6, 0.1),
            rate_of(0.05, 0.6, 0.01, 0.4, 0.0),
        ]
    )
    table = table1(rates, MODELS, damping=DAMPING)
    (row,) = table.to_dict("records")
    # Three radii succeed equally; two of them at the least cost; the smaller is taken.
    assert (row["radius"], row["accuracy_lost"], row["transfer"]) == (0.05, 0.05, 0.5)
    assert (row["best_radius"], row["best_accuracy_lost"], row["best_transfer"]) == (0.2, 20.0, 200.0)
    assert (row["success"], row["best_success"]) == (0.6, 0.9)
    assert row["unconfirmed"] == 4
    assert (row["honest_accuracy"], row["l2"], row["damping"], row["theta_norm"]) == (0.8, 0.01, 0.25, 2.5)
    assert row["targets"] == 50
    write_table(tmp_path / "table1.parquet", TABLE1_COLUMNS, table)


def test_table1_has_a_row_for_each_data_set_objective_and_k() -> None:
    rates = pd.concat(
        [
            pd.DataFrame([rate_of(0.1, 0.5, 0.0, 0.5, 0.0)]).assign(dataset=name, objective=objective, k=k)
            for name in ("b", "a")
            for objective in ("min_higher", "max_target")
            for k in (1, 300)
        ],
        ignore_index=True,
    )
    table = table1(rates, {name: MODELS["mnist"] for name in "ab"}, damping=DAMPING)
    assert table[["dataset", "objective", "k"]].to_numpy().tolist() == [
        [name, objective, k]
        for name in ("b", "a")
        for k in (1, 300)
        for objective in ("min_higher", "max_target")
    ]


def test_table1_where_nothing_succeeds() -> None:
    """The smallest radius is named, its mean loss is missing, and the numbers file still is JSON."""
    table = table1(
        pd.DataFrame([rate_of(radius, 0.0, NAN, 0.0, NAN) for radius in (0.5, 0.1)]).assign(
            accuracy_lost_pristine=NAN
        ),
        MODELS,
        damping=DAMPING,
    )
    assert table["radius"].tolist() == [0.1]
    assert table["accuracy_lost"].isna().all()
    found = metrics(table, MODELS)
    assert found["mnist"]["attack"]["min_higher, k = 1"]["accuracy_lost"] is None
    json.dumps(found, allow_nan=False)
    assert pretty_table1(table, 0.03)["accuracy lost"].tolist() == ["–"]


def test_metrics_weigh_the_halves_by_their_sizes() -> None:
    table = table1(pd.DataFrame([rate_of(0.1, 0.5, 0.0, 0.5, 0.0)]), MODELS, damping=DAMPING)
    assert metrics(table, MODELS)["mnist"]["accuracy"] == pytest.approx(0.875)


def test_tables_for_reading() -> None:
    rates = pd.DataFrame([rate_of(0.1, 0.5, 0.0, 0.75, 0.0) | {"success_low": 0.4, "success_high": 0.6}])
    pretty = pretty_success(rates).iloc[0]
    assert pretty["success [95 %]"] == "0.50 [0.40, 0.60]"
    assert pretty["accuracy lost"] == "10.0 %"
    assert pretty["C"] == "0.1"
    first = pretty_table1(table1(rates, MODELS, damping=DAMPING), 0.03).iloc[0]
    assert first["success, loss ≤ 3 % [95 %]"] == "0.50 [0.40, 0.60]"
    assert first["transfer [95 %]"] == "1.00 [0.00, 0.00]"


def test_examples_are_successes_of_the_smallest_k_at_the_smallest_radius() -> None:
    table = pd.DataFrame(
        [
            (1, 1, 0.1, False, False),
            (2, 1, 0.1, True, False),
            (3, 1, 0.1, True, True),
            (2, 1, 0.5, True, True),
            (3, 1, 0.5, True, True),
            (1, 1, 0.5, True, False),
            (4, 300, 0.1, True, True),
        ],
        columns=["target", "k", "radius", "confirmed", "within_budget"],
    )
    chosen = choose_examples(table, count=3)
    assert chosen[["target", "radius"]].to_numpy().tolist() == [[3, 0.1], [2, 0.5], [1, 0.5]]
    assert len(choose_examples(table, count=1)) == 1
    assert choose_examples(table.assign(confirmed=False), count=3).empty
