"""Columns of tables as people read them."""

from __future__ import annotations

import pandas as pd


def share(values: pd.Series) -> pd.Series:
    """Shares for reading, two digits; – for a missing one."""
    return values.map(lambda value: "–" if pd.isna(value) else f"{value:.2f}")


def percent(values: pd.Series) -> pd.Series:
    """Shares for reading, as percentages; – for a missing one."""
    return values.map(lambda value: "–" if pd.isna(value) else f"{100 * value:.1f} %")


def number(values: pd.Series) -> pd.Series:
    """Numbers for reading, as short as they are; – for a missing one."""
    return values.map(lambda value: "–" if pd.isna(value) else f"{value:g}")


def interval(table: pd.DataFrame, name: str, *, digits: int = 2) -> pd.Series:
    """A column of a table with its interval, for reading; – for a missing one.

    Args:
        table: has the columns `name`, `<name>_low` and `<name>_high`.
        name: the column.
        digits: after the point.
    """
    found = zip(table[name], table[f"{name}_low"], table[f"{name}_high"], strict=True)
    return pd.Series([bracketed(*numbers, digits=digits) for numbers in found], index=table.index)


def bracketed(value: float, low: float, high: float, *, digits: int = 2) -> str:
    """A number with its interval, for reading; – for a missing one."""
    return "–" if pd.isna(value) else f"{value:.{digits}f} [{low:.{digits}f}, {high:.{digits}f}]"
