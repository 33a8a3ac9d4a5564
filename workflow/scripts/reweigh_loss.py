"""The loss-reweighing baseline for one block of targets: all weights, trained from scratch and ranked."""

import numpy as np
import pandas as pd
from snakemake.iocontainers import Snakemake

from undue.data.problem import load_problem
from undue.device import choose_device
from undue.run.job import job
from undue.tables import write_table
from undue.valuation.calculator import load_exact_setting
from undue.valuation.evaluate import confirm
from undue.valuation.reweighing import TRIAL_COLUMNS, Training, Trial, reweigh

snakemake: Snakemake  # put here by Snakemake

with job(snakemake) as log:
    cfg = snakemake.params.cfg
    baseline = cfg["baseline"]
    device = choose_device(snakemake.resources.device, key="attack.device")
    problem = load_problem(snakemake.input.features, snakemake.input.split, scaling=cfg["scaling"])
    targets = pd.read_parquet(snakemake.input.targets)["index"].unique()
    rows = problem.train_index.searchsorted(targets)
    trials = [Trial(int(row), weight) for row in rows for weight in baseline["weights"]]
    training = Training(baseline["steps"], baseline["batch_size"], baseline["learning_rate"])
    memory = snakemake.resources.lanes_mb * 1e6
    theta = reweigh(problem.train.to(device), trials, training, seed=cfg["seed"], memory=memory)
    log.info("%d models trained; ranking", len(trials))
    setting = load_exact_setting(snakemake.input.features, snakemake.input.split, snakemake.input.model, cfg)
    row = np.array([trial.row for trial in trials])
    checked = confirm(setting.calculator, setting.basis, theta.permute(2, 0, 1).cpu().numpy(), row)
    checked["target"] = problem.train_index[row]
    checked["weight"] = [trial.weight for trial in trials]
    write_table(snakemake.output.trials, TRIAL_COLUMNS, checked)
