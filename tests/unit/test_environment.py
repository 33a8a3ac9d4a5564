"""The environment: the lock is whole and portable, and `make` creates it once, safely, with clear errors."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tomllib
from importlib import metadata
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

ROOT = Path(__file__).resolve().parents[2]


def requirements(name: str) -> dict[str, Requirement]:
    lines = (ROOT / "envs" / name).read_text(encoding="utf-8").splitlines()
    parsed = [Requirement(line.split("#")[0]) for line in lines if line.split("#")[0].strip()]
    assert len({canonicalize_name(one.name) for one in parsed}) == len(parsed), (
        f"{name} names a package twice"
    )
    return {canonicalize_name(one.name): one for one in parsed}


def locked(requirement: Requirement) -> str:
    (specifier,) = requirement.specifier
    assert specifier.operator == "=="
    return specifier.version


LOCK = requirements("requirements.txt")
WANTED = requirements("requirements.in")
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]

# The lock ---------------------------------------------------------------------------------------------------


def test_lock_pins_public_versions_and_no_place() -> None:
    for name, requirement in LOCK.items():
        assert requirement.url is None, name
        assert Version(locked(requirement)).local is None, name


def test_lock_names_no_index_and_leaves_cuda_to_torch() -> None:
    text = (ROOT / "envs" / "requirements.txt").read_text(encoding="utf-8")
    lines = [line for line in text.splitlines() if not line.startswith("#")]
    assert not [line for line in lines if "//" in line or line.startswith("-")]
    assert not [name for name in LOCK if name.startswith(("nvidia-", "cuda-", "triton"))]


def test_lock_has_what_is_wanted() -> None:
    for name, requirement in WANTED.items():
        assert requirement.specifier.contains(locked(LOCK[name])), name


def test_project_needs_nothing_that_the_lock_lacks() -> None:
    for text in PROJECT["dependencies"]:
        requirement = Requirement(text)
        name = canonicalize_name(requirement.name)
        assert name in WANTED, f"{name} is not in requirements.in"
        assert requirement.specifier.contains(locked(LOCK[name])), name


@pytest.mark.parametrize("machine", ["x86_64", "aarch64"])
@pytest.mark.parametrize("python", ["3.11", "3.12", "3.13"])
def test_lock_holds_on_each_machine(machine: str, python: str) -> None:
    here = {
        "platform_machine": machine,
        "sys_platform": "linux",
        "python_version": python,
        "python_full_version": f"{python}.9",
    }
    left_out = [name for name, one in LOCK.items() if one.marker and not one.marker.evaluate(here)]
    assert not left_out


@pytest.mark.parametrize("name", sorted(WANTED))
def test_the_environment_is_the_locks(name: str) -> None:
    try:
        installed = metadata.version(name)
    except metadata.PackageNotFoundError:
        pytest.fail(f"{name} is not installed: run the tests by `make test`")
    assert Version(installed).public == locked(LOCK[name])


def test_the_conda_file_is_the_lock() -> None:
    made = subprocess.run(["sh", ROOT / "envs" / "conda.sh"], check=True, capture_output=True, text=True)
    text = (ROOT / "envs" / "conda.yaml").read_text(encoding="utf-8")
    assert text == made.stdout
    (pip,) = [one["pip"] for one in yaml.safe_load(text)["dependencies"] if isinstance(one, dict)]
    assert {canonicalize_name(Requirement(line).name) for line in pip} == set(LOCK)


# make -------------------------------------------------------------------------------------------------------

STUB = """#!/bin/sh
# Stands in for Python: notes how it was called, and makes an "environment" with itself in it.
echo "$*" >> "$STUB_LOG"
case "$*" in
    --version) echo "Python 3.10.1" ;;
    "-c import sys;"*) [ -z "${STUB_OLD:-}" ] ;;
    "-m venv --clear .venv") rm -rf .venv && mkdir -p .venv/bin && cp "$0" .venv/bin/python ;;
    "-m pip install"*" uv=="*) [ -z "${STUB_UV:-}" ] || cp "$0" .venv/bin/uv ;;
    "-m pip config list") printf "%s\\n" "${STUB_SETTINGS:-}" ;;
    "pip install"*) [ "${STUB_UV:-}" != fails ] ;;
    "-m pip install"*"-r envs/requirements.txt") sleep "${STUB_SLEEP:-0}"; [ -z "${STUB_FAIL:-}" ] ;;
