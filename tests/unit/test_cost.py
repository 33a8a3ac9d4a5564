"""The cost model: what it counts, how it is fitted, and how well it foretells jobs that it hasn't seen."""

from __future__ import annotations

import json
import math
import re
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import yaml

from undue.data.registry import read_registry
from undue.errors import UserError
from undue.packing import numbers_per_lane
from undue.run import estimate as command
from undue.run.config import validate
from undue.run.cost import (
    COLUMNS,
    FORMULAS,
    IDLE,
    TABLE,
    Costs,
    Model,
    Setting,
    Sizes,
    core_speed,
    costs,
    fit,
    held_out_errors,
    held_out_runs,
    measure,
    read_benchmark,
    read_measured,
    setting_of,
    sizes,
    write_measured,
)
from undue.run.estimate import RuleCost, describe, errors_by_rule, estimate
from undue.run.history import History, Job, plan

ROOT = Path(__file__).resolve().parents[2]
WILDCARDS = {
    "dataset": "mnist5k",
    "variant": "efficientnet_lite0-96px",
    "objective": "min_higher",
    "radius": "0.25",
    "seed": "0",
    "block": "0",
    "size": "10",
    "metric": "demographic_parity",
    "file": "mnist_5k.csv.gz",
}


def config(**changes: dict[str, Any]) -> dict[str, Any]:
    plain = yaml.safe_load((ROOT / "config.yaml").read_text(encoding="utf-8"))
    for section, values in changes.items():
        plain[section].update(values)
    return validate(plain)


def setting(folder: Path, **changes: dict[str, Any]) -> Setting:
    return Setting(config(**changes), folder, read_registry(ROOT / "data" / "registry.tsv"))


def job(rule: str, **wildcards: str) -> Job:
    return Job(1, rule, {**WILDCARDS, **wildcards}, outputs=(f"results/{rule}",))


def table_job(rule: str) -> Job:
    return (
        job(rule, dataset="german") if "fairness" in rule or "base" in rule or "table" in rule else job(rule)
    )


# Sizes ------------------------------------------------------------------------------------------------------


def test_sizes_are_known_before_there_is_a_file(tmp_path: Path) -> None:
    assert sizes(setting(tmp_path), "mnist5k") == Sizes(5000, 4000, 500, 500, 1281, 10)
    official = setting(tmp_path, features={"backbone": "resnet50", "image_size": None})
    assert sizes(official, "cifar10") == Sizes(60_000, 50_000, 5000, 5000, 2049, 10)
    assert sizes(official, "pet") == Sizes(7349, 3680, 1835, 1834, 2049, 37)


def test_pixels_are_counted(tmp_path: Path) -> None:
    pixels = setting(tmp_path, features={"backbone": "none", "image_size": 14})
    assert sizes(pixels, "mnist5k").d == 14 * 14 + 1
    assert sizes(pixels, "cifar10").d == 3 * 14 * 14 + 1
    whole = setting(tmp_path, features={"backbone": "none", "image_size": None})
    assert sizes(whole, "mnist5k").d == 28 * 28 + 1
    with pytest.raises(UserError, match="its size isn't known"):
        sizes(whole, "caltech101")  # images of many sizes


def write_features(folder: Path) -> None:
    made = folder / "data" / "features" / "mine" / "none"
    made.mkdir(parents=True)
    (made / "features.json").write_text(json.dumps({"dimension": 7, "classes": ["a", "b", "c"]}))
    pd.DataFrame({"split": ["train"] * 60 + ["test"] * 40}).to_parquet(made / "samples.parquet")


def test_features_that_are_there_decide(tmp_path: Path) -> None:
    mine = {"mine": {"kind": "arrays", "path": "mine.npz"}}
    own = setting(tmp_path, data={"use": ["mine"]}, datasets=mine)
    with pytest.raises(UserError, match=r"datasets\.mine: its size isn't known[^$]*mine/none/features\.npy"):
        sizes(own, "mine")
    write_features(tmp_path)
    assert sizes(own, "mine") == Sizes(100, 60, 20, 20, 8, 3)


def test_a_variant_has_its_base_s_size_but_for_its_training_samples(tmp_path: Path) -> None:
    fewer = {"fewer": {"base": "mnist5k", "train_samples": 500}}
    assert sizes(setting(tmp_path, datasets=fewer), "fewer") == Sizes(5000, 500, 500, 500, 1281, 10)


