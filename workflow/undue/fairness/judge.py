"""What a base model leads to, through the true program, and what an auditor sees of it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from undue.arrays import read_arrays
from undue.calculus.lanes import norm
from undue.fairness.logistic import Curvature
from undue.fairness.metrics import (
    Metric,
    accuracy,
    bootstrap,
    calibration_error,
    compared,
    log_loss,
    signed_gap,
)
from undue.fairness.pipeline import Pipeline, Reweighed
from undue.fairness.problem import load_problem
from undue.fairness.surrogates import unfairness
from undue.randomness import stream
from undue.tables import FLOAT, INT, TEXT, Columns

NAN = float("nan")

VERDICT_COLUMNS: Columns = {
    "status": (
        TEXT,
        "of the program: optimal, infeasible, or relaxed (fairest weights within the utility limit)",
    ),
    "groups": (INT, "1, or -1 where the groups changed places so that the unfairness is >= 0"),
    "unfairness": (FLOAT, "f, the surrogate at the base model that was handed in"),
    "asked": (FLOAT, "change of f that the program asks for"),
    "attainable": (
        FLOAT,
        "lowest change of f that the utility limit allows, where the program is infeasible",
    ),
    "removed": (FLOAT, "Σ x: training samples removed"),
    "fractional": (INT, "samples removed in part"),
    "residual": (FLOAT, "largest relative violation of a constraint"),
    "optimality": (FLOAT, "relative distance to a proven bound of the program"),
    "overlap": (FLOAT, "Σ min / Σ max of the removed shares here and without attack"),
    "predicted_fairness": (FLOAT, "change of f that the influences predict for the weights"),
    "realised_fairness": (FLOAT, "f of the downstream model - f of θ*"),
    "predicted_utility": (FLOAT, "change of the mean validation log-loss that the influences predict"),
    "realised_utility": (FLOAT, "mean validation log-loss of the downstream model - that of θ*"),
    "gap_validation": (FLOAT, "absolute gap of the downstream model, validation part"),
    "gap_test": (FLOAT, "the same, test part"),
    "gap_test_low": (FLOAT, "95 % bootstrap interval"),
    "gap_test_high": (FLOAT, "95 % bootstrap interval"),
    "excess_test": (FLOAT, "gap_test - the gap without attack"),
    "excess_test_low": (FLOAT, "95 % paired bootstrap interval"),
    "excess_test_high": (FLOAT, "95 % paired bootstrap interval"),
    "signed_gap_test": (FLOAT, "rate of favourable predictions among the privileged - among the others"),
    "accuracy_validation": (FLOAT, "of the downstream model"),
    "accuracy_test": (FLOAT, "of the downstream model"),
    "distance": (FLOAT, "‖θ' - θ*‖ / ‖θ*‖ of the base model"),
    "base_accuracy_validation": (FLOAT, "of the base model that was handed in"),
    "base_accuracy_test": (FLOAT, "of the base model that was handed in"),
    "base_log_loss": (FLOAT, "its mean log-loss on the validation part"),
    "base_log_loss_change": (FLOAT, "that, relative to θ*: 0.01 is one per cent more"),
    "base_calibration_error": (FLOAT, "its expected calibration error on the validation part, ten bins"),
}
"""What `Judge.verdict` says of one base model."""


@dataclass(frozen=True)
class Judge:
    """Runs the honest pipeline on base models and compares with the one on θ*.

    Attributes:
        pipeline: the pipeline.
        honest: what it makes of θ*.
        draws: bootstrap draws.
        seed: the root seed; every model is judged on the same draws.
    """

    pipeline: Pipeline
    honest: Reweighed
    draws: int
    seed: int

    @classmethod
    def of(cls, pipeline: Pipeline, *, draws: int, seed: int) -> Judge:
        """A judge, with the honest run made.

        Raises:
            UserError: a part has no one to compare in a group.
        """
        for part in (pipeline.problem.train, pipeline.problem.validation, pipeline.problem.test):
            compared(part, pipeline.metric)
        return cls(pipeline, pipeline.reweigh(pipeline.base), draws, seed)

    def verdict(self, theta: Tensor, reweighed: Reweighed) -> dict[str, Any]:
        """The row of `VERDICT_COLUMNS` for a base model θ' (d, 1, 1) and what the pipeline made of it."""
        problem, base = self.pipeline.problem, self.pipeline.base
        answer, influences = reweighed.answer, reweighed.influences
        honest_loss, loss = log_loss(problem.validation, base), log_loss(problem.validation, theta)
        predicted_fairness, predicted_utility = reweighed.predicted
        return {
            "status": answer.status,
            "groups": influences.sign,
            "unfairness": influences.unfairness,
            "asked": answer.asked,
            "attainable": answer.attainable,
            "removed": answer.removed,
            "fractional": answer.fractional,
            "residual": answer.residual,
            "optimality": answer.gap,
            "overlap": self._overlap(reweighed),
            "predicted_fairness": predicted_fairness,
            "predicted_utility": predicted_utility / problem.validation.risk.samples,
            **self._outcome(reweighed, honest_loss),
            "distance": float(norm(theta - base) / norm(base)),
            "base_accuracy_validation": accuracy(problem.validation, theta),
            "base_accuracy_test": accuracy(problem.test, theta),
            "base_log_loss": loss,
            "base_log_loss_change": loss / honest_loss - 1,
            "base_calibration_error": calibration_error(problem.validation, theta),
        }

    def _outcome(self, reweighed: Reweighed, honest_loss: float) -> dict[str, float]:
        problem, metric = self.pipeline.problem, self.pipeline.metric
        model, reference = reweighed.downstream, self.honest.downstream
        if model is None:
            return dict.fromkeys(OUTCOMES, NAN)
        f = unfairness(problem.validation, metric)
        # The same stream for all: differences between models are then not those of the draws.
        generator = stream(self.seed, "fairness", "bootstrap")
        gap, excess = bootstrap(problem.test, model, metric, generator, draws=self.draws, reference=reference)
        signed = signed_gap(problem.test, model, metric)
        honest = NAN if reference is None else abs(signed_gap(problem.test, reference, metric))
        return {
            "realised_fairness": self.honest.influences.sign
            * float(f.value(model) - f.value(self.pipeline.base)),
            "realised_utility": log_loss(problem.validation, model) - honest_loss,
            "gap_validation": abs(signed_gap(problem.validation, model, metric)),
            "gap_test": abs(signed),
            "gap_test_low": gap.low,
            "gap_test_high": gap.high,
            "excess_test": abs(signed) - honest,
            "excess_test_low": NAN if reference is None else excess.low,
            "excess_test_high": NAN if reference is None else excess.high,
            "signed_gap_test": signed,
            "accuracy_validation": accuracy(problem.validation, model),
            "accuracy_test": accuracy(problem.test, model),
        }

    def _overlap(self, reweighed: Reweighed) -> float:
        here, there = reweighed.answer.x, self.honest.answer.x
        if here is None or there is None:
            return NAN
        union = float(np.maximum(here, there).sum())
        return float(np.minimum(here, there).sum()) / union if union > 0 else 1.0


