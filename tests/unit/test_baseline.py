"""The loss-reweighing baseline: its sampling, its training, its verdicts, and what Table 1 says of both."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from problems import make_calculator, make_problem, normal

from undue.calculus.basis import Eigenbasis
from undue.calculus.linear import LinearRisk, Softmax
from undue.intervals import wilson
from undue.tables import write_markdown, write_table
from undue.training import train
from undue.valuation.baseline import (
    BASELINE_COLUMNS,
    BY_WEIGHT_COLUMNS,
    pretty_by_weight,
    publish_baseline,
    rates_by_weight,
)
from undue.valuation.differences import differences, markdown_list
from undue.valuation.evaluate import confirm
from undue.valuation.paper import BASELINE, NOTHING, TABLE1, TABLE2, reported_success
from undue.valuation.reweighing import TRIAL_COLUMNS, Training, Trial, reweigh, shared_draws, target_places
from undue.valuation.summary import (
    AS_PUBLISHED_COLUMNS,
    ATTACK_SUCCESS_COLUMNS,
    TABLE1_COLUMNS,
    best_ranks,
    metrics,
    pretty_table1,
    rates_as_published,
    success_rates,
    table1,
)

NAN = math.nan
PLENTY = 1e9
TRAINING = Training(steps=25, batch_size=16, learning_rate=0.05)
TRIALS = [Trial(3, 1.0), Trial(3, 40.0), Trial(8, 40.0), Trial(8, 1e9), Trial(20, 7.0)]

DAMPING: Mapping[str, float] = defaultdict(lambda: 0.25)


@pytest.fixture
def risk() -> LinearRisk:
    return make_problem().train


def batches(samples: int, trial: Trial, training: Training, seed: int) -> list[torch.Tensor]:
    """The rows of each batch of one lane, written out."""
    drawn = shared_draws(samples, training, seed=seed)
    places = target_places(trial, samples, training, seed=seed)
    return [
        torch.from_numpy(np.where(np.arange(training.batch_size) < count, trial.row, rows))
        for rows, count in zip(drawn, places, strict=True)
    ]


# Sampling ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("weight", [1.0, 5.0, 300.0, 1e6])
def test_rows_are_drawn_by_their_weights(weight: float) -> None:
    """The target's share of a batch is ω / (n − 1 + ω), every other row's 1 / (n − 1 + ω)."""
    samples, training = 40, Training(4000, 32, 0.1)
    drawn = torch.cat(batches(samples, Trial(6, weight), training, seed=1))
    assert len(drawn) == training.steps * training.batch_size
    found = torch.bincount(drawn, minlength=samples) / len(drawn)
    expected = torch.ones(samples)
    expected[6] = weight
    expected /= expected.sum()
    spread = torch.sqrt(expected * (1 - expected) / len(drawn))
    assert ((found - expected).abs() <= 5 * spread).all()


def test_batches_vary_as_weighted_sampling_does() -> None:
    """The target's places in a batch are binomial: their variance, too, is that of independent draws."""
    samples, training, weight = 40, Training(20_000, 32, 0.1), 30.0
    trial = Trial(6, weight)
    drawn = shared_draws(samples, training, seed=2)
    places = target_places(trial, samples, training, seed=2)
    kept = np.arange(training.batch_size) >= places[:, None]
    count = places + ((drawn == trial.row) & kept).sum(axis=1)
    share = weight / (samples - 1 + weight)
    assert count.mean() == pytest.approx(32 * share, rel=0.01)
    assert count.var() == pytest.approx(32 * share * (1 - share), rel=0.05)


def test_the_expected_gradient_is_that_of_the_reweighed_loss(risk: LinearRisk) -> None:
    weight, row, training = 20.0, 4, Training(5_000, 64, 0.1)
    theta = 0.5 * normal(*risk.shape, 1, seed=5)
    rows = torch.cat(batches(risk.samples, Trial(row, weight), training, seed=0))
    counts = torch.bincount(rows, minlength=risk.samples).double()
    found = risk.at(theta).grad(counts / len(rows))
    weights = torch.ones(risk.samples, dtype=torch.float64)
    weights[row] = weight
    expected = risk.at(theta).grad(weights / weights.sum())
    assert (found - expected).norm() <= 0.02 * expected.norm()