# Terms ------------------------------------------------------------------------------------------------------


def test_an_attack_s_work_grows_with_lanes_steps_and_radius(tmp_path: Path) -> None:
    once = costs(job("attack"), setting(tmp_path)).work
    # 10 targets, 2 rates, 51 iterates, 4,000 samples, 1,281 features, 10 classes.
    assert once["steps"] == pytest.approx(10 * 2 * 51 * 4000 * 1281 * 10 / 1e9)
    assert once["far steps"] == pytest.approx(once["steps"] / 2)
    longer = costs(job("attack"), setting(tmp_path, attack={"steps": 101, "learning_rates": [0.1]})).work
    assert longer["steps"] == pytest.approx(once["steps"])
    assert costs(job("attack", radius="1.0"), setting(tmp_path)).work["far steps"] == 2 * once["far steps"]


def test_a_last_block_has_what_is_left(tmp_path: Path) -> None:
    split = setting(tmp_path, attack={"targets": 10, "targets_per_block": 8})
    first, last = (costs(job("attack", block=block), split).work["steps"] for block in "01")
    assert first == pytest.approx(4 * last)


def test_lanes_that_do_not_fit_side_by_side_walk_one_pack_after_the_other(tmp_path: Path) -> None:
    roomy, tight = (setting(tmp_path, attack={"memory_gb": memory}) for memory in (2.0, 0.02))
    assert costs(job("attack"), roomy).work["walks"] == pytest.approx(51 * 4000 * 1281 / 1e9)
    assert costs(job("attack"), tight).work["walks"] > 2 * costs(job("attack"), roomy).work["walks"]
    assert costs(job("attack"), tight).work["steps"] == costs(job("attack"), roomy).work["steps"]


def test_estimates_by_lissa_are_priced_by_the_rows_they_see(tmp_path: Path) -> None:
    def steps(**attack: Any) -> float:
        return costs(job("attack"), setting(tmp_path, attack=attack)).work["steps"]

    exact, published = steps(), {"solver": "lissa", "lissa_depth": 977, "lissa_batch": 1024}
    # Two solves of a step pass 4,000 samples 500 times, where conjugate gradients' ten passes are a step.
    assert steps(**published) == pytest.approx(exact * 2 * 977 * 1024 / 4000 / 10)
    assert steps(**{**published, "lissa_depth": 1}) == exact


def test_lanes_are_held_up_to_the_memory_they_may_have(tmp_path: Path) -> None:
    assert costs(job("attack"), setting(tmp_path, attack={"memory_gb": 0.01})).held["lanes"] == 10
    assert 10 < costs(job("attack"), setting(tmp_path)).held["lanes"] < 2000


def test_lanes_are_counted_as_the_attack_packs_them(tmp_path: Path) -> None:
    size = {"train": 4000, "test": 1000, "d": 1281, "k": 10}
    lanes = costs(job("attack"), setting(tmp_path)).held["lanes"]
    ranks = len(setting(tmp_path).config["attack"]["ranks"])
    assert lanes == pytest.approx(20 * numbers_per_lane(**size, kept=ranks) * 4 / 1e6)
    # One set, two starts, two rates; ten targets; within the budget and without.
    lanes = costs(job("attack_sets"), setting(tmp_path)).held["lanes"]
    kept = 2 * len(setting(tmp_path).config["multi_target"]["ranks"])
    assert lanes == pytest.approx(4 * numbers_per_lane(**size, targets=10, kept=kept) * 4 / 1e6)


