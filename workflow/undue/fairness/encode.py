"""From a table of people to standardised numbers in three parts: training, validation, test."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from undue.errors import UserError
from undue.fairness.tables import PARTS, Table

TEST_SHARE = 0.2  # of all rows
VALIDATION_SHARE = 0.25  # of the rest
MOST_CATEGORIES = 1000

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Encoded:
    """A table as numbers.

    Attributes:
        x: (n, d); training columns have mean 0 and deviation 1 (constant ones are 0 throughout).
        columns: d names, 'column' or 'column=category'.
        label: (n,) int64; 1 is the favourable outcome.
        group: (n,) int64; 1 is the privileged group.
        part: (n,) 'train', 'validation' or 'test'.
    """

    x: Floats
    columns: tuple[str, ...]
    label: npt.NDArray[np.int64]
    group: npt.NDArray[np.int64]
    part: npt.NDArray[np.str_]


def encode(
    table: Table, *, name: str, categorical: Sequence[str] = (), order: npt.NDArray[np.int64] | None = None
) -> Encoded:
    """Split a table, turn its categories into columns and standardise by the training part.

    A text column with two values becomes one column, one with more a column for each value that occurs
    in the training or validation part (as in the published code; another value on test is all zeros).

    Args:
        table: what to encode.
        name: its name, for errors.
        categorical: columns of numbers to treat as categories.
        order: a permutation of the rows to apply before they are split.

    Raises:
        UserError: a part lacks a label or a group, a column of `categorical` does not exist, a column
            has too many categories or an infinite value.
    """
    rows = np.arange(len(table.label)) if order is None else order
    part = split(table.part[rows])
    label, group = table.label[rows], table.group[rows]
    _require_everyone(part, label, group, name)
    features = table.features.iloc[rows]
    for column in categorical:
        if column not in features.columns:
            raise UserError(
                f"has no column {column!r}; there are {', '.join(map(str, features.columns))}",
                where=f"fairness.tables.{name}.categorical",
                remedy="name columns of the table",
            )
    encoded = [
        _encode_column(features[column], part != "test", name, column in categorical)
        for column in features.columns
    ]
    columns = tuple(label for labels, _ in encoded for label in labels)
    x = np.column_stack([values for _, values in encoded])
    train = x[part == "train"]
    deviation = train.std(axis=0)
    # The mean of equal numbers need not be that number: rounding must not be blown up to a feature.
    constant = (train == train[0]).all(axis=0)
    x = np.where(constant, 0.0, (x - train.mean(axis=0)) / np.where(constant, 1.0, deviation))
    return Encoded(x, columns, label, group, part)


def split(part: npt.NDArray[np.str_]) -> npt.NDArray[np.str_]:
    """Complete a split: without one the last fifth is for testing; of the rest, the last quarter validates.

    Args:
        part: (n,) 'train', 'validation', 'test', or '' throughout.
    """
    n = len(part)
    made = part.astype("<U10")
    if (part == "").all():
        test = round(TEST_SHARE * n)
        made = np.repeat(np.array(["train", "test"], dtype="<U10"), [n - test, test])
    if not (made == "validation").any():
        train = np.flatnonzero(made == "train")
        made[train[len(train) - round(VALIDATION_SHARE * len(train)) :]] = "validation"
    return made


def describe(encoded: Encoded, table: Table) -> dict[str, Any]:
    """What Table 3 says of a data set, for its metadata file."""
    counts = {
        name: {
            "samples": int((encoded.part == name).sum()),
            "privileged": int((encoded.group[encoded.part == name]).sum()),
            "positives": int(encoded.label[encoded.part == name].sum()),
            "privileged_positives": int((encoded.label * encoded.group)[encoded.part == name].sum()),
        }
        for name in PARTS
    }
    return {
        "features": len(encoded.columns),
        "positive": table.positive,
        "privileged": table.privileged,
        "left_out": table.left_out,
        "parts": counts,
        "columns": list(encoded.columns),
    }


def _require_everyone(
    part: npt.NDArray[np.str_], label: npt.NDArray[np.int64], group: npt.NDArray[np.int64], name: str
) -> None:
    for sort in PARTS:
        for values, what in ((label, "labels"), (group, "groups")):
            found = np.unique(values[part == sort])
            if len(found) < 2:
                raise UserError(
                    f"the {sort} part has {(part == sort).sum()} rows, and not both {what} among them",
                    where=f"fairness.tables.{name}",
                    remedy="give more rows, another split column, or fairness.order: shuffled",
                )


def _encode_column(
    column: pd.Series, known: npt.NDArray[np.bool_], name: str, categorical: bool
) -> tuple[list[str], Floats]:
    """Names and values (n, columns) of what a column becomes."""
    title = str(column.name)
    where = f"fairness.tables.{name}, column {title}"
    if not categorical and pd.api.types.is_numeric_dtype(column):
        values = column.to_numpy(dtype=np.float64)
        if not np.isfinite(values).all():
            raise UserError("has an infinite value", where=where, remedy="correct it, or leave the row out")
        return [title], values[:, None]
    text = column.astype(str).to_numpy(dtype=object)
    categories = sorted(set(text[known]))
    if len(categories) > MOST_CATEGORIES:
        raise UserError(
            f"has {len(categories)} categories",
            where=where,
            remedy="name it in the entry's `drop` if it is a name or a number of the person",
        )
    if len(categories) == 2:
        return [f"{title}={categories[1]}"], (text == categories[1]).astype(np.float64)[:, None]
    indicators = text[:, None] == np.array(categories, dtype=object)[None, :]
    return [f"{title}={category}" for category in categories], indicators.astype(np.float64)
