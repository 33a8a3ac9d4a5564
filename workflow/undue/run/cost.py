"""What jobs cost: core-seconds, memory and disk of every rule, from a formula and measurements.

A rule's cost is a sum of a few terms with coefficients of its own:

    core-seconds = a · 1 + b · work + …,    MB of memory = c · 1 + d · size + …

The terms count what a job does (`work`), holds (`held`) and writes (`written`), from the configuration and
the sizes of the data alone, so that they are known before any file exists. `data/costs.tsv` has the terms and
the costs of jobs that were really run, and of which run; the coefficients are whatever fits these best:
non-negative, with the least relative errors. Machines differ, so the table also says how fast a core of each
is, and seconds are those of the core that they are wanted for.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import yaml
from scipy.optimize import nnls

from undue.data.registry import Entry, read_registry
from undue.errors import UserError
from undue.files import atomic, read_json
from undue.packing import FACTORISED, numbers_per_lane
from undue.run import layout
from undue.run.config import validate
from undue.run.history import History, Job

TABLE = Path("data/costs.tsv")
QUANTITIES = {"core_seconds": "work", "memory_mb": "held", "disk_mb": "written"}
"""What is predicted, and which terms of a job it follows from."""

Terms = Mapping[str, float]


@dataclass(frozen=True)
class Sizes:
    """The numbers of a data set: of all samples, by part, of features with the bias, of classes."""

    samples: int
    train: int
    shared: int
    pristine: int
    d: int
    k: int


@dataclass(frozen=True)
class Costs:
    """A job's terms, by quantity."""

    work: Terms
    held: Terms
    written: Terms


@dataclass(frozen=True)
class Setting:
    """What a job's terms follow from.

    Attributes:
        config: validated.
        folder: the project's.
        registry: name → file.
    """

    config: Mapping[str, Any]
    folder: Path
    registry: Mapping[str, Entry]

    def rows(self, name: str) -> float:
        """Thousands of rows of a table: known of the registry's, by its size of the user's own."""
        path = self.folder / name
        return ROWS[name] if name in ROWS else path.stat().st_size / 1e5 if path.is_file() else 0.0


# Sizes of data sets -----------------------------------------------------------------------------------------

OFFICIAL: Mapping[str, tuple[int, int, int, int, int]] = {
    "mnist5k": (5_000, 0, 10, 1, 28),
    "mnist_train_images": (60_000, 10_000, 10, 1, 28),
    "cifar10_binary": (50_000, 10_000, 10, 3, 32),
    "cifar10_jpeg": (50_000, 10_000, 10, 3, 32),
    "caltech101": (8_677, 0, 101, 3, 0),
    "caltech101_webp": (8_677, 0, 101, 3, 0),
    "pet_images": (3_680, 3_669, 37, 3, 0),
}
"""Of data sets in the registry, by one of their files: samples for training and for testing (0: no official
split), classes, channels, side in pixels (0: it varies)."""

ROWS: Mapping[str, float] = {
    "adult_train": 32.561,
    "adult_train_csv": 32.561,
    "adult_test": 16.281,
    "german": 1.0,
    "german_csv": 1.0,
    "compas": 7.214,
}
"""Of tables in the registry: thousands of rows."""

DIMENSIONS: Mapping[str, int] = {"efficientnet_lite0": 1280, "resnet50": 2048, "resnet50_v2": 2048}


