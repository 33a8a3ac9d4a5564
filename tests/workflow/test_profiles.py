"""The profiles for clusters, with stand-ins for the clusters' commands that run the jobs here."""

from __future__ import annotations

import os
import re
from dataclasses import replace
from pathlib import Path

import pytest
import yaml
from plugins import install
from runs import planned_jobs
from tiny import ALL_JOBS, Tiny, complete, fresh, ran

ATTACK = "results/tiny/attack/min_higher/radius=0.8/seed=0/block=0.parquet"
UP_TO_ATTACK = (
    *("download", "extract_features", "split_data", "train_model", "compute_influence"),
    *("select_targets", "attack"),
)
# The stand-ins' jobs are short.
OFTEN = ("--seconds-between-status-checks", "1")
QSUB = """#!/bin/sh
echo "$@" >> "$STAND_IN/submitted"
for script in "$@"; do :; done
setsid sh "$script" > "$STAND_IN/$$.out" 2>&1 < /dev/null &
echo $!
"""
KUBECTL = """#!/bin/sh
case "$1" in
create)
    cat > "$STAND_IN/$$.yaml"
    script=$(sed -n 's/^ *command: .sh, "\\(.*\\)".$/\\1/p' "$STAND_IN/$$.yaml")
    export STAND_IN
    setsid sh -c 'sh "$1" && echo Complete > "$2" || echo Failed > "$2"' \\
        sh "$script" "$STAND_IN/$$.condition" > "$STAND_IN/$$.out" 2>&1 < /dev/null &
    echo "$$" ;;
get) cat "$STAND_IN/$2.condition" 2> /dev/null || true ;;
esac
"""


@pytest.fixture(scope="module")
def executors(shared: Path) -> Path:
    return install(shared, "cluster.txt")


@pytest.fixture
def reference(shared: Path, snapshot: Path) -> Tiny:
    return complete(shared, snapshot)


@pytest.fixture
def project(snapshot: Path, executors: Path, tmp_path: Path) -> Tiny:
    """The tiny project, in which nothing was run, where Snakemake finds its cluster executors."""
    return replace(fresh(tmp_path, snapshot), extra={"PYTHONPATH": str(executors)})


def standing_in(project: Tiny, folder: Path, command: str, script: str) -> Tiny:
    """The project where a command is a script of ours, which leaves its notes in a folder."""
    folder.mkdir()
    (folder / command).write_text(script, encoding="utf-8")
    (folder / command).chmod(0o755)
    path = os.pathsep.join([str(folder), project.environment()["PATH"]])
    return replace(project, extra={**project.extra, "PATH": path, "STAND_IN": str(folder)})


@pytest.mark.network
@pytest.mark.parametrize("profile", ["slurm", "generic", "kubernetes"])
def test_every_profile_plans_the_same(project: Tiny, profile: str) -> None:
    output = project.dry_run("--profile", f"profiles/{profile}")
    assert planned_jobs(output) == ALL_JOBS


@pytest.mark.network
def test_the_paper_s_run_on_a_cluster(snapshot: Path, executors: Path, tmp_path: Path) -> None:
    project = Tiny(snapshot, tmp_path / "mirror", {"PYTHONPATH": str(executors)}).copy(tmp_path / "project")
    command = "snakemake --profile profiles/slurm --configfile workflow/presets/paper.yaml"
    # 3 data sets, 3 objectives, 4 radii, 7 starts, 2 blocks.
    assert planned_jobs(project.run("sh", "-euc", f"{command} -n"))["attack"] == 168


@pytest.mark.network
def test_what_a_job_asks_for_may_be_set(project: Tiny) -> None:
    command = "snakemake --profile profiles/slurm --set-resources attack:mem_mb=16000 attack:runtime=600"
    said = project.run("sh", "-euc", f"{command} -n")
    (attack,) = re.findall(r"^rule attack:\n(?: .*\n)* +resources: (.*)", said, re.MULTILINE)
    assert {"mem_mb=16000", "runtime=600"} <= set(attack.split(", "))


@pytest.mark.network
@pytest.mark.parametrize(("device", "gpus"), [("auto", {"0"}), ("cpu", {"0"}), ("cuda", {"1"})])
def test_gpus_are_asked_for_where_the_config_says_so(project: Tiny, device: str, gpus: set[str]) -> None:
    def choose(config: dict[str, dict[str, object]]) -> None:
        config["features"]["device"] = config["attack"]["device"] = device

    project.configure(choose)
    output = project.dry_run("--profile", "profiles/slurm")
    computing = ("extract_features", "attack", "compute_gradient_norms")
    for rule in computing:
        (resources,) = re.findall(rf"^rule {rule}:\n(?: .*\n)* +resources: (.*)", output, re.MULTILINE)
        assert set(re.findall(r"\bgpu=(\d+)", resources)) == gpus
    rules = re.findall(r"^rule \w+:\n(?: .*\n)*", output, re.MULTILINE)
    others = [rule for rule in rules if not rule.startswith(tuple(f"rule {name}:" for name in computing))]
    assert others
    assert not [rule for rule in others if "gpu=" in rule]


