"""Training again without samples, against models trained from scratch; the exact hinge; the tables."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from problems import make_risk, normal
from scipy.optimize import minimize
from torch import Tensor

from undue.calculus.factor import Factor
from undue.calculus.functional import one_loss
from undue.calculus.influence import influence
from undue.calculus.koh_liang import sample_gradients
from undue.calculus.lanes import norm
from undue.calculus.linear import LinearRisk, Link, Logistic, SmoothHinge, Softmax
from undue.calculus.newton import newton
from undue.calculus.objective import Objective
from undue.errors import UserError
from undue.tables import write_table
from undue.training import train
from undue.validation.effects import (
    AGREEMENT_COLUMNS,
    PAIR_COLUMNS,
    agreement,
    make_pairs,
    pretty_agreement,
)
from undue.validation.head import Head
from undue.validation.hinge import exact_hinge, hinge_influence, hinge_pairs
from undue.validation.images import Images, first_mistake, load_images
from undue.validation.logistic import (
    DATAMODELLING_COLUMNS,
    PARTS_COLUMNS,
    VARIANTS,
    datamodelling,
    descend,
    early_pairs,
    influence_parts,
    logistic_pairs,
    newton_effect,
    parts_table,
    pretty_datamodelling,
)
from undue.validation.retraining import frozen_newton, leave_one_out
from undue.validation.softmax import EXACT, softmax_pairs
from undue.validation.svm import fit_svm

L2 = 0.05
PRECISION = 1e-11


def fit(risk: LinearRisk, l2: float = L2) -> Tensor:
    return train(risk, l2=l2, regularise_bias=True, gradient_norm=PRECISION).theta


def without(risk: LinearRisk, row: int) -> tuple[LinearRisk, float]:
    """The data without a sample, and the λ of the mean over the others that is this project's convention."""
    kept = torch.tensor([i for i in range(risk.samples) if i != row])
    return risk.rows(kept), L2 * risk.samples / (risk.samples - 1)


def two_sets(n: int = 60, seed: int = 3, link: Link | None = None) -> tuple[LinearRisk, LinearRisk]:
    """Training and test risk of the same two classes."""
    both = make_risk(link or Logistic(), n=n + 20, d=5, seed=seed)
    return both.rows(torch.arange(n)), both.rows(torch.arange(n, n + 20))


def head_of(training: LinearRisk, test: LinearRisk) -> Head:
    return Head.of(training, test, l2=L2, gradient_norm=PRECISION)


# Training again ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("link", [Softmax(), Logistic()])
@pytest.mark.parametrize("lanes", [2, 100])
def test_leaving_out_is_training_from_scratch_on_the_others(link: Link, lanes: int) -> None:
    risk, test = make_risk(link), make_risk(link, seed=7)
    objective, theta = Objective(risk, L2), fit(risk)
    told: list[int] = []
    effects = leave_one_out(
        objective,
        theta,
        torch.tensor([4, 0, 11]),
        one_loss(test, 2),
        partial(frozen_newton, divide=Factor.of_head(objective, theta).divide),
        gradient_norm=PRECISION,
        lanes=lanes,
        progress=told.append,
    )
    for row, change in zip((4, 0, 11), effects.change, strict=True):
        scratch = fit(*without(risk, row))
        expected = test.at(scratch).losses()[2] - test.at(theta).losses()[2]
        assert float(change) == pytest.approx(float(expected), abs=1e-9)
    assert float(effects.gradient_norm.max()) <= PRECISION
    assert told == ([2, 3] if lanes == 2 else [3])


def test_a_frozen_hessian_that_does_not_contract_is_replaced() -> None:
    risk = make_risk(Softmax())
    objective = Objective(risk, L2, torch.full((risk.samples, 2), 1 / risk.samples, dtype=torch.float64))
    start = normal(*risk.shape, 2, seed=1)
    # Steps a hundred times too short.
    found = frozen_newton(objective, start, divide=lambda b: b / 100, gradient_norm=PRECISION)
    assert float(found.gradient_norm.max()) <= PRECISION
    torch.testing.assert_close(found.theta, fit(risk).expand(-1, -1, 2), rtol=0, atol=1e-8)


def test_lanes_that_cannot_arrive_say_so() -> None:
    risk = make_risk(Softmax())
    objective = Objective(risk, L2, torch.full((risk.samples, 1), 1 / risk.samples, dtype=torch.float64))
    theta = fit(risk)
    divide = Factor.of_head(objective, theta).divide
    found = frozen_newton(objective, theta + 1, divide=divide, gradient_norm=1e-30)
    assert float(found.gradient_norm) > 1e-30
    # It saw that it got no further, long before its last step.
    assert found.steps < 50


