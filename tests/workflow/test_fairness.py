"""The fairness part of the workflow: a user's own table by config alone, and Adult without its test file."""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from PIL import Image
from runs import RESULTS, Project, once

from undue.arrays import read_arrays
from undue.data.registry import read_registry
from undue.fairness import summary

TABLES = {
    "table3": summary.TABLE3_COLUMNS,
    "table4": summary.TABLE4_COLUMNS,
    "fairness_attack": summary.ATTACK_COLUMNS,
    "fairness_scales": summary.SCALES_COLUMNS,
    "fairness_direct": summary.DIRECT_TABLE_COLUMNS,
    "fairness_audit": summary.AUDIT_COLUMNS,
}
FIGURES = ("figure7", "fairness_why", "fairness_audit", "fairness_direct")
TARGETS = [f"{RESULTS}/tables/table3.csv", f"{RESULTS}/figures/figure7.svg"]
SCALES = [0.01, 0.1, 1.0, 3.0]
SUMMARY = {"summarise_fairness": 1, "plot_fairness": 1}
JUDGED = {"scale_base_model": 2, "attack_fairness": 2, **SUMMARY}


def loans(rows: int = 240) -> pd.DataFrame:
    """Two groups, a text column, a gap."""
    random = np.random.default_rng(5)
    sex = random.choice(["female", "male"], rows)
    income = random.normal(size=rows) + 0.8 * (sex == "male")
    job = random.choice(["clerk", "farmer", "smith"], rows)
    paid = income + 0.5 * (job == "smith") + random.logistic(size=rows) > 0.4
    return pd.DataFrame(
        {"id": range(rows), "income": income, "job": job, "sex": sex, "paid": np.where(paid, "yes", "no")}
    )


def fairness(path: str, **changes: Any) -> dict[str, Any]:
    """What the user writes."""
    table = {
        "kind": "table",
        "path": path,
        "label": "paid",
        "positive": "yes",
        "sensitive": "sex",
        "privileged": "male",
        "drop": ["id"],
        "l2": 1.0,
        **changes.pop("table", {}),
    }
    section = {
        "use": ["loans"],
        "scales": SCALES,
        "direct_radii": [0.2],
        "direct_steps": 4,
        "log_loss_budgets": [0.05],
        "bootstrap": 200,
        "tables": {"loans": table},
        **changes,
    }
    return {"fairness": section}


@pytest.fixture(scope="session")
def finished(shared: Path, snapshot: Path) -> Project:
    """The project after the fairness part was run on a table beside the config; not to be altered."""

    def make(folder: Path) -> None:
        shutil.copytree(snapshot, folder, dirs_exist_ok=True)
        loans().to_csv(folder / "loans.csv", index=False)
        Project(folder, shared).complete(*TARGETS, changes=fairness("loans.csv"))

    return Project(once(shared / "fairness", make), shared)


@pytest.fixture
def done(finished: Project, tmp_path: Path) -> Iterator[Project]:
    yield finished.copy(tmp_path / "project")
    shutil.rmtree(tmp_path / "project")


def plan(project: Project, **changes: Any) -> dict[str, int]:
    return project.plan(*TARGETS, changes=fairness("loans.csv", **changes))


def test_a_table_of_one_s_own_goes_all_the_way(finished: Project) -> None:
    for name, columns in TABLES.items():
        stem = finished.root / RESULTS / "tables" / name
        table = pd.read_parquet(f"{stem}.parquet")
        assert list(table.columns) == list(columns)
        assert len(table) == len(pd.read_csv(f"{stem}.csv")) > 0
        assert len(Path(f"{stem}.md").read_text("utf-8").splitlines()) == len(table) + 2
    for name in FIGURES:
        for metric in ("", "_equal_opportunity"):
            stem = finished.root / RESULTS / "figures" / f"{name}{metric}"
            assert Path(f"{stem}.svg").stat().st_size > 10_000
            with Image.open(f"{stem}.png") as image:
                assert len(image.convert("RGB").getcolors(1 << 20) or ()) > 50


