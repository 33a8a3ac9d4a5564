"""Which attacks are shown as pictures."""

from __future__ import annotations

import pandas as pd


def choose_examples(published: pd.DataFrame, *, count: int) -> pd.DataFrame:
    """Attacks on the smallest k: of each target the smallest successful radius, first come first shown.

    Successes within the accuracy budget come first, then successes beyond it.

    Args:
        published: the `published` tables of all radii with columns radius and file.
        count: how many targets at most.

    Returns:
        Rows of `published` with a model; none if no attack succeeded.
    """
    rows = published[(published["k"] == published["k"].min()) & published["confirmed"]]
    rows = rows.sort_values(["within_budget", "radius"], ascending=[False, True], kind="stable")
    return rows.drop_duplicates("target").head(count)
