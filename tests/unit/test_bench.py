"""The benchmark measures what it says: its data, the published recipe, and our residuals."""

from __future__ import annotations

import json
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from bench import double_backward, engine, problems, show, sweep
from bench.__main__ import EXACT_MEMORY, _Record, _Runner, main
from bench.published import Attack, Data, Lissa, Step
from problems import exact_hessian, make_calculator, make_problem, make_theta
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from undue.calculus.lanes import norm
from undue.calculus.objective import Objective
from undue.valuation.calculator import Calculator, Setting

KEYS = {
    "lane_step_s",
    "lane_step_monitored_s",
    "published_step_s",
    "published_step_monitored_s",
    "matmul_s",
    "iterations",
    "lanes",
    "peak_rss_bytes",
}


# The data ---------------------------------------------------------------------------------------------------


def test_the_sizes_are_the_papers() -> None:
    assert {name: (s.train, s.half, s.features, s.classes) for name, s in problems.SIZES.items()} == {
        "pet": (3_680, 1_835, 2_048, 37),
        "caltech": (6_941, 868, 2_048, 101),
        "cifar": (50_000, 5_000, 2_048, 10),
    }


def test_features_have_a_power_law_spectrum_in_a_rotated_basis() -> None:
    x, y = problems.draw(problems.Size(40_000, 10, 8, 4), seed=0)
    covariance = np.cov(x.T)
    np.testing.assert_allclose(np.linalg.eigvalsh(covariance)[::-1], 1 / np.arange(1, 9), rtol=0.05)
    assert np.abs(covariance - np.diag(np.diag(covariance))).max() > 0.05
    assert x.shape == (40_020, 8)
    assert x.dtype == np.float32
    assert set(y) == set(range(4))


def test_labels_follow_a_linear_teacher_with_noise() -> None:
    x, y = problems.draw(problems.Size(5_000, 500, 8, 4), seed=0)
    fit = np.linalg.lstsq(x, np.eye(4)[y], rcond=None)[0]
    assert 0.6 < ((x @ fit).argmax(axis=1) == y).mean() < 0.95


def test_the_draw_depends_on_the_seed_alone() -> None:
    first, again, other = (problems.draw(problems.TINY, seed=seed) for seed in (0, 0, 1))
    np.testing.assert_array_equal(first[0], again[0])
    np.testing.assert_array_equal(first[1], again[1])
    assert not np.array_equal(first[0], other[0])


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("tiny")
    problems.write(path, problems.TINY, seed=0)
    return path


@pytest.fixture(scope="module")
def setting(folder: Path) -> Setting:
    return problems.read(folder)


def test_a_written_problem_is_standardised_and_solved(folder: Path, setting: Setting) -> None:
    problem, theta = problems.read_unrotated(folder)
    x = problem.train.x.double()
    np.testing.assert_allclose(x[:, :-1].mean(dim=0), 0, atol=1e-5)
    np.testing.assert_allclose(x[:, :-1].std(dim=0, correction=0), 1, rtol=1e-5)
    assert bool((x[:, -1] == 1).all())
    assert (problem.train.samples, problem.shared.samples, problem.pristine.samples) == (200, 50, 50)
    exact = problem.to(torch.float64)
    gradient = Objective(exact.train, problems.L2).gradient(exact.train.at(setting.theta))
    assert float(norm(gradient)) <= problems.GRADIENT_NORM
    np.testing.assert_allclose(theta, setting.theta, rtol=1e-6)


# Our engine -------------------------------------------------------------------------------------------------


def test_lanes_are_different_targets_at_both_rates() -> None:
    lanes = engine.lanes_of(200, 5, seed=0)
    assert [lane.learning_rate for lane in lanes] == [0.01, 0.1, 0.01, 0.1, 0.01]
    rows = [lane.row for lane in lanes]
    assert rows[0] == rows[1]
    assert len(set(rows)) == 3


