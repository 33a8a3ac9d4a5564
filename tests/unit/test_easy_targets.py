"""Easy and hard targets, and the gradients of influences, against definitions and autograd."""

from __future__ import annotations

import math
from dataclasses import astuple
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import scipy.stats
import torch
from problems import exact_influence, make_calculator, make_problem

from undue.agreement import spearman_fisher
from undue.calculus.basis import Eigenbasis
from undue.errors import UserError
from undue.plots import style
from undue.tables import write_table
from undue.training import train
from undue.valuation import gradients
from undue.valuation.analysis_figures import easy_and_hard
from undue.valuation.calculator import Setting
from undue.valuation.easy import (
    EASY_COLUMNS,
    easy_summary,
    easy_targets,
    extremeness,
    pretty_easy,
)
from undue.valuation.gradients import gradient_norms, sample_others

# Gradients --------------------------------------------------------------------------------------------------


def make_setting(dtype: torch.dtype = torch.float64, **options: Any) -> Setting:
    """A trained model of the small problem; options are the calculator's."""
    problem = make_problem()
    theta = train(problem.train, l2=0.01, regularise_bias=True, gradient_norm=1e-9).theta
    basis = Eigenbasis.of(problem.train.x)
    return Setting(make_calculator(problem.to(dtype), basis, **options), basis, theta, problem.train_index)


@pytest.mark.parametrize("rank_sign", [1, -1])
def test_gradient_norms_are_those_of_autograd(rank_sign: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Differentiated through the definition, with a dense solve; in packs that don't come out even."""
    monkeypatch.setattr(gradients, "LANES", 3)
    setting = make_setting(rank_sign=rank_sign)
    rows = np.array([2, 40, 17, 5, 59])
    plain = make_calculator(make_problem())
    jacobian = torch.func.jacrev(lambda t: exact_influence(plain, t, plain.problem.shared))
    exact = jacobian(setting.theta[..., 0]).flatten(1).norm(dim=1)[rows]
    found = gradient_norms(setting, rows, tolerance=1e-10)
    np.testing.assert_allclose(found, exact.numpy(), rtol=1e-7)


def test_single_precision_is_enough() -> None:
    rows = np.arange(20)
    found = gradient_norms(make_setting(torch.float32), rows, tolerance=1e-4)
    np.testing.assert_allclose(found, gradient_norms(make_setting(), rows, tolerance=1e-10), rtol=2e-3)


def test_a_gradient_that_can_not_be_solved_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UserError, match=r"influence\.damping"):
        gradient_norms(make_setting(torch.float32), np.array([1]), tolerance=1e-30)


def test_others_are_drawn_beside_the_targets() -> None:
    index, targets = np.arange(100, 160), np.array([103, 150, 117])
    others = sample_others(index, targets, count=10, seed=0)
    assert len(others) == 7
    assert not np.isin(others, targets).any()
    assert (np.diff(others) > 0).all()
    assert np.isin(others, index).all()
    assert set(others) < set(sample_others(index, targets, count=20, seed=0))
    assert set(others) != set(sample_others(index, targets, count=10, seed=1))
    assert len(sample_others(index, targets, count=1000, seed=0)) == 57
    assert len(sample_others(index, targets, count=2, seed=0)) == 0


# Easy and hard ----------------------------------------------------------------------------------------------

ATTACKS = pd.DataFrame(
    [
        # Target 1 is reached at the larger radius, 2 never, 3 at both; the refused claim of 2 doesn't count.
        ("mnist", "min_higher", 0.1, 1, 1, 5, True, False),
        ("mnist", "min_higher", 0.1, 2, 1, 50, True, False),
        ("mnist", "min_higher", 0.1, 3, 1, 99, True, True),
        ("mnist", "min_higher", 0.5, 1, 1, 5, True, True),
        ("mnist", "min_higher", 0.5, 2, 1, 50, False, False),
        ("mnist", "min_higher", 0.5, 3, 1, 99, True, True),
        ("mnist", "min_higher", 0.5, 2, 10, 50, True, True),
        ("mnist", "max_target", 0.5, 2, 1, 50, True, True),
        ("pet", "min_higher", 0.5, 2, 1, 7, True, True),
    ],
    columns=["dataset", "objective", "radius", "target", "k", "original_rank", "reached", "confirmed"],
)


def test_a_target_is_easy_that_some_radius_reaches() -> None:
    table = easy_targets(ATTACKS, objective="min_higher", k=1)
    assert table.to_numpy().tolist() == [
        ["mnist", 1, 5, True],
        ["mnist", 2, 50, False],
        ["mnist", 3, 99, True],
        ["pet", 2, 7, True],
    ]
    assert table["easy"].dtype == bool


def test_extremeness() -> None:
    """Of ranks 1 … 101 the middle is 51."""
    assert extremeness(pd.Series([1, 26, 51, 101]), 101).tolist() == [1.0, 0.5, 0.0, 1.0]


