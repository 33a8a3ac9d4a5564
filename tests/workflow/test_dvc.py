"""DVC over Snakemake: versions of data and results, without a job more than Snakemake alone would run."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from tiny import ALL_JOBS, Config, Tiny, add_radius, complete, fresh, ran

FROM_SUMMARISE = {
    "summarise_attacks": 1,
    "summarise_ablation": 1,
    "analyse_easy_targets": 1,
    "plot_attack_success": 1,
    "plot_top_ranked": 1,
}
ONE_RADIUS = {"attack": 1, "publish_attacks": 1, **FROM_SUMMARISE}
EDITED_ATTACK = {**ONE_RADIUS, "compute_gradient_norms": 1, "plot_objective_steps": 1}
CLEAN = "Data and pipelines are up to date."


def commit(project: Tiny, message: str) -> None:
    project.run("git", "add", "--all")
    # A bare machine has no one to sign commits with.
    identity = ("-c", "user.name=tests", "-c", "user.email=tests@localhost")
    project.run("git", *identity, "commit", "--quiet", "--message", message)


def version(project: Tiny, store: Path) -> None:
    """Put the project under git, with a folder as DVC's remote."""
    project.run("git", "init", "--quiet", "--initial-branch", "main")
    project.run("dvc", "remote", "add", "--default", "store", str(store))
    commit(project, "sources")


def show(project: Tiny, *command: str) -> Any:
    return json.loads(project.run("dvc", *command, "--json"))


@pytest.fixture(scope="module")
def first(shared: Path, snapshot: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Tiny, str]:
    """After a plain Snakemake run: what `dvc repro` made of it and said. Committed and pushed."""
    folder = tmp_path_factory.mktemp("first")
    project = complete(shared, snapshot).copy(folder / "project")
    version(project, folder / "store")
    said = project.run("dvc", "repro")
    commit(project, "first results")
    project.run("dvc", "push")
    return project, said


@pytest.fixture
def versioned(first: tuple[Tiny, str], tmp_path: Path) -> Tiny:
    """A copy with its own git and DVC folders."""
    return first[0].copy(tmp_path / "project")


@pytest.fixture
def clone(first: tuple[Tiny, str], tmp_path: Path) -> Tiny:
    """A clone elsewhere, its data pulled."""
    origin, _ = first
    project = Tiny(tmp_path / "elsewhere" / "clone", origin.mirror)
    origin.run("git", "clone", "--quiet", str(origin.root), str(project.root))
    project.run("dvc", "pull")
    return project


# Running ----------------------------------------------------------------------------------------------------


def test_repro_makes_what_snakemake_makes(shared: Path, snapshot: Path, tmp_path: Path) -> None:
    project = fresh(tmp_path, snapshot)
    version(project, tmp_path / "store")
    assert ran(project.run("dvc", "repro")) == ALL_JOBS
    assert project.checksums() == complete(shared, snapshot).checksums()
    assert project.plan() == {}
    assert CLEAN in project.run("dvc", "status")


def test_repro_takes_over_a_plain_run(first: tuple[Tiny, str], shared: Path, snapshot: Path) -> None:
    project, said = first
    assert ran(said) == {}
    assert project.checksums() == complete(shared, snapshot).checksums()
    assert project.plan() == {}
    assert CLEAN in project.run("dvc", "status")


def test_repro_runs_what_a_change_touches_and_checkout_goes_back(versioned: Tiny) -> None:
    before, contents = versioned.identities(), versioned.checksums()
    versioned.configure(add_radius)
    assert ran(versioned.run("dvc", "repro")) == ONE_RADIUS
    assert CLEAN in versioned.run("dvc", "status")
    assert versioned.plan() == {}
    after = versioned.identities()
    rewritten = {path for path in before if after[path] != before[path]}
    folders = {str(Path(path).parent) for path in rewritten}
    assert folders == {"results", "results/tables", "results/figures"}

    changes = show(versioned, "metrics", "diff")["results/metrics.json"]
    assert changes["tiny.attack.min_higher, k = 1.success"] == {"old": 0.0, "new": 0.5, "diff": 0.5}
    versioned.run("dvc", "plots", "diff")
    page = (versioned.root / "dvc_plots/index.html").read_text(encoding="utf-8")
    assert '"rev": "workspace"' in page
    assert '"rev": "HEAD"' in page
    assert show(versioned, "params", "diff")["config.yaml"] == {
        "attack.radii": {"old": "[0.8]", "new": "[0.8, 0.2]"},
    }

    versioned.run("git", "checkout", "--quiet", "--", ".")
    versioned.run("dvc", "checkout")
    assert versioned.checksums() == contents
    assert versioned.plan() == {}


