"""The comparison with other libraries: our scores, measures of agreement, and what becomes of failures."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from bench import head, peers, show
from bench.__main__ import PEER_REQUIREMENTS
from bench.head import Head
from bench.peers import METHODS, Method, Scores
from problems import make_problem

from undue.errors import UserError
from undue.training import train

# The peers compute in float32.
CLOSE = {"undue": 1e-6, "undue, float64": 1e-6}
CLOSE_PEERS = 1e-3


@pytest.fixture(scope="module")
def tiny() -> Head:
    problem = make_problem()
    found = train(problem.train, l2=head.L2, regularise_bias=True, gradient_norm=1e-10)
    return Head(problem.train, problem.shared, found.theta, head.L2)


@pytest.fixture(scope="module")
def written(tiny: Head, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("head")
    assert head.write(folder, tiny)["residual_dense"] < 1e-10
    return folder


@pytest.fixture(scope="module")
def packages(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with all peers."""
    folder = tmp_path_factory.mktemp("packages")
    try:
        peers.install(PEER_REQUIREMENTS, folder)
    except UserError as error:
        pytest.skip(f"the peers can't be installed: {error}")
    return folder


# The head ---------------------------------------------------------------------------------------------------


def test_a_written_head_is_read_in_float32_with_its_exact_scores(tiny: Head, written: Path) -> None:
    given, exact = head.read(written)
    assert given.train.x.dtype == torch.float32
    torch.testing.assert_close(given.theta, tiny.theta, rtol=0, atol=0)
    assert given.l2 == tiny.l2
    # The definition, sample by sample.
    hessian = torch.func.hessian(partial(_mean_loss, tiny.train))(tiny.theta[..., 0])
    p = tiny.theta.numel()
    solved = torch.linalg.solve(
        hessian.reshape(p, p) + tiny.l2 * torch.eye(p, dtype=torch.float64),
        _summed_gradient(tiny.test, tiny.theta),
    )
    each = torch.func.vmap(torch.func.grad(_one_loss), in_dims=(None, 0, 0))
    gradients = each(tiny.theta[..., 0], tiny.train.x, tiny.train.y).reshape(tiny.train.samples, p)
    torch.testing.assert_close(exact, -gradients @ solved, rtol=1e-8, atol=1e-8)


