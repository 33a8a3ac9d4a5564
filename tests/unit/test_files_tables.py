"""Files that are whole or not there, and tables that are what their columns say."""

from __future__ import annotations

import errno
import hashlib
import os
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest

from undue.arrays import read_arrays, write_arrays
from undue.errors import UserError
from undue.files import atomic, read_json, sha256, write_json
from undue.tables import BOOL, FLOAT, INT, TEXT, Columns, write_csv, write_markdown, write_table

# Files ------------------------------------------------------------------------------------------------------


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def fail_halfway(target: Path, error: BaseException) -> None:
    with atomic(target) as temporary:
        temporary.write_text("half")
        raise error


def test_a_file_appears_when_it_is_finished(tmp_path: Path) -> None:
    target = tmp_path / "deep" / "er" / "table.parquet"
    with atomic(target) as temporary:
        temporary.write_text("whole")
        assert temporary.parent == target.parent
        assert temporary.suffix == ".parquet"
        assert temporary.name.startswith(".")
        assert not target.exists()
    assert target.read_text() == "whole"
    assert names(target.parent) == ["table.parquet"]


@pytest.mark.parametrize(
    "error", [ValueError("no"), OSError(errno.EIO, "no"), KeyboardInterrupt(), SystemExit(1)]
)
@pytest.mark.parametrize("old", [None, "old"])
def test_a_failure_leaves_things_as_they_were(tmp_path: Path, error: BaseException, old: str | None) -> None:
    target = tmp_path / "a.json"
    if old is not None:
        target.write_text(old)
    with pytest.raises(type(error)):
        fail_halfway(target, error)
    assert names(tmp_path) == ([] if old is None else ["a.json"])
    if old is not None:
        assert target.read_text() == old


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT])
def test_a_full_disk_is_the_users_to_put_right(tmp_path: Path, number: int) -> None:
    target = tmp_path / "a.json"
    target.write_text("old")
    with pytest.raises(UserError, match="no space left") as caught:
        fail_halfway(target, OSError(number, os.strerror(number)))
    assert caught.value.where == str(target)
    assert "results" in caught.value.remedy
    assert names(tmp_path) == ["a.json"]
    assert target.read_text() == "old"


