"""The multi-target attack: what its lanes count and keep, what is published, and how it is summarised."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from problems import exact_influence, make_calculator, make_problem

from undue.calculus.basis import Eigenbasis
from undue.errors import UserError
from undue.plots import save
from undue.tables import write_table
from undue.training import train
from undue.valuation.attack import Plan, starts
from undue.valuation.calculator import Calculator
from undue.valuation.evaluate import Evaluation, evaluate
from undue.valuation.objectives import min_higher
from undue.valuation.set_summary import (
    MULTI_TARGET_COLUMNS,
    multi_target,
    pretty_multi_target,
    success_of_sets,
)
from undue.valuation.sets import (
    SET_PUBLISHED_COLUMNS,
    SET_TRAJECTORY_COLUMNS,
    Choice,
    SetLane,
    attack_sets,
    choose_lanes,
    draw_sets,
    judge_sets,
)

PLAN = Plan(
    weights=min_higher,
    radius=0.4,
    steps=8,
    drop_at=0.5,
    ranks=(2, 5),
    tolerance=1e-9,
    monitor_every=4,
    memory=1e9,
)
ROWS = np.array([[3, 14, 20], [40, 7, 55]])
LANES = [SetLane(number, 0, rate) for number in (0, 1) for rate in (0.02, 0.2)]


class Setup:
    """A small problem, its θ*, and the lanes' starting points."""

    def __init__(self) -> None:
        problem = make_problem()
        self.theta = train(problem.train, l2=0.01, regularise_bias=True, gradient_norm=1e-10).theta
        self.basis = Eigenbasis.of(problem.train.x)
        self.calculator: Calculator = make_calculator(problem, self.basis)
        self.begin = torch.cat(
            [starts(self.theta, 0.4, [int(ROWS[lane.set, 0])], seed=0, start=lane.seed) for lane in LANES],
            dim=2,
        )

    def run(self, plan: Plan = PLAN, *, least_accuracy: float = 0.0) -> tuple[pd.DataFrame, list[Choice]]:
        return attack_sets(
            self.calculator,
            self.basis,
            self.theta,
            self.begin,
            ROWS,
            LANES,
            plan,
            least_accuracy=least_accuracy,
        )


@pytest.fixture(scope="module")
def setup() -> Setup:
    return Setup()


def test_sets_are_nested_distinct_and_seeded() -> None:
    small, large = (draw_sets(50, size=size, sets=3, seed=1) for size in (4, 9))
    assert (large[:, :4] == small).all()
    assert all(len(set(row)) == 9 for row in large.tolist())
    assert len({tuple(row) for row in small.tolist()}) == 3
    assert not (draw_sets(50, size=4, sets=3, seed=2) == small).all()
    with pytest.raises(UserError, match="51 targets can't be drawn from 50") as caught:
        draw_sets(50, size=51, sets=1, seed=1)
    assert caught.value.where == "multi_target.sizes"


def test_counts_are_those_of_an_independent_ranking(setup: Setup) -> None:
    """The kept models, ranked by autograd and a dense solve, have as many targets in the top as claimed."""
    _, choices = setup.run()
    problem = setup.calculator.problem
    plain = replace(setup.calculator, moments=setup.calculator.moments)
    for choice in choices:
        for lane, setup_of_lane in enumerate(LANES):
            theta = setup.basis.to_basis(torch.from_numpy(choice.theta[lane])[..., None])[..., 0]
            score = exact_influence(plain, theta, problem.shared)
            rank = [1 + int((score >= score[row]).sum()) - 1 for row in ROWS[setup_of_lane.set]]
            assert choice.merit[lane] // 2 == sum(r <= choice.k for r in rank)


def test_the_kept_iterate_has_the_most_targets_then_the_highest_accuracy(setup: Setup) -> None:
    trajectories, choices = setup.run(least_accuracy=0.6)
    for choice in choices:
        for lane, which in enumerate(LANES):
            rows = trajectories[
                (trajectories["k"] == choice.k)
                & (trajectories["set"] == which.set)
                & (trajectories["learning_rate"] == which.learning_rate)
            ]
            if choice.constrained:
                rows = rows[rows["accuracy_shared"] >= 0.6]
            best = rows.sort_values(
                ["in_top_shared", "accuracy_shared", "step"], ascending=[False, False, True]
            )
            assert choice.step[lane] == (best["step"].iloc[0] if len(best) else -1)


