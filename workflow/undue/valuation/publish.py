"""From many runs to the one model that the attacker ships for each target, and how well it does.

The publication rule (`best_iterate`): of all runs and iterates of a radius in which the target has
rank ≤ k, the one most accurate on the shared half. It counts as a success within the accuracy budget
if it loses no more than that, and as a success of the regime "best" in any case. Selection sees the
shared half only.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import torch

from undue.arrays import read_rows
from undue.calculus.basis import Eigenbasis
from undue.calculus.influence import rank_of
from undue.tables import BOOL, FLOAT, INT, Columns
from undue.valuation.calculator import Calculator

# Solves of the float64 check are held to this relative residual.
CONFIRMATION_TOLERANCE = 1e-9
# Models checked side by side.
CONFIRMATION_LANES = 16

PUBLISHED_COLUMNS: Columns = {
    "target": (INT, "training sample attacked"),
    "k": (INT, "the k that this row is scored on"),
    "original_rank": (INT, "rank under θ* on the shared half"),
    "reached": (BOOL, "some iterate had rank ≤ k; if none, what follows is empty, −1 or false"),
    "seed": (INT, "the start that the published iterate comes from"),
    "learning_rate": (FLOAT, "its learning rate"),
    "step": (INT, "its iterate"),
    "rank_shared": (INT, "its rank on the shared half, in float64"),
    "rank_pristine": (INT, "its rank on the pristine half, in float64"),
    "accuracy_lost_shared": (FLOAT, "accuracy lost against θ* on the shared half"),
    "accuracy_lost_pristine": (FLOAT, "accuracy lost against θ* on the pristine half"),
    "confirmed": (BOOL, "the float64 rank is ≤ k too; a claim that fails this counts as a failure"),
    "within_budget": (BOOL, "confirmed, and loses at most attack.accuracy_budget on the shared half"),
    "transfers": (BOOL, "confirmed, and has rank ≤ k on the pristine half"),
    "theta": (INT, "row of its parameters in the safetensors file beside"),
}


def choose(targets: pd.DataFrame, candidates: pd.DataFrame) -> pd.DataFrame:
    """The published iterate of every target and k.

    Args:
        targets: rows (index, k, rank); every one of them is kept.
        candidates: rows (target, k, seed, run, learning_rate, step, accuracy_shared, theta) of all runs.

    Returns:
        One row for each target and k: target, k, original_rank, reached, and of the chosen candidate
        seed, run, learning_rate, step, theta (missing if no iterate had rank ≤ k). Among equally accurate
        candidates the lowest seed, then the lowest learning rate is chosen.
    """
    best = (
        candidates.sort_values(["accuracy_shared", "seed", "learning_rate"], ascending=[False, True, True])
        .drop_duplicates(["target", "k"])
        .drop(columns="accuracy_shared")
    )
    wanted = targets.rename(columns={"index": "target", "rank": "original_rank"})
    merged = wanted[["target", "k", "original_rank"]].merge(best, on=["target", "k"], how="left")
    return merged.assign(reached=merged["step"].notna())


def gather(chosen: pd.DataFrame, models: Sequence[str | Path]) -> tuple[pd.DataFrame, np.ndarray]:
    """Collect the parameters of the chosen candidates, each once.

    Args:
        chosen: from `choose`; candidate row `theta` of run `run`.
        models: the file of each run's candidates, `theta` (m, d, outputs); only the chosen rows are read.

    Returns:
        `chosen` with `theta` now the row of the collected parameters, and these (distinct, d, outputs).
        Two k of one target often have the same iterate.
    """
    iterate = ["target", "run", "learning_rate", "step"]
    reached = chosen[chosen["reached"]].drop_duplicates(iterate)
    theta = [
        read_rows(models[int(run)], "theta", [int(row)])
        for run, row in zip(reached["run"], reached["theta"], strict=True)
    ]
    numbered = reached[iterate].assign(theta=np.arange(len(reached), dtype=float))
    merged = chosen.drop(columns="theta").merge(numbered, on=iterate, how="left")
    return merged, np.concatenate(theta) if theta else read_rows(models[0], "theta", [])


def confirm(calculator: Calculator, basis: Eigenbasis, theta: np.ndarray, rows: np.ndarray) -> pd.DataFrame:
    """Evaluate models again in float64, apart from the attack that found them.

    Args:
        calculator: the calculator in float64, its problem rotated into `basis`.
        basis: the basis of the calculator's problem.
        theta: the models (m, d, outputs) in the original basis.
        rows: training row of each model's target (m,).

    Returns:
        rank_shared, rank_pristine, accuracy_shared, accuracy_pristine (m rows); a rank is the last
        one where a solve missed its tolerance.
    """
    parts = []
    problem = calculator.problem
    device = problem.train.x.device
    for first in range(0, len(rows), CONFIRMATION_LANES):
        part = slice(first, first + CONFIRMATION_LANES)
        lanes = torch.from_numpy(theta[part]).to(problem.train.x).permute(1, 2, 0).contiguous()
        rotated = basis.to_basis(lanes)
        target = torch.tensor(rows[part], device=device)
        train = calculator.at(rotated)
        found: dict[str, np.ndarray] = {}
        for half, risk in (("shared", problem.shared), ("pristine", problem.pristine)):
            test = risk.at(rotated)
            score, solution = calculator.score(train, test, tolerance=CONFIRMATION_TOLERANCE)
            last = torch.full_like(target, problem.train.samples)
            rank = torch.where(solution.converged, rank_of(score, target), last)
            found[f"rank_{half}"] = rank.cpu().numpy()
            found[f"accuracy_{half}"] = test.accuracy().cpu().numpy()
        parts.append(pd.DataFrame(found))
    columns = ["rank_shared", "accuracy_shared", "rank_pristine", "accuracy_pristine"]
    return pd.concat(parts, ignore_index=True) if parts else pd.DataFrame({c: [] for c in columns})


def judge(
    chosen: pd.DataFrame, checked: pd.DataFrame, *, honest: Mapping[str, float], budget: float
) -> pd.DataFrame:
    """The `published` table: every target's verdict.

    Args:
        chosen: from `choose`.
        checked: from `confirm`, row i for the model with theta = i.
        honest: accuracy of θ* on the "shared" and the "pristine" half.
        budget: the accuracy that may be lost on the shared half.
    """
    table = chosen.merge(checked, left_on="theta", right_index=True, how="left")
    lost = {half: honest[half] - table[f"accuracy_{half}"] for half in ("shared", "pristine")}
    confirmed = table["reached"] & (table["rank_shared"] <= table["k"])
    return pd.DataFrame(
        {
            "target": table["target"],
            "k": table["k"],
            "original_rank": table["original_rank"],
            "reached": table["reached"],
            "seed": table["seed"].fillna(-1),
            "learning_rate": table["learning_rate"],
            "step": table["step"].fillna(-1),
            "rank_shared": table["rank_shared"].fillna(0),
            "rank_pristine": table["rank_pristine"].fillna(0),
            "accuracy_lost_shared": lost["shared"],
            "accuracy_lost_pristine": lost["pristine"],
            "confirmed": confirmed,
            # Accuracies are shares of a few hundred samples: allow for their rounding.
            "within_budget": confirmed & (lost["shared"] <= budget + 1e-9),
            "transfers": confirmed & (table["rank_pristine"] <= table["k"]),
            "theta": table["theta"].fillna(-1),
        }
    )