def test_training_again_counts_models_and_samples(tmp_path: Path) -> None:
    """4,000 images of 28 x 28 pixels; of two classes of ten, a fifth of them."""
    usual = setting(tmp_path)
    found = {
        rule: costs(job(f"validate_{rule}"), usual).work
        for rule in ("softmax", "hinge", "logistic", "rankings")
    }
    assert found["softmax"]["models"] == pytest.approx(500 * 4000 * 785 * 10 / 1e9)
    assert found["softmax"]["steps"] == pytest.approx(5)
    assert found["softmax"]["factor"] == pytest.approx((4000 * 7850**2 + 7850**3) / 1e9)
    assert found["hinge"]["models"] == pytest.approx(100 * 800 * 785 / 1e9)
    assert found["logistic"]["models"] == pytest.approx(150 * 800 * 785 / 1e9)
    # Of the attacked head: first and last ten of eleven rankings, and ten at random.
    assert found["rankings"]["divisions"] == pytest.approx(230 * 12810**2 / 1e9)
    assert found["rankings"]["factor"] == pytest.approx((4000 * 12810**2 + 12810**3) / 1e9)
    # A head too large for that, of ResNet50's features and 37 classes.
    large = setting(tmp_path, data={"use": ["pet"]}, features={"backbone": "resnet50"})
    work = costs(job("validate_rankings", dataset="pet"), large).work
    assert work["models"] == pytest.approx(230 * sizes(large, "pet").train * 2049 * 37 / 1e9)
    assert "factor" not in work
    network = {"network_steps": 100, "network_more_steps": 10, "network_samples": 8, "train_samples": 3000}
    network["network_batch"] = 500
    fewer = costs(job("validate_network"), setting(tmp_path, validation=network))
    assert fewer.work["steps"] == pytest.approx((100 + 10 * 10) * 500 * 785 / 1e9)
    assert fewer.work["solve"] == pytest.approx(3000 * 785 / 1e9)


def test_features_take_exactly_their_bytes(tmp_path: Path) -> None:
    assert costs(job("extract_features"), setting(tmp_path)).written == {"features": 5000 * 1281 * 4 / 1e6}


def test_a_download_counts_the_registry_s_bytes(tmp_path: Path) -> None:
    assert costs(job("download"), setting(tmp_path)).written == {"MB": 1.106785}


def test_any_other_rule_counts_its_input_files(tmp_path: Path) -> None:
    plot = Job(1, "plot_something_new", {}, inputs=("a", "b", "c"))
    assert costs(plot, setting(tmp_path)).work == {"job": 1, "files": 3}


@pytest.mark.parametrize("rule", FORMULAS)
def test_formulas_are_finite(rule: str, tmp_path: Path) -> None:
    found = costs(table_job(rule), setting(tmp_path))
    for terms in (found.work, found.held, found.written):
        assert terms
        assert all(math.isfinite(value) and value >= 0 for value in terms.values())


def test_own_tables_count_by_their_size(tmp_path: Path) -> None:
    table = {"kind": "table", "path": "loans.csv", "label": "y", "sensitive": "s", "privileged": "a"}
    plain = yaml.safe_load((ROOT / "config.yaml").read_text(encoding="utf-8"))
    metrics = {
        name: plain["fairness"]["tables"]["german"][name] for name in ("l2", *plain["fairness"]["metrics"])
    }
    plain["fairness"]["tables"] = {"mine": {**table, **metrics}}
    plain["fairness"].update(use=["mine"], optional=[])
    own = Setting(validate(plain), tmp_path, {})
    (tmp_path / "loans.csv").write_bytes(b"x" * 500_000)
    assert costs(job("encode_table", dataset="mine"), own).work == {"job": 1, "rows": 5.0}


# Fitting ----------------------------------------------------------------------------------------------------


def test_the_fit_finds_what_made_the_costs() -> None:
    terms = [{"job": 1.0, "work": work, "noise": work % 7} for work in (1.0, 10.0, 100.0, 1000.0)]
    cost = [3 + 2e-3 * job["work"] for job in terms]
    found = fit(terms, cost, idle=3.0)
    assert found == pytest.approx({"job": 3, "work": 2e-3, "noise": 0}, abs=1e-9)


def test_the_fit_does_not_depend_on_units() -> None:
    small = [{"job": 1.0, "work": work} for work in (1.0, 5.0)]
    large = [{"job": 1.0, "work": 1e12 * job["work"]} for job in small]
    cost = [4.0, 11.0]
    assert fit(small, cost, 2.0)["work"] == pytest.approx(1e12 * fit(large, cost, 2.0)["work"])


def test_jobs_of_one_size_tell_start_from_work() -> None:
    found = fit([{"job": 1.0, "work": 10.0}] * 3, [52.0, 52.0, 52.0], idle=2.0)
    assert found == pytest.approx({"job": 2, "work": 5})


