"""Rankings held against training again, on the attack's heads; pictures of it all."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import scipy.stats
import torch
from problems import exact_influence, make_calculator, make_problem
from torch import Tensor

from undue.calculus.basis import Eigenbasis
from undue.calculus.newton import newton
from undue.calculus.solvers import conjugate_gradient
from undue.errors import UserError
from undue.plots import save, style
from undue.tables import write_table
from undue.training import train
from undue.validation import rankings
from undue.validation.effects import DAMPING_VARIED, agreement, make_pairs
from undue.validation.figures import (
    damping_curves,
    early_stopping,
    harmful_twin,
    influence_parts,
    removals,
    scatters,
)
from undue.validation.rankings import (
    RANKING_COLUMNS,
    REMOVED_COLUMNS,
    Ranker,
    Truth,
    damping_pairs,
    draw_random,
    pretty_rankings,
    rank,
    ranking_table,
    removed_table,
    retrain_without,
    rows_to_remove,
)
from undue.valuation.calculator import Setting

L2, DAMPING, SAMPLES = 0.02, 0.3, 4


def make_setting(*, rank_sign: int = 1, n: int = 60) -> Setting:
    problem = make_problem(n=n)
    basis = Eigenbasis.of(problem.train.x)
    calculator = make_calculator(problem, basis, l2=L2, damping=DAMPING, rank_sign=rank_sign)
    theta = train(problem.train, l2=L2, regularise_bias=True, gradient_norm=1e-10).theta
    # Sample numbers are not rows.
    return Setting(calculator, basis, theta, 10 * problem.train_index)


def other_model(setting: Setting) -> Tensor:
    draw = torch.randn(setting.theta.shape, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    return setting.theta + 0.3 * draw


def quiet(done: int) -> None:
    """Nobody watches."""


@pytest.mark.parametrize("rank_sign", [1, -1])
def test_a_ranker_has_the_influences_by_definition_and_both_ends(rank_sign: int) -> None:
    setting = make_setting(rank_sign=rank_sign)
    model = other_model(setting)
    ranker = rank(setting, model, radius=0.2, target=30, samples=SAMPLES, tolerance=1e-8)
    plain = make_calculator(make_problem(), l2=L2, damping=DAMPING)
    expected = exact_influence(plain, model[..., 0], plain.problem.shared).numpy()
    np.testing.assert_allclose(ranker.influence, expected, rtol=1e-6, atol=1e-9)
    order = np.argsort(-rank_sign * expected)
    assert ranker.first.tolist() == order[:SAMPLES].tolist()
    assert ranker.last.tolist() == order[::-1][:SAMPLES].tolist()
    assert ranker.row == 3


@pytest.mark.parametrize("factorised", [True, False], ids=["near Hessian", "diagonal"])
def test_the_truth_is_training_from_scratch(factorised: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    if not factorised:
        monkeypatch.setattr(rankings, "FACTORISED", 0)
    setting = make_setting()
    told: list[int] = []
    rows = np.array([2, 7, 40])
    truth = retrain_without(setting, rows, gradient_norm=1e-10, progress=told.append)
    problem = make_problem()
    for row in rows:
        kept = torch.tensor([i for i in range(60) if i != row])
        theta = train(
            problem.train.rows(kept), l2=L2 * 60 / 59, regularise_bias=True, gradient_norm=1e-10
        ).theta
        change = problem.shared.at(theta).losses().sum() - problem.shared.at(setting.theta).losses().sum()
        assert float(truth.of(np.array([row]))[0]) == pytest.approx(float(change), abs=1e-7)
    assert truth.gradient_norm.max() <= 1e-10
    assert told[-1] == 3


def test_what_is_removed_has_every_end_every_target_and_the_drawn() -> None:
    def ranker(row: int, first: list[int], last: list[int]) -> Ranker:
        return Ranker(0.1, row, row, np.zeros(9), np.array(first), np.array(last))

    rows = rows_to_remove([ranker(-1, [5, 1], [0, 2]), ranker(7, [5, 3], [2, 0])], np.array([3, 8]))
    assert rows.tolist() == [0, 1, 2, 3, 5, 7, 8]


def test_the_drawn_are_distinct_and_repeatable() -> None:
    drawn = draw_random(100, 20, seed=3)
    assert len(set(drawn)) == 20
    assert (drawn == draw_random(100, 20, seed=3)).all()
    assert draw_random(5, 20, seed=3).tolist() == [0, 1, 2, 3, 4]


def test_the_honest_ranking_predicts_and_less_damping_predicts_the_size(tmp_path: Path) -> None:
    setting = make_setting(n=200)
    rankers = [
        rank(setting, setting.theta, radius=0, target=-1, samples=10, tolerance=1e-8),
        rank(setting, other_model(setting), radius=0.2, target=30, samples=10, tolerance=1e-8),
    ]
    drawn = draw_random(200, 10, seed=0)
    truth = retrain_without(setting, rows_to_remove(rankers, drawn), gradient_norm=1e-9, progress=quiet)
    table = ranking_table(rankers, truth, drawn, dataset="d", seed=0)
    write_table(tmp_path / "rankings.parquet", RANKING_COLUMNS, table)
    honest, other = table.iloc[0], table.iloc[1]
    # Rank 1 raises the test loss: without it the loss falls.
    assert honest["actual_first"] < 0 < honest["actual_last"]
    assert honest["right_sign"] >= 0.9
    assert honest["spearman"] > 0.8
    # The signs are not all of it: the order within one end is right, too.
    assert honest["pearson_within_first"] > 0.8
    within = honest[["spearman_within_first", "spearman_within_last"]]
    expected = [
        scipy.stats.spearmanr(-rankers[0].influence[rows], truth.of(rows)).statistic
        for rows in (rankers[0].first, rankers[0].last)
    ]
    assert within.tolist() == pytest.approx(expected)
    assert honest["pearson_low"] <= honest["pearson"] <= honest["pearson_high"]
    assert np.isnan(honest["actual_target"])
    assert other["actual_target"] == truth.of(np.array([3]))[0]
    assert pretty_rankings(table)["ranked by"].tolist() == ["honest", "manipulated, C = 0.2"]

    removed = removed_table(setting, rankers, truth, drawn, dataset="d")
    write_table(tmp_path / "removed.parquet", REMOVED_COLUMNS, removed)
    assert len(removed) == 2 * 30
    assert set(removed["sample"]) <= set(setting.train_index)

    pairs = damping_pairs(
        setting, rankers[0], truth, drawn, [0.0, 10.0], dataset="d", warn=lambda text: pytest.fail(text)
    )
    found = agreement(pairs, seed=0).set_index(["experiment", "level"])
    assert found.loc[("first and last, damping", 0.0), "pearson"] > 0.98
    assert found.loc[("first and last, damping", 0.0), "slope"] == pytest.approx(1, abs=0.3)
    assert found.loc[("first and last, damping", 10.0), "slope"] < 0.1


def test_two_samples_have_no_correlation(tmp_path: Path) -> None:
    setting = make_setting()
    honest = rank(setting, setting.theta, radius=0, target=-1, samples=2, tolerance=1e-8)
    drawn = draw_random(60, 2, seed=0)
    truth = retrain_without(setting, rows_to_remove([honest], drawn), gradient_norm=1e-9, progress=quiet)
    table = ranking_table([honest], truth, drawn, dataset="d", seed=0)
    write_table(tmp_path / "rankings.parquet", RANKING_COLUMNS, table)
    assert np.isfinite(table.loc[0, "spearman"])
    assert np.isnan(table.loc[0, ["spearman_within_first", "pearson_random"]].astype(float)).all()


def test_a_damping_too_small_for_its_solve_is_left_out_and_said(monkeypatch: pytest.MonkeyPatch) -> None:
    setting = make_setting()
    honest = rank(setting, setting.theta, radius=0, target=-1, samples=4, tolerance=1e-8)
    drawn = draw_random(60, 4, seed=0)
    truth = retrain_without(setting, rows_to_remove([honest], drawn), gradient_norm=1e-9, progress=quiet)
    # With so much damping one product is enough for any solve; without it is for none.
    monkeypatch.setattr("undue.valuation.calculator.conjugate_gradient",
                        partial(conjugate_gradient, max_iterations=3))  # fmt: skip
    said: list[str] = []
    pairs = damping_pairs(setting, honest, truth, drawn, [0.0, 1e6], dataset="d", warn=said.append)
    assert set(pairs["level"]) == {1e6}
    assert len(said) == 1
    assert said[0].startswith("validation.dampings: δ = 0 is left out")


def test_heads_that_miss_the_gradient_norm_are_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("undue.validation.rankings.newton", partial(newton, max_steps=0))
    with pytest.raises(UserError, match=r"validation\.gradient_norm: training again.*\n.*or model\.l2"):
        retrain_without(make_setting(), np.array([2]), gradient_norm=1e-9, progress=quiet)


# Pictures ---------------------------------------------------------------------------------------------------


def pairs_of(experiment: str, predictor: str, level: float) -> pd.DataFrame:
    draw = np.random.default_rng(1)
    actual = draw.standard_normal(12)
    return make_pairs(
        np.arange(12),
        actual + 0.1 * draw.standard_normal(12),
        actual,
        np.full(12, 1e-9),
        dataset="d",
        experiment=experiment,
        predictor=predictor,
        level=level,
    )


def test_pictures_are_drawn(tmp_path: Path) -> None:
    exact = pairs_of("softmax", "exact solve", float("nan"))
    hinges = pd.concat([pairs_of("hinge", "t", t) for t in (0.0, 0.1)])
    early = pd.concat([pairs_of("stopped early, trained again", "steps", s) for s in (10.0, 100.0)])
    dampings = pd.concat([pairs_of(f"{name}, damping", "δ", δ) for name in ("random", "first and last")
                          for δ in (0.0, 0.25, 1.0)])  # fmt: skip
    table = agreement(pd.concat([exact, hinges, early, dampings]), seed=0)
    parts = pd.DataFrame(
        {
            "sample": np.arange(100, 108),
            "same_label": [0, 1] * 4,
            **{
                name: np.arange(8.0)
                for name in ("influence", "without_loss", "without_hessian", "without_both")
            },
            "test_sample": 3,
        }
    )
    removed = pd.DataFrame(
        {
            "dataset": "d",
            "model": ["honest", "manipulated"] * 3,
            "radius": 0.2,
            "target": [-1, 5] * 3,
            "sample": [1, 5, 2, 6, 3, 7],
            "place": ["first", "first", "last", "last", "random", "random"],
            "predicted": np.arange(6.0),
            "actual": np.arange(6.0),
            "precision": 0.0,
        }
    )
    assert harmful_twin(parts) == 107
    with style():
        for number, figure in enumerate(
            (
                scatters(exact, table),
                scatters(hinges, table),
                early_stopping(table),
                damping_curves(table, dampings={"d": 0.25}),
                influence_parts(parts, {"a digit": np.zeros(16), "no square": np.zeros(5)}),
                removals(removed),
                removals(removed[removed["model"] == "honest"]),
            )
        ):
            path = tmp_path / f"{number}.png"
            save(figure, [str(path)], dpi=50)
            assert path.stat().st_size > 1000


def test_damping_curves_are_of_the_attacked_heads_alone() -> None:
    dampings = pd.concat([pairs_of(f"random{DAMPING_VARIED}", "δ", δ) for δ in (0.0, 1.0)])
    network = pairs_of("network, 3 steps without the sample", "δ", 0.02)
    table = agreement(pd.concat([dampings, dampings.assign(dataset="e"), network]), seed=0)
    with style():
        figure = damping_curves(table, dampings={"d": 0.25, "e": 0.5})
    assert [axis.get_ylabel() for axis in figure.axes] == ["d", "", "", "e", "", ""]
    for axis, damping in zip(figure.axes, [0.25] * 3 + [0.5] * 3, strict=True):
        assert axis.get_legend_handles_labels()[1] == ["random"]
        ends = [np.unique(np.asarray(line.get_xdata(), dtype=float)).tolist() for line in axis.lines]
        assert [each for each in ends if len(each) == 1] == [[damping]]


def test_a_panel_says_which_experiment_it_is_of() -> None:
    pairs = pd.concat([pairs_of("softmax", "exact solve", float("nan")),
                       pairs_of("network, 3 steps without the sample", "δ", 0.02)])  # fmt: skip
    with style():
        titles = [axis.get_title() for axis in scatters(pairs, agreement(pairs, seed=0)).axes]
    assert titles[0].startswith("softmax\nexact solve\nR = ")
    assert titles[1].startswith("network,\n3 steps without the sample\nδ = 0.02\nR = ")


def test_what_is_no_square_image_is_not_shown() -> None:
    values = ("influence", "without_loss", "without_hessian", "without_both")
    parts = pd.DataFrame(
        {"same_label": [0, 1], "sample": [0, 1], "test_sample": 0, **dict.fromkeys(values, 0.5)}
    )
    with style():
        assert len(influence_parts(parts, {"a": np.zeros(4), "b": np.zeros(4)}).axes) == 5
        assert len(influence_parts(parts, {"a": np.zeros(3), "b": np.zeros(5)}).axes) == 3


def test_a_truth_is_looked_up_by_row() -> None:
    truth = Truth(np.array([2, 5, 9]), np.array([0.2, 0.5, 0.9]), np.zeros(3))
    assert truth.of(np.array([9, 2, 9])).tolist() == [0.9, 0.2, 0.9]