def test_a_budget_that_nothing_meets_keeps_nothing(setup: Setup) -> None:
    _, choices = setup.run(least_accuracy=1.1)
    for choice in choices:
        assert (choice.step == -1).all() == choice.constrained


def test_packs_change_nothing(setup: Setup) -> None:
    whole, kept = setup.run()
    parts, kept_in_parts = setup.run(replace(PLAN, memory=1.0))
    order = ["set", "learning_rate", "k", "step"]
    whole, parts = (table.sort_values(order).reset_index(drop=True) for table in (whole, parts))
    pd.testing.assert_frame_equal(whole, parts, rtol=1e-6)
    for one, other in zip(kept, kept_in_parts, strict=True):
        assert (one.step == other.step).all()


def test_trajectories_fit_their_columns(setup: Setup, tmp_path: Path) -> None:
    trajectories, _ = setup.run()
    assert len(trajectories) == len(LANES) * 9 * 2
    monitored = trajectories["in_top_pristine"] >= 0
    assert monitored[trajectories["step"].isin([0, 4, 8])].all()
    write_table(tmp_path / "t.parquet", SET_TRAJECTORY_COLUMNS, trajectories)


def test_too_many_missed_solves_are_an_error(setup: Setup) -> None:
    with pytest.raises(UserError, match="missed the relative residual"):
        setup.run(replace(PLAN, tolerance=1e-30))


def test_evaluation_is_the_ranking_by_definition(setup: Setup) -> None:
    theta = setup.begin.permute(2, 0, 1).numpy()
    rows = ROWS[[lane.set for lane in LANES]]
    found = evaluate(setup.calculator, setup.basis, theta, rows)
    problem = setup.calculator.problem
    for half, risk in (("shared", problem.shared), ("pristine", problem.pristine)):
        for model in range(len(LANES)):
            rotated = setup.basis.to_basis(setup.begin[..., model : model + 1])[..., 0]
            score = exact_influence(setup.calculator, rotated, risk)
            expected = [int((score >= score[row]).sum()) for row in rows[model]]
            assert getattr(found, f"rank_{half}")[model].tolist() == expected
            right = ((risk.x @ rotated).argmax(dim=1) == risk.y).double().mean()
            assert getattr(found, f"accuracy_{half}")[model] == pytest.approx(float(right))


def test_no_models_evaluate_to_nothing(setup: Setup) -> None:
    found = evaluate(setup.calculator, setup.basis, np.empty((0, 5, 3)), np.empty((0, 3), dtype=int))
    assert found.rank_shared.shape == (0, 3)
    assert found.accuracy_pristine.shape == (0,)


def choice(k: int, *, constrained: bool, step: list[int], merit: list[float]) -> Choice:
    return Choice(k, constrained, np.array(step), np.array(merit), np.zeros((len(step), 5, 3)))