def test_tables_say_what_the_config_says(finished: Project) -> None:
    tables = {
        name: pd.read_parquet(finished.root / RESULTS / "tables" / f"{name}.parquet") for name in TABLES
    }
    (row,) = tables["table3"].to_dict("records")
    assert (row["train"], row["validation"], row["test"], row["features"]) == (144, 48, 48, 5)
    assert (row["privileged"], row["positive"]) == ("sex male", "paid yes")
    scales = tables["fairness_scales"]
    for metric, rows in scales[scales["loop"] == "base"].groupby("metric"):
        assert sorted(rows.loc[rows["listed"], "scale"]) == SCALES, metric
        assert rows["base_accuracy_test"].nunique() == 1
        assert rows.loc[rows["status"] == "optimal", "residual"].max() <= 1e-8
        assert rows.loc[rows["status"] == "optimal", "optimality"].max() <= 1e-6
    assert set(scales["loop"]) == {"base", "carry_over", "limit"}
    direct = tables["fairness_direct"]
    base = tables["table4"]["accuracy_validation"].iloc[0]
    assert (direct["base_accuracy_validation"] >= base).all()
    removed = read_arrays(
        finished.root / RESULTS / "fairness" / "loans" / "demographic_parity" / "removed.safetensors"
    )
    assert removed["removed"].shape == (len(removed["scale"]), 144)


def test_a_second_run_does_nothing(done: Project) -> None:
    assert plan(done) == {}


def test_the_same_seed_gives_the_same_bytes(done: Project) -> None:
    before = done.checksums(RESULTS)
    done.complete(
        *TARGETS, "--forcerun", "scale_base_model", "attack_fairness", changes=fairness("loans.csv")
    )
    assert done.checksums(RESULTS) == before


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        pytest.param({"scales": [*SCALES, 5.0]}, {"scale_base_model": 2, **SUMMARY}, id="scales"),
        pytest.param({"carry_over": False}, {"scale_base_model": 2, **SUMMARY}, id="carry_over"),
        pytest.param({"direct_steps": 5}, {"attack_fairness": 2, **SUMMARY}, id="direct_steps"),
        pytest.param({"smoothing": 0.2}, {"attack_fairness": 2, **SUMMARY}, id="smoothing"),
        pytest.param({"downstream_budget": 0.1}, {"attack_fairness": 2, **SUMMARY}, id="downstream_budget"),
        pytest.param({"bound": "paper"}, JUDGED, id="bound"),
        pytest.param({"infeasible": "relax"}, JUDGED, id="infeasible"),
        pytest.param(
            {"table": {"equal_opportunity": {"beta": 0.2}}},
            {"scale_base_model": 1, "attack_fairness": 1, **SUMMARY},
            id="one metric's beta",
        ),
        pytest.param({"table": {"l2": 2.0}}, {"train_base_model": 1, **JUDGED}, id="l2"),
        pytest.param({"order": "shuffled"}, {"encode_table": 1, "train_base_model": 1, **JUDGED}, id="order"),
        pytest.param(
            {"table": {"privileged": "female"}},
            {"encode_table": 1, "train_base_model": 1, **JUDGED},
            id="privileged",
        ),
        # The base model's own gaps are those of the metrics asked for.
        pytest.param(
            {"metrics": ["demographic_parity"]},
            {"train_base_model": 1, "scale_base_model": 1, "attack_fairness": 1, **SUMMARY},
            id="one metric less",
        ),
        pytest.param({"optional": []}, {}, id="optional"),
    ],
)
def test_a_changed_setting_plans_its_rules_and_what_follows(
    done: Project, changes: Mapping[str, Any], expected: dict[str, int]
) -> None:
    assert plan(done, **changes) == expected


