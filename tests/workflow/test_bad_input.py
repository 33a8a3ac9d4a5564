"""What goes wrong is said in words: the key or the file, what is wrong with it, and what to do."""

from __future__ import annotations

import io
import re
import subprocess
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from runs import TIMEOUT, Project

REMEDY = "What to do:"


def refused(project: Project, *arguments: str, changes: Mapping[str, Any]) -> str:
    """The output of a run that fails with a message for the user and leaves nothing new behind."""
    before = project.checksums("data", "results")
    outcome = project.snakemake(*arguments, changes=changes)
    assert outcome.status != 0, outcome.output
    assert "Traceback" not in outcome.output, outcome.output
    assert REMEDY in outcome.output, outcome.output
    # A job that is to be done again loses its old files before it starts.
    assert project.checksums("data", "results").items() <= before.items()
    return outcome.output


def own(kind: str = "image_folder", **entry: Any) -> dict[str, Any]:
    return {"data": {"use": ["mine"]}, "datasets": {"mine": {"kind": kind, **entry}}}


# The configuration: refused before anything runs ------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"attack": {"radi": [0.1]}}, "attack.radi: unknown key; did you mean attack.radii?"),
        ({"radii": [0.1]}, "radii: unknown key; did you mean attack.radii or impossibility.radii?"),
        ({"attack": {"radii": [0.1, 0]}}, "attack.radii[1]: 0 is not a number > 0"),
        ({"attack": {"radii": [-0.1]}}, "attack.radii[0]: -0.1 is not a number > 0"),
        ({"attack": {"radii": 0.1}}, "attack.radii: 0.1 is not a list: write [0.1]"),
        ({"attack": 3}, "attack: 3 is not a section with keys"),
        ({"attack": {"objectives": ["min_hihger"]}}, "did you mean min_higher?"),
        ({"data": {"use": ["mnist_5k"]}}, "data.use[0]: there is no"),
        ({"results": "workflow"}, "results: workflow is not a folder for results alone"),
        (
            own(path="nowhere/images.zip"),
            "datasets.mine.path: there is no file or folder nowhere/images.zip",
        ),
        (
            own("oxford_pet", files={"images": "pet_images", "annotations": "pet_anotations"}),
            "datasets.mine.files.annotations: there is no file or folder pet_anotations",
        ),
    ],
)
def test_a_wrong_setting_is_refused_before_anything_runs(
    fresh: Project, changes: dict[str, Any], message: str
) -> None:
    assert message in refused(fresh, "--dry-run", changes=changes)


def test_all_wrong_settings_are_named_at_once(fresh: Project) -> None:
    output = refused(fresh, "--dry-run", changes={"attack": {"steps": 0, "targets": "ten"}, "sed": 1})
    for key in ("attack.steps", "attack.targets", "sed: unknown key; did you mean seed?"):
        assert key in output


def test_a_misspelt_preset_is_named(fresh: Project) -> None:
    # Snakemake reads overlays before it reads our Snakefile, hence no remedy of ours. `make` has one.
    outcome = fresh.snakemake("--dry-run", preset="workflow/presets/smok.yaml")
    assert outcome.status != 0
    assert "No such file or directory: 'workflow/presets/smok.yaml'" in outcome.output


def test_make_lists_the_presets_when_one_is_misspelt(fresh: Project) -> None:
    made = subprocess.run(
        ["make", "reproduce", "PRESET=smok"],
        cwd=fresh.root,
        env=fresh.environment(),
        capture_output=True,
        text=True,
        check=False,
        timeout=TIMEOUT,
    )
    assert made.returncode != 0
    assert re.search(r"There is no preset 'smok'. There are: .*\bsmoke\b", made.stderr)


# Data -------------------------------------------------------------------------------------------------------


