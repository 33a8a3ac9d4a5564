"""Going on without a sample: lanes beside a control, on the same mini-batches."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from undue.calculus.adam import Adam
from undue.calculus.lanes import norm
from undue.calculus.linear import LinearRisk
from undue.calculus.module import ModuleRisk
from undue.calculus.spectrum import Extremes
from undue.randomness import stream
from undue.validation.effects import agreement
from undue.validation.network import Schedule, dampings_that_suffice, go_on, make_network, network_pairs

SIDE = 8


def make_images(n: int, seed: int) -> LinearRisk:
    """Two kinds of grey images, noisy; a column of ones last."""
    draw = np.random.default_rng(seed)
    y = np.arange(n) % 2
    pixels = draw.uniform(0, 1, (n, SIDE, SIDE))
    pixels[y == 1, :, :4] += 0.3
    x = np.concatenate([pixels.reshape(n, -1), np.ones((n, 1))], axis=1)
    return LinearRisk(torch.from_numpy(x), torch.from_numpy(y), 2)


def make_risk(n: int = 40) -> ModuleRisk:
    images = make_images(n, seed=0)
    network = make_network(SIDE, 2, stream(0, "network"))
    return ModuleRisk(network, images.x[:, :-1].float(), images.y)


def train(risk: ModuleRisk, theta: Tensor, removed: list[int], *, batch: int = 16, steps: int = 7) -> Tensor:
    return go_on(
        risk,
        theta,
        torch.tensor(removed),
        Adam(theta),
        steps=steps,
        batch=batch,
        learning_rate=lambda step: 0.01,
        l2=0.01,
        generator=stream(0, "batches"),
        progress=lambda done: None,
    )


def test_the_network_is_seven_layers_of_images() -> None:
    network = make_network(28, 10, stream(0, "network"))
    assert sum(part.numel() for part in network.parameters()) == 2578
    assert network(torch.zeros(3, 784)).shape == (3, 10)
    # Drawn so that signals neither vanish nor saturate on the way.
    assert 0.01 < float(network(torch.rand(50, 784)).detach().std()) < 1
    again = make_network(28, 10, stream(0, "network"))
    for one, other in zip(network.parameters(), again.parameters(), strict=True):
        assert torch.equal(one, other)


def test_lanes_are_what_each_network_does_alone() -> None:
    risk = make_risk()
    start = risk.theta()
    together = train(risk, start.repeat(1, 1, 3), [-1, 4, 30])
    for lane, removed in enumerate([-1, 4, 30]):
        alone = train(risk, start, [removed])
        torch.testing.assert_close(together[..., lane : lane + 1], alone, rtol=1e-3, atol=1e-5)


def test_adam_is_torchs_and_a_removed_sample_counts_for_nothing() -> None:
    risk = make_risk()
    # All samples in every step.
    ours = train(risk, risk.theta(), [4], batch=40)
    flat = risk.theta()[:, 0, 0].clone().requires_grad_()
    adam = torch.optim.Adam([flat], lr=0.01)
    kept = torch.tensor([i for i in range(40) if i != 4])
    for _ in range(7):
        adam.zero_grad()
        outputs = risk.call({**risk.constants(), **risk.parameters(flat)}, risk.x[kept])
        loss = torch.nn.functional.cross_entropy(outputs, risk.y[kept], reduction="sum") / 40
        (loss + 0.005 * flat.square().sum()).backward()  # type: ignore[no-untyped-call]
        adam.step()
    torch.testing.assert_close(ours[:, 0, 0], flat.detach(), rtol=1e-3, atol=1e-5)


def test_a_batch_of_more_than_all_is_all() -> None:
    risk = make_risk(40)
    found = [train(risk, risk.theta(), [-1], batch=batch) for batch in (40, 100)]
    assert torch.equal(*found)


def test_going_on_inherits_the_moments_of_adam() -> None:
    risk = make_risk()
    optimiser = Adam(risk.theta())
    options: dict[str, Any] = {
        "batch": 40,
        "learning_rate": lambda step: 0.01,
        "l2": 0.01,
        "generator": stream(0, "batches"),
        "progress": lambda done: None,
    }
    none = torch.tensor([-1])
    half = go_on(risk, risk.theta(), none, optimiser, steps=4, **options)
    lanes = go_on(risk, half.repeat(1, 1, 2), none.repeat(2), optimiser.repeat(2), steps=3, **options)
    # As if it had never stopped, in every lane; with fresh moments it would not be.
    whole = train(risk, risk.theta(), [-1], batch=40)
    torch.testing.assert_close(lanes, whole.repeat(1, 1, 2), rtol=1e-3, atol=1e-5)
    fresh = go_on(risk, half, none, Adam(half), steps=3, **options)
    assert float((fresh - whole).abs().max()) > 1e-3


def network_effects(*, n: int = 60, schedule: Schedule, count: int, dampings: list[float]) -> Any:
    training, test = make_images(n, seed=0), make_images(20, seed=1)
    said: list[str] = []
    units: list[str] = []

    def progress(unit: str) -> Callable[[int], None]:
        units.append(unit)
        return lambda done: None

    pairs, facts = network_pairs(
        training,
        test,
        np.arange(100, 100 + n),
        dataset="d",
        schedule=schedule,
        count=count,
        dampings=dampings,
        seed=0,
        say=said.append,
        progress=progress,
    )
    assert units == ["steps of training", "steps without a sample"]
    assert any("smallest eigenvalue" in text for text in said)
    return pairs, facts


def test_effects_are_differences_to_the_control() -> None:
    schedule = Schedule(steps=60, more_steps=5, batch=30, learning_rate=0.01, l2=0.01)
    pairs, facts = network_effects(schedule=schedule, count=5, dampings=[0.05, 10.0])
    assert len(pairs) == 2 * 5
    assert set(pairs["sample"]) <= set(range(100, 160))
    # What the steps do to all networks alike has gone from the effects.
    assert pairs["actual"].abs().max() < 0.1
    assert np.isfinite(agreement(pairs, seed=0)["pearson"]).all()
    levels = pairs["level"].unique()
    assert levels.tolist() == list(facts.dampings_used)
    assert levels[0] >= 0.05
    assert levels[1] == 10
    assert facts.dampings_asked == (0.05, 10.0)
    assert facts.smallest_eigenvalue + levels[0] > 0
    assert facts.noise < facts.typical_effect / 10


def test_influence_predicts_what_a_trained_network_does_without_a_sample() -> None:
    # Every step takes all samples, so that nothing but the removals parts the lanes.
    schedule = Schedule(steps=600, more_steps=300, batch=40, learning_rate=0.01, l2=0.05)
    pairs, facts = network_effects(n=40, schedule=schedule, count=12, dampings=[1e-6])
    assert facts.gradient_norm < 1e-2
    found = agreement(pairs, seed=0).iloc[0]
    assert found["pearson"] > 0.9
    assert found["slope"] > 0.3


def test_what_a_network_was_trained_to_is_without_its_sample() -> None:
    training = make_images(40, seed=0)
    schedule = Schedule(steps=40, more_steps=5, batch=40, learning_rate=0.01, l2=0.05)
    pairs, _ = network_effects(n=40, schedule=schedule, count=3, dampings=[1.0])
    risk = ModuleRisk(make_network(SIDE, 2, stream(0, "network")), training.x[:, :-1].float(), training.y)
    optimiser, batches = Adam(risk.theta()), stream(0, "network", "batches")
    shared: dict[str, Any] = {"batch": 40, "l2": 0.05, "progress": lambda done: None}
    theta = go_on(risk, risk.theta(), torch.tensor([-1]), optimiser, steps=40, generator=batches,
                  learning_rate=schedule.rate, **shared)  # fmt: skip
    row = int(pairs["sample"].iloc[0]) - 100
    more = stream(0, "network", "more batches")
    alone = go_on(risk, theta, torch.tensor([row]), optimiser.repeat(1), steps=5, generator=more,
                  learning_rate=lambda step: 0.001, **shared)  # fmt: skip
    weights = torch.full((40,), 1 / 40)
    weights[row] = 0
    expected = norm(risk.at(alone).grad(weights) + 0.05 * alone)
    assert pairs["precision"].iloc[0] == pytest.approx(float(expected), rel=1e-2)


def test_dampings_are_raised_until_the_hessian_is_positive_definite() -> None:
    ends = Extremes(smallest=-0.2, largest=5.0, error=0.01, products=1)
    used = dampings_that_suffice([0.01, 0.1, 1.0], ends)
    assert len(used) == 2
    assert used[0] > 0.21
    assert used[1] == 1
    assert dampings_that_suffice([0.01], Extremes(0.1, 5.0, 0.01, 1)) == (0.01,)
