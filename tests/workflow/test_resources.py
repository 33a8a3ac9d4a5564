"""What jobs ask a cluster for is what they are expected to need, at the size of the paper's run."""

from __future__ import annotations

import os
from types import SimpleNamespace
from typing import Any

import pytest
from runs import ROOT
from snakemake.api import ConfigSettings, OutputSettings, ResourceSettings, SnakemakeApi

from undue.run import layout
from undue.run.cost import TABLE, Costs, Model, Setting, costs, read_measured, setting_of, sizes
from undue.run.history import Job, plan

pytestmark = pytest.mark.slow

PAPER = "workflow/presets/paper.yaml"
GFLOPS = 50.0  # of a slow core


@pytest.fixture(scope="module")
def jobs() -> tuple[list[Job], Setting]:
    history = plan(["--forceall", "--configfile", PAPER], ROOT)
    return [job for job in history.jobs.values() if job.outputs], setting_of(history)


@pytest.fixture(scope="module")
def rules(jobs: tuple[list[Job], Setting]) -> dict[str, Any]:
    """Name → rule of the paper's run, as if its features were there."""
    setting = jobs[1]
    before = dict(os.environ)
    try:
        with SnakemakeApi(OutputSettings()) as api:
            run = api.workflow(
                resource_settings=ResourceSettings(cores=1),
                config_settings=ConfigSettings(configfiles=[ROOT / PAPER]),
                snakefile=ROOT / "Snakefile",
                workdir=ROOT,
            )
            run._workflow.globals["classes"] = lambda dataset: sizes(setting, dataset).k
            return {rule.name: rule for rule in run._workflow.rules}
    finally:
        # The Snakefile tells its jobs where the library is.
        os.environ.clear()
        os.environ.update(before)


def read_by(job: Job, wanted: Costs, setting: Setting) -> float:
    """MB of a job's input files, those left out that are small beside a data set."""
    if job.rule == "extract_features":
        files = layout.definition(setting.config, job.wildcards["dataset"])["files"].values()
        return sum(setting.registry[name].bytes for name in files) / 1e6
    return wanted.held.get("features", 0.0)


def asked(rule: Any, job: Job, size: float, name: str, default: float) -> float:
    """What a job asks for of a resource at its first attempt, its inputs being so many MB."""
    resource = rule.resources.get(name)
    if resource.is_evaluable():
        inputs = SimpleNamespace(size_mb=size)
        resource = resource.evaluate(SimpleNamespace(**job.wildcards), input=inputs, attempt=1)
    return float(default if resource.value is None else resource.value)


def test_what_is_asked_for_is_enough(rules: dict[str, Any], jobs: tuple[list[Job], Setting]) -> None:
    planned, setting = jobs
    model = Model.of(read_measured(ROOT / TABLE))
    too_little = {}
    for job in planned:
        rule, wanted = rules[job.rule], costs(job, setting)
        size = read_by(job, wanted, setting)
        expected = model.predict(job.rule, wanted, gflops=GFLOPS)
        minutes = expected["core_seconds"] / asked(rule, job, size, "_cores", 1) / 60
        memory, limit = (asked(rule, job, size, *of) for of in (("mem_mb", 0.0), ("runtime", 30.0)))
        if minutes > limit:
            too_little[job.rule, "minutes"] = minutes, limit
        if expected["memory_mb"] > memory:
            too_little[job.rule, "MB"] = expected["memory_mb"], memory
    assert too_little == {}