def image(seed: int) -> bytes:
    stream = io.BytesIO()
    pixels = np.random.default_rng(seed).integers(0, 256, (8, 8, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(stream, "PNG")
    return stream.getvalue()


def archive(path: Path, members: Mapping[str, bytes]) -> dict[str, Any]:
    """A data set of a zip that has, besides the given members, two good images in each of two classes."""
    good = {f"{name}/{i}.png": image(i) for name in ("cat", "dog") for i in range(2)}
    with zipfile.ZipFile(path, "w") as written:
        for name, content in {**good, **members}.items():
            written.writestr(name, content)
    return own(path=str(path))


def arrays(path: Path, features: np.ndarray, labels: list[str]) -> dict[str, Any]:
    np.savez(path, features=features, labels=labels)
    return own("arrays", path=str(path))


def test_a_damaged_download_is_refused(fresh: Project) -> None:
    copy = fresh.mirror / "caltech101" / "caltech101-s224-webp.tar"
    copy.parent.mkdir()
    copy.write_bytes(b"garbage")
    alone = {"data": {"use": ["caltech101_webp"]}, "validation": {"dataset": None}}
    output = refused(fresh, "data", changes=alone)
    assert "data/registry.tsv: caltech101_webp: no source has caltech101-s224-webp.tar" in output
    assert f"{copy}: wrong size: 7 bytes, expected 90357760" in output


def test_a_member_outside_the_archive_is_refused(fresh: Project, tmp_path: Path) -> None:
    changes = archive(tmp_path / "images.zip", {"../outside/3.png": image(3)})
    output = refused(fresh, "features", changes=changes)
    assert f"{tmp_path / 'images.zip'}" in output
    assert "../outside/3.png" in output
    assert not list(tmp_path.rglob("outside"))


def test_an_image_that_does_not_decode_is_named(fresh: Project, tmp_path: Path) -> None:
    changes = archive(tmp_path / "images.zip", {"dog/broken.png": image(3)[:40]})
    assert f"{tmp_path / 'images.zip'}: dog/broken.png" in refused(fresh, "features", changes=changes)


def test_a_failed_job_ends_with_its_logs_path_and_lines(fresh: Project, tmp_path: Path) -> None:
    changes = archive(tmp_path / "images.zip", {"dog/broken.png": image(3)[:40]})
    output = refused(fresh, "features", changes=changes)
    (log,) = (fresh.root / "logs" / "extract_features" / "mine").glob("*.log")
    message = output[output.index("Error in rule extract_features") :]
    path, lines = str(log.relative_to(fresh.root)), log.read_text(encoding="utf-8").splitlines()
    assert 0 <= message.index(f"Logfile {path}") < message.index(lines[-1].strip())


def test_a_file_that_is_no_archive_is_named(fresh: Project, tmp_path: Path) -> None:
    (tmp_path / "images.zip").write_bytes(b"not a zip")
    assert str(tmp_path / "images.zip") in refused(
        fresh, "features", changes=own(path=str(tmp_path / "images.zip"))
    )


def test_a_class_with_a_single_image_is_named(fresh: Project, tmp_path: Path) -> None:
    changes = archive(tmp_path / "images.zip", {"emu/0.png": image(3)})
    output = refused(fresh, "features", changes=changes)
    assert f"{tmp_path / 'images.zip'}: 1 classes have fewer than two samples, first 'emu'" in output


def test_missing_values_are_placed(fresh: Project, tmp_path: Path) -> None:
    features = np.ones((4, 3))
    features[2, 1] = np.nan
    output = refused(fresh, "features", changes=arrays(tmp_path / "table.npz", features, ["a", "b"] * 2))
    assert f"{tmp_path / 'table.npz'}: column 1, row 2 (from 0) is nan" in output


def test_labels_of_another_number_are_refused(fresh: Project, tmp_path: Path) -> None:
    output = refused(fresh, "features", changes=arrays(tmp_path / "table.npz", np.ones((4, 3)), ["a", "b"]))
    assert f"{tmp_path / 'table.npz'}: labels have shape (2,), features (4, 3)" in output


def test_more_targets_than_samples_are_refused(complete: Project) -> None:
    output = refused(complete, changes={"attack": {"targets": 5000, "targets_per_block": 5000}})
    assert "attack.targets: 5000 targets" in output