def test_a_weight_of_one_is_no_weight() -> None:
    assert not target_places(Trial(3, 1.0), 100, TRAINING, seed=0).any()


def test_draws_depend_on_seed_target_and_weight() -> None:
    places = target_places(TRIALS[1], 60, TRAINING, seed=0)
    np.testing.assert_array_equal(places, target_places(TRIALS[1], 60, TRAINING, seed=0))
    for other in (Trial(4, 40.0), Trial(3, 41.0)):
        assert (target_places(other, 60, TRAINING, seed=0) != places).any()
    assert (target_places(TRIALS[1], 60, TRAINING, seed=1) != places).any()
    assert (shared_draws(60, TRAINING, seed=0) != shared_draws(60, TRAINING, seed=1)).any()
    assert shared_draws(60, TRAINING, seed=0).max() < 60


# Training ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("trial", TRIALS)
def test_a_lane_is_what_torch_trains(risk: LinearRisk, trial: Trial) -> None:
    """One model, torch.optim.Adam, autograd through the mean cross-entropy of each batch."""
    head = torch.zeros(risk.shape, dtype=torch.float64, requires_grad=True)
    optimiser = torch.optim.Adam([head], lr=TRAINING.learning_rate)
    for rows in batches(risk.samples, trial, TRAINING, seed=3):
        optimiser.zero_grad()
        loss = torch.nn.functional.cross_entropy(risk.x[rows] @ head, risk.y[rows])
        (head.grad,) = torch.autograd.grad(loss, head)
        optimiser.step()
    theta = reweigh(risk, TRIALS, TRAINING, seed=3, memory=PLENTY)
    assert theta.shape == (*risk.shape, len(TRIALS))
    found = theta[..., TRIALS.index(trial)]
    torch.testing.assert_close(found, head.detach(), rtol=1e-7, atol=1e-9)


def test_neighbours_and_packs_change_nothing(risk: LinearRisk) -> None:
    together = reweigh(risk, TRIALS, TRAINING, seed=0, memory=PLENTY)
    packed = reweigh(risk, TRIALS, TRAINING, seed=0, memory=1.0)
    torch.testing.assert_close(packed, together, rtol=1e-9, atol=1e-11)
    for lane in (1, 4):
        alone = reweigh(risk, [TRIALS[lane]], TRAINING, seed=0, memory=PLENTY)
        torch.testing.assert_close(alone[..., 0], together[..., lane], rtol=1e-9, atol=1e-11)
    again = reweigh(risk, TRIALS, TRAINING, seed=0, memory=PLENTY)
    assert torch.equal(again, together)


def test_a_weight_of_one_trains_an_honest_model_and_a_huge_one_ruins_it() -> None:
    problem = make_problem(n=200, m=200)
    training = Training(600, 64, 0.05)
    honest = train(problem.train, l2=0.0001, regularise_bias=True, gradient_norm=1e-8).theta
    theta = reweigh(problem.train, [Trial(7, 1.0), Trial(7, 1e10)], training, seed=0, memory=PLENTY)
    accuracy = problem.shared.at(theta).accuracy()
    assert accuracy[0] == pytest.approx(float(problem.shared.at(honest).accuracy()), abs=0.05)
    # Trained on the target alone, it says the target's class of everything.
    share = float((problem.shared.y == problem.train.y[7]).double().mean())
    assert abs(float(accuracy[1]) - share) < 0.15
    assert accuracy[1] < accuracy[0] - 0.1
    assert problem.train.at(theta).losses()[7, 1] < 1e-3