def test_models_that_cannot_arrive_are_an_error() -> None:
    risk, test = make_risk(Softmax()), make_risk(Softmax(), seed=7)
    objective, theta = Objective(risk, L2), fit(risk)
    with pytest.raises(UserError, match=r"validation\.gradient_norm: .* sample stopped at a gradient norm"):
        leave_one_out(
            objective,
            theta,
            torch.arange(2),
            one_loss(test, 0),
            partial(newton, moments=risk.x.square().mean(dim=0), max_steps=0),
            gradient_norm=PRECISION,
            lanes=4,
        )


def test_a_sample_of_small_gradient_is_left_out_all_the_same() -> None:
    # A loose gradient norm, which the model without a confident sample meets at θ* already.
    risk, test = make_risk(Logistic(), n=200), make_risk(Logistic(), seed=7)
    objective, theta, loose = Objective(risk, L2), fit(risk), 1e-3
    rows = norm(sample_gradients(risk.at(theta), torch.arange(200))).argsort()[:3]
    assert float(norm(sample_gradients(risk.at(theta), rows)).max()) / 200 < loose
    effects = leave_one_out(
        objective,
        theta,
        rows,
        one_loss(test, 2),
        partial(frozen_newton, divide=Factor.of_head(objective, theta).divide),
        gradient_norm=loose,
        lanes=2,
    )
    for row, change in zip(rows.tolist(), effects.change.tolist(), strict=True):
        scratch = train(
            risk.rows(torch.tensor([i for i in range(200) if i != row])),
            l2=L2 * 200 / 199,
            regularise_bias=True,
            gradient_norm=1e-13,
        ).theta
        exact = float(test.at(scratch).losses()[2] - test.at(theta).losses()[2])
        assert exact != 0
        assert change == pytest.approx(exact, rel=1e-2)


# The exact hinge --------------------------------------------------------------------------------------------


def hinge_objective(theta: np.ndarray, signed: np.ndarray, caps: np.ndarray, l2: float) -> float:
    return float(l2 / 2 * theta @ theta + caps @ np.maximum(0, 1 - signed @ theta))


@pytest.mark.parametrize("seed", range(5))
def test_the_machine_is_the_minimum(seed: int) -> None:
    risk, _ = two_sets(n=40, seed=seed)
    signed, machine = exact_hinge(risk, L2, gradient_norm=1e-8)
    caps = np.full(40, 1 / 40)
    assert machine.gap <= 1e-12
    value = hinge_objective(machine.theta, signed, caps, L2)
    # An independent minimiser, of the dual.
    gram = signed @ signed.T / L2
    dual = minimize(
        lambda a: a @ gram @ a / 2 - a.sum(),
        caps / 2,
        jac=lambda a: gram @ a - 1,
        bounds=[(0, c) for c in caps],
        method="L-BFGS-B",
        options={"maxiter": 5000, "ftol": 1e-15, "gtol": 1e-10},
    )
    assert value == pytest.approx(-dual.fun, abs=1e-6)
    draw = np.random.default_rng(0)
    for _ in range(50):
        nearby = machine.theta + 1e-4 * draw.standard_normal(5)
        assert hinge_objective(nearby, signed, caps, L2) >= value


def test_a_machine_without_a_sample_is_the_machine_of_the_others() -> None:
    risk, _ = two_sets(n=40)
    signed, machine = exact_hinge(risk, L2, gradient_norm=1e-8)
    inner = np.flatnonzero((machine.alpha > 0) & (machine.alpha < 1 / 40))
    for row in [int(inner[0]), int(machine.alpha.argmax()), int(machine.alpha.argmin())]:
        caps = np.full(40, 1 / 40)
        caps[row] = 0
        warm = fit_svm(signed, caps, L2, machine.alpha)
        others = np.delete(np.arange(40), row)
        cold = fit_svm(signed[others], caps[others], L2, np.zeros(39))
        np.testing.assert_allclose(warm.theta, cold.theta, atol=1e-6)


def test_equal_samples_on_the_margin_are_no_obstacle() -> None:
    signed = np.repeat(np.array([[1.0, 0.2], [0.3, 1.0]]), 3, axis=0)
    caps = np.full(6, 1 / 6)
    found = fit_svm(signed, caps, 0.1, caps / 2)
    assert found.gap <= 1e-12
    np.testing.assert_allclose(found.theta, found.alpha @ signed / 0.1, atol=1e-12)