esac
"""


class Make:
    """A copy of the project's Makefile and environment, with a stand-in for Python."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.log = folder / "log"
        for name in ("Makefile", "config.yaml"):
            shutil.copy(ROOT / name, folder)
        shutil.copytree(ROOT / "envs", folder / "envs")
        shutil.copytree(ROOT / "workflow" / "presets", folder / "workflow" / "presets")
        self.python = folder / "python"
        self.python.write_text(STUB)
        self.python.chmod(0o755)

    def start(self, *arguments: str, **environment: str) -> subprocess.Popen[str]:
        # A make that runs these tests hands its own variables down; they are none of this one's business.
        inherited = {
            key: value
            for key, value in os.environ.items()
            if key not in {"PRESET", "CORES", "ARGS", "PIP_ARGS"} and not key.startswith(("MAKE", "MFLAGS"))
        }
        return subprocess.Popen(
            ["make", *arguments],
            cwd=self.folder,
            env={**inherited, "PYTHON": str(self.python), "STUB_LOG": str(self.log), **environment},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    def run(self, *arguments: str, **environment: str) -> tuple[int, str]:
        process = self.start(*arguments, **environment)
        output, _ = process.communicate(timeout=60)
        return process.returncode, output

    def installs(self) -> int:
        """How often pip was given the lock."""
        called = self.log.read_text().splitlines() if self.log.exists() else []
        return sum(
            line.startswith("-m pip install") and line.endswith("-r envs/requirements.txt") for line in called
        )


@pytest.fixture
def make(tmp_path: Path) -> Make:
    if shutil.which("make") is None:
        pytest.skip("there is no make on this machine")
    return Make(tmp_path)


def test_environment_is_created_once(make: Make) -> None:
    code, output = make.run("environment")
    assert code == 0, output
    assert "Creating the environment" in output
    assert "--no-deps --no-build-isolation -e ." in make.log.read_text()
    assert make.run("environment")[0] == 0
    assert make.installs() == 1


def test_environment_follows_the_lock(make: Make) -> None:
    make.run("environment")
    with (make.folder / "envs" / "requirements.txt").open("a") as lock:
        lock.write("more==1\n")
    make.run("environment")
    assert make.installs() == 2


@pytest.mark.parametrize("damage", ["rm -rf .venv", "rm .venv/bin/python", "mv .venv/bin .venv/nib"])
def test_environment_is_made_again_when_it_is_gone_or_broken(make: Make, damage: str) -> None:
    make.run("environment")
    subprocess.run(damage, shell=True, cwd=make.folder, check=True)
    assert make.run("environment")[0] == 0
    assert make.installs() == 2


def test_a_failed_installation_does_not_count(make: Make) -> None:
    assert make.run("environment", STUB_FAIL="1")[0] != 0
    assert make.run("environment")[0] == 0
    assert make.installs() == 2


def test_a_moved_project_gets_an_environment_of_its_own(make: Make, tmp_path: Path) -> None:
    make.run("environment")
    copy = tmp_path / "elsewhere"
    copy.mkdir()
    for name in ("Makefile", "config.yaml", ".venv", "envs", "workflow"):
        source = make.folder / name
        (shutil.copytree if source.is_dir() else shutil.copy)(source, copy / name)
    make.folder = copy
    make.run("environment")
    assert make.installs() == 2


@pytest.mark.skipif(shutil.which("flock") is None, reason="without flock nothing guards two at once")
def test_two_at_once_install_once(make: Make) -> None:
    both = [make.start("environment", STUB_SLEEP="1") for _ in range(2)]
    assert [process.wait(timeout=60) for process in both] == [0, 0]
    for process in both:
        process.communicate()
    assert make.installs() == 1


def test_pip_gets_further_options(make: Make) -> None:
    make.run("environment", "PIP_ARGS=--extra-index-url URL")
    assert "--extra-index-url URL -r envs/requirements.txt" in make.log.read_text()


PIP_SETTINGS = r"""\
:env:.find-links='/here'
global.cert='/certificates'
global.extra-index-url='\nURL1\nURL2'
global.find-links='/elsewhere'
global.index-url='URL0'"""


def test_uv_installs_the_lock_from_where_pip_would(make: Make) -> None:
    code, output = make.run("environment", "PIP_ARGS=--no-cache", STUB_UV="works", STUB_SETTINGS=PIP_SETTINGS)
    assert code == 0, output
    assert make.installs() == 0
    (line,) = [line for line in make.log.read_text().splitlines() if line.startswith("pip install")]
    places = "--find-links=/here --extra-index-url=URL1 --extra-index-url=URL2 --index-url=URL0"
    assert line.endswith(f"{places} --no-cache -r envs/requirements.txt")
    assert f"-m pip install --quiet --disable-pip-version-check --no-cache uv=={locked(LOCK['uv'])}" in (
        make.log.read_text()
    )


@pytest.mark.parametrize("stub", ["", "fails"])
def test_without_uv_pip_installs_the_lock(make: Make, stub: str) -> None:
    code, output = make.run("environment", STUB_UV=stub)
    assert code == 0, output
    assert make.installs() == 1
    assert "pip does" in output


def test_an_old_python_is_named(make: Make) -> None:
    code, output = make.run("environment", STUB_OLD="1")
    assert code != 0
    assert "is Python 3.10.1, but Python 3.11, 3.12 or 3.13 is needed" in output
    assert not (make.folder / ".venv").exists()


def test_a_missing_python_is_named(make: Make) -> None:
    code, output = make.run("environment", "PYTHON=python-of-nowhere")
    assert code != 0
    assert "there is no 'python-of-nowhere' on this machine" in output


def test_reproduce_runs_the_default_and_says_where_the_figures_are(make: Make) -> None:
    code, output = make.run("reproduce")
    assert code == 0, output
    assert "-m snakemake --cores all" in make.log.read_text()
    assert "--configfile" not in make.log.read_text()
    assert output.splitlines()[-1].split() == ["Figures:", "results/figures/"]


@pytest.mark.parametrize(
    ("preset", "results"),
    [
        ("paper", "results/presets/paper"),
        ("mnist5k", "results/presets/mnist5k"),
        ("mirror", "results/presets/mirror"),
        ("variants", "results/presets/variants"),
        ("gpu", "results"),
    ],
)
def test_reproduce_with_a_preset(make: Make, preset: str, results: str) -> None:
    code, output = make.run("reproduce", f"PRESET={preset}", "CORES=1", "ARGS=--dry-run")
    assert code == 0, output
    called = make.log.read_text()
    assert f"-m snakemake --cores 1 --configfile workflow/presets/{preset}.yaml --dry-run" in called
    # An overlay that names no folder of its own leaves the default one.
    assert output.splitlines()[-1].split() == ["Figures:", f"{results}/figures/"]


@pytest.mark.parametrize("preset", ["smok", "smoke paper", "../config"])
def test_a_misspelt_preset_is_refused_before_anything_is_made(make: Make, preset: str) -> None:
    presets = sorted(path.stem for path in (ROOT / "workflow" / "presets").glob("*.yaml"))
    code, output = make.run("reproduce", f"PRESET={preset}")
    assert code != 0
    assert f"There is no preset '{preset}'. There are: {' '.join(presets)}" in output
    assert not make.log.exists()


def test_help_is_the_default_and_lists_every_target(make: Make) -> None:
    code, output = make.run()
    assert code == 0
    text = (ROOT / "Makefile").read_text(encoding="utf-8")
    (phony,) = re.findall(r"^\.PHONY: (.*)$", text, flags=re.MULTILINE)
    for target in phony.split():
        assert re.search(rf"^  {target} +\S", output, flags=re.MULTILINE), target
    assert "PRESET" in output
    assert not make.log.exists()


def test_clean_keeps_data_and_results(make: Make) -> None:
    make.run("environment")
    kept = [make.folder / "results" / "a", make.folder / "data" / "downloads" / "b"]
    for file in kept:
        file.parent.mkdir(parents=True)
        file.touch()
    for folder in ("tests", "workflow/undue"):
        (make.folder / folder / "__pycache__").mkdir(parents=True)
    code, output = make.run("clean")
    assert code == 0, output
    assert not (make.folder / ".venv").exists()
    assert not list(make.folder.rglob("__pycache__"))
    assert all(file.exists() for file in kept)


def test_the_benchmark_is_run(make: Make) -> None:
    code, output = make.run("bench", "ARGS=--peers-only")
    assert code == 0, output
    assert "-m bench --peers-only" in make.log.read_text()


def test_continuous_integration_runs_everything(tmp_path: Path) -> None:
    """All tests, none of them skipped for want of what could be installed."""
    script = ROOT / ".ci" / "run"
    assert os.access(script, os.X_OK)
    programs = {
        "apt-get": "exit 1",
        "make": 'echo "make $* with $UNDUE_REQUIRE"',
        "chromium": "",
        "sbatch": "",
    }
    for name, does in programs.items():
        (tmp_path / name).write_text(f"#!/bin/sh\n{does}\n")
        (tmp_path / name).chmod(0o755)
    environment = {**os.environ, "PATH": f"{tmp_path}:{os.environ['PATH']}"}
    ran = subprocess.run([script], env=environment, check=True, capture_output=True, text=True)
    *said, last = ran.stdout.splitlines()
    asked, _, has = last.partition(" with ")
    assert asked == "make test"
    # SLURM is more than its sbatch.
    path = os.pathsep.join([environment["PATH"], "/usr/sbin", "/sbin"])
    slurm, ssh = (shutil.which(name, path=path) for name in ("munged", "sshd"))
    wanted = ["registry", "browser", *["slurm"] * bool(slurm), *["ssh"] * bool(ssh)]
    assert has.split(",") == wanted
    assert len(said) == 4 - len(wanted)


def test_python_is_new_enough() -> None:
    assert sys.version_info >= (3, 11)
    assert PROJECT["requires-python"] == ">=3.11"