def measured(rule: str, work: list[float], cost: list[float], gflops: float = 100.0) -> pd.DataFrame:
    rows = [
        {
            "rule": rule,
            "job": f"{rule}/{index}",
            "run": "default",
            "gflops": gflops,
            "core_seconds": seconds,
            "memory_mb": math.nan,
            "disk_mb": 1.0,
            "work": {"job": 1.0, "work": amount},
            "held": {"job": 1.0},
            "written": {"job": 1.0},
        }
        for index, (amount, seconds) in enumerate(zip(work, cost, strict=True))
    ]
    return pd.DataFrame(rows, columns=COLUMNS)


def test_a_core_twice_as_fast_takes_half_as_long() -> None:
    model = Model.of(measured("attack", [10.0, 100.0], [4.5, 22.5]))
    wanted = Costs({"job": 1.0, "work": 100.0}, {"job": 1.0}, {"job": 1.0})
    slow, fast = (model.predict("attack", wanted, gflops=gflops) for gflops in (100.0, 200.0))
    assert slow["core_seconds"] == pytest.approx(22.5)
    assert fast == {**slow, "core_seconds": pytest.approx(11.25)}
    assert slow["memory_mb"] == IDLE["memory_mb"]  # never seen
    assert slow["disk_mb"] == pytest.approx(1)


def test_a_rule_that_was_never_measured_costs_its_start() -> None:
    model = Model.of(measured("attack", [10.0], [4.5]))
    wanted = Costs({"job": 1.0, "files": 9.0}, {"job": 1.0}, {"job": 1.0})
    assert model.predict("plot_something", wanted, gflops=100.0) == {**IDLE, "core_seconds": 2.5}


def test_what_was_never_measured_is_told() -> None:
    model = Model.of(measured("attack", [10.0], [4.5]))
    known, unknown = (Costs({"job": 1.0, name: 1.0}, {}, {}) for name in ("work", "images, resnet50"))
    assert model.measured("attack", known)
    assert not model.measured("attack", unknown)
    assert not model.measured("download", known)
    larger, far = (Costs({"job": 1.0, "work": amount}, {}, {}) for amount in (100.0, 101.0))
    assert model.measured("attack", larger)
    assert not model.measured("attack", far)


def test_attacks_on_sets_cost_what_attacks_cost_and_write_less() -> None:
    alone, sets = (
        measured("attack", [10.0], [7.5]),
        measured("attack_sets", [100.0], [52.5]).assign(disk_mb=0.5),
    )
    model = Model.of(pd.concat([alone, sets], ignore_index=True))
    wanted = Costs({"job": 1.0, "work": 10.0}, {"job": 1.0}, {"job": 1.0})
    one, several = (model.predict(rule, wanted, gflops=100.0) for rule in ("attack", "attack_sets"))
    assert one["core_seconds"] == several["core_seconds"] == pytest.approx(7.5)
    assert (one["disk_mb"], several["disk_mb"]) == pytest.approx((1.0, 0.5))


def test_held_out_jobs_are_foretold_by_the_others() -> None:
    work = [10.0, 100.0, 100.0, 1000.0]
    found = held_out_errors(measured("attack", work, [2.5 + 0.1 * amount for amount in work]))
    assert len(found) == 4
    assert (found["predicted"] / found["measured"]).tolist() == pytest.approx([1.0] * 4)
    odd = held_out_errors(measured("attack", [10.0, 100.0], [3.5, 1000.0]))
    assert abs(odd["predicted"] / odd["measured"] - 1).min() > 0.5
    # A job of a second says nothing of one of an hour.
    assert len(held_out_errors(measured("attack", [1.0, 1000.0], [3.0, 300.0]))) == 1


def test_a_run_held_out_is_foretold_by_the_others_alone() -> None:
    work = [10.0, 100.0, 1000.0]
    first = measured("attack", work, [2.5 + 0.1 * amount for amount in work])
    second = measured("attack", [500.0, 50.0], [2 * 52.5, 2 * 7.5]).assign(run="slow")
    # Which the other run had nothing like.
    alone = measured("download", [1.0], [9.0]).assign(run="slow")
    table = pd.concat([first, second, alone], ignore_index=True)
    assert re.search(r"^ *slow +2 of 3 +120 +60 +-50%$", command.describe_runs(table), re.MULTILINE)
    found = held_out_runs(table).set_index("run")
    assert found.loc["slow", ["jobs", "measured"]].tolist() == [2, 120.0]
    assert found.loc["slow", "predicted"] == pytest.approx(60.0, rel=1e-3)
    assert found.loc["default", "predicted"] > 1.3 * found.loc["default", "measured"]