def test_a_disk_too_full_to_begin(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(**options: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr("undue.files.tempfile.mkstemp", full)
    with pytest.raises(UserError, match="no space left"), atomic(tmp_path / "a.json"):
        pytest.fail("the block must not run")


def test_arrays_on_a_full_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(path: Path, data: bytes) -> None:
        path.open("wb").close()
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(UserError, match="no space left"):
        write_arrays(tmp_path / "a.safetensors", {"theta": np.ones(3)})
    assert names(tmp_path) == []


@pytest.mark.parametrize(("mask", "mode"), [(0o022, 0o644), (0o077, 0o600), (0o002, 0o664)])
def test_results_are_as_readable_as_the_umask_lets_them_be(tmp_path: Path, mask: int, mode: int) -> None:
    before = os.umask(mask)
    try:
        write_json(tmp_path / "a.json", {})
        assert os.umask(mask) == mask
    finally:
        os.umask(before)
    assert (tmp_path / "a.json").stat().st_mode & 0o777 == mode


def test_a_finished_file_replaces_the_old_one(tmp_path: Path) -> None:
    write_json(tmp_path / "a.json", {"a": 1})
    write_json(tmp_path / "a.json", {"b": 2})
    assert read_json(tmp_path / "a.json") == {"b": 2}


def test_who_reads_the_old_file_reads_it_to_its_end(tmp_path: Path) -> None:
    target = tmp_path / "a.json"
    target.write_text("old")
    with target.open() as reader:
        write_json(target, {"new": 1})
        assert reader.read() == "old"
    assert read_json(target) == {"new": 1}


def test_json_keeps_order_and_letters(tmp_path: Path) -> None:
    content = {"z": [1, 2.5, None], "a": {"δ": "λ"}}
    write_json(tmp_path / "a.json", content)
    text = (tmp_path / "a.json").read_text(encoding="utf-8")
    assert text.endswith("}\n")
    assert text.index('"z"') < text.index('"a"')
    assert list(read_json(tmp_path / "a.json").items()) == list(content.items())


@pytest.mark.parametrize("size", [0, 5, 1 << 20, (1 << 20) + 1])
def test_sha256_of_a_file(tmp_path: Path, size: int) -> None:
    content = bytes(range(256)) * (size // 256) + bytes(size % 256)
    (tmp_path / "a").write_bytes(content)
    assert sha256(tmp_path / "a") == hashlib.sha256(content).hexdigest()


def test_arrays_there_and_back(tmp_path: Path) -> None:
    arrays = {
        "theta": np.arange(24.0).reshape(2, 3, 4).transpose(2, 0, 1),
        "empty": np.zeros((0, 5), dtype=np.float32),
        "numbers": np.arange(5)[::-1],
    }
    write_arrays(tmp_path / "a.safetensors", arrays)
    found = read_arrays(tmp_path / "a.safetensors")
    assert found.keys() == arrays.keys()
    for name, array in arrays.items():
        assert found[name].dtype == array.dtype
        np.testing.assert_array_equal(found[name], array)
    write_arrays(tmp_path / "b.safetensors", arrays)
    assert (tmp_path / "a.safetensors").read_bytes() == (tmp_path / "b.safetensors").read_bytes()


# Tables -----------------------------------------------------------------------------------------------------

COLUMNS: Columns = {
    "index": (INT, "sample"),
    "share": (FLOAT, "its share"),
    "good": (BOOL, "whether it is good"),
    "name": (TEXT, "what it is called"),
}
TABLE = pd.DataFrame(
    {
        "name": ["λ", "b", "c"],
        "index": [3.0, 1.0, 2.0],
        "good": [1, 0, 1],
        "share": np.array([0.5, np.nan, 1], dtype=np.float32),
    },
    index=[7, 8, 9],
)


def test_a_table_is_typed_ordered_and_described(tmp_path: Path) -> None:
    write_table(tmp_path / "a.parquet", COLUMNS, TABLE)
    found = pd.read_parquet(tmp_path / "a.parquet")
    assert list(found.columns) == list(COLUMNS)
    assert [str(kind) for kind in found.dtypes] == ["int64", "float64", "bool", "str"]
    assert found["index"].tolist() == [3, 1, 2]
    assert found["good"].tolist() == [True, False, True]
    assert found["share"].tolist() == pytest.approx([0.5, np.nan, 1.0], nan_ok=True)
    assert found["name"].tolist() == ["λ", "b", "c"]
    assert found.index.tolist() == [0, 1, 2]
    schema = pq.read_schema(tmp_path / "a.parquet")
    described = {name: schema.field(name).metadata[b"description"].decode() for name in COLUMNS}
    assert described == {name: meaning for name, (_, meaning) in COLUMNS.items()}


def test_equal_tables_are_equal_bytes(tmp_path: Path) -> None:
    write_table(tmp_path / "a.parquet", COLUMNS, TABLE)
    write_table(tmp_path / "b.parquet", COLUMNS, TABLE[list(COLUMNS)].reset_index(drop=True))
    assert (tmp_path / "a.parquet").read_bytes() == (tmp_path / "b.parquet").read_bytes()
    assert b"pandas" not in (tmp_path / "a.parquet").read_bytes()


def test_a_table_without_rows(tmp_path: Path) -> None:
    write_table(tmp_path / "a.parquet", COLUMNS, TABLE.head(0))
    found = pd.read_parquet(tmp_path / "a.parquet")
    assert len(found) == 0
    assert [str(kind) for kind in found.dtypes] == ["int64", "float64", "bool", "str"]


@pytest.mark.parametrize("change", ["missing", "more"])
def test_other_columns_are_refused(tmp_path: Path, change: str) -> None:
    table = TABLE.drop(columns="good") if change == "missing" else TABLE.assign(more=1)
    with pytest.raises(ValueError, match=r"the table has columns .* expected"):
        write_table(tmp_path / "a.parquet", COLUMNS, table)
    assert names(tmp_path) == []


@pytest.mark.parametrize(
    ("column", "values"),
    [
        ("index", [1.5, 2, 3]),
        ("index", [np.nan, 2, 3]),
        ("good", [np.nan, True, False]),
        ("good", [None, True, False]),
        ("good", [2, 1, 0]),
    ],
)
def test_values_that_a_type_cannot_hold_are_refused(
    tmp_path: Path, column: str, values: list[object]
) -> None:
    with pytest.raises(ValueError, match=rf"{column}|integer"):
        write_table(tmp_path / "a.parquet", COLUMNS, TABLE.assign(**{column: values}))
    assert names(tmp_path) == []


def test_a_table_for_spreadsheets(tmp_path: Path) -> None:
    table = pd.DataFrame({"radius": [0.1, 1 / 3], "k": [1, 300], "loss": [np.nan, 123456.789]})
    write_csv(tmp_path / "a.csv", table)
    assert (tmp_path / "a.csv").read_bytes() == b"radius,k,loss\n0.1,1,\n0.333333,300,123457\n"


def test_a_table_in_markdown(tmp_path: Path) -> None:
    write_markdown(tmp_path / "a.md", pd.DataFrame({"data set": ["mnist"], "k": [1]}))
    assert (tmp_path / "a.md").read_text() == "| data set | k |\n| --- | --- |\n| mnist | 1 |\n"