def test_a_failing_job_wipes_nothing(versioned: Tiny) -> None:
    before = versioned.identities()
    versioned.configure(lambda config: config["model"].update(gradient_norm=1e-30))
    outcome = versioned.attempt("dvc", "repro")
    assert outcome.status != 0
    assert "model.gradient_norm" in outcome.output
    after = versioned.identities()
    # Snakemake removes what the failing job was about to replace, the model of other settings; nothing else.
    assert before.keys() - after.keys() <= {"results/tiny/model.safetensors", "results/tiny/model.json"}
    assert all(after[path] == before[path] for path in after)

    versioned.run("git", "checkout", "--quiet", "--", ".")
    # By force: Snakemake's records of the failed job are in no version.
    versioned.run("dvc", "checkout", "--force")
    assert versioned.plan() == {}
    assert CLEAN in versioned.run("dvc", "status")


def test_own_arrays_need_no_downloads(shared: Path, snapshot: Path, tmp_path: Path) -> None:
    project = fresh(tmp_path, snapshot)
    project.append("own.csv", "x,y,label\n" + "".join(f"{i % 7},{i % 5},{i % 2}\n" for i in range(40)))

    def own(config: Config) -> None:
        config["datasets"]["tiny"] = {"kind": "arrays", "path": "own.csv", "label_key": "label"}

    project.configure(own)
    version(project, tmp_path / "store")
    assert ran(project.run("dvc", "repro", "features")) == {"extract_features": 1}
    assert CLEAN in project.run("dvc", "status", "data", "features")


# Clones -----------------------------------------------------------------------------------------------------


def test_a_clone_has_nothing_to_do(clone: Tiny, first: tuple[Tiny, str]) -> None:
    assert clone.checksums() == first[0].checksums()
    assert clone.plan() == {}
    assert CLEAN in clone.run("dvc", "status")
    clone.touch_everything()
    assert clone.plan() == {}


def test_what_a_killed_job_left_is_not_versioned(versioned: Tiny) -> None:
    for folder in ("data/features/tiny", "results", "results/tiny/attack/min_higher"):
        (versioned.root / folder / ".table.parquet.x1y2.parquet").write_bytes(b"half")
    assert CLEAN in versioned.run("dvc", "status")


def test_a_clone_runs_what_a_change_touches(clone: Tiny) -> None:
    clone.configure(add_radius)
    assert clone.plan() == ONE_RADIUS
    clone.run("git", "checkout", "--quiet", "--", ".")
    clone.append("workflow/undue/valuation/attack.py", "\n# edited\n")
    assert clone.plan() == EDITED_ATTACK


def test_a_clone_of_code_that_was_not_run_has_to_run_it(versioned: Tiny, tmp_path: Path) -> None:
    versioned.append("workflow/undue/valuation/attack.py", "\n# edited\n")
    commit(versioned, "edited, not run")
    project = Tiny(tmp_path / "clone", versioned.mirror)
    versioned.run("git", "clone", "--quiet", str(versioned.root), str(project.root))
    project.run("dvc", "pull")
    assert project.plan() == EDITED_ATTACK


def test_no_path_of_this_machine_is_in_the_records(first: tuple[Tiny, str]) -> None:
    project, _ = first
    records = [path for path in (project.root / ".snakemake/metadata").rglob("*") if path.is_file()]
    texts = {path: path.read_text(encoding="utf-8") for path in [*records, project.root / "dvc.lock"]}
    assert len(records) > len(ALL_JOBS)
    # The run itself was in another folder than this copy; what both have in common is the session's.
    session = str(project.mirror.parent.parent)
    assert [path for path, text in texts.items() if session in text] == []


# Metrics and plots ------------------------------------------------------------------------------------------


def test_metrics_and_plots(first: tuple[Tiny, str], tmp_path: Path) -> None:
    project, _ = first
    shown = show(project, "metrics", "show")[""]["data"]["results/metrics.json"]["data"]
    written = json.loads((project.root / "results/metrics.json").read_text(encoding="utf-8"))
    assert shown["tiny"]["accuracy"] == written["tiny"]["accuracy"]
    assert shown["tiny"]["attack"].keys() == {"min_higher, k = 1", "min_higher, k = 10"}
    project.run("dvc", "plots", "show", "--out", str(tmp_path / "plots"))
    page = (tmp_path / "plots/index.html").read_text(encoding="utf-8")
    for field in ('"field": "success"', '"field": "best_success"', '"field": "k"', '"success_low": "0"'):
        assert field in page
    for image in sorted((project.root / "results/figures").iterdir()):
        (shown_image,) = (tmp_path / "plots").rglob(f"workspace_results_figures_{image.name}")
        assert shown_image.read_bytes() == image.read_bytes()
    assert "<DVC_METRIC" not in page