def test_one_kind_of_job_can_not_be_held_out() -> None:
    assert held_out_errors(measured("attack", [10.0, 10.0], [3.0, 3.0])).empty


# Measurements -----------------------------------------------------------------------------------------------


def benchmark(path: Path, seconds: float, processor: object, memory: object) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"s\th:m:s\tmax_rss\tcpu_time\n{seconds}\t0:00:01\t{memory}\t{processor}\n")
    return path


@pytest.mark.parametrize(
    ("seconds", "processor", "expected"),
    [
        (10.0, 9.0, 9.0),  # looked at until the end
        (40.0, 15.5, 40.0),  # looked at for 15.5 s only
        (80.0, 60.5 * 1.5, 80.0 * 60.5 * 1.5 / 75.5),
    ],
)
def test_processor_time_is_drawn_out_to_the_end(
    tmp_path: Path, seconds: float, processor: float, expected: float
) -> None:
    path = benchmark(tmp_path / "a.tsv", seconds, processor, 400.0)
    assert read_benchmark(path) == pytest.approx((expected, 400.0))


@pytest.mark.parametrize(("processor", "memory"), [(0.0, 1.5), ("NA", "NA")])
def test_a_job_too_short_to_be_seen_took_its_time(tmp_path: Path, processor: object, memory: object) -> None:
    seconds, unknown = read_benchmark(benchmark(tmp_path / "a.tsv", 0.4, processor, memory))
    assert seconds == 0.4
    assert math.isnan(unknown)


def planned(folder: Path) -> History:
    """Two attacks, one of them run before, on the default configuration."""
    jobs = [
        Job(
            number,
            "attack",
            WILDCARDS,
            outputs=(f"results/{number}",),
            benchmark=f"benchmarks/attack/{number}.tsv",
        )
        for number in (1, 2)
    ]
    (folder / "results").mkdir()
    (folder / "results" / "1").write_bytes(b"x" * 2_000_000)
    benchmark(folder / "benchmarks" / "attack" / "1.tsv", 10.0, 8.0, 400.0)
    everything = Job(3, "all", {}, inputs=("results/1", "results/2"))
    return History(
        folder=ROOT,
        configs=[Path("config.yaml")],
        counts={"attack": 2, "all": 1},
        jobs={job.number: job for job in [*jobs, everything]},
    )


def test_jobs_that_were_run_are_measured(tmp_path: Path) -> None:
    found = measure(planned(tmp_path), setting(tmp_path), tmp_path, gflops=100.0)
    assert found["job"].tolist() == ["attack/1"]
    assert found["run"].tolist() == ["default"]
    (row,) = found.to_dict("records")
    assert (row["core_seconds"], row["memory_mb"], row["disk_mb"]) == (8.0, 400.0, 2.0)
    assert row["work"] == costs(job("attack"), setting(tmp_path)).work


def test_a_table_of_measurements_keeps_the_latest_of_each_job(tmp_path: Path) -> None:
    path = tmp_path / "costs.tsv"
    old, new = measured("attack", [1.0, 2.0], [3.0, 4.0]), measured("attack", [1.0], [5.0])
    write_measured(path, pd.concat([old, new], ignore_index=True))
    read = read_measured(path)
    assert read["core_seconds"].tolist() == [5.0, 4.0]
    assert read["work"].tolist() == [{"job": 1.0, "work": 1.0}, {"job": 1.0, "work": 2.0}]
    assert np.isnan(read["memory_mb"]).all()
    again = path.read_bytes()
    write_measured(path, read)
    assert path.read_bytes() == again


def test_the_configuration_is_the_run_s() -> None:
    smoke = History(folder=ROOT, configs=[Path("config.yaml"), ROOT / "workflow/presets/smoke.yaml"])
    found = setting_of(smoke).config
    assert found["attack"]["targets"] == 3  # the preset's
    assert found["attack"]["memory_gb"] == 2.0  # config.yaml's
    assert found["attack"]["radii"] == [0.2, 0.5]  # replaced, not joined


