"""The impossibility theorem: its closed form, its proof with other features, attempts to refute it."""

from __future__ import annotations

import json
import runpy
from dataclasses import replace
from decimal import Decimal
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image
from torch import Tensor

from undue.calculus.influence import ranks
from undue.data.problem import load_problem
from undue.plots import style
from undue.randomness import stream
from undue.tables import write_table
from undue.valuation.attack import attack_gradient
from undue.valuation.impossibility import (
    BIASES,
    CHECKED,
    IMPOSSIBILITY_COLUMNS,
    NEGLIGIBLE,
    SCALINGS,
    Construction,
    Effort,
    attacked,
    calculator,
    cases,
    check,
    confirm,
    distinct,
    exact_influences,
    influences,
    pretty_impossibility,
    problem,
    reach,
    search,
    summary,
    target_rank,
)
from undue.valuation.impossibility_figure import best_rank_panels
from undue.valuation.objectives import min_higher

SIZES = ((2, 1), (2, 5), (4, 1), (4, 3), (7, 2))
EFFORT = Effort(radii=(1.0, 10.0), starts=2, learning_rates=(1.0,), steps=20, seed=0)
EVERY = [Construction(d, k, s, b, 0.1, 0.25) for s in SCALINGS for b in BIASES for d, k in SIZES]


def name(case: Construction) -> str:
    return f"{case.scaling}-{case.bias}-{case.dimension}-{case.duplicates}"


def models(case: Construction, count: int, scale: float) -> Tensor:
    """Random models (p, count), float64."""
    p = case.dimension + (case.bias != "none")
    return scale * torch.randn(p, count, dtype=torch.float64, generator=torch.Generator().manual_seed(3))


def spread(case: Construction, values: Tensor) -> Tensor:
    """Values of the distinct samples as values of all samples."""
    return values.repeat_interleave(torch.tensor(case.counts), dim=0)


# The theorem ------------------------------------------------------------------------------------------------


def closed_form(case: Construction, theta: Tensor) -> tuple[Tensor, Tensor]:
    """Influence of the target and of each duplicate (L,) at θ (d, 1, L), without scaling and bias."""
    right, wrong = torch.sigmoid(theta[0, 0]), torch.sigmoid(-theta[0, 0])
    h = (case.duplicates + 1) / case.samples * right * wrong + case.l2 + case.damping
    return -wrong.square() / h, wrong * right / h


@pytest.mark.parametrize(("d", "k"), SIZES)
@pytest.mark.parametrize("damping", [0.0, 0.25, 3.0])
@pytest.mark.parametrize("scale", [0.3, 3.0])
def test_the_closed_form_is_what_the_general_calculus_gives(
    d: int, k: int, damping: float, scale: float
) -> None:
    case = Construction(d, k, l2=0.0, damping=damping)
    judge = calculator(case)
    theta = models(case, 20, scale)[:, None]
    shared = judge.problem.shared.at(theta)
    score, solution = judge.score(judge.at(theta), shared, tolerance=1e-13)
    assert solution.converged.all()
    target, duplicate = closed_form(case, theta)
    torch.testing.assert_close(score[0], target, rtol=1e-9, atol=0)
    torch.testing.assert_close(score[1 : k + 1], duplicate.expand(k, -1), rtol=1e-9, atol=0)
    assert score[k + 1 :].abs().max() <= 1e-12 * score.abs().max()
    assert (target < 0).all()
    assert (duplicate > 0).all()
    assert (ranks(score)[0] > k).all()


def test_the_paper_prints_another_influence_of_the_target() -> None:
    case = Construction(3, 2, damping=0.25)
    theta = models(case, 5, 1.0)[:, None]
    target, duplicate = closed_form(case, theta)
    assert not torch.allclose(target, -duplicate)


def test_only_known_scalings_and_biases() -> None:
    with pytest.raises(ValueError, match="no scaling whiten"):
        Construction(2, 1, "whiten")
    with pytest.raises(ValueError, match="no bias half"):
        Construction(2, 1, "none", "half")


