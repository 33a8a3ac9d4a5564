"""Train θ*, the linear model that influences are computed for."""

import torch
from snakemake.iocontainers import Snakemake

from undue.arrays import write_arrays
from undue.calculus.lanes import norm
from undue.calculus.objective import Objective
from undue.data.problem import load_problem
from undue.files import write_json
from undue.randomness import stream
from undue.run.job import job
from undue.training import cross_validate, train, train_as_published

snakemake: Snakemake  # put here by Snakemake

with job(snakemake) as log:
    cfg = snakemake.params.cfg
    model, seed = cfg["model"], cfg["seed"]
    problem = load_problem(snakemake.input.features, snakemake.input.split, scaling=cfg["scaling"])
    exact = problem.to(torch.float64)
    chosen = None
    if model["l2"] == "cross_validated":
        chosen = cross_validate(
            problem.train,
            model["l2_grid"],
            folds=model["folds"],
            regularise_bias=model["regularise_bias"],
            generator=stream(seed, "folds"),
        )
    l2 = chosen.best if chosen else model["l2"]
    if model["training"] == "paper_sgd":
        theta = train_as_published(problem.train, stream(seed, "sgd"))
    else:
        theta = train(
            problem.train,
            l2=l2,
            regularise_bias=model["regularise_bias"],
            gradient_norm=model["gradient_norm"],
        ).theta
    objective = Objective(exact.train, l2, regularise_bias=model["regularise_bias"])
    point = exact.train.at(theta)
    metadata = {
        "training": model["training"],
        "l2": l2,
        "cross_validation": dict(zip(map(str, chosen.l2), chosen.log_loss, strict=True)) if chosen else None,
        "gradient_norm": float(norm(objective.gradient(point))),
        "theta_norm": float(norm(theta)),
        "log_loss_train": float(point.losses().mean()),
        "accuracy_train": float(point.accuracy()),
        "accuracy_shared": float(exact.shared.at(theta).accuracy()),
        "accuracy_pristine": float(exact.pristine.at(theta).accuracy()),
        "samples_train": problem.train.samples,
        "samples_shared": problem.shared.samples,
        "samples_pristine": problem.pristine.samples,
        "classes": problem.train.classes,
        "features": problem.train.x.shape[1] - 1,
    }
    write_arrays(snakemake.output.model, {"theta": theta[..., 0].cpu().numpy()})
    write_json(snakemake.output.metadata, metadata)
    log.info(
        "λ = %g, ‖∇R(θ*)‖ = %.1e, accuracy %.4f shared, %.4f pristine",
        l2,
        metadata["gradient_norm"],
        metadata["accuracy_shared"],
        metadata["accuracy_pristine"],
    )