def test_the_last_overlay_decides(tmp_path: Path) -> None:
    """As for Snakemake, whose own words about a dry run are read here."""
    for name, radii in (("first", [0.3]), ("last one", [0.7])):
        text = yaml.safe_dump({"attack": {"radii": radii, "targets": 4 if name == "first" else 5}})
        (tmp_path / f"{name}.yaml").write_text(text)
    overlays = [str(tmp_path / f"{name}.yaml") for name in ("first", "last one")]
    preset = "workflow/presets/from_features.yaml"
    history = plan(["--forceall", "--until", "select_targets", "--configfile", *overlays, preset], ROOT)
    found = setting_of(history).config
    assert found["attack"]["radii"] == [0.7]
    assert found["attack"]["targets"] == 5
    assert found["results"] == "results/presets/from_features"
    assert found["attack"]["steps"] == config()["attack"]["steps"]


def test_a_core_has_a_speed() -> None:
    assert core_speed(tries=1, n=64) > 0


# The table of the project -----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def table() -> pd.DataFrame:
    return read_measured(ROOT / TABLE)


def rules_of_the_workflow() -> set[str]:
    texts = [path.read_text(encoding="utf-8") for path in (ROOT / "workflow" / "rules").glob("*.smk")]
    return {rule for text in texts for rule in re.findall(r"^rule (\w+):", text, re.MULTILINE)}


def test_formulas_and_measurements_are_of_rules_that_exist(table: pd.DataFrame) -> None:
    rules = rules_of_the_workflow()
    assert set(FORMULAS) <= rules
    assert set(table["rule"]) <= rules


def test_measurements_have_the_terms_that_are_computed_today(table: pd.DataFrame, tmp_path: Path) -> None:
    several = {"extract_features", "train_model"}
    for rule, rows in table[table["rule"].isin(FORMULAS.keys() - several)].groupby("rule"):
        found = costs(table_job(str(rule)), setting(tmp_path))
        for row in rows.itertuples():
            assert set(row.work) == set(found.work), row.job
            assert set(row.held) == set(found.held), row.job
            assert set(row.written) == set(found.written), row.job


def test_the_attack_s_jobs_are_foretold_within_a_third(table: pd.DataFrame) -> None:
    """They are nearly all of a run's cost; one job's number of products isn't known beforehand."""
    found = held_out_errors(table)
    attacks = found[found["rule"] == "attack"]
    assert len(attacks) >= 8
    assert abs(attacks["predicted"] / attacks["measured"] - 1).median() <= 0.33
    assert abs(attacks["predicted"].sum() / attacks["measured"].sum() - 1) <= 0.3


# How to repeat the runs of no preset.
OTHER_RUNS = {
    "default": {},
    # Features alone.
    "resnet50": {"features": {"backbone": "resnet50", "image_size": 64}},
}


def test_every_measurement_is_of_a_run_that_can_be_repeated(table: pd.DataFrame) -> None:
    presets = {path.stem for path in (ROOT / "workflow" / "presets").glob("*.yaml")}
    assert not table["job"].duplicated().any()
    for row in table.itertuples():
        overlays = set(row.run.split("+"))
        assert overlays <= presets | set(OTHER_RUNS), row.job
        folder = re.search(r"results/presets/(\w+)", row.job)
        assert folder is None or folder[1] in overlays, row.job


# Jobs of a run that is more than a part of one, and core-seconds of one that is more than its jobs' starts.
WHOLE, LONG = 50, 600.0


@pytest.fixture(scope="module")
def whole(table: pd.DataFrame) -> pd.DataFrame:
    """Whole runs, foretold by the other runs alone."""
    found = held_out_runs(table)
    return found[(found["jobs"] >= WHOLE) & (found["measured"] >= LONG)]


def test_whole_runs_are_foretold_within_three_tenths(whole: pd.DataFrame) -> None:
    assert len(whole) >= 3
    assert (abs(whole["predicted"] / whole["measured"] - 1) <= 0.3).all(), whole


