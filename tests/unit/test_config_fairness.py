"""The section `fairness` of the configuration: what is refused and in which words, what is filled in."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import yaml

from undue.errors import UserError
from undue.fairness import tables
from undue.run.config import OWN_TABLE_KEYS, TABLE_ROLES, load_schema, settings, validate

ROOT = Path(__file__).resolve().parents[2]
MINE = {"kind": "table", "path": "loans.csv", "label": "paid", "sensitive": "sex"}


@pytest.fixture
def config() -> dict[str, Any]:
    content = yaml.safe_load((ROOT / "config.yaml").read_text(encoding="utf-8"))
    assert isinstance(content, dict)
    return content


def put(config: dict[str, Any], dotted: str, value: Any) -> dict[str, Any]:
    changed = copy.deepcopy(config)
    *sections, last = dotted.split(".")
    inner = changed["fairness"]
    for section in sections:
        inner = inner[section]
    inner[last] = value
    return changed


def lines(config: dict[str, Any]) -> list[str]:
    with pytest.raises(UserError) as caught:
        validate(config)
    return [line.strip() for line in caught.value.what.splitlines()[1:]]


def test_kinds_of_schema_and_code_agree() -> None:
    table = load_schema()["$defs"]["table"]["properties"]
    assert set(table["kind"]["enum"]) == set(TABLE_ROLES) == set(tables._READERS)
    assert set(OWN_TABLE_KEYS) <= set(table)


def test_the_registry_has_the_files_of_the_default_tables(config: dict[str, Any]) -> None:
    rows = (ROOT / "data" / "registry.tsv").read_text(encoding="utf-8").splitlines()
    names = {row.split("\t")[0] for row in rows[1:]}
    assert {
        file for entry in config["fairness"]["tables"].values() for file in entry["files"].values()
    } <= names


def test_the_default_tables_have_the_paper_s_parameters(config: dict[str, Any]) -> None:
    tables = validate(config)["fairness"]["tables"]
    found = {
        name: (entry["l2"], entry["demographic_parity"]["beta"], entry["demographic_parity"]["gamma"])
        for name, entry in tables.items()
    }
    assert found == {"adult": (2.26, 0.8, 0.3), "german": (5.85, 0.5, 0.0), "compas": (37.0, 0.3, 0.1)}


def test_a_table_of_one_s_own_is_completed(config: dict[str, Any]) -> None:
    made = validate(put(put(config, "tables.mine", MINE), "use", ["mine"]))
    entry = made["fairness"]["tables"]["mine"]
    assert entry["files"] == {"table": "loans.csv"}
    assert "path" not in entry
    assert (entry["l2"], entry["demographic_parity"]) == (1.0, {"beta": 0.5, "gamma": 0.0})
    assert (entry["positive"], entry["privileged"], entry["drop"]) == (None, None, [])
    assert validate(made) == made


def test_order_and_spelling_of_numbers_do_not_matter(config: dict[str, Any]) -> None:
    other = put(config, "tables.compas.l2", 37)
    other["fairness"]["tables"] = dict(reversed(other["fairness"]["tables"].items()))
    other["fairness"]["scales"] = [int(s) if s == int(s) else s for s in other["fairness"]["scales"]]
    one, two = validate(config), validate(other)
    assert one == two
    assert list(one["fairness"]["tables"]) == list(two["fairness"]["tables"])


def test_the_fairness_part_can_be_left_out(config: dict[str, Any]) -> None:
    assert settings(validate(put(config, "use", [])), "fairness.use") == {"fairness.use": []}


def test_no_data_set_may_be_called_fairness(config: dict[str, Any]) -> None:
    config["datasets"]["fairness"] = {"kind": "arrays", "path": "x.npz"}
    assert lines(config) == [
        "datasets.fairness: the name is taken: results has a folder or file of its own called so"
    ]


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("use", ["adlt"], 'fairness.use[0]: there is no "adlt" in fairness.tables; did you mean adult?'),
        ("optional", ["xyz"], 'fairness.optional[0]: there is no "xyz" in fairness.tables; there are adult,'),
        ("metrics", [], "fairness.metrics: is empty"),
        ("metrics", ["parity"], 'fairness.metrics[0]: "parity" is not one of demographic_parity, equal'),
        ("scales", [], "fairness.scales: is empty"),
        ("scales", [0], "fairness.scales[0]: 0 is not a number > 0"),
        ("scales", [1, 1.0], "fairness.scales: 1.0 is there more than once"),
        ("scale", [1], "fairness.scale: unknown key; did you mean fairness.scales?"),
        ("bound", "both", 'fairness.bound: "both" is not one of code, paper'),
        ("infeasible", True, "fairness.infeasible: true is not one of report, relax"),
        ("solver", "gurobi", 'fairness.solver: "gurobi" is not one of clarabel, highs'),
        ("order", "random", 'fairness.order: "random" is not one of file, shuffled'),
        ("log_loss_budgets", [0], "fairness.log_loss_budgets[0]: 0 is not a number > 0"),
        ("direct_radii", [], "fairness.direct_radii: is empty"),
        ("direct_steps", 0, "fairness.direct_steps: 0 is not a whole number >= 1"),
        ("smoothing", 0, "fairness.smoothing: 0 is not a number > 0"),
        ("bootstrap", 10, "fairness.bootstrap: 10 is not a whole number >= 100"),
        ("tables", {}, "fairness.tables: is empty"),
        ("tables.adult", None, "fairness.tables.adult: null is not a section with keys"),
        ("tables.adult.kind", "addult", 'fairness.tables.adult.kind: "addult" is not one of adult, german,'),
        ("tables.adult.l2", -1, "fairness.tables.adult.l2: -1 is not a number >= 0"),
        (
            "tables.adult.demographic_parity.beta",
            2,
            "fairness.tables.adult.demographic_parity.beta: 2 is not a number >= 0 and <= 1",
        ),
        (
            "tables.adult.files",
            {"table": "x"},
            "fairness.tables.adult.files: adult is made of the files test, train; here: table",
        ),
        ("tables.adult.path", "x.csv", "fairness.tables.adult: needs either `files` or its short form"),
        ("tables.adult.label", "x", "fairness.tables.adult.label: only tables of kind table have it"),
        ("tables.adult.published_groups", True, "fairness.tables.adult.published_groups: only the table"),
        ("tables.a/b", MINE, "fairness.tables.a/b: a name is letters, digits"),
        ("tables.mine", {"kind": "table", "path": "x"}, "fairness.tables.mine.label: is missing"),
        ("tables.mine", {**MINE, "sensitive": None}, "fairness.tables.mine.sensitive: is missing"),
        (
            "tables.mine",
            {**MINE, "privileged": "m", "privileged_from": 3},
            "fairness.tables.mine.privileged_from: contradicts `privileged`",
        ),
    ],
)
def test_a_wrong_value_is_named_with_what_is_allowed(
    config: dict[str, Any], key: str, value: Any, message: str
) -> None:
    found = lines(put(config, key, value))
    assert any(line.startswith(message) for line in found), found


@pytest.mark.parametrize("key", ["label", "sensitive", "split"])
def test_a_column_that_is_needed_can_not_be_dropped(config: dict[str, Any], key: str) -> None:
    entry = {**MINE, "split": "part"}
    (line,) = lines(put(config, "tables.mine", {**entry, "drop": ["id", entry[key]]}))
    assert line == f"fairness.tables.mine.drop: {entry[key]} is the column named by `{key}`: keep it"