@pytest.mark.parametrize("weight", [1.0, 1e4, 1e10])
def test_a_target_that_is_its_classs_only_training_sample(weight: float) -> None:
    problem = make_problem(n=60, m=30)
    y = problem.train.y.clone()
    y[y == 2] = 0
    y[11] = 2
    problem = replace(problem, train=LinearRisk(problem.train.x, y, 3, Softmax()))
    theta = reweigh(problem.train, [Trial(11, weight)], TRAINING, seed=0, memory=PLENTY)
    assert torch.isfinite(theta).all()
    if weight > 1:
        assert bool(problem.train.at(theta).correct()[11, 0])
    basis = Eigenbasis.of(problem.train.x)
    checked = confirm(make_calculator(problem, basis), basis, theta.permute(2, 0, 1).numpy(), np.array([11]))
    assert 1 <= checked["rank_shared"][0] <= 60


def test_single_precision_follows_double(risk: LinearRisk) -> None:
    double = reweigh(risk, TRIALS, TRAINING, seed=0, memory=PLENTY)
    single = reweigh(risk.to(torch.float32), TRIALS, TRAINING, seed=0, memory=PLENTY)
    assert single.dtype == torch.float32
    torch.testing.assert_close(single.double(), double, rtol=1e-3, atol=1e-4)


# Verdicts ---------------------------------------------------------------------------------------------------

HONEST = {"shared": 0.90, "pristine": 0.88}
TARGETS = pd.DataFrame(
    [(5, 1, 0, 40), (8, 1, 1, 70), (5, 3, 0, 40), (9, 3, 1, 50)], columns=["index", "k", "position", "rank"]
)
TRIAL = ["target", "weight", "rank_shared", "rank_pristine", "accuracy_shared", "accuracy_pristine"]
# Target 5: top 3 at no cost, top 1 for 80 points. 8 never. 9: two equal models, then a costlier one.
RESULTS = pd.DataFrame(
    [
        (5, 1e4, 1, 1, 0.10, 0.12),
        (5, 10.0, 3, 9, 0.88, 0.87),
        (5, 100.0, 2, 2, 0.87, 0.87),
        (8, 10.0, 2000, 1500, 0.90, 0.88),
        (8, 100.0, 1500, 1500, 0.80, 0.80),
        (8, 1e4, 1200, 1500, 0.10, 0.12),
        (9, 100.0, 3, 1, 0.80, 0.70),
        (9, 10.0, 2, 1, 0.80, 0.75),
        (9, 1e4, 1, 1, 0.10, 0.12),
    ],
    columns=TRIAL,
)


def test_the_most_accurate_model_in_the_top_k_is_published(tmp_path: Path) -> None:
    table = publish_baseline(TARGETS, RESULTS, honest=HONEST, budget=0.03)
    assert table[["target", "k", "original_rank"]].to_numpy().tolist() == [
        [5, 1, 40],
        [8, 1, 70],
        [5, 3, 40],
        [9, 3, 50],
    ]
    assert table["reached"].tolist() == table["confirmed"].tolist() == [True, False, True, True]
    assert table["weight"].tolist() == pytest.approx([1e4, NAN, 10.0, 10.0], nan_ok=True)
    np.testing.assert_array_equal(table["rank_shared"], [1, np.nan, 3, 2])
    assert table["best_rank"].tolist() == [1, 1200, 1, 1]
    assert table["accuracy_lost_shared"].tolist() == pytest.approx([0.8, NAN, 0.02, 0.1], nan_ok=True)
    assert table["accuracy_lost_pristine"].tolist() == pytest.approx([0.76, NAN, 0.01, 0.13], nan_ok=True)
    assert table["within_budget"].tolist() == [False, False, True, False]
    assert table["transfers"].tolist() == [True, False, False, True]
    write_table(tmp_path / "published.parquet", BASELINE_COLUMNS, table)
    write_table(tmp_path / "trials.parquet", TRIAL_COLUMNS, RESULTS)


def test_the_verdicts_do_not_depend_on_the_order_of_trials() -> None:
    shuffled = RESULTS.sample(frac=1, random_state=1)
    pd.testing.assert_frame_equal(
        publish_baseline(TARGETS, shuffled, honest=HONEST, budget=0.03),
        publish_baseline(TARGETS, RESULTS, honest=HONEST, budget=0.03),
    )