@pytest.mark.parametrize("count", [1, 4])
@pytest.mark.parametrize("products", ["float32", "bfloat16"])
def test_the_products_that_are_timed_alone_are_those_of_a_step(
    folder: Path, products: str, count: int
) -> None:
    """Against the operations that torch counts in all matrix products of a walk, and those a solver needs."""
    setting = problems.read(folder, coarse=engine.coarse(products))
    lanes, steps = engine.lanes_of(200, count, seed=0), 4
    with FlopCounterMode(display=False) as counter:
        taken = engine.walk(setting, lanes, steps=steps, monitor=False, seed=0)
    counts = engine.matrix_products(setting, lanes, steps=steps, seed=0)
    calculator = setting.calculator
    n, (d, k) = calculator.problem.train.samples, calculator.problem.train.shape
    said = sum(
        each * (calculator.principal / d if key.startswith("principal") else 1)
        for key, each in counts.items()
    )
    assert counter.get_total_flops() / steps == pytest.approx(said * 2 * n * d * k * len(lanes), rel=1e-9)
    assert set(counts) == {"whole float32", *(f"{kind} {products}" for kind in ("whole", "principal"))}
    solvers = 2 * float(taken.iterations.mean())
    exact = counts["whole float32"]
    if products == "bfloat16":
        # Lanes that have arrived go on with the others for a while.
        assert solvers <= counts["whole bfloat16"] <= 1.3 * solvers
    else:
        exact -= solvers
    # Outputs, right-hand sides and the gradient; in bfloat16 the residuals of two to four rounds, too.
    assert 5 < exact < 14
    assert engine.products_alone(calculator, k * len(lanes), counts) > 0


def test_the_attack_starts_on_the_sphere_and_its_residuals_are_recomputed(setting: Setting) -> None:
    lanes = engine.lanes_of(200, 4, seed=0)
    taken = engine.walk(setting, lanes, steps=3, monitor=False, seed=0)
    assert taken.iterations.shape == taken.residual.shape == (3, 4)
    first = taken.kept[0]
    centre = setting.basis.to_basis(setting.theta).float()
    np.testing.assert_allclose(norm(first.theta - centre) / norm(centre), 0.2, rtol=1e-4)

    found = [engine.true_residual(setting.calculator, at) for at in taken.kept]
    assert max(found) <= 1.01 * engine.TOLERANCE
    np.testing.assert_allclose(found[0], taken.residual[0].max(), rtol=0.05)
    wrong = replace(first, u2=2 * first.u2)
    assert engine.true_residual(setting.calculator, wrong) == pytest.approx(1, rel=1e-2)


def test_monitoring_changes_no_iterate(setting: Setting) -> None:
    lanes = engine.lanes_of(200, 2, seed=0)
    runs = [engine.walk(setting, lanes, steps=3, monitor=monitor, seed=0) for monitor in (False, True)]
    np.testing.assert_array_equal(runs[0].iterations, runs[1].iterations)
    assert len(runs[0].kept) == 3
    assert not runs[1].kept


def test_peak_memory_counts_what_was_freed() -> None:
    size = 200 << 20
    before = engine.rss()
    np.ones(size, dtype=np.uint8)
    assert engine.peak_rss() >= before + size * 0.9


def test_the_sweep_varies_one_quantity_at_a_time() -> None:
    base = problems.Size(60, 20, 6, 3)
    grid = {"n": (50, 80), "k": (2,), "lanes": (1, 3), "threads": (1, 10**6)}
    rows = sweep.measure(products="float32", seed=0, base=base, lanes=2, steps=2, grid=grid)
    assert [(row["axis"], row["value"]) for row in rows] == [
        ("n", 50),
        ("n", 80),
        ("k", 2),
        ("lanes", 1),
        ("lanes", 3),
        ("threads", 1),
    ]


# The published recipe ---------------------------------------------------------------------------------------


def published_attack(calculator: Calculator, theta: Tensor, **arguments: Any) -> Attack:
    return Attack(
        calculator.problem,
        theta[..., 0],
        theta[..., 0] / 2,
        radius=0.1,
        target=7,
        learning_rate=0.1,
        damping=calculator.l2 + calculator.damping,
        lissa=Lissa(),
        generator=torch.Generator().manual_seed(0),
        **arguments,
    )