# The construction -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("scaling", ["none", "centre", "standardise"])
def test_features_are_scaled_as_the_pipeline_scales_them(scaling: str, tmp_path: Path) -> None:
    case = Construction(4, 3, scaling, "regularised")
    raw = problem(Construction(4, 3)).train.x.numpy().astype(np.float32)
    stacked = np.concatenate([raw, raw[:1], raw[:1]])
    np.save(tmp_path / "features.npy", stacked)
    part = ["train"] * 7 + ["shared", "pristine"]
    labels = np.ones(9, dtype=np.int64)
    pd.DataFrame({"index": range(9), "label": labels, "part": part}).to_parquet(tmp_path / "split.parquet")
    loaded = load_problem(tmp_path / "features.npy", tmp_path / "split.parquet", scaling=scaling)
    expected, found = loaded.train.x.double(), problem(case).train.x
    torch.testing.assert_close(found, expected, rtol=1e-6, atol=1e-6)


def test_the_sample_deviation_is_torchs() -> None:
    raw = problem(Construction(3, 2)).train.x
    found = problem(Construction(3, 2, "standardise_sample")).train.x
    torch.testing.assert_close(found, (raw - raw.mean(dim=0)) / raw.std(dim=0), rtol=1e-14, atol=1e-14)


def test_the_test_sample_is_the_target() -> None:
    data = problem(Construction(3, 2, "centre", "free"))
    assert torch.equal(data.shared.x[0], data.train.x[0])
    assert torch.equal(data.train.x[1], data.train.x[2])
    assert (data.train.y == 1).all()


# Three ways to the influences -------------------------------------------------------------------------------


@pytest.mark.parametrize("case", EVERY, ids=name)
def test_dense_exact_and_general_influences_agree(case: Construction) -> None:
    judge = calculator(case)
    theta = models(case, 6, 2.0)
    point = judge.at(theta[:, None])
    score, _ = judge.score(point, judge.problem.shared.at(theta[:, None]), tolerance=1e-12)
    dense = influences(case, theta)
    torch.testing.assert_close(spread(case, dense), score, rtol=1e-7, atol=1e-10)
    exact = [[float(value) for value in exact_influences(case, model)] for model in theta.T.tolist()]
    torch.testing.assert_close(dense.T, torch.tensor(exact, dtype=torch.float64), rtol=1e-9, atol=1e-13)


def test_all_digits_see_what_float64_rounds_away() -> None:
    """So sure of the target that float64 takes σ(z) for 1: the general calculus ties everything."""
    case = Construction(2, 1, damping=0.25)
    theta = torch.tensor([[60.0], [0.0]], dtype=torch.float64)
    judge = calculator(case)
    score, _ = judge.score(judge.at(theta[:, None]), judge.problem.shared.at(theta[:, None]), tolerance=1e-12)
    assert (score == 0).all()
    target, duplicate, other = exact_influences(case, [60.0, 0.0])
    assert target < other < duplicate
    assert float(target) == pytest.approx(-4 * np.exp(-120.0), rel=1e-9)


def test_ties_and_duplicates_count_against_the_target() -> None:
    case = Construction(3, 4)
    one = Decimal(1)
    assert target_rank(case, [one, one, -one, -one]) == 5
    assert target_rank(case, [one, -one, one, -one]) == 2
    assert target_rank(case, [one, -one, -one, -one]) == 1


# The proof with other features ------------------------------------------------------------------------------


