"""Which training samples are attacked."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd

from undue.errors import UserError
from undue.randomness import stream
from undue.tables import INT, Columns

TARGET_COLUMNS: Columns = {
    "index": (INT, "training sample to be raised"),
    "k": (INT, "the k it is a target for: its rank under θ* is above k"),
    "position": (INT, "its place among that k's targets, from 0"),
    "rank": (INT, "its rank under θ* on the shared half"),
}


def target_block(
    index: np.ndarray, rank: np.ndarray, *, ranks: Sequence[int], first: int, count: int, seed: int
) -> pd.DataFrame:
    """One block of targets.

    For each k, the targets are the first samples of one seeded permutation that are not in the top k
    already. A block takes the places `first` … `first + count − 1` of every k's list. It depends on
    nothing but the ranking, the permutation and its own places, so that asking for more targets adds
    blocks and leaves the earlier ones as they are.

    Args:
        index: training samples (n,).
        rank: their ranks under θ* (n,).
        ranks: the k.
        first, count: the block's places in each k's list.
        seed: the config's root seed.

    Returns:
        Rows (index, k, position, rank), by k and position. A sample can be a target of several k, and
        at different places of their lists.

    Raises:
        UserError: there are not that many samples outside the top k.
    """
    order = stream(seed, "targets").permutation(len(index))
    parts = []
    for k in ranks:
        eligible = order[rank[order] > k]
        if len(eligible) < first + count:
            raise UserError(
                f"{first + count} targets with rank above {k} are asked for, "
                f"but only {len(eligible)} of the {len(index)} training samples are",
                where="attack.targets",
                remedy="lower attack.targets, or leave such large k out of attack.ranks",
            )
        chosen = eligible[first : first + count]
        parts.append(
            pd.DataFrame(
                {"index": index[chosen], "k": k, "position": first + np.arange(count), "rank": rank[chosen]}
            )
        )
    return pd.concat(parts, ignore_index=True)