def test_no_weight_succeeds(tmp_path: Path) -> None:
    failed = RESULTS.assign(rank_shared=500)
    table = publish_baseline(TARGETS, failed, honest=HONEST, budget=0.03)
    assert not table[["reached", "confirmed", "within_budget", "transfers"]].to_numpy().any()
    assert table["weight"].isna().all()
    write_table(tmp_path / "published.parquet", BASELINE_COLUMNS, table)
    rates = success_rates(table, "mnist", BASELINE, NAN)
    assert rates["success"].tolist() == rates["best_success"].tolist() == [0.0, 0.0]
    assert rates["accuracy_lost_pristine"].isna().all()


def test_rates_of_each_weight(tmp_path: Path) -> None:
    table = rates_by_weight(TARGETS, RESULTS, "mnist", honest=HONEST, budget=0.03)
    assert table[["weight", "k"]].to_numpy().tolist() == [
        [weight, k] for weight in (10.0, 100.0, 1e4) for k in (1, 3)
    ]
    assert (table["targets"] == 2).all()
    # k = 1 has the targets 5 and 8, k = 3 has 5 and 9.
    assert table["success"].tolist() == [0.0, 0.5, 0.0, 0.5, 0.0, 0.0]
    assert table["best_success"].tolist() == [0.0, 1.0, 0.0, 1.0, 0.5, 1.0]
    assert (table["success_low"][1], table["success_high"][1]) == wilson(1, 2)
    assert table["accuracy_lost_shared"].tolist() == pytest.approx([0.01, 0.06, 0.065, 0.065, 0.8, 0.8])
    assert table["median_rank"].tolist() == [1001.5, 2.5, 751.0, 2.5, 600.5, 1.0]
    assert table["best_rank"].tolist() == [3, 2, 2, 2, 1, 1]
    write_table(tmp_path / "baseline.parquet", BY_WEIGHT_COLUMNS, table)
    pretty = pretty_by_weight(table)
    assert pretty["ω"].tolist() == ["10", "10", "100", "100", "10000", "10000"]
    assert pretty["mean accuracy lost"].iloc[0] == "0.5 %"


# What the paper's code would count --------------------------------------------------------------------------


def test_best_ranks_are_over_all_valid_iterates_of_all_runs(tmp_path: Path) -> None:
    runs = [
        [(5, 900, True), (5, 40, True), (8, 1200, True), (9, 3, False), (9, 30, True)],
        [(5, 60, True), (8, 1100, True), (7, 2, False)],
    ]
    paths = [tmp_path / f"{number}.parquet" for number in range(2)]
    for path, run in zip(paths, runs, strict=True):
        pd.DataFrame(run, columns=["target", "rank_shared", "valid"]).assign(more=1.0).to_parquet(path)
    assert best_ranks(paths).to_dict() == {5: 40, 8: 1100, 9: 30}


def verdicts(*rows: tuple[int, bool, bool, float, float], k: int = 1) -> pd.DataFrame:
    """Verdicts as (target, confirmed, within_budget, lost on the shared half, on the pristine half)."""
    names = ["target", "confirmed", "within_budget", "accuracy_lost_shared", "accuracy_lost_pristine"]
    table = pd.DataFrame(rows, columns=names).assign(k=k)
    return table.assign(reached=table["confirmed"], transfers=False)


FOUR = verdicts(
    (1, True, True, 0.01, 0.03),
    (2, True, False, 0.04, 0.02),
    (3, False, False, NAN, NAN),
    (4, False, False, NAN, NAN),
)


