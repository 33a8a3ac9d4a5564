"""Writing tables: columns described once, checked on write, equal tables in equal bytes."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from undue.files import atomic

INT, FLOAT, BOOL, TEXT = "int64", "float64", "bool", "str"

Columns = Mapping[str, tuple[str, str]]
"""The columns of a table, in order: name → (type, meaning). Each stands beside the code that makes it."""


def write_table(path: str | os.PathLike[str], columns: Columns, table: pd.DataFrame) -> None:
    """Write a table as parquet, its columns checked, typed, ordered and described.

    Raises:
        ValueError: the table has other columns, or a column that its type cannot hold.
    """
    if set(table.columns) != set(columns):
        raise ValueError(f"the table has columns {sorted(table.columns)}, expected {sorted(columns)}")
    typed = table[list(columns)].astype({column: kind for column, (kind, _) in columns.items()})
    for column, (kind, _) in columns.items():
        # pandas would cut fractions off, and take a missing truth for true.
        if kind in (INT, BOOL) and not (typed[column] == table[column]).all():
            raise ValueError(f"column {column} does not hold {kind}: {table[column].unique()[:5]}")
    arrow = pa.Table.from_pandas(typed, preserve_index=False)
    fields = [
        arrow.schema.field(column).with_metadata({"description": meaning})
        for column, (_, meaning) in columns.items()
    ]
    with atomic(path) as temporary:
        # Without pandas' metadata: it holds library versions, and equal tables should be equal files.
        pq.write_table(arrow.cast(pa.schema(fields)), temporary, compression="zstd")


def write_csv(path: str | os.PathLike[str], table: pd.DataFrame) -> None:
    """Write a table for spreadsheets: floats with six significant digits."""
    with atomic(path) as temporary:
        table.to_csv(temporary, index=False, float_format="%.6g", lineterminator="\n")


def write_markdown(path: str | os.PathLike[str], table: pd.DataFrame, *, below: str = "") -> None:
    """Write a table of already formatted cells as Markdown, and a text under it."""
    rows = [list(table.columns), ["---"] * table.shape[1], *table.astype(str).to_numpy().tolist()]
    with atomic(path) as temporary:
        text = "".join(f"| {' | '.join(row)} |\n" for row in rows)
        temporary.write_text(f"{text}\n{below}" if below else text, encoding="utf-8")


def write_result(
    paths: Sequence[str | os.PathLike[str]],
    columns: Columns,
    table: pd.DataFrame,
    readable: pd.DataFrame,
    *,
    below: str = "",
) -> None:
    """Write one table of results three times: to compute with, for spreadsheets, to read.

    Args:
        paths: of the .parquet, .csv and .md file.
        columns: as for `write_table`.
        table: the table.
        readable: its already formatted cells, for Markdown.
        below: a text under these.
    """
    parquet, csv, markdown = paths
    write_table(parquet, columns, table)
    write_csv(csv, table[list(columns)])
    write_markdown(markdown, readable, below=below)