@pytest.mark.network
@pytest.mark.slow
def test_a_submit_command(project: Tiny, reference: Tiny, tmp_path: Path) -> None:
    stand_in = tmp_path / "pbs"
    project = standing_in(project, stand_in, "qsub", QSUB)
    output = project.run("snakemake", ATTACK, "--profile", "profiles/generic", *OFTEN)
    assert ran(output) == dict.fromkeys(UP_TO_ATTACK, 1)
    made = project.checksums()
    assert ATTACK in made
    assert made.items() <= reference.checksums().items()
    submitted = (stand_in / "submitted").read_text(encoding="utf-8").splitlines()
    # The download is local.
    assert len(submitted) == len(UP_TO_ATTACK) - 1
    (attack,) = [line for line in submitted if "-N attack " in line]
    assert re.search(r"ncpus=1:mem=\d{4}mb:ngpus=0 -l walltime=00:30:00 ", attack)


SBATCH = """#!/bin/sh
echo "$@" >> "$STAND_IN/submitted"
echo "no such node" >&2
exit 1
"""


@pytest.mark.network
@pytest.mark.slow
@pytest.mark.parametrize(
    ("profile", "command", "script", "option"),
    [("generic", "qsub", QSUB, ":ngpus=1 "), ("slurm", "sbatch", SBATCH, "--gpus=1")],
    ids=["generic", "slurm"],
)
def test_a_gpu_is_asked_for(
    reference: Tiny, executors: Path, tmp_path: Path, profile: str, command: str, script: str, option: str
) -> None:
    project = replace(reference.copy(tmp_path / "project"), extra={"PYTHONPATH": str(executors)})
    project = standing_in(project, tmp_path / "cluster", command, script)
    (project.root / ATTACK).unlink()
    options = ["--profile", f"profiles/{profile}", "--configfile", "workflow/presets/gpu.yaml", *OFTEN]
    # So that SLURM isn't asked for a partition.
    options += ["--set-resources", "attack:slurm_partition=main"]
    if profile == "slurm":
        options += ["--slurm-arrays-init-seconds-before-status-checks", "1"]
    # Where there is no GPU the job fails.
    said = project.attempt("snakemake", ATTACK, "--retries", "0", *options).output
    # What was made without one counts as made.
    assert ran(said) == {"attack": 1}
    (submitted,) = (tmp_path / "cluster" / "submitted").read_text(encoding="utf-8").splitlines()
    assert option in submitted


@pytest.mark.network
@pytest.mark.slow
def test_kubernetes(reference: Tiny, executors: Path, tmp_path: Path) -> None:
    project = replace(reference.copy(tmp_path / "project"), extra={"PYTHONPATH": str(executors)})
    project = standing_in(project, tmp_path / "cluster", "kubectl", KUBECTL)
    for path in (project.root / "results/tiny/attack/min_higher/radius=0.8/seed=0").iterdir():
        path.unlink()
    output = project.run("snakemake", ATTACK, "--profile", "profiles/kubernetes", *OFTEN)
    assert ran(output) == {"attack": 1}
    assert project.checksums() == reference.checksums()
    (note,) = (tmp_path / "cluster").glob("*.yaml")
    attack = yaml.safe_load(note.read_text(encoding="utf-8"))
    assert attack["metadata"]["generateName"] == "attack-"
    assert attack["spec"]["activeDeadlineSeconds"] == 30 * 60
    pod = attack["spec"]["template"]["spec"]
    (container,) = pod["containers"]
    assert container["resources"]["requests"]["cpu"] == 1
    assert container["resources"]["limits"]["nvidia.com/gpu"] == 0
    assert container["workingDir"] == container["volumeMounts"][0]["mountPath"] == str(project.root)
    assert pod["volumes"][0]["persistentVolumeClaim"]["claimName"] == "undue-influence"


@pytest.mark.network
@pytest.mark.slow
@pytest.mark.parametrize(
    ("profile", "command", "script"), [("kubernetes", "kubectl", KUBECTL), ("generic", "qsub", QSUB)]
)
def test_a_failed_job_is_an_error(
    project: Tiny, tmp_path: Path, profile: str, command: str, script: str
) -> None:
    project = standing_in(project, tmp_path / "cluster", command, script)
    (project.mirror / "tiny.zip").unlink()
    # The download is no longer local, and fails on the cluster.
    rules = project.root / "workflow/rules/data.smk"
    local = "localrules:\n    download,\n"
    text = rules.read_text(encoding="utf-8")
    assert local in text
    rules.write_text(text.replace(local, ""), encoding="utf-8")
    outcome = project.attempt("snakemake", "--profile", f"profiles/{profile}", "--retries", "0", *OFTEN)
    assert outcome.status != 0
    assert "Error in rule download:" in outcome.output
    assert project.checksums() == {}
