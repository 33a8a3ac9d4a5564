"""Train θ*, the base model whose influences the training data are reweighed by."""

from snakemake.iocontainers import Snakemake

from undue.arrays import write_arrays
from undue.calculus.lanes import norm
from undue.fairness.logistic import fit
from undue.fairness.metrics import accuracy, calibration_error, log_loss, signed_gap
from undue.fairness.problem import load_problem
from undue.files import write_json
from undue.run.job import job

snakemake: Snakemake  # put here by Snakemake

with job(snakemake) as log:
    cfg = snakemake.params.cfg
    problem = load_problem(snakemake.input.problem, l2=cfg["l2"])
    found = fit(problem.objective())
    seen = {"validation": problem.validation, "test": problem.test}
    metadata = {
        "l2": cfg["l2"],
        "gradient_norm": float(found.gradient_norm),
        "theta_norm": float(norm(found.theta)),
        **{f"accuracy_{name}": accuracy(part, found.theta) for name, part in seen.items()},
        **{f"log_loss_{name}": log_loss(part, found.theta) for name, part in seen.items()},
        **{f"calibration_error_{name}": calibration_error(part, found.theta) for name, part in seen.items()},
        "gaps": {
            metric: {name: abs(signed_gap(part, found.theta, metric)) for name, part in seen.items()}
            for metric in cfg["fairness.metrics"]
        },
    }
    write_arrays(snakemake.output.model, {"theta": found.theta[:, 0, 0].numpy()})
    write_json(snakemake.output.metadata, metadata)
    log.info(
        "accuracy %.4f validation, %.4f test; gaps on test %s",
        metadata["accuracy_validation"],
        metadata["accuracy_test"],
        {metric: round(gaps["test"], 4) for metric, gaps in metadata["gaps"].items()},
    )