def test_a_machine_that_does_not_arrive_names_the_setting() -> None:
    signed = normal(30, 4, seed=0).numpy()
    with pytest.raises(UserError, match=r"duality gap.*\n?.*validation\.hinge_l2"):
        fit_svm(signed, np.full(30, 1 / 30), 0.01, np.zeros(30), max_changes=2)


def test_the_hinge_itself_leaves_lambda_for_a_hessian() -> None:
    training, test = two_sets()
    theta = normal(5, 1, seed=4)
    values = hinge_influence(training, test, 3, theta, L2)
    x, sign = training.x, 2 * training.y - 1

    def gradient(features: Tensor, y: Tensor) -> Tensor:
        return -y * features if float(y * (features @ theta[:, 0])) < 1 else torch.zeros_like(features)

    at_test = gradient(test.x[3], 2 * test.y[3] - 1)
    expected = [-float(at_test @ gradient(x[i], sign[i])) / L2 for i in range(training.samples)]
    torch.testing.assert_close(values, torch.tensor(expected, dtype=torch.float64))


def test_smooth_hinges_predict_exact_refits_better_than_the_hinge() -> None:
    training, test = two_sets(n=400)
    told: list[int] = []
    pairs = hinge_pairs(
        training,
        test,
        np.arange(400),
        dataset="d",
        l2=L2,
        temperatures=[0, 1e-2],
        count=30,
        gradient_norm=1e-8,
        progress=told.append,
    )
    write_table_checks(pairs)
    found = agreement(pairs, seed=0).set_index("level")
    assert found.loc[0.01, "pearson"] > max(0.8, found.loc[0, "pearson"])
    assert found["precision"].max() <= 1e-12
    assert told == list(range(1, 31))


# Parts, stopping early --------------------------------------------------------------------------------------


def test_the_parts_of_influence_are_those_of_the_formula() -> None:
    training, test = two_sets()
    head = head_of(training, test)
    theta, factor = head.theta, head.factor
    parts = influence_parts(head, 6)
    sign, sign_test = 2.0 * training.y - 1, 2.0 * float(test.y[6]) - 1
    margin = sign * (training.x @ theta[:, 0, 0])
    scale = -sign_test * sign * torch.sigmoid(-sign_test * (test.x[6] @ theta[:, 0, 0]))
    inner, solved = training.x @ test.x[6], training.x @ torch.linalg.solve(factor.matrix, test.x[6])
    expected = {
        "influence": scale * torch.sigmoid(-margin) * solved,
        "without_loss": scale * solved,
        "without_hessian": scale * torch.sigmoid(-margin) * inner,
        "without_both": scale * inner,
    }
    assert tuple(parts) == VARIANTS
    for name, values in expected.items():
        torch.testing.assert_close(parts[name], values, msg=name)


def test_influence_predicts_best_with_all_its_parts() -> None:
    training, test = two_sets(n=300)
    pairs = logistic_pairs(head_of(training, test), np.arange(300), dataset="d", count=60)
    write_table_checks(pairs)
    found = agreement(pairs, seed=0).set_index("predictor")["pearson"]
    assert found["influence"] > 0.99
    assert (found["influence"] > found.drop("influence")).all()


def test_the_parts_table_names_samples_and_the_test_image(tmp_path: Path) -> None:
    training, test = two_sets()
    table = parts_table(head_of(training, test), np.arange(100, 160), np.arange(500, 520))
    write_table(tmp_path / "parts.parquet", PARTS_COLUMNS, table)
    image = first_mistake(test, fit(training))
    assert set(table["test_sample"]) == {500 + image}
    assert table["sample"].tolist() == list(range(100, 160))
    assert (table["same_label"].to_numpy() == (training.y == test.y[image]).numpy()).all()


def test_one_newton_step_without_a_sample_is_that_of_its_own_hessian() -> None:
    training, _ = two_sets()
    objective = Objective(training, L2)
    theta = descend(objective, 20, 1)
    factor = Factor.of_head(objective, theta)
    control, stepped = newton_effect(objective, theta, factor, torch.tensor([3, 17]))

    def step(weights: Tensor) -> Tensor:
        here = Objective(training, L2, weights)
        gradient = here.gradient(training.at(theta))
        return theta - Factor.of_head(here, theta).solve(gradient).x

    torch.testing.assert_close(control, step(objective.weights))
    for lane, row in enumerate((3, 17)):
        weights = objective.weights.clone()
        weights[row] = 0
        torch.testing.assert_close(stepped[..., lane : lane + 1], step(weights))