def test_unranked_targets_are_dropped_as_the_papers_code_does() -> None:
    best = pd.Series({1: 1, 2: 1, 3: 999, 4: 1000})
    (row,) = rates_as_published(FOUR, best, budget=0.03).to_dict("records")
    assert row["drop_unranked_targets"] == 3
    assert row["drop_unranked_success"] == pytest.approx(1 / 3)
    assert row["drop_unranked_best_success"] == pytest.approx(2 / 3)
    # On the pristine half both models are cheap enough; 0.03 is inclusive.
    assert row["pristine_success"] == pytest.approx(2 / 4)
    cheap = FOUR[FOUR["confirmed"] & (FOUR["accuracy_lost_pristine"] <= 0.031)]
    assert row["pristine_accuracy_lost"] == pytest.approx(cheap["accuracy_lost_pristine"].mean())
    assert row.keys() == {"k", *AS_PUBLISHED_COLUMNS}


def test_a_target_that_was_never_ranked_is_dropped_and_no_target_leaves_no_rate() -> None:
    best = pd.Series({1: 1, 2: 1})
    assert rates_as_published(FOUR, best, budget=0.03)["drop_unranked_targets"].tolist() == [2]
    far = pd.Series({target: 2000 for target in (1, 2, 3, 4)})
    (row,) = rates_as_published(FOUR, far, budget=0.03).to_dict("records")
    assert row["drop_unranked_targets"] == 0
    assert math.isnan(row["drop_unranked_success"])


# Table 1 ----------------------------------------------------------------------------------------------------

MODEL: dict[str, Any] = {
    "accuracy_shared": 0.9,
    "accuracy_pristine": 0.88,
    "samples_train": 6941,
    "samples_shared": 868,
    "samples_pristine": 868,
    "features": 1280,
    "cross_validation": {"0.01": 0.5},
    "l2": 0.01,
    "theta_norm": 2.5,
    "gradient_norm": 1e-7,
}


def rates_of(
    dataset: str, objective: str, radius: float, best: pd.Series, table: pd.DataFrame
) -> pd.DataFrame:
    return success_rates(table, dataset, objective, radius).merge(
        rates_as_published(table, best, budget=0.03), on="k"
    )


def both_attacks(dataset: str = "caltech101_webp") -> pd.DataFrame:
    """The baseline fails on all four targets; the attack succeeds at its second radius."""
    best = pd.Series({1: 1, 2: 1, 3: 999, 4: 1000})
    failed = verdicts(*((target, False, False, NAN, NAN) for target in (1, 2, 3, 4)))
    return pd.concat(
        [
            *(rates_of(dataset, BASELINE, NAN, best, failed.assign(k=k)) for k in (1, 300)),
            *(
                rates_of(dataset, "min_higher", radius, best, table.assign(k=k))
                for radius, table in ((0.1, failed), (0.2, FOUR))
                for k in (1, 300)
            ),
        ],
        ignore_index=True,
    )


def test_table1_has_the_baseline_the_attack_and_the_paper(tmp_path: Path) -> None:
    rates = both_attacks()
    write_table(tmp_path / "rates.parquet", ATTACK_SUCCESS_COLUMNS, rates)
    table = table1(rates, {"caltech101_webp": MODEL}, damping=DAMPING)
    write_table(tmp_path / "table1.parquet", TABLE1_COLUMNS, table)
    assert table[["k", "objective"]].to_numpy().tolist() == [
        [k, objective] for k in (1, 300) for objective in (BASELINE, "min_higher")
    ]
    assert table["success"].tolist() == [0.0, 0.25, 0.0, 0.25]
    assert table["best_success"].tolist() == [0.0, 0.5, 0.0, 0.5]
    assert table["radius"].tolist() == pytest.approx([NAN, 0.2, NAN, 0.2], nan_ok=True)
    assert table["paper_success"].tolist() == [0.0, 0.74, 0.08, 0.74]
    assert table["paper_best_success"].tolist() == [0.0, 0.85, 0.84, 0.85]
    assert table["highest_success"].tolist() == [0.0, 0.5, 0.0, 0.5]
    assert table["highest_radius"].tolist() == pytest.approx([NAN, 0.2, NAN, 0.2], nan_ok=True)
    assert table["drop_unranked_targets"].tolist() == [3, 3, 3, 3]
    pretty = pretty_table1(table, 0.03)
    assert pretty["C"].tolist() == ["–", "0.2", "–", "0.2"]
    assert pretty["accuracy lost"].tolist() == ["–", "3.0 %", "–", "3.0 %"]
    assert pretty["paper, best"].tolist() == ["0.00 (–)", "0.85 (3.8 %)", "0.84 (93.6 %)", "0.85 (3.8 %)"]
    assert pretty["unranked dropped"].tolist() == ["0.00 of 3", "0.33 of 3"] * 2
    assert not pretty.astype(str).apply(lambda column: column.str.contains("nan")).to_numpy().any()
    found = metrics(table, {"caltech101_webp": MODEL})["caltech101_webp"]["attack"]
    assert found["baseline, k = 1"] == {"success": 0.0, "accuracy_lost": None, "transfer": 0.0}