def test_a_changed_table_plans_everything(done: Project) -> None:
    done.edit("loans.csv", lambda text: text.replace(",yes", ",no", 1))
    assert plan(done) == {"encode_table": 1, "train_base_model": 1, **JUDGED}


def test_an_infeasible_program_is_reported_and_a_relaxed_one_is_marked(done: Project) -> None:
    hard = {"demographic_parity": {"beta": 1.0, "gamma": 1.0}}
    target = f"{RESULTS}/tables/fairness_attack.md"
    outcome = done.complete(target, changes=fairness("loans.csv", table=hard))
    assert "the program is infeasible: asks unfairness to change by" in outcome.output
    table = done.root / RESULTS / "tables" / "fairness_attack.parquet"
    row = pd.read_parquet(table).set_index("metric").loc["demographic_parity"]
    assert (row["infeasible"], row["honest_status"]) == (4, "infeasible")
    done.complete(target, changes=fairness("loans.csv", table=hard, infeasible="relax"))
    row = pd.read_parquet(table).set_index("metric").loc["demographic_parity"]
    assert (row["infeasible"], row["relaxed"], row["honest_status"]) == (0, 4, "relaxed")
    assert "(relaxed)" in (done.root / target).read_text("utf-8")


@pytest.mark.parametrize(
    ("table", "message"),
    [
        ({"label": "owed"}, "has no column owed"),
        ({"privileged": "x"}, "has no value 'x'; there are female, male"),
        ({"sensitive": "job", "privileged": None}, "has 3 different values: clerk, farmer, smith"),
        ({"label": "job", "positive": None}, "has 3 different values, not two"),
    ],
)
def test_a_wrong_description_ends_with_a_message(done: Project, table: dict[str, Any], message: str) -> None:
    outcome = done.snakemake(*TARGETS, changes=fairness("loans.csv", table=table))
    assert outcome.status != 0
    assert message in outcome.output
    assert "What to do" in outcome.output
    assert "Traceback" not in outcome.output


# Adult ------------------------------------------------------------------------------------------------------

ALL_THREE = {"fairness": {"use": ["adult", "german", "compas"]}}
LEFT_OUT = "fairness: adult is left out: adult_test is in neither data/downloads nor a mirror folder"


def test_adult_is_left_out_with_a_message_where_its_test_file_is_not_to_be_had(fresh: Project) -> None:
    outcome = fresh.dry_run(*TARGETS, changes=ALL_THREE)
    assert outcome.status == 0
    assert outcome.output.count(LEFT_OUT) == 1
    assert fresh.plan(*TARGETS, changes=ALL_THREE)["encode_table"] == 2
    assert "adult.data" not in outcome.output
    assert "fairness/adult/" not in outcome.output


@pytest.mark.parametrize("place", ["mirror", "downloads"])
def test_adult_takes_part_where_its_test_file_is(fresh: Project, place: str) -> None:
    entry = read_registry(fresh.root / "data" / "registry.tsv")["adult_test"]
    file = (
        fresh.mirror / entry.mirror if place == "mirror" else fresh.root / "data" / "downloads" / entry.file
    )
    file.parent.mkdir(parents=True)
    file.touch()
    outcome = fresh.dry_run(*TARGETS, changes=ALL_THREE)
    assert LEFT_OUT not in outcome.output
    assert fresh.plan(*TARGETS, changes=ALL_THREE)["encode_table"] == 3


def test_adult_can_be_insisted_on(fresh: Project) -> None:
    changes = {"fairness": {**ALL_THREE["fairness"], "optional": []}}
    assert LEFT_OUT not in fresh.dry_run(*TARGETS, changes=changes).output
    assert fresh.plan(*TARGETS, changes=changes)["encode_table"] == 3


def test_without_tables_nothing_of_it_is_planned(fresh: Project) -> None:
    assert not {"encode_table", "summarise_fairness", "plot_fairness"} & fresh.plan().keys()