def sizes(setting: Setting, dataset: str) -> Sizes:
    """How large a data set is: by its features if these exist, else by what is known of it.

    Raises:
        UserError: neither is known.
    """
    entry = layout.definition(setting.config, dataset)
    block, made = entry["features"], setting.folder / layout.feature_folder(setting.config, dataset)
    size = block["image_size"]
    known = [OFFICIAL[name] for name in entry["files"].values() if name in OFFICIAL]
    if (made / "features.json").exists():
        metadata = read_json(made / "features.json")
        split = pd.read_parquet(made / "samples.parquet", columns=["split"])["split"]
        train, test = int((split != "test").sum()), int((split == "test").sum())
        dimension, classes = int(metadata["dimension"]), len(metadata["classes"])
    elif known and (block["backbone"] in DIMENSIONS or size or known[0][-1]):
        train, test, classes, channels, side = known[0]
        dimension = DIMENSIONS.get(block["backbone"], channels * (size or side) ** 2)
    else:
        raise UserError(
            "its size isn't known before its features are made",
            where=f"datasets.{dataset}",
            remedy="make them, and ask again: "
            f"snakemake --cores 2 {made.relative_to(setting.folder)}/features.npy",
        )
    samples = train + test
    test = test or math.ceil(setting.config["split"]["test_fraction"] * samples)
    train = min(samples - test, entry.get("train_samples") or samples)
    return Sizes(samples, train, (test + 1) // 2, test // 2, dimension + 1, classes)


# Terms of rules ---------------------------------------------------------------------------------------------


def costs(job: Job, setting: Setting) -> Costs:
    """A job's terms.

    Raises:
        UserError: it works on data of unknown size.
    """
    formula = FORMULAS.get(job.rule)
    if formula:
        return formula(job, setting)
    return Costs({"job": 1, "files": len(job.inputs)}, {"job": 1}, {"job": 1})


def _passes(size: Sizes, lanes: float = 1) -> float:
    """Multiplying the training features with the parameters of so many models, 1e9 multiply-adds."""
    return lanes * size.train * size.d * size.k / 1e9


def _gram(size: Sizes) -> float:
    """Finding the features' eigenbasis, 1e9 multiply-adds."""
    return (size.train * size.d**2 + 10 * size.d**3) / 1e9


def _matrix(size: Sizes) -> float:
    """The features, MB in float32."""
    return (size.samples * size.d * 4) / 1e6


def _models(size: Sizes, count: float) -> float:
    """So many models' parameters, MB in float32."""
    return count * size.d * size.k * 4 / 1e6


def _download(job: Job, setting: Setting) -> Costs:
    (megabytes,) = (
        entry.bytes / 1e6 for entry in setting.registry.values() if entry.file == job.wildcards["file"]
    )
    return Costs({"job": 1, "MB": megabytes}, {"job": 1}, {"MB": megabytes})


def _extract(job: Job, setting: Setting) -> Costs:
    size, block = (
        sizes(setting, job.wildcards["dataset"]),
        layout.definition(setting.config, job.wildcards["dataset"])["features"],
    )
    backbone, side = block["backbone"], block["image_size"] or layout.NATIVE_SIZE
    # Images of the network's own size; a network's time grows with the area.
    images = (side / layout.NATIVE_SIZE) ** 2
    return Costs(
        {"job": 1, f"images, {backbone}": size.samples * images},
        {"job": 1, f"network, {backbone}": 1, f"batch, {backbone}": block["batch_size"] * images},
        {"features": _matrix(size)},
    )


def _on_features(
    work: Callable[[Job, Setting, Sizes], Terms], models: Callable[[Job, Setting], float]
) -> Callable[[Job, Setting], Costs]:
    """The formula of a rule that loads a data set's features and writes some models."""

    def formula(job: Job, setting: Setting) -> Costs:
        size = sizes(setting, job.wildcards["dataset"])
        return Costs(
            {"job": 1, "gram": _gram(size), **work(job, setting, size)},
            {"job": 1, "features": _matrix(size), **_lanes_held(job, setting, size)},
            {"job": 1, "models": _models(size, models(job, setting))},
        )

    return formula


def _lanes(job: Job, setting: Setting) -> float:
    """Attacks of a job."""
    attack = setting.config["attack"]
    if job.rule == "attack_sets":
        starts = setting.config["multi_target"]["sets"] * len(attack["seeds"])
    else:
        starts = layout.block_places(setting.config, int(job.wildcards["block"]))["count"]
    return float(starts * len(attack["learning_rates"]))


def _lane(job: Job, setting: Setting, size: Sizes) -> float:
    """An attack's working tensors, MB in float32."""
    targets, kept = 1, len(setting.config["attack"]["ranks"])
    if job.rule == "attack_sets":
        targets, kept = int(job.wildcards["size"]), 2 * len(setting.config["multi_target"]["ranks"])
    numbers = numbers_per_lane(
        train=size.train,
        test=size.shared + size.pristine,
        d=size.d,
        k=size.k,
        targets=targets,
        kept=kept,
    )
    return 4 * numbers / 1e6


def _lanes_held(job: Job, setting: Setting, size: Sizes) -> Terms:
    if _model_of(job.rule, "memory_mb") != "attack":
        return {}
    return {
        "lanes": min(
            setting.config["attack"]["memory_gb"] * 1e3, _lanes(job, setting) * _lane(job, setting, size)
        )
    }


def _attack(job: Job, setting: Setting, size: Sizes) -> Terms:
    attack, lanes = setting.config["attack"], _lanes(job, setting)
    walked = _passes(size, lanes * (attack["steps"] + 1))
    packs = math.ceil(lanes * _lane(job, setting, size) / (attack["memory_gb"] * 1e3))
    longer = layout.lissa_stretch(attack, size.train)
    walked, packs = longer * walked, longer * packs
    return {
        # Reading the features, once for all lanes side by side: what few lanes cost most.
        "walks": packs * (attack["steps"] + 1) * size.train * size.d / 1e9,
        "steps": walked,
        # Solves take more products the farther an iterate may be from θ*, roughly as the root of the radius.
        "far steps": walked * math.sqrt(float(job.wildcards["radius"])),
    }


def _attack_sets(job: Job, setting: Setting, size: Sizes) -> Terms:
    multi = setting.config["multi_target"]
    return {**_attack(job, setting, size), "checks": _passes(size, multi["sets"] * len(multi["ranks"]))}


def _starts(job: Job, setting: Setting) -> int:
    """Starts that an objective is attacked from."""
    return len(layout.starts_of(setting.config, job.wildcards["objective"]))


def _claims(job: Job, setting: Setting) -> float:
    attack = setting.config["attack"]
    return float(attack["targets"] * len(attack["ranks"]))


def _block_trials(job: Job, setting: Setting) -> float:
    targets = layout.block_places(setting.config, int(job.wildcards["block"]))["count"]
    return float(targets * len(setting.config["baseline"]["weights"]))


def _reweigh(job: Job, setting: Setting, size: Sizes) -> Terms:
    baseline, trials = setting.config["baseline"], _block_trials(job, setting)
    seen = baseline["steps"] * baseline["batch_size"] * size.d * size.k / 1e9
    return {"steps": trials * seen, "checks": _passes(size, trials)}


def _train(job: Job, setting: Setting, size: Sizes) -> Terms:
    entry, model = layout.definition(setting.config, job.wildcards["dataset"]), setting.config["model"]
    epochs = {"epochs": _passes(size, 100)} if model["training"] == "paper_sgd" else {}
    crossed = entry.get("l2", model["l2"]) == "cross_validated"
    return {**epochs, "folds": _passes(size, 1 + crossed * model["folds"] * len(model["l2_grid"]))}


def _norms(job: Job, setting: Setting, size: Sizes) -> Terms:
    config = setting.config
    return {"samples": _passes(size, max(config["attack"]["targets"], config["figures"]["gradient_samples"]))}


def _none(job: Job, setting: Setting) -> float:
    return 0.0


def _of_table(count: Callable[[Mapping[str, Any]], float]) -> Callable[[Job, Setting], Costs]:
    """The formula of a rule that does something so many times on one of the fairness tables."""

    def formula(job: Job, setting: Setting) -> Costs:
        fairness = setting.config["fairness"]
        rows = sum(map(setting.rows, fairness["tables"][job.wildcards["dataset"]]["files"].values()))
        return Costs(
            {"job": 1, "rows": count(fairness) * rows}, {"job": 1, "rows": rows}, {"job": 1, "rows": rows}
        )

    return formula


def _impossibility(job: Job, setting: Setting) -> Costs:
    section = setting.config["impossibility"]
    cases = len(section["dimensions"]) * len(section["duplicates"])
    walks = len(section["radii"]) * len(section["learning_rates"]) * section["starts"] * section["steps"]
    return Costs(
        {"job": 1, "steps": cases * walks, "models": cases * section["models"]}, {"job": 1}, {"job": 1}
    )


def _images(setting: Setting) -> Sizes:
    """The size of the data set that influence is validated on."""
    validation = setting.config["validation"]
    size = sizes(setting, validation["dataset"])
    return replace(size, train=min(size.train, validation["train_samples"] or size.train))


def _pair(setting: Setting) -> Sizes:
    """The same, of two of its classes."""
    size = _images(setting)
    return replace(size, train=2 * size.train // size.k, k=1)


def _on_images(
    images: Callable[[Setting], Sizes], work: Callable[[Mapping[str, Any], Sizes], Terms]
) -> Callable[[Job, Setting], Costs]:
    """The formula of a rule that trains heads on images again and again, beside a factorised Hessian."""

    def formula(job: Job, setting: Setting) -> Costs:
        size = images(setting)
        parameters = size.d * size.k
        factor = (size.train * parameters**2 + parameters**3) / 1e9
        return Costs(
            {"job": 1, "factor": factor, **work(setting.config["validation"], size)},
            {"job": 1, "features": _matrix(size), "factor": 8 * parameters**2 / 1e6},
            {"job": 1},
        )

    return formula


def _validate_softmax(validation: Mapping[str, Any], size: Sizes) -> Terms:
    return {
        "steps": sum(validation["lissa_repeats"]) * validation["lissa_depth"] / 1e3,
        "models": _passes(size, min(validation["samples"], size.train)),
    }


def _validate_hinge(validation: Mapping[str, Any], size: Sizes) -> Terms:
    return {"models": _passes(size, min(validation["pair_samples"], size.train))}


def _validate_logistic(validation: Mapping[str, Any], size: Sizes) -> Terms:
    left_out = min(validation["pair_samples"], size.train)
    return {
        "models": _passes(size, left_out + validation["subsets"]),
        "steps": _passes(size, left_out * sum(validation["early_steps"])),
    }


def _validate_network(job: Job, setting: Setting) -> Costs:
    size, validation = _images(setting), setting.config["validation"]
    train = min(size.train, validation["network_train_samples"])
    steps = validation["network_steps"] + validation["network_more_steps"] * (
        2 + min(validation["network_samples"], train)
    )
    # A convolutional layer's work grows with the pixels.
    return Costs(
        {
            "job": 1,
            "steps": steps * validation["network_batch"] * size.d / 1e9,
            "solve": train * size.d / 1e9,
        },
        {"job": 1, "features": _matrix(size)},
        {"job": 1},
    )


def _validate_rankings(job: Job, setting: Setting) -> Costs:
    size = sizes(setting, job.wildcards["dataset"])
    # By θ* and by every manipulated model, if each target has one; and as many samples at random.
    rankings, samples = (
        1 + setting.config["attack"]["targets"],
        setting.config["validation"]["ranking_samples"],
    )
    models, parameters = min((2 * rankings + 1) * samples, size.train), size.d * size.k
    work, held = {"models": _passes(size, models)}, 0.0
    if parameters <= FACTORISED:
        work = {
            "factor": (size.train * parameters**2 + parameters**3) / 1e9,
            "divisions": models * parameters**2 / 1e9,
        }
        held = 4 * parameters**2 / 1e6
    return Costs(
        {"job": 1, "gram": _gram(size), **work},
        {"job": 1, "features": _matrix(size), "factor": held},
        {"job": 1},
    )


FORMULAS: Mapping[str, Callable[[Job, Setting], Costs]] = {
    "download": _download,
    "extract_features": _extract,
    "train_model": _on_features(_train, lambda job, setting: 1.0),
    "compute_influence": _on_features(lambda job, setting, size: {"passes": _passes(size)}, _none),
    "attack": _on_features(
        _attack, lambda job, setting: _lanes(job, setting) * len(setting.config["attack"]["ranks"])
    ),
    "attack_sets": _on_features(
        _attack_sets,
        lambda job, setting: (
            setting.config["multi_target"]["sets"] * len(setting.config["multi_target"]["ranks"])
        ),
    ),
    "publish_attacks": _on_features(
        lambda job, setting, size: {"claims": _passes(size, _claims(job, setting) * _starts(job, setting))},
        _claims,
    ),
    "reweigh_loss": _on_features(_reweigh, _none),
    "compute_gradient_norms": _on_features(_norms, _none),
    "plot_top_ranked": _on_features(lambda job, setting, size: {"passes": _passes(size)}, _none),
    "encode_table": _of_table(lambda fairness: 1),
    "train_base_model": _of_table(lambda fairness: 1),
    "scale_base_model": _of_table(lambda fairness: len(fairness["scales"])),
    "attack_fairness": _of_table(
        lambda fairness: (
            fairness["direct_steps"] * (len(fairness["direct_radii"]) + len(fairness["log_loss_budgets"]))
        )
    ),
    "check_impossibility": _impossibility,
    "validate_softmax": _on_images(_images, _validate_softmax),
    "validate_hinge": _on_images(_pair, _validate_hinge),
    "validate_logistic": _on_images(_pair, _validate_logistic),
    "validate_network": _validate_network,
    "validate_rankings": _validate_rankings,
}
"""The rules whose cost depends on more than the number of their input files."""


SHARED: Mapping[str, str] = {"attack_sets": "attack"}
"""Rules that work and hold as another one does, and have its coefficients; what they write is their own."""


def _model_of(rule: str, quantity: str) -> str:
    """The rule whose coefficients hold for one."""
    return rule if quantity == "disk_mb" else SHARED.get(rule, rule)


def _models_of(measured: pd.DataFrame, quantity: str) -> pd.Series[str]:
    return measured["rule"].map(lambda rule: _model_of(rule, quantity))


# Fitting ----------------------------------------------------------------------------------------------------


IDLE_GFLOPS = 100.0
IDLE: Mapping[str, float] = {"core_seconds": 2.5 * IDLE_GFLOPS, "memory_mb": 300.0, "disk_mb": 0.05}
"""What a job costs that only starts and imports torch, on a core of 100 GFLOP/s."""


STRETCH = 10.0
"""A job of a second, nearly all of it imports, says little about one of an hour."""


def fit(terms: Sequence[Terms], cost: Sequence[float], idle: float) -> dict[str, float]:
    """Non-negative coefficients of the terms that minimise the relative errors of the costs.

    Args:
        terms: of each measured job; a term that a job lacks is 0.
        cost: of each, > 0.
        idle: of a job that does nothing. It counts as one more measurement, so that jobs of one size, too,
            tell a job's start from its work.
    """
    names = list(dict.fromkeys(name for job in terms for name in job))
    if len(names) > 1 and "job" in names:
        terms, cost = [*terms, {"job": 1.0}], [*cost, idle]
    design = np.array([[job.get(name, 0.0) for name in names] for job in terms]) / np.array(cost)[:, None]
    # Columns of equal size, so that it doesn't matter which units terms are in.
    size = np.linalg.norm(design, axis=0)
    size[size == 0] = 1.0
    solution, _ = nnls(design / size, np.ones(len(terms)))
    return dict(zip(names, (solution / size).tolist(), strict=True))


def _largest(terms: Sequence[Terms]) -> Terms:
    """The largest amount of each term."""
    return dict(pd.DataFrame(list(terms)).max().to_dict())


def _within_stretch(terms: Terms, largest: Terms) -> bool:
    return all(value <= STRETCH * largest.get(name, 0.0) for name, value in terms.items())


@dataclass(frozen=True)
class Model:
    """Coefficients by quantity and rule, of a core of 1 GFLOP/s, and the largest terms they are fitted to."""

    coefficients: Mapping[str, Mapping[str, Mapping[str, float]]]
    largest: Mapping[str, Terms]

    @classmethod
    def of(cls, measured: pd.DataFrame) -> Model:
        """The model of a table of measured jobs (see `read_measured`)."""
        coefficients: dict[str, dict[str, dict[str, float]]] = {}
        for quantity, kind in QUANTITIES.items():
            usable = measured[measured[quantity].notna()]
            coefficients[quantity] = {
                str(rule): fit(list(jobs[kind]), _cost(jobs, quantity), IDLE[quantity])
                for rule, jobs in usable.groupby(_models_of(usable, quantity))
            }
        largest = {
            str(rule): _largest(jobs["work"])
            for rule, jobs in measured.groupby(_models_of(measured, "core_seconds"))
        }
        return cls(coefficients, largest)

    def measured(self, rule: str, wanted: Costs) -> bool:
        """Whether such a job was ever measured: its rule, with all its terms, a tenth as large at least."""
        return _within_stretch(wanted.work, self.largest.get(_model_of(rule, "core_seconds"), {}))

    def predict(self, rule: str, wanted: Costs, *, gflops: float) -> dict[str, float]:
        """Core-seconds on cores of a speed, MB of memory, MB of disk; an unmeasured rule costs its start."""
        found = {}
        for quantity, kind in QUANTITIES.items():
            known = self.coefficients[quantity].get(_model_of(rule, quantity), {"job": IDLE[quantity]})
            found[quantity] = sum(
                known.get(name, 0.0) * value for name, value in getattr(wanted, kind).items()
            )
        return {**found, "core_seconds": found["core_seconds"] / gflops}


def _cost(jobs: pd.DataFrame, quantity: str) -> list[float]:
    # Less than this can't be told from nothing: half a second, a MB.
    least = {"core_seconds": 0.5, "memory_mb": 1.0, "disk_mb": 0.01}[quantity]
    cost = np.maximum(jobs[quantity].to_numpy(dtype=float), least)
    return list(cost * jobs["gflops"].to_numpy(dtype=float) if quantity == "core_seconds" else cost)


def held_out_errors(measured: pd.DataFrame, quantity: str = "core_seconds") -> pd.DataFrame:
    """How far the model is off for jobs that it hasn't seen.

    Each kind of job (same terms) is predicted by a model of all others of its rule. The only kind of a rule,
    or one more than `STRETCH` times as large as all others, has nothing to be predicted by and is left out.

    Returns:
        For each measured job that could be held out: rule, measured, predicted.
    """
    usable = measured[measured[quantity].notna()]
    kind = QUANTITIES[quantity]
    rows = []
    for _, jobs in usable.groupby(_models_of(usable, quantity)):
        same = jobs[kind].map(lambda terms: json.dumps(terms, sort_keys=True))
        for value in same.unique():
            rest, out = jobs[same != value], jobs[same == value]
            largest = _largest(rest[kind])
            if rest.empty or not _within_stretch(out[kind].iloc[0], largest):
                continue
            found = fit(list(rest[kind]), _cost(rest, quantity), IDLE[quantity])
            for rule, terms, cost in zip(out["rule"], out[kind], _cost(out, quantity), strict=True):
                predicted = sum(found.get(name, 0.0) * amount for name, amount in terms.items())
                rows.append({"rule": rule, "measured": cost, "predicted": predicted})
    return pd.DataFrame(rows, columns=["rule", "measured", "predicted"])


def held_out_runs(measured: pd.DataFrame, quantity: str = "core_seconds") -> pd.DataFrame:
    """How far the model is off for whole runs that it has seen nothing of.

    Returns:
        For each run: its name, the jobs that the others can foretell (like which another run had some, too:
        `Model.measured`), how many jobs it has in all, and what the former cost together (as measured, as
        predicted).
    """
    rows = []
    kind = QUANTITIES[quantity]
    for run, jobs in measured[measured[quantity].notna()].groupby("run"):
        model = Model.of(measured[measured["run"] != run])
        known = jobs[
            [
                model.measured(rule, Costs(work, held, written))
                for rule, work, held, written in zip(
                    jobs["rule"], jobs["work"], jobs["held"], jobs["written"], strict=True
                )
            ]
        ]
        predicted = [
            model.predict(rule, Costs(terms, terms, terms), gflops=gflops)[quantity]
            for rule, terms, gflops in zip(known["rule"], known[kind], known["gflops"], strict=True)
        ]
        rows.append([run, len(known), len(jobs), known[quantity].sum(), sum(predicted)])
    return pd.DataFrame(rows, columns=["run", "jobs", "of", "measured", "predicted"])


# Measurements -----------------------------------------------------------------------------------------------

# Snakemake looks at a job twice a second for its first fifteen seconds, then twice a minute.
OFTEN_UNTIL, SELDOM = 15.5, 30.0
# What looks like less than an interpreter is one that wasn't seen: the job was over before.
LEAST_MEMORY = 50.0


def measure(history: History, setting: Setting, ran: Path, *, gflops: float) -> pd.DataFrame:
    """What the jobs of a plan cost when they were run: those whose benchmark files exist.

    Args:
        history: a dry run with `--forceall`.
        setting: its configuration.
        ran: the folder that they were run in.
        gflops: speed of a core of the machine that they were run on.

    Returns:
        A table with the columns of `data/costs.tsv`.
    """
    rows = []
    for job in history.jobs.values():
        path = ran / job.benchmark
        if job.benchmark and path.is_file():
            seconds, memory = read_benchmark(path)
            written = [ran / output for output in job.outputs]
            disk = (
                sum(output.stat().st_size for output in written) / 1e6
                if all(map(Path.exists, written))
                else math.nan
            )
            terms = costs(job, setting)
            rows.append(
                {
                    "rule": job.rule,
                    "job": job.benchmark.removeprefix("benchmarks/").removesuffix(".tsv"),
                    "run": history.name,
                    "gflops": gflops,
                    "core_seconds": seconds,
                    "memory_mb": memory,
                    "disk_mb": disk,
                    "work": terms.work,
                    "held": terms.held,
                    "written": terms.written,
                }
            )
    return pd.DataFrame(rows, columns=COLUMNS)


COLUMNS = ["rule", "job", "run", "gflops", "core_seconds", "memory_mb", "disk_mb", "work", "held", "written"]


def read_benchmark(path: Path) -> tuple[float, float]:
    """Core-seconds and peak memory (MB; not a number if unknown) of a job, from its benchmark file.

    The file has the processor time at Snakemake's last look at the job. What the job did afterwards is taken
    to have gone on at the same rate.
    """
    row = pd.read_csv(path, sep="\t", na_values=["NA", "-"]).iloc[-1]
    elapsed, processor, memory = (float(row[name]) for name in ("s", "cpu_time", "max_rss"))
    if not (memory >= LEAST_MEMORY and processor > 0):
        return elapsed, math.nan
    often = min(elapsed, OFTEN_UNTIL)
    seen = often + SELDOM * math.floor((elapsed - often) / SELDOM)
    return processor * elapsed / seen, memory


def read_measured(path: Path) -> pd.DataFrame:
    """Read a table of measured jobs; its last three columns are mappings."""
    table = pd.read_csv(path, sep="\t")
    for column in QUANTITIES.values():
        table[column] = table[column].map(json.loads)
    return table


def write_measured(path: Path, table: pd.DataFrame) -> None:
    """Write a table of measured jobs, sorted, the latest of each job only."""
    latest = table.drop_duplicates("job", keep="last").sort_values(["rule", "job"])
    flat = latest.assign(
        **{
            column: latest[column].map(
                lambda terms: json.dumps({name: float(f"{value:.4g}") for name, value in terms.items()})
            )
            for column in QUANTITIES.values()
        }
    )
    with atomic(path) as temporary:
        # Quotes as they are: JSON has no tabs.
        flat.to_csv(temporary, sep="\t", index=False, float_format="%.4g", quoting=3, lineterminator="\n")


# The configuration ------------------------------------------------------------------------------------------


def setting_of(history: History) -> Setting:
    """The configuration that a run has, by the files that it names; `--config key=value` is not among them.

    Raises:
        UserError: the configuration isn't valid.
    """
    folder = history.folder
    merged: dict[str, Any] = {}
    for path in history.configs:
        merged = _overlaid(merged, yaml.safe_load((folder / path).read_text(encoding="utf-8")) or {})
    return Setting(validate(merged), folder, _registry(folder / "data/registry.tsv"))


@cache
def _registry(path: Path) -> Mapping[str, Entry]:
    return read_registry(path)


def _overlaid(base: Mapping[str, Any], overlay: Mapping[str, Any]) -> dict[str, Any]:
    """As Snakemake does it: sections are merged, everything else is replaced."""
    merged = dict(base)
    for key, value in overlay.items():
        old = merged.get(key)
        both = isinstance(old, Mapping) and isinstance(value, Mapping)
        merged[key] = _overlaid(old, value) if both else value  # type: ignore[arg-type]
    return merged


def core_speed(tries: int = 5, n: int = 1024) -> float:
    """How many GFLOP/s one core of this machine does in a float32 matrix product: the best of some tries.

    By processor time, so that other work on the machine matters little.
    """
    import torch  # which takes seconds, and only this needs it

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        x = torch.randn(n, n)
        x @ x
        best = math.inf
        for _ in range(tries):
            begin = time.process_time()
            x @ x
            best = min(best, time.process_time() - begin)
    finally:
        torch.set_num_threads(threads)
    return 2 * n**3 / best / 1e9