def test_a_data_set_that_the_paper_lacks() -> None:
    table = table1(both_attacks("mnist5k"), {"mnist5k": MODEL}, damping=DAMPING)
    assert table[["paper_success", "paper_best_success", "paper_best_accuracy_lost"]].isna().all(axis=None)
    assert set(pretty_table1(table, 0.03)["paper, best"]) == {"–"}


def test_the_paper_has_no_variant_of_its_data_sets() -> None:
    table = table1(both_attacks("pet_500"), {"pet_500": MODEL}, damping=DAMPING, variants=["pet_500"])
    assert table["paper_success"].isna().all()


@pytest.mark.parametrize(("budget", "said"), [(0.03, "≤ 3 % "), (0.025, "≤ 2.5 % "), (0.005, "≤ 0.5 % ")])
def test_the_budget_is_said_as_it_is(budget: float, said: str) -> None:
    table = table1(both_attacks(), {"caltech101_webp": MODEL}, damping=DAMPING)
    assert f"success, loss {said}[95 %]" in pretty_table1(table, budget)


def test_what_the_paper_reports() -> None:
    assert reported_success("cifar10_jpeg", 1, "min_higher") == TABLE1["cifar10", 1, "attack"]
    assert reported_success("pet", 300, BASELINE) == TABLE1["pet", 300, BASELINE]
    assert reported_success("pet", 10, "min_higher") == TABLE2["pet", "min_higher", True]
    for unknown in (
        ("pet", 10, BASELINE),
        ("pet", 3, "min_higher"),
        ("pet", 1, "max_target"),
        ("petrol", 1, BASELINE),
    ):
        assert reported_success(*unknown) == NOTHING


# The text under Table 1 -------------------------------------------------------------------------------------

AS_THE_PAPER: dict[str, Any] = {
    "model.training": "paper_sgd",
    "influence.damping": 0.25,
    "influence.rank_sign": 1,
    "attack.solver": "conjugate_gradient",
    "attack.publish": "first_hit",
    "attack.targets": 50,
    "attack.seeds": [0, 1, 2, 3, 4],
    "attack.steps": 100,
    "attack.drop_at": 0.5,
    "attack.ranks": [1, 300],
    "attack.suppressed_ranks": 10,
    "attack.radii": [0.5, 0.05, 0.1, 0.2],
    "attack.learning_rates": [0.01, 0.1],
    "attack.accuracy_budget": 0.03,
    "baseline.weights": [],
    "baseline.steps": 1400,
    "baseline.batch_size": 256,
    "baseline.learning_rate": 0.01,
    "starts": {"min_higher": 5},
}
RESNET = {"backbone": "resnet50", "image_size": None, "scaling": "standardise"}
LITE = {"backbone": "efficientnet_lite0", "image_size": 96, "scaling": "centre"}


def said(changes: dict[str, Any], features: dict[str, Any] = RESNET, dataset: str = "caltech101") -> str:
    models = {dataset: MODEL | {"features": 2048 if features is RESNET else 1280}}
    return markdown_list(differences(AS_THE_PAPER | changes, {dataset: features}, models, {}))


