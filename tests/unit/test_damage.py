"""What a job says when it fails for lack of memory, for a damaged input, or where it may not write."""

from __future__ import annotations

import errno
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch

from undue.arrays import write_arrays
from undue.errors import UserError
from undue.files import atomic, write_json
from undue.run.damage import damage, explain
from undue.run.job import job


@pytest.fixture
def files(tmp_path: Path) -> dict[str, Path]:
    """A whole file of each kind."""
    paths = {suffix: tmp_path / f"file.{suffix}" for suffix in ("npy", "safetensors", "parquet", "json")}
    np.save(paths["npy"], np.arange(1000.0))
    write_arrays(paths["safetensors"], {"theta": np.arange(1000.0)})
    pd.DataFrame({"index": np.random.default_rng(0).permutation(1000)}).to_parquet(paths["parquet"])
    write_json(paths["json"], {"samples": list(range(1000))})
    return paths


def snakemake(folder: Path, *inputs: Path) -> SimpleNamespace:
    """What a script gets from Snakemake, as far as `job` looks at it."""
    log = folder / "logs" / "job.log"
    return SimpleNamespace(
        log=[str(log)], rule="attack", wildcards={}, threads=1, input=list(map(str, inputs)), output=[]
    )


@pytest.mark.parametrize("suffix", ["npy", "safetensors", "parquet", "json"])
@pytest.mark.parametrize("share", [0, 0.5, 0.99])
def test_a_truncated_file_is_damaged(files: dict[str, Path], suffix: str, share: float) -> None:
    path = files[suffix]
    assert damage(path) is None
    path.write_bytes(path.read_bytes()[: int(share * path.stat().st_size)])
    assert damage(path)


def test_what_says_nothing_about_itself_is_not_damaged(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("anything", encoding="utf-8")
    assert damage(tmp_path / "notes.txt") is None
    assert damage(tmp_path / "missing.json") is None


@pytest.mark.parametrize(
    "error",
    [
        MemoryError(),
        OSError(errno.ENOMEM, "Cannot allocate memory"),
        RuntimeError("CUDA out of memory."),
    ],
)
def test_a_lack_of_memory_is_explained(error: Exception) -> None:
    explanation = explain(error, rule="attack", inputs=[])
    assert "rule attack: there is not enough memory" in str(explanation)


def test_a_lack_of_memory_is_known_by_what_torch_and_numpy_say() -> None:
    with pytest.raises(RuntimeError) as torchs:
        torch.empty(1 << 60, dtype=torch.uint8)
    with pytest.raises(MemoryError) as numpys:
        np.empty(1 << 60, dtype=np.uint8)
    for caught in (torchs, numpys):
        assert "not enough memory" in str(explain(caught.value, rule="attack", inputs=[]))


@pytest.mark.parametrize("error", [ValueError("no"), RuntimeError("shapes"), OSError(errno.ENOENT, "none")])
def test_a_defect_stays_a_defect(files: dict[str, Path], error: Exception) -> None:
    assert explain(error, rule="attack", inputs=map(str, files.values())) is None


def test_a_job_names_its_damaged_input(
    files: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    files["npy"].write_bytes(files["npy"].read_bytes()[:-1])
    given = snakemake(tmp_path, *files.values())
    with pytest.raises(SystemExit), job(given):
        np.load(files["npy"], mmap_mode="r")
    said = Path(given.log[0]).read_text(encoding="utf-8")
    assert f"{files['npy']}: the file is damaged (mmap length is greater than file size)" in said
    assert "Traceback" not in said + capsys.readouterr().err


def test_a_job_with_whole_inputs_shows_its_defect(files: dict[str, Path], tmp_path: Path) -> None:
    given = snakemake(tmp_path, *files.values())
    with pytest.raises(SystemExit), job(given):
        raise ValueError("a defect")
    assert "Traceback" in Path(given.log[0]).read_text(encoding="utf-8")


@pytest.mark.parametrize("number", [errno.EACCES, errno.EROFS])
def test_a_folder_that_may_not_be_written_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    # Root may write everywhere, hence no real folder here; test_faults.py has one.
    def refuse(**_: object) -> None:
        raise OSError(number, "no writing here")

    monkeypatch.setattr("undue.files.tempfile.mkstemp", refuse)
    message = r"nothing can be written here \(no writing here\)"
    with pytest.raises(UserError, match=message) as caught, atomic(tmp_path / "table.csv"):
        pass
    assert caught.value.where == str(tmp_path)


def test_what_a_writer_may_not_read_is_none_of_it(tmp_path: Path) -> None:
    with pytest.raises(PermissionError), atomic(tmp_path / "table.csv"):
        raise PermissionError(errno.EACCES, "another file")