def _one_loss(theta: torch.Tensor, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    loss: torch.Tensor = torch.nn.functional.cross_entropy(x @ theta, y)
    return loss


def _mean_loss(risk: Any, theta: torch.Tensor) -> torch.Tensor:
    return _one_loss(theta, risk.x, risk.y)


def _summed_gradient(risk: Any, theta: torch.Tensor) -> torch.Tensor:
    gradient: torch.Tensor = torch.func.grad(partial(_mean_loss, risk))(theta[..., 0])
    samples: int = risk.samples
    return samples * gradient.reshape(-1)


def test_without_images_it_says_why(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_source(*arguments: Any) -> None:
        raise UserError("no source has it", where="here", remedy="look elsewhere")

    monkeypatch.setattr(head, "fetch_images", no_source)
    assert "no source has it" in head.draw(root=".", folder=str(tmp_path))["error"]


# Agreement and failures -------------------------------------------------------------------------------------


def test_agreement_of_equal_and_of_opposite_scores() -> None:
    exact = torch.tensor([-4.0, -1.0, 0.0, 2.0], dtype=torch.float64)
    same = peers.agreement(exact.float(), exact)
    assert (same["error_max"], same["error_norm"]) == (0, 0)
    assert same["pearson"] == pytest.approx(1)
    opposite = peers.agreement(-exact, exact)
    assert (opposite["error_max"], opposite["error_norm"]) == (2, 2)
    assert opposite["spearman"] == pytest.approx(-1)
    # Ranks alone can agree.
    cubes = peers.agreement(exact**3, exact)
    assert cubes["spearman"] == pytest.approx(1)
    assert cubes["error_max"] == 15


@pytest.mark.parametrize("name", [name for name, method in METHODS.items() if method.package is None])
def test_our_scores_are_the_dense_ones(name: str, written: Path) -> None:
    found = peers.evaluate(METHODS[name], *head.read(written))
    assert found["error_max"] < CLOSE[name]
    assert found["spearman"] > 1 - 1e-4
    assert found["seconds"] > 0
    assert found["peak_rss_bytes"] > 1 << 20
    assert "error" not in found


def _out_of_memory(given: Head) -> Scores:
    raise RuntimeError("can't allocate memory\nand a long trace")


def _nonsense(given: Head) -> Scores:
    return Scores(torch.full((given.train.samples,), torch.nan))


def test_a_failure_is_recorded_instead_of_numbers(written: Path) -> None:
    given = head.read(written)
    failing = Method(None, "undue", "some class", _out_of_memory)
    assert peers.evaluate(failing, *given) == {
        "how": "some class",
        "version": None,
        "error": "RuntimeError: can't allocate memory",
    }
    assert "not finite" in peers.evaluate(replace(failing, run=_nonsense), *given)["error"]
    missing = peers.evaluate(Method("no-such-package", "no_such_module", "some class", _nonsense), *given)
    assert "no-such-package" in missing["error"]


def test_a_process_that_dies_or_hangs_is_recorded_too() -> None:
    def dies(name: str, **arguments: Any) -> dict[str, Any]:
        raise subprocess.CalledProcessError(-9, "worker")

    def hangs(name: str, **arguments: Any) -> dict[str, Any]:
        raise subprocess.TimeoutExpired("worker", 1_800)

    assert peers.attempt(dies, "pydvl")["error"] == "its process ended with code -9"
    assert peers.attempt(hangs, "pydvl") == {"how": METHODS["pydvl"].how, "error": "no answer within 1,800 s"}


def test_what_cannot_be_installed_is_the_users_error(tmp_path: Path) -> None:
    requirements = tmp_path / "peers.txt"
    requirements.write_text("# none\n./no-such-folder\n", encoding="utf-8")
    assert peers.pinned(requirements) == ["./no-such-folder"]
    with pytest.raises(UserError, match="can't install"):
        peers.install(requirements, tmp_path / "packages")


def test_the_pins_are_none_of_the_locks_packages() -> None:
    names = [
        {line.partition("==")[0].lower() for line in peers.pinned(path)}
        for path in (PEER_REQUIREMENTS, PEER_REQUIREMENTS.with_name("requirements.txt"))
    ]
    assert {"captum", "pydvl", "dattri"} <= names[0]
    assert not names[0] & names[1]


# The table --------------------------------------------------------------------------------------------------


def made_up() -> dict[str, Any]:
    """A record of the comparison, with round numbers."""
    about = {
        "settings": {"train_samples": 55_000, "l2": 0.01, "time_limit_s": 1_800, "memory_limit_gib": 14},
        "machine": {"cpu": "a processor", "torch": "2"},
        "threads": 2,
    }
    numbers = {"error_max": 2e-5, "pearson": 1 - 1e-6, "spearman": 0.9, "peak_rss_bytes": 3 << 30}
    return {
        "peers": {
            "undue": about | numbers | {"how": "CG", "version": None, "seconds": 5.0},
            "pydvl": about | numbers | {"how": "CgInfluence", "version": "0.10.0", "seconds": 50.0},
            "dattri, exact": about
            | {"how": "IFAttributorExplicit", "version": "0.3.0", "error": "no memory"},
        }
    }


def test_the_table_compares_and_tells_failures(tmp_path: Path) -> None:
    table = show.peers_table(made_up()).set_index("library")
    assert list(table.loc["pydvl 0.10.0"]) == [
        "CgInfluence",
        "50.0",
        "10.0 ×",
        "3.0 GiB",
        "2.0e-05",
        "1.0e-06",
        "1.0e-01",
    ]
    assert table.loc["dattri 0.3.0, exact", "seconds"] == "failed: no memory"
    show.write(made_up(), tmp_path / "bench.md")
    text = (tmp_path / "bench.md").read_text(encoding="utf-8")
    assert "a processor, 2 threads" in text
    assert "| undue | CG | 5.0 | 1.0 × |" in text


# The peers themselves ---------------------------------------------------------------------------------------


@pytest.mark.network
@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name, method in METHODS.items() if method.package is not None])
def test_every_peer_gives_the_dense_scores_of_a_tiny_head(name: str, written: Path, packages: Path) -> None:
    output = written / "result.json"
    given = {"folder": str(written), "method": name, "packages": str(packages), "memory_limit_gib": 8}
    command = [sys.executable, "-m", "bench.worker", "peer", json.dumps({"threads": 1, **given}), str(output)]
    paths = [str(Path(peers.__file__).parents[1]), str(Path(peers.__file__).parents[2] / "workflow")]
    subprocess.run(command, check=True, env={"PYTHONPATH": ":".join(paths)}, timeout=300)
    found = json.loads(output.read_text(encoding="utf-8"))
    assert "error" not in found
    assert found["error_max"] < CLOSE_PEERS
    assert found["version"]