def test_the_page_says_how_whole_runs_are_foretold(whole: pd.DataFrame) -> None:
    page = (ROOT / "docs" / "costs.md").read_text(encoding="utf-8")
    for row in whole.itertuples():
        error = f"{row.predicted / row.measured - 1:+.0%}".replace("-", "−").replace("%", " %")
        cells = [
            f"`{row.run}`",
            f"{row.jobs} of {row.of}",
            f"{row.measured:,.0f}",
            f"{row.predicted:,.0f}",
            error,
        ]
        assert f"| {' | '.join(cells)} |\n" in page


def test_all_jobs_together_are_fitted_within_a_seventh(table: pd.DataFrame) -> None:
    model = Model.of(table)
    predicted = sum(
        model.predict(row.rule, Costs(row.work, row.held, row.written), gflops=row.gflops)["core_seconds"]
        for row in table.itertuples()
    )
    assert predicted == pytest.approx(table["core_seconds"].sum(), rel=0.15)


# The command ------------------------------------------------------------------------------------------------


def test_gpus_are_for_the_rules_that_ask_for_them() -> None:
    texts = "".join(path.read_text("utf-8") for path in (ROOT / "workflow/rules").glob("*.smk"))
    parts = re.split(r"^rule (\w+):$", texts, flags=re.MULTILINE)
    rules = zip(parts[1::2], parts[2::2], strict=True)
    asking = {name for name, text in rules if re.search(r"^ +gpu=", text, re.MULTILINE)}
    assert asking == command.GPU_RULES


def test_an_estimate_sums_by_rule(tmp_path: Path) -> None:
    model = Model.of(measured("attack", [10.0, 100.0], [4.5, 22.5]))
    (found,) = estimate(planned(tmp_path), model, gflops=100.0)
    # A rule without outputs has no cost, and jobs of terms that were never measured are marked.
    assert (found.rule, found.jobs, found.measured) == ("attack", 2, False)
    assert found.core_hours == pytest.approx(2 * found.longest)
    assert found.disk == pytest.approx(2.0)


def rule_cost(rule: str, hours: float, *, measured: bool = True) -> RuleCost:
    return RuleCost(rule, 4, hours, 1500.0, 20.0, hours / 4, measured)


def test_the_printed_table() -> None:
    text = describe(
        [rule_cost("attack", 200.0), rule_cost("train_model", 4.0, measured=False)],
        {"attack": 0.12},
        gflops=100.0,
        gpu_gflops=10_000.0,
        cores=2,
    )
    lines = {line.split("  ")[0].strip(): line.split() for line in text.splitlines() if line}
    assert lines["attack"] == ["attack", "4", "200", "2.0", "1.5", "20", "12%"]
    assert lines["train_model *"] == ["train_model", "*", "4", "4.0", "1.5", "20"]
    assert lines["total"] == ["total", "8", "204", "2.0", "1.5", "40"]
    assert "about 102 h" in text
    assert "\n* Some of these jobs" in text
    assert "\n* Some of these jobs" not in describe(
        [rule_cost("attack", 1.0)], {}, gflops=1.0, gpu_gflops=1.0, cores=1
    )


def test_the_command(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    history = planned(tmp_path)
    monkeypatch.chdir(ROOT)
    monkeypatch.setattr(command, "plan", lambda arguments, folder: history)
    assert command.main(["--gflops", "100"]) == 0
    assert re.search(r"^attack +2 ", capsys.readouterr().out, re.MULTILINE)
    history.jobs.clear()
    assert command.main(["--gflops", "100"]) == 0
    assert "Nothing is to be done" in capsys.readouterr().out


def test_the_command_passes_on_what_is_wrong(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    asked = []

    def refuse(arguments: list[str], folder: Path) -> History:
        asked.append(arguments)
        raise UserError("no such file", where="--configfile", remedy="name one")

    monkeypatch.setattr(command, "plan", refuse)
    assert command.main(["--all", "--configfile", "x.yaml"]) == 1
    assert asked == [["--forceall", "--configfile", "x.yaml"]]
    assert "name one" in capsys.readouterr().err


def test_measurements_are_put_into_the_table(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    history = planned(tmp_path)
    monkeypatch.setattr(command, "plan", lambda arguments, folder: history)
    assert command.main(["--fit", ".", "--gflops", "100"]) == 0
    assert "1 measured jobs" in capsys.readouterr().out
    assert read_measured(tmp_path / TABLE)["job"].tolist() == ["attack/1"]
    assert errors_by_rule(read_measured(tmp_path / TABLE)) == {}