@pytest.mark.parametrize("chunk", [1, 7])
def test_with_an_exact_solver_its_gradient_is_ours(chunk: int) -> None:
    calculator = make_calculator(make_problem(), damping=0.25)
    theta = make_theta(calculator.problem.train, 1)
    hessian = exact_hessian(calculator, theta[..., 0])

    def solve(theta: Tensor, train: Data, b: Tensor) -> Tensor:
        solution: Tensor = torch.linalg.solve(hessian, b.reshape(-1))
        return solution.view_as(b)

    attack = published_attack(calculator, theta, chunk=chunk, solve=solve)
    step = attack.take(monitor=True)
    ours = engine.gradient(calculator, theta, torch.tensor([7]), tolerance=1e-12)[..., 0]
    torch.testing.assert_close(step.gradient, ours, rtol=1e-6, atol=1e-6 * float(ours.abs().max()))
    score, _ = calculator.score(calculator.at(theta), calculator.problem.shared.at(theta), tolerance=1e-12)
    torch.testing.assert_close(step.scores, score[:, 0], rtol=1e-6, atol=1e-8)
    assert step.value == pytest.approx(float(step.weights @ score[:, 0]))
    # Adam's first step, then the ball of radius 0.1 around half of θ.
    centre = theta[..., 0] / 2
    assert float((attack.theta.detach() - centre).norm()) == pytest.approx(0.1 * float(centre.norm()))


def test_with_its_own_solver_its_gradient_is_ours_up_to_noise() -> None:
    calculator = make_calculator(make_problem(), damping=0.25)
    theta = make_theta(calculator.problem.train, 1, scale=0.2)
    step = published_attack(calculator, theta).take(monitor=False)
    ours = engine.gradient(calculator, theta, torch.tensor([7]), tolerance=1e-12)[..., 0]
    error = float((step.gradient - ours).norm() / ours.norm())
    assert 1e-6 < error < 0.1
    assert set(step.seconds) == {"solve_shared", "scores_shared", "solve_weights", "backward", "update"}


def test_monitoring_is_one_solve_and_one_scoring_more() -> None:
    parts = {"solve_shared": 1.0, "backward": 2.0, "solve_pristine": 4.0, "scores_pristine": 8.0}
    nothing = torch.zeros(0)
    step = Step(nothing, nothing, 0.0, nothing, parts, nothing)
    assert (step.unmonitored, step.monitored) == (3.0, 15.0)


def test_a_solve_cut_short_is_extrapolated(monkeypatch: pytest.MonkeyPatch) -> None:
    ticks = iter(range(1_000))
    monkeypatch.setattr(time, "perf_counter", lambda: float(next(ticks)))
    attack = published_attack(make_calculator(make_problem()), make_theta(make_problem().train, 1))
    attack._lissa = Lissa(depth=100, timed=10)
    seconds = attack.take(monitor=False).seconds
    # A tick for the iterations, which counts ten times, and one on either side of them.
    assert seconds["solve_shared"] == 1 + 10 + 1
    assert seconds["scores_shared"] == 1


# Memory of naive backward passes ----------------------------------------------------------------------------


def test_the_naive_routes_compute_the_same_gradient() -> None:
    calculator, theta = double_backward.problem_of(100, 4, seed=0)
    ours, hessian, unrolled = (route(calculator, theta, 5) for route in double_backward.ROUTES.values())
    torch.testing.assert_close(hessian, ours, rtol=2e-3, atol=2e-3 * float(ours.abs().max()))
    # A hundred iterations have not converged yet.
    assert float((unrolled - ours).norm() / ours.norm()) < 0.6


def test_the_memory_of_each_route_is_seen() -> None:
    run = _Runner(threads=1)
    taken = {
        route: run("double_backward", variables=EXACT_MEMORY, route=route, n=2_000, d=32, seed=0)["bytes"]
        for route in double_backward.ROUTES
    }
    # Outputs of 2,000 samples for 10 classes, more than once.
    assert 2_000 * 10 * 4 < taken["ours"] < taken["unrolled"] < taken["hessian"]


def test_predictions_follow_the_fit() -> None:
    rows = [
        {"route": route, "n": n, "d": d, "k": 10, "bytes": factor * n * 10 * (d + 1) * 10}
        for route, factor in (("hessian", 40), ("ours", 0), ("unrolled", 0))
        for n, d in double_backward.GRID
    ]
    predicted = {(p["size"], p["route"]): p["bytes"] for p in double_backward.predict(rows)}
    assert predicted["pet", "hessian"] == pytest.approx(40 * 3_680 * 37 * 2_049 * 37, rel=1e-3)
    assert predicted["cifar", "ours"] == 0


# The command ------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_the_quick_mode_measures_everything_once(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command = ["--quick", "--threads", "1", "--steps", "2", "--output", str(tmp_path / "bench.json")]
    assert main(command) == 0
    size = json.loads((tmp_path / "bench.json").read_text())["sizes"]["tiny"]
    assert set(size) >= KEYS
    assert all(size[key] > 0 for key in KEYS)
    assert size["extrapolated"] is True
    assert size["residual_float64"] <= 1.01e-3
    assert (size["lanes"], size["threads"], size["steps"]) == (4, 1, 2)
    assert "tiny: measuring" in capsys.readouterr().out

    main(command)
    assert "tiny: measured already" in capsys.readouterr().out


