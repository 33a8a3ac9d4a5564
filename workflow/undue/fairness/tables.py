"""Reading the tables of the fairness experiments: Adult, German credit, COMPAS, and a user's own.

The rules of the published code (Li & Liu 2022, which Yadav et al. 2024 use): rows in file order, rows
with a missing value left out, the sensitive column kept among the features.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from undue.errors import UserError

logger = logging.getLogger(__name__)

PARTS = ("train", "validation", "test")

ADULT_COLUMNS = [
    "age",
    "workclass",
    "fnlwgt",
    "education",
    "education-num",
    "marital-status",
    "occupation",
    "relationship",
    "race",
    "sex",
    "capital-gain",
    "capital-loss",
    "hours-per-week",
    "native-country",
    "income",
]
GERMAN_COLUMNS = [
    "status",
    "month",
    "credit_history",
    "purpose",
    "credit_amount",
    "savings",
    "employment",
    "installment_rate",
    "personal_status",
    "other_debtors",
    "residence_since",
    "property",
    "age",
    "installment_plans",
    "housing",
    "number_of_credits",
    "skill_level",
    "people_liable_for",
    "telephone",
    "foreign_worker",
    "credit",
]
GERMAN_SEX = {"A91": "male", "A92": "female", "A93": "male", "A94": "male", "A95": "female"}
COMPAS_COLUMNS = [
    "sex",
    "age",
    "age_cat",
    "race",
    "juv_fel_count",
    "juv_misd_count",
    "juv_other_count",
    "priors_count",
    "c_charge_degree",
    "c_charge_desc",
]
COMPAS_FILTERS = ["two_year_recid", "days_b_screening_arrest", "is_recid", "score_text"]
AGE_LIMIT = 30

# Rows without a missing value; for Adult, of the training and the test file.
ADULT_ROWS = (30162, 15060)
GERMAN_ROWS = 1000
COMPAS_ROWS = 6167


@dataclass(frozen=True)
class Table:
    """A table of people, in the order of its file.

    Attributes:
        features: n rows without missing values; text columns are categories. The sensitive column is one.
        label: (n,) int64; 1 is the favourable outcome.
        group: (n,) int64; 1 is the privileged group.
        part: (n,) 'train', 'validation' or 'test', or '' for a split yet to be made; rows 'train' and
            'test' alone mean that validation data are yet to be taken from the training data.
        positive: what label 1 means.
        privileged: what group 1 means.
        left_out: number of rows left out for a missing value.
    """

    features: pd.DataFrame
    label: npt.NDArray[np.int64]
    group: npt.NDArray[np.int64]
    part: npt.NDArray[np.str_]
    positive: str
    privileged: str
    left_out: int


def read_table(kind: str, files: Mapping[str, Path], options: Mapping[str, Any]) -> Table:
    """Read a table.

    Args:
        kind: 'adult', 'german', 'compas' or 'table'.
        files: role → path, the roles as the schema of the configuration has them.
        options: the other keys of the table's entry in the configuration.

    Raises:
        UserError: a file can't be read, or isn't what the kind or the options say.
    """
    return _READERS[kind](files, options)


def _adult(files: Mapping[str, Path], options: Mapping[str, Any]) -> Table:
    train, test = (
        _comma_separated(files[role], ADULT_COLUMNS, missing="?", comment="|") for role in ("train", "test")
    )
    whole = [_without_missing(rows.drop(columns="fnlwgt")) for rows in (train, test)]
    for role, rows, expected in zip(("train", "test"), whole, ADULT_ROWS, strict=True):
        _expect_rows(files[role], len(rows), expected)
    rows = pd.concat(whole, ignore_index=True)
    return Table(
        features=rows.drop(columns="income"),
        # The test file ends its labels with a full stop.
        label=(rows["income"].str.rstrip(".") == ">50K").to_numpy(dtype=np.int64),
        group=(rows["sex"] == "Male").to_numpy(dtype=np.int64),
        part=np.repeat(["train", "test"], [len(part) for part in whole]),
        positive="income > 50K",
        privileged="sex Male",
        left_out=len(train) + len(test) - len(rows),
    )


def _german(files: Mapping[str, Path], options: Mapping[str, Any]) -> Table:
    path = files["table"]
    separator = "," if "," in _first_line(path) else " "
    rows = _without_missing(_comma_separated(path, GERMAN_COLUMNS, separator=separator))
    _expect_rows(path, len(rows), GERMAN_ROWS)
    rows["sex"] = rows["personal_status"].map(GERMAN_SEX)
    age = rows["age"].to_numpy()
    group = age >= AGE_LIMIT
    if options["published_groups"]:
        # The published code says > instead of >= for the test part, the last fifth.
        test = np.arange(len(rows)) >= len(rows) - len(rows) // 5
        group = np.where(test, age > AGE_LIMIT, group)
    return Table(
        features=rows.drop(columns=["personal_status", "credit"]),
        label=(rows["credit"] == 1).to_numpy(dtype=np.int64),
        group=group.astype(np.int64),
        part=np.full(len(rows), ""),
        positive="good credit",
        privileged=f"age >= {AGE_LIMIT}",
        left_out=0,
    )


def _compas(files: Mapping[str, Path], options: Mapping[str, Any]) -> Table:
    path = files["table"]
    every = _read_csv(path)
    _require_columns(path, every, [*COMPAS_COLUMNS, *COMPAS_FILTERS])
    # The filters of ProPublica's own analysis.
    kept = every[
        every["days_b_screening_arrest"].between(-30, 30)
        & (every["is_recid"] != -1)
        & (every["c_charge_degree"] != "O")
        & every["score_text"].notna()
    ]
    rows = _without_missing(kept[[*COMPAS_COLUMNS, "two_year_recid"]])
    _expect_rows(path, len(rows), COMPAS_ROWS)
    privileged = rows["race"] == "Caucasian"
    return Table(
        features=rows[COMPAS_COLUMNS].assign(race=np.where(privileged, "Caucasian", "other")),
        label=(rows["two_year_recid"] == 0).to_numpy(dtype=np.int64),
        group=privileged.to_numpy(dtype=np.int64),
        part=np.full(len(rows), ""),
        positive="no recidivism within two years",
        privileged="race Caucasian",
        left_out=len(kept) - len(rows),
    )


def _own(files: Mapping[str, Path], options: Mapping[str, Any]) -> Table:
    path = files["table"]
    every = _read_parquet(path) if path.suffix == ".parquet" else _read_csv(path)
    label, sensitive, split = options["label"], options["sensitive"], options["split"]
    used = [name for name in (label, sensitive, split, *options["drop"]) if name is not None]
    _require_columns(path, every, used)
    rows = _without_missing(every.drop(columns=options["drop"]))
    if rows.empty:
        raise UserError(
            f"every one of its {len(every)} rows has a missing value",
            where=str(path),
            remedy="fill the gaps, or name the columns that have them in the entry's `drop`",
        )
    if len(rows) < len(every):
        logger.warning("%s: %d rows with missing values are left out", path, len(every) - len(rows))
    features = rows.drop(columns=[name for name in (label, split) if name is not None])
    outcome, positive = _binary(rows[label], options["positive"], f"{path}, column {label}", "positive")
    group, privileged = _groups(rows[sensitive], options, f"{path}, column {sensitive}")
    return Table(
        features=features,
        label=outcome,
        group=group,
        part=np.full(len(rows), "") if split is None else _parts(rows[split], f"{path}, column {split}"),
        positive=f"{label} {positive}",
        privileged=f"{sensitive} {privileged}",
        left_out=len(every) - len(rows),
    )


_READERS: Mapping[str, Callable[[Mapping[str, Path], Mapping[str, Any]], Table]] = {
    "adult": _adult,
    "german": _german,
    "compas": _compas,
    "table": _own,
}


def _binary(column: pd.Series, one: Any, where: str, key: str) -> tuple[npt.NDArray[np.int64], str]:
    """A column of two values as 0 and 1, and the value that is 1: the given one, else the last in order."""
    values = sorted(column.unique(), key=lambda value: (isinstance(value, str), value))
    if len(values) != 2:
        raise UserError(
            f"has {len(values)} different values, not two: {_listed(values)}",
            where=where,
            remedy="give a label with two values: 0 and 1, or two names",
        )
    chosen = values[-1] if one is None else one
    _require_value(chosen, values, where, key)
    return (column == chosen).to_numpy(dtype=np.int64), str(chosen)


def _groups(column: pd.Series, options: Mapping[str, Any], where: str) -> tuple[npt.NDArray[np.int64], str]:
    """Who is privileged: from a number on, one value against all others, or of two values the last."""
    limit, chosen = options["privileged_from"], options["privileged"]
    values = sorted(column.unique(), key=lambda value: (isinstance(value, str), value))
    if limit is not None:
        if not pd.api.types.is_numeric_dtype(column):
            raise UserError(
                f"is text ({_listed(values)}), so that nothing in it is from {limit:g} on",
                where=where,
                remedy="say `privileged: value` instead of `privileged_from`",
            )
        group, name = column >= limit, f">= {limit:g}"
    elif chosen is None and len(values) > 2:
        raise UserError(
            f"has {len(values)} different values: {_listed(values)}",
            where=where,
            remedy="say which is the privileged one, against all others (`privileged: value`), "
            "or from which number on (`privileged_from: number`)",
        )
    else:
        chosen = values[-1] if chosen is None else chosen
        _require_value(chosen, values, where, "privileged")
        group, name = column == chosen, str(chosen)
    if group.nunique() < 2:
        raise UserError(
            f"makes one group of all rows ({_listed(values)}): there is nothing to compare",
            where=where,
            remedy="take a column that divides the rows, or another `privileged` or `privileged_from`",
        )
    return group.to_numpy(dtype=np.int64), name


def _require_value(chosen: Any, values: list[Any], where: str, key: str) -> None:
    if chosen not in values:
        raise UserError(
            f"has no value {chosen!r}; there are {_listed(values)}",
            where=where,
            remedy=f"correct `{key}` in the table's entry of fairness.tables",
        )


def _parts(column: pd.Series, where: str) -> npt.NDArray[np.str_]:
    found = set(column.unique())
    if found not in ({"train", "test"}, set(PARTS)):
        raise UserError(
            f"has {_listed(sorted(map(str, found)))}, not train, (validation,) test",
            where=where,
            remedy="name the parts of the split so, or leave `split` out",
        )
    parts: npt.NDArray[np.str_] = column.to_numpy(dtype=np.str_)
    return parts


def _listed(values: list[Any], most: int = 6) -> str:
    shown = ", ".join(str(value) for value in values[:most])
    return shown + (", ..." if len(values) > most else "")


def _without_missing(rows: pd.DataFrame) -> pd.DataFrame:
    return rows.dropna().reset_index(drop=True)


def _expect_rows(path: Path, found: int, expected: int) -> None:
    if found != expected:
        raise UserError(
            f"has {found} usable rows, expected {expected}",
            where=str(path),
            remedy="give the official file, or describe another one as a table of kind `table`",
        )


def _require_columns(path: Path, rows: pd.DataFrame, names: list[str]) -> None:
    absent = [name for name in names if name not in rows.columns]
    if absent:
        raise UserError(
            f"has no column {', '.join(absent)}; there are {_listed(list(rows.columns), 20)}",
            where=str(path),
            remedy="correct the table's entry of fairness.tables, or the file",
        )


def _first_line(path: Path) -> str:
    try:
        with path.open(encoding="utf-8") as file:
            return file.readline()
    except (OSError, UnicodeDecodeError) as error:
        raise _unreadable(path, error) from error


def _comma_separated(
    path: Path, columns: list[str], *, separator: str = ",", missing: str | None = None, comment: str = "#"
) -> pd.DataFrame:
    """A published file with or without a header and comment lines, under the given column names."""
    first = _first_line(path)
    # A header has no digits where the first row has numbers; comments stand before everything.
    skipped = int(first.startswith(comment) or not any(character.isdigit() for character in first))
    rows = _read_csv(
        path,
        sep=separator,
        names=columns,
        skiprows=skipped,
        skipinitialspace=True,
        na_values=[missing] if missing else [],
    )
    if rows.empty or rows.iloc[:, -1].isna().all() or not isinstance(rows.index, pd.RangeIndex):
        raise _unreadable(path, ValueError(f"not {len(columns)} columns"))
    return rows


def _read_csv(path: Path, **options: Any) -> pd.DataFrame:
    try:
        return pd.read_csv(path, **options)
    except (OSError, ValueError) as error:
        raise _unreadable(path, error) from error


def _read_parquet(path: Path) -> pd.DataFrame:
    try:
        return pd.read_parquet(path)
    except (OSError, ValueError) as error:
        raise _unreadable(path, error) from error


def _unreadable(path: Path, error: Exception) -> UserError:
    return UserError(
        f"can't be read: {error}",
        where=str(path),
        remedy="give a csv file with a header line, or a parquet file (or the official file of its kind)",
    )
