"""Predicted effects beside actual ones, and how well the two agree."""

from __future__ import annotations

import numpy as np
import pandas as pd

from undue.agreement import pearson, spearman
from undue.formats import interval
from undue.randomness import stream
from undue.tables import FLOAT, INT, TEXT, Columns

PAIR_COLUMNS: Columns = {
    "dataset": (TEXT, "whose samples"),
    "experiment": (TEXT, "what was trained again, and how"),
    "predictor": (TEXT, "what predicted the effect"),
    "level": (FLOAT, "the number that the experiment varies, as δ or t; empty where it varies none"),
    "sample": (INT, "training sample left out"),
    "predicted": (FLOAT, "predicted change of the test loss, −I/n"),
    "actual": (FLOAT, "change of the test loss after training again without it"),
    "precision": (FLOAT, "what it was trained to: ‖∇R‖, or for the exact hinge the duality gap"),
}

AGREEMENT_COLUMNS: Columns = {
    "dataset": PAIR_COLUMNS["dataset"],
    "experiment": PAIR_COLUMNS["experiment"],
    "predictor": PAIR_COLUMNS["predictor"],
    "level": PAIR_COLUMNS["level"],
    "samples": (INT, "number of training samples left out, one at a time"),
    "pearson": (FLOAT, "correlation of predicted and actual effects"),
    "pearson_low": (FLOAT, "lower end of its 95 % bootstrap interval over the samples"),
    "pearson_high": (FLOAT, "upper end"),
    "spearman": (FLOAT, "rank correlation"),
    "spearman_low": (FLOAT, "lower end of its 95 % bootstrap interval over the samples"),
    "spearman_high": (FLOAT, "upper end"),
    "slope": (FLOAT, "Σ predicted·actual / Σ actual²: above 1, effects are overestimated"),
    "precision": (FLOAT, "the worst of the retrained models'"),
}

DAMPING_VARIED = ", damping"
"""How the names of the experiments end that vary δ on the heads of the attack."""

GROUPS = ["dataset", "experiment", "predictor", "level"]


def make_pairs(
    samples: np.ndarray,
    predicted: np.ndarray,
    actual: np.ndarray,
    precision: np.ndarray,
    *,
    dataset: str,
    experiment: str,
    predictor: str,
    level: float = float("nan"),
) -> pd.DataFrame:
    """Rows of the table of pairs, m of them; all arrays are (m,)."""
    return pd.DataFrame(
        {
            "dataset": dataset,
            "experiment": experiment,
            "predictor": predictor,
            "level": level,
            "sample": samples,
            "predicted": predicted,
            "actual": actual,
            "precision": precision,
        }
    )


def agreement(pairs: pd.DataFrame, *, seed: int) -> pd.DataFrame:
    """How well each predictor did in each experiment.

    Args:
        pairs: table of PAIR_COLUMNS.
        seed: root of the bootstrap's random streams.
    """
    rows = []
    for key, part in pairs.groupby(GROUPS, sort=False, dropna=False):
        predicted, actual = part["predicted"].to_numpy(), part["actual"].to_numpy()
        linear = pearson(predicted, actual, generator=stream(seed, "pearson", *map(str, key)))
        ranked = spearman(predicted, actual, generator=stream(seed, "spearman", *map(str, key)))
        square = float(actual @ actual)
        rows.append(
            {
                **dict(zip(GROUPS, key, strict=True)),
                "samples": len(part),
                **linear.columns("pearson"),
                **ranked.columns("spearman"),
                "slope": float(predicted @ actual) / square if square else np.nan,
                "precision": part["precision"].max(),
            }
        )
    return pd.DataFrame(rows, columns=list(AGREEMENT_COLUMNS))


def pretty_agreement(table: pd.DataFrame) -> pd.DataFrame:
    """The table of agreements for reading."""

    def predictor(row: pd.Series) -> str:
        return row["predictor"] if np.isnan(row["level"]) else f"{row['predictor']} = {row['level']:g}"

    return pd.DataFrame(
        {
            "dataset": table["dataset"],
            "experiment": table["experiment"],
            "predictor": table.apply(predictor, axis=1),
            "samples": table["samples"],
            "Pearson's R [95 %]": interval(table, "pearson", digits=3),
            "Spearman's ρ [95 %]": interval(table, "spearman", digits=3),
            "slope": table["slope"].map("{:.3g}".format),
            "trained to": table["precision"].map("{:.0e}".format),
        }
    )
