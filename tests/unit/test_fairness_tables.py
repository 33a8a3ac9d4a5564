"""Reading tables and turning them into numbers: the rules, and every way a user's own table can be wrong."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from real_data import mirror

from undue.errors import UserError
from undue.fairness.encode import describe, encode, split
from undue.fairness.problem import load_problem, write_problem
from undue.fairness.tables import Table, read_table

OPTIONS: dict[str, Any] = {
    "published_groups": False,
    "label": "paid",
    "positive": None,
    "sensitive": "sex",
    "privileged": None,
    "privileged_from": None,
    "split": None,
    "drop": [],
}


def people(n: int = 60) -> pd.DataFrame:
    random = np.random.default_rng(3)
    return pd.DataFrame(
        {
            "age": random.integers(20, 70, n),
            "job": random.choice(["clerk", "farmer", "smith"], n),
            "sex": random.choice(["f", "m"], n),
            "paid": random.integers(0, 2, n),
        }
    )


def own(path: Path, rows: pd.DataFrame, **options: Any) -> Table:
    file = path / "people.csv"
    rows.to_csv(file, index=False)
    return read_table("table", {"table": file}, {**OPTIONS, **options})


def refusal(path: Path, rows: pd.DataFrame, **options: Any) -> str:
    with pytest.raises(UserError) as caught:
        own(path, rows, **options)
    return str(caught.value)


# A user's own table -----------------------------------------------------------------------------------------


def test_a_table_of_one_s_own(tmp_path: Path) -> None:
    rows = people()
    table = own(tmp_path, rows)
    assert list(table.features) == ["age", "job", "sex"]
    assert table.label.tolist() == rows["paid"].tolist()
    assert table.group.tolist() == (rows["sex"] == "m").astype(int).tolist()
    assert (table.positive, table.privileged, table.left_out) == ("paid 1", "sex m", 0)
    assert set(table.part) == {""}


def test_csv_and_parquet_are_read_alike(tmp_path: Path) -> None:
    rows = people()
    rows.to_parquet(tmp_path / "people.parquet")
    other = read_table("table", {"table": tmp_path / "people.parquet"}, OPTIONS)
    table = own(tmp_path, rows)
    assert (table.label == other.label).all()
    assert encode(table, name="a").columns == encode(other, name="a").columns
    assert (encode(table, name="a").x == encode(other, name="a").x).all()


def test_three_groups_are_one_against_the_others_if_said_so(tmp_path: Path) -> None:
    rows = people()
    table = own(tmp_path, rows, sensitive="job", privileged="smith")
    assert table.group.tolist() == (rows["job"] == "smith").astype(int).tolist()
    assert table.privileged == "job smith"


def test_groups_from_a_number_on(tmp_path: Path) -> None:
    rows = people()
    table = own(tmp_path, rows, sensitive="age", privileged_from=40)
    assert table.group.tolist() == (rows["age"] >= 40).astype(int).tolist()


def test_the_favourable_label_can_be_chosen(tmp_path: Path) -> None:
    rows = people()
    assert own(tmp_path, rows, positive=0).label.tolist() == (rows["paid"] == 0).astype(int).tolist()


def test_rows_with_missing_values_are_left_out_and_counted(tmp_path: Path) -> None:
    rows = people().astype({"age": float})
    rows.loc[[1, 4], "age"] = np.nan
    rows.loc[4, "job"] = None
    table = own(tmp_path, rows)
    assert (len(table.label), table.left_out) == (58, 2)
    assert table.features["age"].tolist() == rows["age"].dropna().tolist()


def test_a_column_dropped_cannot_cost_rows(tmp_path: Path) -> None:
    rows = people().assign(note=None)
    assert own(tmp_path, rows, drop=["note"]).left_out == 0


@pytest.mark.parametrize(
    ("change", "options", "messages"),
    [
        ({}, {"label": "owed"}, ["has no column owed", "age, job, sex, paid"]),
        ({}, {"sensitive": "race"}, ["has no column race"]),
        ({}, {"label": "job"}, ["column job", "3 different values, not two: clerk, farmer, smith"]),
        ({"paid": 1}, {}, ["column paid", "1 different values, not two"]),
        ({}, {"positive": 2}, ["has no value 2; there are 0, 1", "correct `positive`"]),
        ({"sex": "f"}, {}, ["column sex", "one group of all rows"]),
        ({}, {"sensitive": "job"}, ["column job", "3 different values", "`privileged: value`"]),
        ({}, {"privileged": "x"}, ["has no value 'x'; there are f, m", "correct `privileged`"]),
        ({}, {"privileged_from": 3}, ["column sex", "is text"]),
        ({}, {"sensitive": "age", "privileged_from": 99}, ["one group of all rows"]),
        ({"age": None}, {}, ["every one of its 60 rows has a missing value", "`drop`"]),
        ({"part": "training"}, {"split": "part"}, ["column part", "has training, not train"]),
    ],
)
def test_what_is_wrong_with_a_table_is_named(
    tmp_path: Path, change: dict[str, Any], options: dict[str, Any], messages: list[str]
) -> None:
    refused = refusal(tmp_path, people().assign(**change), **options)
    assert all(message in refused for message in messages), refused


@pytest.mark.parametrize("name", ["absent.csv", "absent.parquet", "broken.csv", "broken.parquet"])
def test_an_unreadable_file_is_named(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    if name.startswith("broken"):
        path.write_bytes(b"\x00\xff" * 40)
    with pytest.raises(UserError, match=name):
        read_table("table", {"table": path}, OPTIONS)


@pytest.mark.parametrize("kind", ["german", "compas"])
def test_a_wrong_file_for_a_published_table_is_named(tmp_path: Path, kind: str) -> None:
    people().to_csv(tmp_path / "people.csv", index=False)
    with pytest.raises(UserError, match=r"people\.csv"):
        read_table(kind, {"table": tmp_path / "people.csv"}, OPTIONS)


# Numbers ----------------------------------------------------------------------------------------------------


def test_categories_become_columns_and_the_training_part_is_standard(tmp_path: Path) -> None:
    encoded = encode(own(tmp_path, people()), name="people")
    assert encoded.columns == ("age", "job=clerk", "job=farmer", "job=smith", "sex=m")
    train = encoded.x[encoded.part == "train"]
    np.testing.assert_allclose(train.mean(axis=0), 0, atol=1e-14)
    np.testing.assert_allclose(train.std(axis=0), 1, atol=1e-14)


def test_numbers_can_be_categories(tmp_path: Path) -> None:
    rows = people().assign(age=lambda rows: rows["age"] % 3)
    assert encode(own(tmp_path, rows), name="people", categorical=["age"]).columns[:3] == (
        "age=0",
        "age=1",
        "age=2",
    )
    with pytest.raises(UserError, match=r"fairness\.tables\.people\.categorical.*no column 'agee'"):
        encode(own(tmp_path, rows), name="people", categorical=["agee"])


def test_a_category_of_the_test_part_alone_gets_no_column(tmp_path: Path) -> None:
    rows = people()
    rows.loc[59, "job"] = "baker"
    encoded = encode(own(tmp_path, rows), name="people")
    assert "job=baker" not in encoded.columns


def test_a_constant_column_is_zero_and_does_no_harm(tmp_path: Path) -> None:
    encoded = encode(own(tmp_path, people().assign(rate=0.1)), name="people")
    assert (encoded.x[:, encoded.columns.index("rate")] == 0).all()


@pytest.mark.parametrize(
    ("n", "expected"), [(1000, (600, 200, 200)), (6167, (3700, 1234, 1233)), (11, (7, 2, 2))]
)
def test_split_of_rows_in_file_order(n: int, expected: tuple[int, int, int]) -> None:
    part = split(np.full(n, ""))
    assert part.tolist() == [
        name
        for name, count in zip(("train", "validation", "test"), expected, strict=True)
        for _ in range(count)
    ]


def test_validation_is_taken_from_the_training_rows_of_a_split_that_has_none() -> None:
    part = split(np.array(["train", "test", "train", "train", "train", "test"]))
    assert part.tolist() == ["train", "test", "train", "train", "validation", "test"]


def test_a_complete_split_stays() -> None:
    given = np.array(["test", "train", "validation", "train"])
    assert split(given).tolist() == given.tolist()


def test_an_order_is_applied_before_the_split(tmp_path: Path) -> None:
    table = own(tmp_path, people())
    order = np.arange(60)[::-1].astype(np.int64)
    encoded = encode(table, name="people", order=order)
    assert encoded.label.tolist() == table.label[::-1].tolist()
    assert encoded.group.tolist() == table.group[::-1].tolist()


def test_a_part_without_a_group_or_label_is_named(tmp_path: Path) -> None:
    sorted_rows = people().sort_values("sex")
    with pytest.raises(UserError, match=r"the (train|validation|test) part has .* not both groups"):
        encode(own(tmp_path, sorted_rows), name="people")
    sorted_rows = people().sort_values("paid")
    with pytest.raises(UserError, match=r"not both labels.*\n.*shuffled"):
        encode(own(tmp_path, sorted_rows), name="people")


def test_names_and_infinities_are_no_features(tmp_path: Path) -> None:
    many = pd.concat([people()] * 30, ignore_index=True)
    with pytest.raises(UserError, match=r"column name: has \d+ categories\n.*`drop`"):
        encode(own(tmp_path, many.assign(name=[f"n{i}" for i in range(len(many))])), name="people")
    with pytest.raises(UserError, match=r"column age: has an infinite value"):
        encode(own(tmp_path, people().assign(age=np.inf)), name="people")


def test_the_description_counts(tmp_path: Path) -> None:
    table = own(tmp_path, people())
    encoded = encode(table, name="people")
    made = describe(encoded, table)
    train = encoded.part == "train"
    assert made["parts"]["train"] == {
        "samples": 36,
        "privileged": int(table.group[train].sum()),
        "positives": int(table.label[train].sum()),
        "privileged_positives": int((table.group & table.label)[train].sum()),
    }
    assert made["features"] == 5


def test_a_problem_survives_the_disk(tmp_path: Path) -> None:
    encoded = encode(own(tmp_path, people()), name="people")
    write_problem(tmp_path / "problem.safetensors", encoded)
    problem = load_problem(tmp_path / "problem.safetensors", l2=3.0)
    test = encoded.part == "test"
    assert (problem.test.risk.x.numpy() == encoded.x[test]).all()
    assert (problem.test.risk.y.numpy() == encoded.label[test]).all()
    assert (problem.test.group.numpy() == encoded.group[test]).all()
    assert problem.objective().l2 == 3.0 / 36


# The published tables ---------------------------------------------------------------------------------------


@pytest.mark.mirror
@pytest.mark.parametrize(
    ("kind", "names", "categorical", "sizes", "features"),
    [
        ("adult", {"train": "adult/adult.data", "test": "adult/adult.test"}, [], (22622, 7540, 15060), 102),
        ("german", {"table": "german/german.data"}, [], (600, 200, 200), 56),
        ("compas", {"table": "compas/compas-scores-two-years.csv"}, ["age"], (3700, 1234, 1233), 433),
        ("compas", {"table": "compas/compas-scores-two-years.csv"}, [], (3700, 1234, 1233), 371),
    ],
)
def test_published_sizes(
    kind: str, names: dict[str, str], categorical: list[str], sizes: tuple[int, int, int], features: int
) -> None:
    folder = mirror("adult/adult.test")
    table = read_table(kind, {role: folder / name for role, name in names.items()}, OPTIONS)
    encoded = encode(table, name=kind, categorical=categorical)
    found = tuple((encoded.part == name).sum() for name in ("train", "validation", "test"))
    assert found == sizes
    assert encoded.x.shape[1] == features


@pytest.mark.mirror
def test_the_published_slip_moves_thirty_year_olds_of_the_test_part() -> None:
    files = {"table": mirror("adult/adult.test") / "german" / "german.data"}
    right, slip = (read_table("german", files, {**OPTIONS, "published_groups": on}) for on in (False, True))
    moved = np.flatnonzero(right.group != slip.group)
    assert len(moved) == 11
    assert moved.min() >= 800
    assert (right.features["age"].to_numpy()[moved] == 30).all()
    # The published notebook's counts: 81 and 119 of the test part.
    assert slip.group[800:].sum() == 119
