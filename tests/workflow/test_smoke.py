"""The smoke preset from end to end: complete, repeatable and plausible."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pandas as pd
import pytest
import yaml
from PIL import Image
from runs import PRESET, RESULTS, Project, required, run

from undue.arrays import read_arrays

FIGURES = [
    f"{RESULTS}/figures/{name}"
    for name in (
        "figure4",
        "figure5",
        "figure6",
        "objective_steps",
        "top_ranked_mnist5k",
        "impossibility",
        "leave_one_out",
        "hinge",
        "influence_parts",
        "early_stopping",
        "damping",
        "rankings",
    )
]
TABLES = [
    f"{RESULTS}/tables/{name}"
    for name in (
        "attack_success",
        "table1",
        "table2",
        "attack_starts",
        "easy_targets",
        "baseline",
        "multi_target",
        "validation",
        "datamodelling",
        "rankings",
    )
]
ATTACKS = f"{RESULTS}/mnist5k/attack"


@pytest.fixture(scope="module")
def preset(smoke_run: Project) -> dict[str, dict[str, list[float]]]:
    loaded: dict[str, dict[str, list[float]]] = yaml.safe_load((smoke_run.root / PRESET).read_text("utf-8"))
    return loaded


def test_a_run_makes_everything_that_others_build_on(smoke_run: Project) -> None:
    expected = [
        *(f"{figure}.{suffix}" for figure in FIGURES for suffix in ("svg", "png")),
        *(f"{table}.{suffix}" for table in TABLES for suffix in ("parquet", "csv", "md")),
        f"{RESULTS}/metrics.json",
        *(f"{RESULTS}/mnist5k/{name}" for name in ("model.safetensors", "model.json", "influence.parquet")),
        *(
            f"{ATTACKS}/min_higher/radius={radius}/seed=0/block={block}.parquet"
            for radius in ("0.2", "0.5")
            for block in (0, 1)
        ),
    ]
    assert [name for name in expected if not (smoke_run.root / name).is_file()] == []


def test_a_run_leaves_nothing_unfinished(smoke_run: Project) -> None:
    written = [Path(name).name for name in smoke_run.checksums("results", "data")]
    assert [name for name in written if name.startswith((".", "tmp"))] == []


def test_a_second_run_does_nothing(complete: Project) -> None:
    before = complete.checksums("results", "data")
    assert "Nothing to be done" in complete.complete().output
    assert complete.checksums("results", "data") == before


@pytest.mark.slow
def test_the_same_seed_gives_the_same_bytes(
    smoke_run: Project, snapshot: Path, mirror: Path, tmp_path: Path
) -> None:
    if required("slurm"):
        pytest.skip("test_slurm.py says the same of a second run there")
    again = Project(snapshot, mirror).copy(tmp_path / "again")
    again.complete()
    expected, found = (project.checksums("results", "data") for project in (smoke_run, again))
    assert found.keys() == expected.keys()
    assert [name for name in expected if found[name] != expected[name]] == []


def test_every_target_counts_in_the_success_rates(
    smoke_run: Project, preset: dict[str, dict[str, list[float]]]
) -> None:
    attack = preset["attack"]
    success = pd.read_parquet(smoke_run.root / f"{TABLES[0]}.parquet")
    rows = sorted(zip(success["radius"], success["k"], strict=True))
    assert rows == sorted((radius, k) for radius in attack["radii"] for k in attack["ranks"])
    assert (success["targets"] == attack["targets"]).all()
    assert (success["success"] == success["successes"] / success["targets"]).all()
    for rate in ("success", "best_success"):
        assert (success[f"{rate}_low"] <= success[rate]).all()
        assert (success[rate] <= success[f"{rate}_high"]).all()
    assert (success["success"] <= success["best_success"]).all()
    assert (success["unconfirmed"] == 0).all()


def test_a_large_radius_succeeds_sometimes(smoke_run: Project) -> None:
    success = pd.read_parquet(smoke_run.root / f"{TABLES[0]}.parquet")
    assert success.loc[success["radius"] == 0.5, "best_success"].max() > 0


def test_table1_and_metrics_say_what_the_success_rates_say(smoke_run: Project) -> None:
    success, table1 = (pd.read_parquet(smoke_run.root / f"{table}.parquet") for table in TABLES[:2])
    attack = table1[table1["objective"] == "min_higher"]
    assert attack.set_index("k")["success"].to_dict() == success.groupby("k")["success"].max().to_dict()
    assert table1["objective"].tolist() == ["baseline", "min_higher"] * len(attack)
    metrics = json.loads((smoke_run.root / RESULTS / "metrics.json").read_text("utf-8"))["mnist5k"]
    rates = {f"{row.objective}, k = {row.k}": row.success for row in table1.itertuples()}
    assert {name: values["success"] for name, values in metrics["attack"].items()} == rates
    assert metrics["accuracy"] > 0.85
    assert metrics["gradient_norm"] <= 1e-6


def test_all_starts_are_what_the_success_rates_count(smoke_run: Project) -> None:
    success, _, _, starts, *_ = (pd.read_parquet(smoke_run.root / f"{table}.parquet") for table in TABLES)
    every = starts[starts["starts"] == starts["starts"].max()].drop(columns="starts")
    pd.testing.assert_frame_equal(every.reset_index(drop=True), success[list(every.columns)])


def test_csv_and_markdown_have_the_rows_of_the_table(smoke_run: Project) -> None:
    for table in TABLES:
        rows = pd.read_parquet(smoke_run.root / f"{table}.parquet")
        assert len(pd.read_csv(smoke_run.root / f"{table}.csv")) == len(rows)
        lines = (smoke_run.root / f"{table}.md").read_text("utf-8").splitlines()
        # To be read: of all radii the chosen one alone.
        shown = rows[rows["chosen"]] if table.endswith("multi_target") else rows
        assert sum(line.startswith("| ") for line in lines) == len(shown) + 2


def test_the_baseline_loses_accuracy_as_its_weight_grows(
    smoke_run: Project, preset: dict[str, dict[str, list[float]]]
) -> None:
    baseline = pd.read_parquet(smoke_run.root / f"{RESULTS}/tables/baseline.parquet")
    weights = sorted(preset["baseline"]["weights"])
    assert baseline["weight"].unique().tolist() == weights
    lost = baseline.groupby("weight")["accuracy_lost_pristine"].mean()
    assert lost[weights[0]] < 0.2
    # A model of the target's class alone is right on a tenth of the digits.
    assert lost[weights[-1]] > 0.7
    trials = pd.concat(
        [pd.read_parquet(smoke_run.root / f"{ATTACKS}/baseline/block={block}.parquet") for block in (0, 1)]
    )
    published = pd.read_parquet(smoke_run.root / f"{ATTACKS}/baseline/published.parquet")
    assert set(trials["target"]) == set(published["target"])
    assert (
        published["best_rank"] == published["target"].map(trials.groupby("target")["rank_shared"].min())
    ).all()


def test_influence_ranks_are_those_of_the_influences(smoke_run: Project) -> None:
    influence = pd.read_parquet(smoke_run.root / RESULTS / "mnist5k" / "influence.parquet")
    assert len(influence) == 4000
    for half in ("", "_pristine"):
        ranks = influence[f"influence{half}"].rank(method="max", ascending=False).astype(int)
        assert (influence[f"rank{half}"] == ranks).all()


def test_trajectories_have_every_step_of_every_lane(
    smoke_run: Project, preset: dict[str, dict[str, list[float]]]
) -> None:
    attack = preset["attack"]
    steps = list(range(int(attack["steps"]) + 1))  # type: ignore[call-overload]
    for radius in attack["radii"]:
        for block in (0, 1):
            stem = f"{ATTACKS}/min_higher/radius={radius:g}/seed=0/block={block}"
            trajectory = pd.read_parquet(smoke_run.root / f"{stem}.parquet")
            targets = pd.read_parquet(smoke_run.root / f"{ATTACKS}/targets/block={block}.parquet")
            lanes = trajectory.groupby(["target", "learning_rate"])
            assert {target for target, _ in lanes.groups} == set(targets["index"])
            assert len(lanes) == 2 * targets["index"].nunique()
            assert all(sorted(lane["step"]) == steps for _, lane in lanes)
            assert trajectory["distance"].max() <= radius * (1 + 1e-5)
            assert trajectory["valid"].all()


def test_published_models_do_what_is_claimed_of_them(smoke_run: Project) -> None:
    theta = read_arrays(smoke_run.root / RESULTS / "mnist5k" / "model.safetensors")["theta"]
    for radius in ("0.2", "0.5"):
        folder = smoke_run.root / ATTACKS / "min_higher" / f"radius={radius}"
        published = pd.read_parquet(folder / "published.parquet")
        reached = published[published["reached"]]
        assert reached["confirmed"].all()
        assert (reached["rank_shared"] <= reached["k"]).all()
        assert (reached["original_rank"] > reached["k"]).all()
        models = read_arrays(folder / "published.safetensors")["theta"]
        assert set(reached["theta"]) == set(range(len(models)))
        for model in models:
            assert np.linalg.norm(model - theta) <= float(radius) * np.linalg.norm(theta) * (1 + 1e-5)


def test_figures_show_something(smoke_run: Project) -> None:
    for figure in FIGURES:
        with Image.open(smoke_run.root / f"{figure}.png") as image:
            assert min(image.size) > 100
            assert len(image.convert("RGB").getcolors(1 << 20) or ()) > 50
        drawing = ElementTree.parse(smoke_run.root / f"{figure}.svg")
        assert len(list(drawing.iter("{http://www.w3.org/2000/svg}path"))) > 20


def test_lint_has_no_complaint(fresh: Project) -> None:
    outcome = fresh.snakemake("--lint")
    assert outcome.status == 0, outcome.output


def test_rules_are_in_the_standard_format(fresh: Project) -> None:
    command = [sys.executable, "-m", "snakefmt", "--check", "--diff", "Snakefile", "workflow/rules"]
    outcome = run(command, fresh.root, fresh.environment())
    assert outcome.status == 0, outcome.output