def test_the_best_lane_of_each_set_is_published(tmp_path: Path) -> None:
    choices = [
        choice(2, constrained=True, step=[1, -1, -1, -1], merit=[4.9, 9.0, 8.0, 8.0]),
        choice(2, constrained=False, step=[1, 2, 3, 4], merit=[4.9, 4.95, 2.5, 2.4]),
    ]
    chosen = choose_lanes(choices, LANES, sets=2)
    assert chosen["lane"].tolist() == [0, -1, 1, 2]
    assert chosen["reached"].tolist() == [True, False, True, True]
    checked = Evaluation(
        rank_shared=np.array([[1, 2, 9], [1, 9, 9], [2, 1, 9]]),
        rank_pristine=np.array([[9, 9, 9], [1, 2, 9], [9, 2, 9]]),
        accuracy_shared=np.array([0.9, 0.95, 0.5]),
        accuracy_pristine=np.array([0.8, 0.9, 0.4]),
    )
    honest = {"shared": 0.95, "pristine": 0.9}
    told: dict[str, Any] = {"honest_rank": np.array([[3, 2, 9], [1, 2, 9]]), "honest": honest}
    table = judge_sets(chosen, choices, LANES, checked, budget=0.05, **told)
    assert table["in_top_honest"].tolist() == [1, 2, 1, 2]
    assert table["claimed"].tolist() == [2, 0, 2, 1]
    assert table["in_top_shared"].tolist() == [2, 0, 1, 2]
    assert table["in_top_pristine"].tolist() == [0, 0, 2, 1]
    assert table["theta"].tolist() == [0, -1, 1, 2]
    assert table["step"].tolist() == [1, -1, 2, 3]
    np.testing.assert_allclose(table["accuracy_lost_shared"], [0.05, np.nan, 0.0, 0.45], atol=1e-12)
    np.testing.assert_allclose(table["accuracy_lost_pristine"], [0.1, np.nan, 0.0, 0.5], atol=1e-12)
    write_table(tmp_path / "p.parquet", SET_PUBLISHED_COLUMNS, table)
    # A choice that float64 finds beyond the budget counts for nothing; without a budget it still does.
    less = judge_sets(chosen, choices, LANES, checked, budget=0.04, **told)
    assert less["in_top_shared"].tolist() == [0, 0, 1, 2]
    assert less["in_top_pristine"].tolist() == [0, 0, 2, 1]


def published(radius: float, hits: list[int], lost: float, *, size: int = 4, k: int = 10) -> pd.DataFrame:
    return pd.DataFrame(
        {
            "dataset": "d",
            "radius": radius,
            "size": size,
            "set": range(len(hits)),
            "k": k,
            "constrained": True,
            "in_top_honest": 1,
            "claimed": [hit + 1 for hit in hits],
            "in_top_shared": hits,
            "in_top_pristine": [hit // 2 for hit in hits],
            "accuracy_lost_shared": lost,
            "accuracy_lost_pristine": lost / 2,
        }
    )


def test_the_three_readings_of_the_success_rate(tmp_path: Path) -> None:
    table = multi_target(published(0.1, [3, 0], 0.02))
    (row,) = table.to_dict("records")
    assert row["in_top"] == 1.5
    assert row["of_places"] == row["of_targets"] == pytest.approx(3 / 8)
    assert row["of_top"] == pytest.approx(3 / 20)
    assert row["pristine_of_places"] == pytest.approx(1 / 8)
    assert (row["of_places_least"], row["of_places_most"]) == (0, 3 / 4)
    assert (row["claimed"], row["in_top_honest"], row["honest_of_places"]) == (2.5, 1, 1 / 4)
    (many,) = multi_target(published(0.1, [3, 0], 0.02, size=40, k=5)).to_dict("records")
    assert (many["of_places"], many["of_targets"], many["of_top"]) == pytest.approx((0.3, 3 / 80, 0.3))
    write_table(tmp_path / "m.parquet", MULTI_TARGET_COLUMNS, table)


def test_the_radius_is_chosen_on_the_shared_half() -> None:
    runs = [published(0.5, [2, 2], 0.02), published(0.1, [3, 1], 0.01), published(0.05, [1, 1], 0.0)]
    table = multi_target(pd.concat(runs, ignore_index=True))
    assert table.loc[table["chosen"], "radius"].tolist() == [0.1]
    (row,) = pretty_multi_target(table).to_dict("records")
    assert row["of the places (least – most)"] == "0.50 (0.25 – 0.75)"
    (alone,) = pretty_multi_target(multi_target(published(0.1, [3], 0.01))).to_dict("records")
    assert alone["of the places (least – most)"] == "0.75"


def test_the_figure_draws_three_lines_for_each_size(tmp_path: Path) -> None:
    runs = [published(0.1, [1, 0], 0.01, size=size, k=k) for size in (1, 4) for k in (1, 10, 100)]
    figure = success_of_sets(multi_target(pd.concat(runs, ignore_index=True)))
    (axis,) = figure.axes
    assert sorted(line.get_linestyle() for line in axis.lines) == ["-", "-", "--", "--", ":", ":"]
    save(figure, [str(tmp_path / "f.svg")], dpi=72)