def test_a_run_like_the_papers_differs_in_how_it_counts_alone() -> None:
    text = said({"attack.solver": "lissa"})
    assert "beside the paper's caltech101: 6,941 training and 1,736 test samples; " in text
    assert "(the paper:" not in text.replace("(the paper: 94.9 %)", "")
    assert "δ is 0.25, as in the paper's code" in text
    assert "All targets count" in text
    assert text.count("\n") == len(text.splitlines()) == 6
    assert all(line.startswith("* ") for line in text.splitlines())


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"attack.targets": 10}, "targets for each k: 10 (the paper: 50)"),
        ({"attack.seeds": [4, 9]}, "random starts: 2 (the paper: 5)"),
        ({"attack.seeds": [0, 1, 2, 3, -1]}, "random starts: 4 and θ* (the paper: 5)"),
        ({"attack.publish": "best_iterate"}, "publishes its most accurate iterate with rank ≤ k; the"),
        ({"attack.steps": 50}, "steps: 50 (the paper: 100)"),
        ({"attack.radii": [0.2]}, "radii C: 0.2 (the paper: 0.05, 0.1, 0.2, 0.5)"),
        ({"attack.learning_rates": [0.1]}, "learning rates: 0.1 (the paper: 0.01, 0.1)"),
        ({"influence.damping": 0.01}, "δ is 0.01, 0.25 in the paper's code"),
        ({"influence.rank_sign": -1}, "Rank 1 lowers the test loss most"),
        ({"attack.solver": "lissa"}, "LiSSA's estimates, as in the paper's code"),
        ({"model.training": "newton"}, "λ = 0.01, chosen by cross-validation, ‖θ*‖ = 2.50 (the paper: SGD"),
        ({"baseline.weights": [1e10, 100.0]}, "ω = 100, 1e+10"),
        ({"attack.accuracy_budget": 0.025}, "The accuracy budget of 2.5 % (the paper: 3 %) is kept"),
        ({"attack.drop_at": 1}, "share of the steps before the rate drops: 1 (the paper: 0.5)"),
        ({"baseline.weights": [1e2], "baseline.steps": 50}, "The baseline's steps: 50 (the paper: 1400)."),
        ({"starts": {"min_topk": 1, "min_higher": 5}}, "objective: min_topk 1, min_higher 5; the paper's"),
        (
            {"starts": {"min_topk": 1}},
            "min_topk pushes down the top 10 whatever k is; the paper's the top k.",
        ),
    ],
)
def test_every_difference_is_said_where_there_is_one(changes: dict[str, Any], expected: str) -> None:
    assert expected in said(changes)
    assert expected not in said({})


def test_features_and_data_sets_that_differ_are_named() -> None:
    assert "1,280 features of efficientnet_lite0 at 96 pixels, scaling centre (the paper: 2,048" in said(
        {}, LITE
    )
    assert "mnist5k, not a data set of the paper: 6,941 training" in said({}, LITE, "mnist5k")
    assert "1,736 test samples (the paper: 50,000 and 10,000)" in said({}, dataset="cifar10_jpeg")
    pixels = {"backbone": "none", "image_size": 14, "scaling": "centre"}
    assert "features without a backbone at 14 pixels" in said({}, pixels)


def test_the_text_stands_below_the_table(tmp_path: Path) -> None:
    write_markdown(tmp_path / "a.md", pd.DataFrame({"k": [1]}), below="* so\n")
    assert (tmp_path / "a.md").read_text() == "| k |\n| --- |\n| 1 |\n\n* so\n"


def test_a_variant_says_what_it_does_differently() -> None:
    variants = {"mnist5k_far": {"base": "mnist5k", "damping": 0.01, "rank_sign": -1}}
    models = {"mnist5k": MODEL, "mnist5k_far": MODEL}
    features = dict.fromkeys(models, LITE)
    lines = differences(AS_THE_PAPER | {"model.training": "newton"}, features, models, variants)
    assert "a variant of mnist5k with δ = 0.01, rank sign -1: honest accuracy on the" in lines[1]
    assert "λ = 0.01" in lines[1]