OUTCOMES = (
    "realised_fairness",
    "realised_utility",
    "gap_validation",
    "gap_test",
    "gap_test_low",
    "gap_test_high",
    "excess_test",
    "excess_test_low",
    "excess_test_high",
    "signed_gap_test",
    "accuracy_validation",
    "accuracy_test",
)


def same_predictions(pipeline: Pipeline, theta: Tensor) -> bool:
    """Whether a base model predicts what θ* predicts, on every sample there is."""
    link = pipeline.problem.train.risk.link
    return all(
        torch.equal(
            link.predict(part.scores(theta)[:, None, None]),
            link.predict(part.scores(pipeline.base)[:, None, None]),
        )
        for part in (pipeline.problem.train, pipeline.problem.validation, pipeline.problem.test)
    )


def load_judge(problem: str, base: str, metric: Metric, cfg: Mapping[str, Any]) -> Judge:
    """A judge from the files of a data set and its slice of the configuration.

    Args:
        problem: path of what `write_problem` wrote.
        base: path of the base model, an array `theta` (d,).
        metric: the notion of fairness.
        cfg: `l2` and `program` of the table's entry, `seed` and keys of the section `fairness`, dotted.
    """
    loaded = load_problem(problem, l2=cfg["l2"])
    theta = torch.from_numpy(read_arrays(base)["theta"])[:, None, None]
    pipeline = Pipeline(
        problem=loaded,
        metric=metric,
        beta=cfg["program"]["beta"],
        gamma=cfg["program"]["gamma"],
        bound=cfg["fairness.bound"],
        relax=cfg["fairness.infeasible"] == "relax",
        solver=cfg["fairness.solver"],
        base=theta,
        curvature=Curvature.of(loaded.objective(), loaded.train.at(theta)),
    )
    return Judge.of(pipeline, draws=cfg["fairness.bootstrap"], seed=cfg["seed"])
