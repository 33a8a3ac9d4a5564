"""The multi-target attack: bring as many of a set of training samples as possible into the top k.

Yadav et al. 2024, §4.2 and Fig. 6. The objective is the sum of the single-target objectives over the set. A
lane is a set, a start and a learning rate; all sets of a job have the same size.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from undue.budget import within_budget
from undue.calculus.basis import Eigenbasis
from undue.errors import UserError
from undue.progress import Progress
from undue.randomness import stream
from undue.tables import BOOL, FLOAT, INT, Columns
from undue.valuation.attack import Best, Iterate, Plan, Walk, refuse_invalid, warn_of_invalid
from undue.valuation.calculator import Calculator, packed
from undue.valuation.evaluate import Evaluation

logger = logging.getLogger(__name__)

SET_TRAJECTORY_COLUMNS: Columns = {
    "set": (INT, "number of the set"),
    "seed": (INT, "number of the start"),
    "learning_rate": (FLOAT, "Adam's learning rate before it drops"),
    "step": (INT, "iterate, 0 is the start"),
    "k": (INT, "the top k"),
    "in_top_shared": (INT, "targets with rank ≤ k on the shared half"),
    "in_top_pristine": (INT, "on the pristine half; −1 where not monitored"),
    "objective": (FLOAT, "attack objective; missing at the last iterate"),
    "distance": (FLOAT, "‖θ' − θ*‖ / ‖θ*‖"),
    "accuracy_shared": (FLOAT, "accuracy on the shared half"),
    "accuracy_pristine": (FLOAT, "accuracy on the pristine half"),
    "valid": (BOOL, "all solves so far met their tolerance, monitoring not counted"),
}

SET_PUBLISHED_COLUMNS: Columns = {
    "size": (INT, "number of targets in the set"),
    "set": (INT, "number of the set"),
    "k": (INT, "the top k"),
    "constrained": (BOOL, "chosen among models within attack.accuracy_budget, or among all"),
    "in_top_honest": (INT, "targets with rank ≤ k under θ* on the shared half, in float64"),
    "reached": (BOOL, "there was such a model; if not, what follows is 0, −1 or empty"),
    "seed": (INT, "the start that the published iterate comes from"),
    "learning_rate": (FLOAT, "its learning rate"),
    "step": (INT, "its iterate"),
    "claimed": (INT, "targets with rank ≤ k on the shared half by the attack's own count"),
    "in_top_shared": (INT, "the same in float64; none if a constrained choice exceeds the budget there"),
    "in_top_pristine": (INT, "targets with rank ≤ k on the pristine half, in float64"),
    "accuracy_lost_shared": (FLOAT, "accuracy lost against θ* on the shared half"),
    "accuracy_lost_pristine": (FLOAT, "accuracy lost against θ* on the pristine half"),
    "theta": (INT, "row of its parameters in the safetensors file beside"),
}


@dataclass(frozen=True)
class SetLane:
    """One attack: which set, from which start, at which learning rate."""

    set: int
    seed: int
    learning_rate: float


@dataclass(frozen=True)
class Choice:
    """The iterate that a lane offers for one k: the most targets in the top k, then the most accurate.

    Attributes:
        k: the top k.
        constrained: chosen among the iterates within the accuracy budget.
        step: its number in each lane (L,), −1 where there is none.
        merit: what lanes are compared by (L,).
        theta: (L, d, outputs).
    """

    k: int
    constrained: bool
    step: np.ndarray
    merit: np.ndarray
    theta: np.ndarray


def draw_sets(samples: int, *, size: int, sets: int, seed: int) -> np.ndarray:
    """Random target sets, nested: a set of a larger size begins with the smaller one of its number.

    Returns:
        Training rows (sets, size).

    Raises:
        UserError: there are fewer samples than a set shall have.
    """
    if size > samples:
        raise UserError(
            f"a set of {size} targets can't be drawn from {samples} training samples",
            where="multi_target.sizes",
            remedy=f"name sizes up to {samples}, or [] to leave this part out",
        )
    return np.stack([stream(seed, "set", number).permutation(samples)[:size] for number in range(sets)])


def attack_sets(
    calculator: Calculator,
    basis: Eigenbasis,
    theta: Tensor,
    begin: Tensor,
    rows: np.ndarray,
    lanes: Sequence[SetLane],
    plan: Plan,
    *,
    least_accuracy: float,
) -> tuple[pd.DataFrame, list[Choice]]:
    """Attack every lane for all steps.

    Args:
        calculator, basis, theta, begin: as for `attack.attack`.
        rows: training rows of the sets (sets, size).
        lanes: the attacks, in the order of `begin`.
        plan: the settings; `ranks` are the k.
        least_accuracy: on the shared half, to be within the accuracy budget.

    Returns:
        The trajectories, and for each k, within the budget and without, what each lane offers.

    Raises:
        UserError: more than one lane, and more than 1 % of them, had a solve that missed its tolerance.
    """
    x = calculator.problem.train.x
    theta, begin = theta.to(x), begin.to(x)
    target = torch.from_numpy(rows[[lane.set for lane in lanes]].T.copy()).to(x.device)
    rates = torch.tensor([lane.learning_rate for lane in lanes], device=x.device, dtype=x.dtype)
    kept = 2 * len(plan.ranks)
    packs = list(packed(calculator.problem, len(lanes), plan.memory, targets=len(target), kept=kept))
    progress = Progress(logger, len(packs) * (plan.steps + 1), "steps")
    tables, offers, invalid = [], [], 0
    for number, pack in enumerate(packs):
        walk = Walk(calculator, basis, theta, begin[..., pack], target[:, pack], rates[pack], plan)
        regimes = [(k, constrained) for k in plan.ranks for constrained in (True, False)]
        best = {regime: Best(begin[..., pack]) for regime in regimes}
        for step in range(plan.steps + 1):
            last = step == plan.steps
            iterate = walk.take(monitor=last or step % plan.monitor_every == 0, last=last)
            within = iterate.accuracy_shared >= least_accuracy
            for (k, constrained), found in best.items():
                # Accuracy is at most 1: it decides between equal counts only.
                merit = 2.0 * _in_top(iterate.rank_shared, k) + iterate.accuracy_shared
                found.offer(iterate.theta, merit, iterate.valid & (within | (not constrained)))
            tables.append(_rows(iterate, step, lanes[pack], plan.ranks))
            refuse_invalid(invalid + int((~walk.valid).sum()), len(lanes), plan.tolerance)
            progress.update(number * (plan.steps + 1) + step + 1)
        invalid += int((~walk.valid).sum())
        offers.append([_choice(k, c, found, walk.valid) for (k, c), found in best.items()])
    warn_of_invalid(invalid, len(lanes))
    choices = [
        Choice(
            k=parts[0].k,
            constrained=parts[0].constrained,
            step=np.concatenate([part.step for part in parts]),
            merit=np.concatenate([part.merit for part in parts]),
            theta=np.concatenate([part.theta for part in parts]),
        )
        for parts in zip(*offers, strict=True)
    ]
    return pd.concat(tables, ignore_index=True), choices


def _in_top(rank: Tensor, k: int) -> Tensor:
    """How many of the targets have rank ≤ k (L,); rank 0 is not known."""
    return ((rank >= 1) & (rank <= k)).sum(dim=0)


def _choice(k: int, constrained: bool, best: Best, valid: Tensor) -> Choice:
    return Choice(
        k=k,
        constrained=constrained,
        step=torch.where(valid, best.step, -1).cpu().numpy(),
        merit=best.merit.cpu().numpy(),
        theta=best.theta.permute(2, 0, 1).contiguous().cpu().numpy(),
    )


def _rows(iterate: Iterate, step: int, lanes: Sequence[SetLane], ranks: Sequence[int]) -> pd.DataFrame:
    monitored = (iterate.rank_pristine > 0).all(dim=0)
    per_lane = {
        "set": [lane.set for lane in lanes],
        "seed": [lane.seed for lane in lanes],
        "learning_rate": [lane.learning_rate for lane in lanes],
        "step": step,
        "objective": iterate.objective.cpu().numpy(),
        "distance": iterate.distance.cpu().numpy(),
        "accuracy_shared": iterate.accuracy_shared.cpu().numpy(),
        "accuracy_pristine": iterate.accuracy_pristine.cpu().numpy(),
        "valid": iterate.valid.cpu().numpy(),
    }
    return pd.concat(
        [
            pd.DataFrame(
                {
                    **per_lane,
                    "k": k,
                    "in_top_shared": _in_top(iterate.rank_shared, k).cpu().numpy(),
                    "in_top_pristine": torch.where(monitored, _in_top(iterate.rank_pristine, k), -1)
                    .cpu()
                    .numpy(),
                }
            )
            for k in ranks
        ],
        ignore_index=True,
    )


def choose_lanes(choices: Sequence[Choice], lanes: Sequence[SetLane], *, sets: int) -> pd.DataFrame:
    """The published iterate of each set, k and regime: of all its lanes the one of the highest merit.

    Returns:
        Rows (set, k, constrained, reached, choice, lane), the last two being −1 where nothing was reached.
    """
    rows = []
    for number, choice in enumerate(choices):
        for which in range(sets):
            merits = {
                lane: choice.merit[lane]
                for lane, setup in enumerate(lanes)
                if setup.set == which and choice.step[lane] >= 0
            }
            lane = max(merits, key=lambda lane: merits[lane], default=-1)
            rows.append(
                {
                    "set": which,
                    "k": choice.k,
                    "constrained": choice.constrained,
                    "reached": lane >= 0,
                    "choice": number if lane >= 0 else -1,
                    "lane": lane,
                }
            )
    return pd.DataFrame(rows)


def judge_sets(
    chosen: pd.DataFrame,
    choices: Sequence[Choice],
    lanes: Sequence[SetLane],
    checked: Evaluation,
    *,
    honest_rank: np.ndarray,
    honest: Mapping[str, float],
    budget: float,
) -> pd.DataFrame:
    """The table of published set attacks.

    Args:
        chosen: from `choose_lanes`.
        choices, lanes: what it chose from.
        checked: the float64 evaluation of the reached rows, in their order.
        honest_rank: ranks of the sets' targets under θ* on the shared half (sets, size).
        honest: accuracy of θ* on the "shared" and the "pristine" half.
        budget: the accuracy that may be lost on the shared half; a claim to keep it that float64 refuses
            counts as a failure.
    """
    accuracies = {"shared": checked.accuracy_shared, "pristine": checked.accuracy_pristine}
    rows = []
    place = 0
    for row in chosen.itertuples():
        base = {
            "size": honest_rank.shape[1],
            "set": row.set,
            "k": row.k,
            "constrained": row.constrained,
            "in_top_honest": int((honest_rank[row.set] <= row.k).sum()),
        }
        if not row.reached:
            nothing = dict.fromkeys(("claimed", "in_top_shared", "in_top_pristine"), 0)
            missing = dict.fromkeys(
                ("learning_rate", "accuracy_lost_shared", "accuracy_lost_pristine"), np.nan
            )
            rows.append(base | nothing | missing | {"reached": False, "seed": -1, "step": -1, "theta": -1})
            continue
        lane, choice = lanes[row.lane], choices[row.choice]
        lost = {half: honest[half] - accuracy[place] for half, accuracy in accuracies.items()}
        counts = not row.constrained or within_budget(lost["shared"], budget)
        rows.append(
            base
            | {
                "reached": True,
                "seed": lane.seed,
                "learning_rate": lane.learning_rate,
                "step": choice.step[row.lane],
                "claimed": int(choice.merit[row.lane] // 2),
                "in_top_shared": int(counts * (checked.rank_shared[place] <= row.k).sum()),
                "in_top_pristine": int(counts * (checked.rank_pristine[place] <= row.k).sum()),
                "accuracy_lost_shared": lost["shared"],
                "accuracy_lost_pristine": lost["pristine"],
                "theta": place,
            }
        )
        place += 1
    return pd.DataFrame(rows)