@pytest.mark.parametrize("case", EVERY, ids=name)
def test_the_proof_knows_the_sign_of_every_models_covariance(case: Construction) -> None:
    """k(t, d) of all extreme curvatures and of random ones, against `reach`."""
    x = torch.tensor([[float(value) for value in row] for row in distinct(case)], dtype=torch.float64)
    ridge = torch.diag(torch.tensor(case.ridge(), dtype=torch.float64))
    weight = torch.tensor(case.counts, dtype=torch.float64) / case.samples
    corners = torch.tensor(list(product((0.0, 0.25), repeat=len(x))), dtype=torch.float64)
    inside = 0.25 * torch.rand(500, len(x), dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    curvature = torch.cat([corners, inside])
    hessian = torch.einsum("lr,ri,rj->lij", curvature * weight, x, x) + ridge
    found = float((torch.linalg.solve(hessian, x[0].expand(len(hessian), -1)) @ x[1]).max())
    if reach(case) > NEGLIGIBLE:
        assert found > 1e-12
    else:
        assert found <= 1e-12


def test_one_dimension_has_no_others() -> None:
    assert reach(Construction(1, 2, "centre", "regularised", 0.1, 0.25)) > 0
    assert reach(Construction(1, 1, "standardise", "regularised", 0.1, 0.25)) <= NEGLIGIBLE


def test_the_proof_needs_a_ridge_everywhere() -> None:
    with pytest.raises(ValueError, match="needs a ridge"):
        reach(Construction(2, 1, "none", "free", l2=0.1, damping=0.0))


@pytest.mark.parametrize("d", [2, 3, 9, 20])
@pytest.mark.parametrize("k", [1, 2, 7])
@pytest.mark.parametrize(("l2", "damping"), [(0.0, 0.25), (1e-3, 1e-6), (0.1, 10.0)])
def test_where_the_theorem_holds(d: int, k: int, l2: float, damping: float) -> None:
    for scaling in SCALINGS:
        assert reach(Construction(d, k, scaling, "none", l2, damping)) < 0
    for scaling in ("none", "standardise"):
        assert reach(Construction(d, k, scaling, "regularised", l2, damping)) <= NEGLIGIBLE
    assert reach(Construction(d, k, "centre", "regularised", l2, damping)) > NEGLIGIBLE
    if l2:
        assert reach(Construction(d, k, "none", "free", l2, damping)) > NEGLIGIBLE


# Attack and search ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("d", "k"), [(2, 1), (5, 3)])
def test_no_attack_and_no_search_beats_the_theorem(d: int, k: int) -> None:
    case = Construction(d, k, l2=0.1, damping=0.25)
    for found in (attacked(case, EFFORT), search(case, 500, stream(0, "test"))):
        assert found.rank == case.samples
        assert found.theta == ()
        assert found.refuted == 0
    assert attacked(case, EFFORT).tried == 3 * 2 * 2


def test_attacks_move_where_nothing_is_learned() -> None:
    """θ* is zero there, where the target is the last of all; elsewhere it passes all but the duplicates."""
    case = Construction(2, 3, "centre", "none", 0.1, 0.25)
    zero = torch.zeros(2, 1, dtype=torch.float64)
    values = influences(case, zero)
    assert bool((values[0] <= values).all())
    assert attacked(case, EFFORT).rank == case.duplicates + 1 < case.samples


@pytest.mark.parametrize(
    "case",
    [
        Construction(3, 2, "centre", "regularised", 0.1, 0.25),
        Construction(2, 1, "none", "free", 0.1, 0.25),
        Construction(2, 1, "standardise_sample", "regularised", 0.1, 0.25),
    ],
    ids=name,
)
def test_counterexamples_are_found_and_hold_by_all_digits(case: Construction) -> None:
    thorough = replace(EFFORT, starts=5, learning_rates=(0.1, 1.0), steps=30)
    for found in (attacked(case, thorough), search(case, 500, stream(0, "test"))):
        assert found.rank <= case.duplicates
        values = exact_influences(case, found.theta)
        assert target_rank(case, values) == found.rank
        assert values[1] < values[0] < 0
        assert found.margin > 1e-3
        # Float64 agrees: no rounding is needed to see it.
        dense = influences(case, torch.tensor([found.theta], dtype=torch.float64).T)[:, 0]
        assert (dense[1] < dense[0]) & (dense[0] < 0)


def test_a_counterexample_may_be_right_about_every_sample() -> None:
    found = search(Construction(5, 10, "centre", "regularised", 0.1, 0.25), 1, stream(0, "test"))
    assert (found.rank, found.accuracy) == (1, 1.0)


def test_a_rank_that_only_rounding_gives_is_refuted() -> None:
    case = Construction(2, 1, damping=0.25)
    thetas = torch.tensor([[1.0, 0.0], [2.0, 0.0]], dtype=torch.float64)
    found = confirm(case, 7, thetas, torch.tensor([1, 3]), otherwise=3)
    assert (found.tried, found.rank, found.refuted, found.theta) == (7, 3, 1, ())


def test_refuted_claims_do_not_crowd_out_what_holds() -> None:
    """Claims that only rounding makes, of a better rank and more of them than are ranked again."""
    holds = (5.0, -5.0, 40 / 3)
    case = Construction(2, 1, "centre", "regularised", 0.1, 0.25)
    thetas = torch.tensor([[0.0, 0.0, 1.0]] * (CHECKED + 2) + [holds], dtype=torch.float64)
    ranks = torch.tensor([1] * (CHECKED + 2) + [1])
    found = confirm(case, 7, thetas, ranks, otherwise=3)
    assert (found.rank, found.refuted, found.theta) == (1, CHECKED + 2, holds)


def test_attacks_descend_the_exact_gradient() -> None:
    """The engine's gradient on the construction, against differences of the closed form's own objective."""
    case = Construction(3, 2, "centre", "regularised", 0.1, 0.25)
    judge = calculator(case)
    theta = models(case, 1, 0.7)[:, None]

    def scores(at: Tensor) -> tuple[Any, ...]:
        train, shared = judge.at(at), judge.problem.shared.at(at)
        score, solution = judge.score(train, shared, tolerance=1e-13)
        return train, shared, score, solution.x

    train, shared, score, u1 = scores(theta)
    weights = min_higher(score, torch.tensor([0]))
    gradient = attack_gradient(judge, train, shared, score, u1, weights, tolerance=1e-13).gradient
    step = 1e-5
    for i in range(theta.shape[0]):
        move = torch.zeros_like(theta)
        move[i] = step
        ahead, behind = (
            influences(case, (theta + sign * move)[:, 0]).repeat_interleave(torch.tensor(case.counts), dim=0)
            for sign in (1, -1)
        )
        expected = float((weights * (ahead - behind)).sum() / (2 * step))
        assert float(gradient[i, 0, 0]) == pytest.approx(expected, rel=1e-5, abs=1e-8)


# Table and figure -------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def table() -> pd.DataFrame:
    """All cases of the smallest size."""
    effort = replace(EFFORT, starts=1)
    return pd.DataFrame([check(case, effort, 50) for case in cases([2], [1], l2=0.1, damping=0.25)])


def test_the_table_says_what_was_found(table: pd.DataFrame, tmp_path: Path) -> None:
    write_table(tmp_path / "impossibility.parquet", IMPOSSIBILITY_COLUMNS, table)
    rows = pd.read_parquet(tmp_path / "impossibility.parquet").set_index(["scaling", "bias"])
    proved, reached = rows.loc[("none", "none")], rows.loc[("centre", "regularised")]
    assert (proved["possible"], proved["best_rank"], proved["theta"]) == (False, 3, "")
    assert (reached["possible"], reached["best_rank"]) == (True, 1)
    # The θ in the table is the whole θ: read back, it has that rank.
    case = Construction(2, 1, "centre", "regularised", 0.1, 0.25)
    assert target_rank(case, exact_influences(case, json.loads(reached["theta"]))) == 1
    pretty = pretty_impossibility(table)
    assert list(pretty["top K reached"] == "yes") == list(rows["possible"])
    assert pretty["θ"].iloc[0] == "–"
    assert summary(table) == {
        "cases": 12,
        "proved impossible": 6,
        "top K reached": 6,
        "reached against the proof": 0,
    }


def test_every_size_scaling_and_bias_is_a_case() -> None:
    found = list(cases([2, 3], [1], l2=0.1, damping=0.25))
    assert len(set(found)) == len(found) == 2 * len(SCALINGS) * len(BIASES)


def test_the_figure_marks_what_is_proved(table: pd.DataFrame) -> None:
    with style():
        figure = best_rank_panels(table)
    assert len(figure.axes) == len(SCALINGS) * len(BIASES)
    theorem, centred = figure.axes[0], figure.axes[5]
    assert [np.asarray(line.get_ydata()).tolist() for line in theorem.lines] == [[3]]
    assert theorem.lines[0].get_markerfacecolor() != "white"
    assert [np.asarray(line.get_ydata()).tolist() for line in centred.lines] == [[1]]
    assert centred.lines[0].get_markerfacecolor() == "white"


# The threat model's picture ---------------------------------------------------------------------------------


def test_the_threat_model_is_drawn(tmp_path: Path) -> None:
    """What stands beside its script is what the script draws."""
    script = Path(__file__).resolve().parents[2] / "docs" / "figures" / "threat_model.py"
    drawn = runpy.run_path(str(script))
    drawn["main"](tmp_path)
    words = {text.get_text() for text in drawn["threat_model"]().axes[0].texts}
    assert {"Data vendors", "Model trainer (adversary)", "Influence calculator", "Buyer, auditor"} <= words
    with Image.open(tmp_path / "threat_model.png") as image:
        assert image.width >= 700
        assert len(image.convert("RGB").getcolors(1 << 20) or ()) > 50
    assert (tmp_path / "threat_model.svg").stat().st_size > 1000
    assert {path.name for path in script.parent.glob("threat_model.*")} == {
        "threat_model.py",
        "threat_model.png",
        "threat_model.svg",
    }