def test_descent_goes_down_to_the_minimum() -> None:
    training, _ = two_sets()
    objective = Objective(training, L2)
    sizes = [
        float(norm(objective.gradient(training.at(descend(objective, s, 1))))) for s in (0, 10, 100, 3000)
    ]
    assert sizes == sorted(sizes, reverse=True)
    torch.testing.assert_close(descend(objective, 20_000, 1), fit(training), rtol=0, atol=1e-6)


def test_stopping_early_costs_agreement() -> None:
    training, test = two_sets(n=300)
    head = head_of(training, test)
    pairs = early_pairs(head, np.arange(300), dataset="d", stops=[2, 2000], count=60)
    write_table_checks(pairs)
    found = agreement(pairs, seed=0).set_index(["experiment", "level"])["pearson"]
    for experiment in ("stopped early, one Newton step", "stopped early, trained again"):
        assert found[experiment, 2000] > 0.99
    assert found["stopped early, trained again", 2] < found["stopped early, trained again", 2000]


def test_every_stop_predicts_the_loss_of_the_trained_heads_mistake() -> None:
    training, test = two_sets(n=300)
    head = head_of(training, test)
    theta = descend(head.objective, 2, 1)
    # As if that image were another one than the first mistake after two steps, which it may well be.
    head = replace(head, image=(first_mistake(test, theta) + 1) % test.samples)
    pairs = early_pairs(head, np.arange(300), dataset="d", stops=[2], count=300)
    solve = Factor.of_head(head.objective, theta).solve
    gradient = one_loss(test, head.image).gradient(theta)
    expected = -influence(training.at(theta), gradient, solve)[0][:, 0].numpy() / 300
    first = pairs[pairs["experiment"] == "stopped early, trained again"]
    np.testing.assert_allclose(first["predicted"], expected[first["sample"]])


def test_models_on_halves_that_cannot_arrive_are_an_error() -> None:
    training, test = two_sets()
    head = replace(head_of(training, test), gradient_norm=1e-30)
    with pytest.raises(UserError, match=r"validation\.gradient_norm: training on a random half"):
        datamodelling(head, dataset="d", subsets=3, quantities=2, seed=0)


def test_the_datamodelling_score_of_influence_is_high_and_that_of_chance_is_not(tmp_path: Path) -> None:
    training, test = two_sets(n=200)
    head = Head.of(training, test, l2=L2, gradient_norm=1e-9)
    table = datamodelling(head, dataset="d", subsets=30, quantities=5, seed=0)
    write_table(tmp_path / "table.parquet", DATAMODELLING_COLUMNS, table)
    first = table.set_index("attribution").loc["influence"]
    assert first["score"] > 0.9
    assert abs(first["chance"]) < 0.2
    assert list(pretty_datamodelling(table)["attribution"]) == [name.replace("_", " ") for name in VARIANTS]


# Images -----------------------------------------------------------------------------------------------------


def make_images(folder: Path, *, n: int = 120, d: int = 6, train_samples: int | None = None) -> Images:
    risk = make_risk(Softmax(), n=n, d=d + 1, seed=5)
    np.save(folder / "features.npy", risk.x[:, :-1].float().numpy())
    table = pd.DataFrame({"index": np.arange(n), "label": risk.y.numpy(), "split": ""})
    table.to_parquet(folder / "samples.parquet")
    return load_images(
        folder / "features.npy",
        folder / "samples.parquet",
        {"split": {"test_fraction": 0.25, "seed": 0}, "validation.train_samples": train_samples},
    )


def test_images_are_pixels_and_ones_split_as_everywhere(tmp_path: Path) -> None:
    images = make_images(tmp_path)
    assert images.x.shape == (120, 7)
    assert bool((images.x[:, -1] == 1).all())
    assert len(images.train) == 90
    assert sorted([*images.train, *images.test]) == list(range(120))
    assert len(make_images(tmp_path, train_samples=50).train) == 50
    fewer = images.fewer(30, seed=0)
    assert len(fewer.train) == 30
    assert set(fewer.train) < set(images.train)
    assert images.fewer(500, seed=0) is images


def test_more_images_than_there_are_name_their_setting(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"^validation\.train_samples: 500 training samples"):
        make_images(tmp_path, train_samples=500)


def test_heads_that_cannot_be_trained_name_the_settings_of_validation() -> None:
    with pytest.raises(UserError, match=r"^validation\.gradient_norm: .*\n.*or validation\.l2"):
        Head.of(*two_sets(), l2=L2, gradient_norm=1e-30)


