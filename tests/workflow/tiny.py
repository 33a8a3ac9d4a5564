"""A throw-away copy of the project that computes everything on tiny pictures, without a network.

The pictures take the whole way of real data: a line in data/registry.tsv, downloaded from a mirror folder
by checksum. The settings stand in config.yaml itself, so that plain `snakemake`, and with it `dvc repro`,
runs them; a job then takes hardly longer than its imports.
"""

from __future__ import annotations

import hashlib
import io
import os
import re
import shutil
import signal
import subprocess
import zipfile
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from PIL import Image
from runs import Outcome, environment_with, once, planned_jobs, run

ARCHIVE = "tiny.zip"
SETTINGS: dict[str, dict[str, Any]] = {
    "data": {"use": ["tiny"]},
    "features": {"backbone": "none", "image_size": 6},
    "model": {"l2": 0.01},
    "attack": {
        "radii": [0.8],
        "learning_rates": [0.1],
        "seeds": [0],
        "targets": 2,
        "targets_per_block": 2,
        "ranks": [1, 10],
        "steps": 4,
        "monitor_every": 2,
    },
    "multi_target": {"sizes": []},
    "baseline": {"weights": []},
    "fairness": {"use": []},
    "impossibility": {"dimensions": []},
    "validation": {"dataset": None, "ranking_samples": 0},
    "figures": {"gallery_targets": 1, "gradient_samples": 5, "dpi": 50},
}
ALL_JOBS = {
    "download": 1,
    "extract_features": 1,
    "split_data": 1,
    "train_model": 1,
    "compute_influence": 1,
    "select_targets": 1,
    "attack": 1,
    "publish_attacks": 1,
    "summarise_attacks": 1,
    "summarise_ablation": 1,
    "compute_gradient_norms": 1,
    "analyse_easy_targets": 1,
    "plot_objective_steps": 1,
    "plot_attack_success": 1,
    "plot_top_ranked": 1,
}
COMPUTED = ("data/downloads", "data/features", "results")

Config = dict[str, Any]


@dataclass(frozen=True)
class Tiny:
    """A copy of the project with tiny settings.

    Attributes:
        root: its folder.
        mirror: the folder that its download comes from.
        extra: more environment variables for what is run in it.
    """

    root: Path
    mirror: Path
    extra: dict[str, str] = field(default_factory=dict)

    def environment(self) -> dict[str, str]:
        """The environment of all commands: this one, cut off from the user's settings of git and DVC."""
        dvc = self.mirror.parent / "dvc"
        return {
            **environment_with(self.mirror),
            "GIT_CONFIG_GLOBAL": os.devnull,
            "GIT_CONFIG_NOSYSTEM": "1",
            **{f"GIT_{who}_{what}": "test" for who in ("AUTHOR", "COMMITTER") for what in ("NAME", "EMAIL")},
            **{f"DVC_{which}_DIR": str(dvc) for which in ("SITE_CACHE", "GLOBAL_CONFIG", "SYSTEM_CONFIG")},
            **self.extra,
        }

    def attempt(self, *command: str) -> Outcome:
        """Run a command to its end, whatever that is."""
        return run(list(command), self.root, self.environment())

    def run(self, *command: str) -> str:
        """Run a command, to success; what it printed."""
        outcome = self.attempt(*command)
        assert outcome.status == 0, f"{' '.join(command)}\n{outcome.output}"
        return outcome.output

    def start(self, *command: str) -> subprocess.Popen[str]:
        """Start a command."""
        return subprocess.Popen(
            command,
            cwd=self.root,
            env=self.environment(),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            # A shell that starts the tests in the background has them, and all they start, ignore Ctrl-C.
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
        )

    def plan(self) -> dict[str, int]:
        """What a dry run says will be done: rule → number of jobs."""
        return planned_jobs(self.dry_run())

    def dry_run(self, *arguments: str) -> str:
        """A dry run of Snakemake, to success; what it printed."""
        return self.run("snakemake", "--dry-run", *arguments)

    def checksums(self) -> dict[str, str]:
        """Path → sha256 of every file that was computed."""
        return {
            path: hashlib.sha256((self.root / path).read_bytes()).hexdigest() for path in self._computed()
        }

    def identities(self) -> dict[str, tuple[int, int]]:
        """Path → inode and modification time of every file that was computed."""
        found = {path: (self.root / path).stat() for path in self._computed()}
        return {path: (stat.st_ino, stat.st_mtime_ns) for path, stat in found.items()}

    def _computed(self) -> list[str]:
        # Hidden files have no name yet: a killed job leaves them behind.
        found = (path for folder in COMPUTED for path in (self.root / folder).rglob("[!.]*"))
        return sorted(path.relative_to(self.root).as_posix() for path in found if path.is_file())

    def configure(self, change: Callable[[Config], None]) -> None:
        """Alter the content of config.yaml in place."""
        path = self.root / "config.yaml"
        config = yaml.safe_load(path.read_text(encoding="utf-8"))
        change(config)
        path.write_text(yaml.safe_dump(config, allow_unicode=True), encoding="utf-8")

    def append(self, path: str, text: str) -> None:
        """Add text to the end of a file."""
        with (self.root / path).open("a", encoding="utf-8") as file:
            file.write(text)

    def touch_everything(self) -> None:
        """Give all files the present time, but those that git, DVC and Snakemake keep for themselves."""
        for path in self.root.rglob("*"):
            if path.is_file() and path.relative_to(self.root).parts[0] not in {".git", ".dvc", ".snakemake"}:
                path.touch()

    def copy(self, to: Path) -> Tiny:
        """A copy of it all, modification times included."""
        shutil.copytree(self.root, to, symlinks=True)
        return Tiny(to, self.mirror, self.extra)