def test_spearman_with_its_interval() -> None:
    """ρ = 1 − 6 Σd²/(m(m² − 1)) = 1 − 6·4/(5·24) = 0.8; the interval by its formula."""
    rho, low, high = astuple(spearman_fisher(np.array([1.0, 2, 3, 4, 5]), np.array([2.0, 1, 4, 3, 5])))
    assert rho == pytest.approx(0.8)
    half = 1.959963984540054 * math.sqrt((1 + 0.32) / 2)
    assert (low, high) == pytest.approx(
        (math.tanh(math.atanh(0.8) - half), math.tanh(math.atanh(0.8) + half))
    )


def test_spearman_covers_what_it_should() -> None:
    """Of a bivariate normal with Pearson's r, Spearman's ρ is (6/π) asin(r/2)."""
    draw, r = np.random.default_rng(0), 0.6
    truth, covered = 6 / math.pi * math.asin(r / 2), 0
    for _ in range(400):
        x = draw.standard_normal(60)
        _, low, high = astuple(spearman_fisher(x, r * x + math.sqrt(1 - r * r) * draw.standard_normal(60)))
        covered += low <= truth <= high
    assert scipy.stats.binomtest(covered, 400, 0.95).pvalue > 1e-3


@pytest.mark.parametrize("x", [[1.0, 2, 3], [2.0, 2, 2, 2, 2], []])
def test_spearman_of_too_little(x: list[float]) -> None:
    assert all(map(math.isnan, astuple(spearman_fisher(np.array(x), np.arange(float(len(x)))))))


@pytest.mark.parametrize("sign", [1, -1])
def test_a_perfect_correlation(sign: int) -> None:
    rho, low, high = astuple(spearman_fisher(np.arange(9.0), sign * np.arange(9.0)))
    assert rho == pytest.approx(sign)
    assert -1 <= low <= high <= 1


GRADIENTS = pd.DataFrame(
    {
        "index": [1, 2, 3, 60, 61, 62],
        "target": [True, True, True, False, False, False],
        "rank": [5, 50, 99, 1, 101, 40],
        "influence": [4.0, 0.1, -5.0, 6.0, -7.0, 0.2],
        "gradient_norm": [40.0, 1.0, 50.0, 60.0, 70.0, 2.0],
    }
)


def summary() -> dict[str, Any]:
    targets = easy_targets(ATTACKS, objective="min_higher", k=1)
    of_mnist = targets[targets["dataset"] == "mnist"]
    return easy_summary(of_mnist, GRADIENTS, dataset="mnist", objective="min_higher", k=1, samples=101)


def test_the_summary_of_a_data_set(tmp_path: Path) -> None:
    row = summary()
    assert (row["easy"], row["hard"], row["samples"]) == (2, 1, 6)
    assert row["easy_extremeness"] == pytest.approx((46 / 50 + 48 / 50) / 2)
    assert row["hard_extremeness"] == pytest.approx(1 / 50)
    assert row["influence_correlation"] == pytest.approx(1.0)
    # Ranks 1 and 101 are equally far out: ties.
    expected = scipy.stats.spearmanr([46, 1, 48, 50, 50, 11], GRADIENTS["gradient_norm"]).statistic
    assert row["rank_correlation"] == pytest.approx(expected)
    assert row["rank_correlation_low"] < row["rank_correlation"] < row["rank_correlation_high"]
    table = pd.DataFrame([row])
    write_table(tmp_path / "easy.parquet", EASY_COLUMNS, table)
    pretty = pretty_easy(table).iloc[0]
    assert pretty["their distance from the middle rank"] == "0.94"
    assert pretty["gradient norm and size of influence [95 %]"].startswith("1.00 [")


def test_a_summary_with_no_hard_targets(tmp_path: Path) -> None:
    targets = easy_targets(ATTACKS, objective="min_higher", k=1).query("dataset == 'pet'")
    row = easy_summary(targets, GRADIENTS.head(2), dataset="pet", objective="min_higher", k=1, samples=101)
    assert math.isnan(row["hard_extremeness"])
    table = pd.DataFrame([row])
    write_table(tmp_path / "easy.parquet", EASY_COLUMNS, table)
    pretty = pretty_easy(table).iloc[0]
    assert pretty["theirs"] == pretty["gradient norm and that distance [95 %]"] == "–"


def test_figure5() -> None:
    both = pd.concat([GRADIENTS.assign(dataset=name) for name in ("mnist", "pet")])
    with style():
        figure = easy_and_hard(
            easy_targets(ATTACKS, objective="min_higher", k=1), both, {"mnist": 101, "pet": 101}
        )
    assert [axis.get_title(loc="left") for axis in figure.axes] == [
        "mnist: easy targets (2)",
        "mnist: hard targets (1)",
        "",
        "pet: easy targets (1)",
        "pet: hard targets (0)",
        "",
    ]
    panels: list[Any] = figure.axes
    easy, hard, scatter = panels[:3]
    assert sum(bar.get_height() for bar in easy.patches) == 2
    assert sum(bar.get_height() for bar in hard.patches) == 1
    others, of_hard, of_easy = (points.get_offsets().tolist() for points in scatter.collections)
    assert others == [[1, 60], [101, 70], [40, 2]]
    assert of_hard == [[50, 1]]
    assert of_easy == [[5, 40], [99, 50]]
    (legend,) = figure.legends
    assert [text.get_text() for text in legend.get_texts()] == ["easy target", "hard target", "other sample"]