def test_what_was_measured_otherwise_is_measured_anew(tmp_path: Path) -> None:
    path, count = tmp_path / "bench.json", iter(range(10))

    def measure(*, lanes: int = 4, threads: int = 2, again: bool = False) -> int:
        record = _Record(path, threads=threads, again=again)
        record.measure(("sizes", "pet"), {"lanes": lanes}, lambda: {"number": next(count)})
        number: int = json.loads(path.read_text())["sizes"]["pet"]["number"]
        return number

    assert [measure(), measure(), measure(lanes=8), measure(lanes=8, threads=1)] == [0, 0, 1, 2]
    assert measure(lanes=8, threads=1, again=True) == 3


def made_up() -> dict[str, Any]:
    """A record as `make bench` writes it, with round numbers."""
    size = dict.fromkeys(KEYS, 0.5) | {
        "shape": [100, 9, 3],
        "published_step_s": 50.0,
        "published_step_monitored_s": 100.0,
        "ratio": 100.0,
        "ratio_monitored": 200.0,
        "lanes": 4,
        "steps": 20,
        "threads": 2,
        "machine": {"cpu": "a processor", "torch": "2"},
        "busy_before": 0.02,
        "residual_float64": 9e-4,
        "ratio_matmul": 1.25,
        "dtype": "float32",
        "dtype_solver_products": "float32",
        "peak_rss_bytes": 3 << 30,
        "extrapolated": False,
        "published_vectorised_step_s": 20.0,
        "settings": {"size": [100, 20, 8, 3]},
    }
    memory = [
        {"route": route, "n": n, "d": d, "k": 10, "bytes": 1e6 * n * d, "seconds": 1.0}
        for route in double_backward.ROUTES
        for n, d in double_backward.GRID
    ]
    other = {"extrapolated": True, "residual_float64": 1.1e-3, "busy_before": 1.24}
    return {
        "sizes": {"pet": size, "cifar": size | other},
        "sweep": {
            "threads": 2,
            "machine": size["machine"],
            "busy_before": 0.01,
            "rows": [
                {"axis": axis, "value": value, "lane_step_s": 0.001 * value, "iterations": 4.0}
                for axis in show.AXES
                for value in (1, 2)
            ],
        },
        "double_backward": {
            "rows": memory,
            "predicted": [{"size": "pet", "route": "hessian", "bytes": 2.5e13, "predicted": True}],
        },
    }


def test_the_tables_say_what_is_extrapolated_and_predicted(tmp_path: Path) -> None:
    table = show.sizes_table(made_up()).set_index("size")
    assert table.loc["pet (100 × 8 × 3)", "published, s"] == "50 / 100"
    assert table.loc["cifar (100 × 8 × 3)", "published, s"] == "~50 / 100"
    assert table["faster"].iloc[0] == "100 × / 200 ×"
    assert table["peak memory"].iloc[0] == "3.0 GiB"
    assert table["authors' code elsewhere, s"].tolist() == ["29 / 44", "40 / 55"]
    assert table["residual"].tolist() == ["9.0e-04", "1.1e-03 (!)"]
    show.write(made_up(), tmp_path / "bench.md")
    text = (tmp_path / "bench.md").read_text(encoding="utf-8")
    assert "25 TB (predicted)" in text
    assert "a processor, 2 threads, torch 2; 1.2 cores busy beforehand.\n" in text
    assert "a processor, 2 threads, torch 2; 0.0 cores busy beforehand.\n" in text


def test_a_record_of_several_machines_names_each(tmp_path: Path) -> None:
    bench = made_up()
    bench["sizes"]["cifar"] |= {"machine": {"cpu": "another", "torch": "2"}}
    show.write(bench, tmp_path / "bench.md")
    text = (tmp_path / "bench.md").read_text(encoding="utf-8")
    each = [f"{name}: {show._where(size)}" for name, size in bench["sizes"].items()]
    assert f"\n\n{' '.join(each)}\n\n" in text
    assert "cifar: another, 2 threads" in text


def test_the_figures_are_drawn(tmp_path: Path) -> None:
    show.draw(made_up(), tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {"bench.png", "double_backward.png"}