def add_radius(config: Config) -> None:
    """One radius more, which one attack job works on; it succeeds, the other doesn't."""
    config["attack"]["radii"] = [0.8, 0.2]


def ran(output: str) -> dict[str, int]:
    """How many jobs of each rule were started, by the output of one run or several."""
    started = re.findall(r"^(?:local)?rule (\w+):$", output, re.MULTILINE)
    return dict(Counter(rule for rule in started if rule not in {"all", "data", "features"}))


def pictures() -> bytes:
    """A zip of three folders of noisy pictures, each a bit brighter in its own third."""
    noise = np.random.default_rng(0)
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w") as archive:
        for number, label in enumerate(("left", "middle", "right")):
            for index in range(50):
                pixels = noise.integers(0, 200, size=(6, 6, 3), dtype=np.uint8)
                pixels[:, 2 * number : 2 * number + 2] += 20
                png = io.BytesIO()
                Image.fromarray(pixels).save(png, "PNG")
                archive.writestr(zipfile.ZipInfo(f"{label}/{index:02}.png"), png.getvalue())
    return packed.getvalue()


def fresh(folder: Path, snapshot: Path) -> Tiny:
    """The project in `folder`/project and its mirror in `folder`/mirror; nothing was run in it yet."""
    project = Tiny(folder / "project", folder / "mirror")
    shutil.copytree(snapshot, project.root)
    (project.root / "dvc.lock").unlink(missing_ok=True)
    archive = pictures()
    project.mirror.mkdir()
    (project.mirror / ARCHIVE).write_bytes(archive)
    digest = hashlib.sha256(archive).hexdigest()
    line = ["tiny", "1", ARCHIVE, str(len(archive)), digest, "CC0", ARCHIVE, "", "", "", ""]
    project.append("data/registry.tsv", "\t".join(line) + "\n")

    def tiny(config: Config) -> None:
        for section, values in SETTINGS.items():
            config[section].update(values)
        config["datasets"] = {"tiny": {"kind": "image_folder", "files": {"archive": "tiny"}}}

    project.configure(tiny)
    return project


def complete(shared: Path, snapshot: Path) -> Tiny:
    """The project after a complete run, made once a test session; not to be altered."""

    def make(folder: Path) -> None:
        project = fresh(folder, snapshot)
        assert ran(project.run("snakemake")) == ALL_JOBS

    folder = once(shared / "tiny", make)
    return Tiny(folder / "project", folder / "mirror")
