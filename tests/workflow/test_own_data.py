"""A user's own data: a few lines of configuration, and the whole pipeline runs on it."""

from __future__ import annotations

import io
import os
import time
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from PIL import Image
from runs import RESULTS, Project

CLASSES = ("circle", "square", "triangle")
EACH = 30
SIDE = 16
TOP_RANKED = f"{RESULTS}/figures/top_ranked_mine.png"
EVERYTHING = {
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


def images() -> dict[str, bytes]:
    """Class-named image files: a stripe whose place and colour the class decides, in noise."""
    random = np.random.default_rng(7)
    files = {}
    for label, name in enumerate(CLASSES):
        for number in range(EACH):
            pixels = random.integers(0, 128, (SIDE, SIDE, 3))
            pixels[4 * label + 1 : 4 * label + 4, :, label] += random.integers(20, 120)
            stream = io.BytesIO()
            Image.fromarray(pixels.astype(np.uint8)).save(stream, "PNG")
            files[f"{name}/{number}.png"] = stream.getvalue()
    return files


def as_folder(path: Path, files: Mapping[str, bytes]) -> Path:
    for name, content in files.items():
        (path / name).parent.mkdir(parents=True, exist_ok=True)
        (path / name).write_bytes(content)
    return path


def as_zip(path: Path, files: Mapping[str, bytes]) -> Path:
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in files.items():
            archive.writestr(f"pictures/{name}", content)
    return path


def as_arrays(path: Path, samples: int = len(CLASSES) * EACH) -> Path:
    labels = np.resize(CLASSES, samples)
    centres = np.resize(np.eye(len(CLASSES), 5), (samples, 5))
    np.savez(path, features=centres + np.random.default_rng(7).normal(size=centres.shape), labels=labels)
    return path


def one_more(files: dict[str, bytes]) -> dict[str, bytes]:
    """The images and a further one."""
    return {**files, f"{CLASSES[0]}/new.png": files[f"{CLASSES[0]}/0.png"]}


def overlay(kind: str, path: Path) -> dict[str, Any]:
    """What the user writes."""
    return {
        "data": {"use": ["mine"]},
        "datasets": {"mine": {"kind": kind, "path": str(path)}},
        "attack": {"radii": [0.5], "targets": 2},
        # As for other data: it knows of features alone.
        "multi_target": {"sizes": []},
        "baseline": {"weights": []},
        "validation": {"dataset": None, "ranking_samples": 0},
    }


def check_top_ranked(project: Project) -> None:
    """All samples take part, and those ranked highest are shown."""
    assert (project.root / TOP_RANKED).stat().st_size > 1000
    split = pd.read_parquet(project.root / RESULTS / "mine" / "split.parquet")
    assert split["part"].value_counts().to_dict() == {"train": 72, "shared": 9, "pristine": 9}


def check_tables(project: Project) -> None:
    """All results are there, of all targets."""
    for name in ("tables/attack_success.csv", "tables/table1.md", "figures/figure4.svg", "metrics.json"):
        assert (project.root / RESULTS / name).is_file(), name
    success = pd.read_csv(project.root / RESULTS / "tables" / "attack_success.csv")
    assert set(success["dataset"]) == {"mine"}
    assert set(success["targets"]) == {2}


def touch(path: Path) -> None:
    """Let everything be newer than the results."""
    moment = time.time() + 60
    for each in [path, *path.rglob("*")]:
        os.utime(each, (moment, moment))


def test_a_few_lines_are_all_it_takes_for_arrays(fresh: Project, tmp_path: Path) -> None:
    path, changes = tmp_path / "mine.npz", overlay("arrays", tmp_path / "mine.npz")
    as_arrays(path)
    fresh.complete(changes=changes)
    check_top_ranked(fresh)
    check_tables(fresh)
    assert fresh.plan(changes=changes) == {}
    touch(path)
    assert fresh.plan(changes=changes) == {}
    as_arrays(path, len(CLASSES) * EACH + 1)
    assert fresh.plan(changes=changes) == EVERYTHING


def test_a_few_lines_are_all_it_takes_for_images(fresh: Project, tmp_path: Path) -> None:
    path, changes = tmp_path / "mine", overlay("image_folder", tmp_path / "mine")
    as_folder(path, images())
    # All that looks at images; from features on they are arrays.
    fresh.complete(TOP_RANKED, changes=changes)
    check_top_ranked(fresh)
    assert fresh.plan(TOP_RANKED, changes=changes) == {}
    touch(path)
    assert fresh.plan(TOP_RANKED, changes=changes) == {}
    as_folder(path, one_more(images()))
    theorem = {"check_impossibility": 1, "plot_impossibility": 1}
    assert fresh.plan(changes=changes) == {**EVERYTHING, **theorem}


def test_a_folder_and_its_archive_are_the_same_data(fresh: Project, tmp_path: Path) -> None:
    folder, archive = as_folder(tmp_path / "mine", images()), as_zip(tmp_path / "mine.zip", images())
    found = []
    for source in (folder, archive):
        fresh.complete("features", changes=overlay("image_folder", source))
        found.append(fresh.checksums("data/features/mine")["data/features/mine/none-14px/features.npy"])
    assert found[0] == found[1]

    changes = overlay("image_folder", archive)
    touch(archive)
    assert fresh.plan("features", changes=changes) == {}
    as_zip(archive, one_more(images()))
    assert fresh.plan("features", changes=changes) == {"extract_features": 1}


def test_what_is_made_can_be_used_without_the_source(fresh: Project, tmp_path: Path) -> None:
    path = as_arrays(tmp_path / "mine.npz")
    changes = overlay("arrays", path)
    fresh.complete("features", changes=changes)
    path.unlink()
    assert fresh.plan("features", changes=changes) == {}


@pytest.mark.parametrize("place", ["data/downloads/mine.npz", "mine.npz"])
def test_a_file_inside_the_project(fresh: Project, place: str) -> None:
    (fresh.root / place).parent.mkdir(parents=True, exist_ok=True)
    as_arrays(fresh.root / place)
    changes = overlay("arrays", Path(place))
    assert fresh.plan("features", changes=changes) == {"extract_features": 1}
    fresh.complete("features", changes=changes)
    assert fresh.plan("features", changes=changes) == {}
