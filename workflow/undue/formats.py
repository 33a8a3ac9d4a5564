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


def interval(table: pd.DataFrame, name: str) -> pd.Series:
    """A rate of a table with its interval, for reading."""
    ends = zip(table[name], table[f"{name}_low"], table[f"{name}_high"], strict=True)
    return pd.Series([f"{rate:.2f} [{low:.2f}, {high:.2f}]" for rate, low, high in ends], index=table.index)