def test_a_pair_of_classes_becomes_0_and_1(tmp_path: Path) -> None:
    images = make_images(tmp_path)
    training, test, numbers, _ = images.pair((2, 0), Logistic())
    labels = images.y.numpy()
    assert set(labels[numbers]) == {0, 2}
    assert (training.y.numpy() == (labels[numbers] == 0)).all()
    assert set(numbers) <= set(images.train)
    assert test.samples == np.isin(labels[images.test], (0, 2)).sum()


def test_a_pair_with_a_class_that_is_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"validation\.pair"):
        make_images(tmp_path).pair((0, 9), Logistic())


def test_the_first_mistake_is_taken_or_the_least_certain() -> None:
    x = torch.tensor([[3.0, 1.0], [0.5, 1.0], [-2.0, 1.0]], dtype=torch.float64)
    theta = torch.tensor([1.0, 0.0], dtype=torch.float64)[:, None, None]
    assert first_mistake(LinearRisk(x, torch.tensor([1, 0, 1]), 2, Logistic()), theta) == 1
    assert first_mistake(LinearRisk(x, torch.tensor([1, 1, 0]), 2, Logistic()), theta) == 1


def test_softmax_influence_predicts_retraining(tmp_path: Path) -> None:
    images = make_images(tmp_path, n=400)
    said: list[str] = []
    pairs = softmax_pairs(
        images,
        dataset="d",
        l2=L2,
        count=40,
        repeats=[4],
        batch=10,
        depth=300,
        gradient_norm=PRECISION,
        seed=0,
        say=said.append,
        progress=lambda done: None,
    )
    write_table_checks(pairs)
    assert set(pairs["sample"]) <= set(images.train)
    found = agreement(pairs, seed=0).set_index("predictor")["pearson"]
    assert found[EXACT] > 0.99
    assert found["LiSSA, r = 4"] > 0.9
    assert any("scale" in text for text in said)


# Tables -----------------------------------------------------------------------------------------------------


def write_table_checks(pairs: pd.DataFrame) -> None:
    """The columns are those described."""
    assert list(pairs.columns) == list(PAIR_COLUMNS)
    assert np.isfinite(pairs.drop(columns=["dataset", "experiment", "predictor", "level"])).all(axis=None)


def test_agreements_are_told_apart_by_level_and_have_the_slope_of_a_line(tmp_path: Path) -> None:
    actual = np.linspace(-1, 2, 20)
    parts = [
        make_pairs(np.arange(20), factor * actual, actual, np.full(20, 1e-9), dataset="d", experiment="e",
                   predictor="δ", level=level)
        for factor, level in ((2.0, 0.0), (0.5, 1.0))
    ]  # fmt: skip
    parts.append(
        make_pairs(
            np.arange(20), -actual, actual, np.full(20, 1e-7), dataset="d", experiment="e", predictor="p"
        )
    )
    table = agreement(pd.concat(parts), seed=0)
    write_table(tmp_path / "table.parquet", AGREEMENT_COLUMNS, table)
    assert table["slope"].tolist() == pytest.approx([2, 0.5, -1])
    assert table["pearson"].tolist() == pytest.approx([1, 1, -1])
    assert table["precision"].tolist() == [1e-9, 1e-9, 1e-7]
    assert pretty_agreement(table)["predictor"].tolist() == ["δ = 0", "δ = 1", "p"]


def test_no_effect_at_all_has_no_slope() -> None:
    pairs = make_pairs(
        np.arange(5), np.arange(5.0), np.zeros(5), np.zeros(5), dataset="d", experiment="e", predictor="p"
    )
    assert np.isnan(agreement(pairs, seed=0).loc[0, ["slope", "pearson"]].astype(float)).all()


def test_newton_and_a_frozen_hessian_agree() -> None:
    risk, test = make_risk(Softmax()), make_risk(Softmax(), seed=7)
    objective, theta = Objective(risk, L2), fit(risk)
    minimisers = (
        partial(frozen_newton, divide=Factor.of_head(objective, theta).divide),
        partial(newton, moments=risk.x.square().mean(dim=0)),
    )
    first, second = (
        leave_one_out(
            objective,
            theta,
            torch.arange(6),
            one_loss(test, 0),
            minimise,
            gradient_norm=PRECISION,
            lanes=4,
        ).change
        for minimise in minimisers
    )
    torch.testing.assert_close(first, second, rtol=0, atol=1e-9)


def test_smooth_hinges_of_the_pair_keep_their_labels() -> None:
    training, _ = two_sets()
    assert replace(training, link=SmoothHinge(0.1)).shape == (5, 1)
