"""DVC's remote over a network, a real SSH server here; and what happens if it, or a file, goes bad."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
from plugins import install
from runs import unavailable
from ssh import Line, NotAvailable, Server, line, server
from test_dvc import CLEAN, ONE_RADIUS, commit
from tiny import Tiny, add_radius, complete, ran

pytestmark = [pytest.mark.slow, pytest.mark.network]

FEATURES = "data/features/tiny/none-6px/features.npy"
BEFORE_THE_MODEL = {"download", "extract_features"}
BROKEN_PIPE = 141  # exit status


@dataclass(frozen=True)
class Remote:
    """A project whose data were pushed over the network.

    Attributes:
        origin: the project.
        server: where to.
        store: the folder there, which is this machine's.
    """

    origin: Tiny
    server: Server
    store: Path

    def clone(self, to: Path, port: int | None = None, store: Path | None = None) -> Tiny:
        """A clone that was told who it is to the remote, without data.

        Args:
            to: its folder.
            port: another way to the server.
            store: another folder there.
        """
        project = replace(self.origin, root=to)
        self.origin.run("git", "clone", "--quiet", str(self.origin.root), str(to))
        self.introduce(project)
        if port is not None:
            project.run("dvc", "remote", "modify", "--local", "store", "port", str(port))
        if store is not None:
            project.run("dvc", "remote", "modify", "--local", "store", "url", self.server.address(store))
        return project

    def introduce(self, project: Tiny) -> None:
        """Tell a project the key, which is in no version."""
        project.run("dvc", "remote", "modify", "--local", "store", "keyfile", str(self.server.key))


@pytest.fixture(scope="module")
def remote(shared: Path, snapshot: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Remote]:
    folder = tmp_path_factory.mktemp("remote")
    packages = install(shared, "remotes.txt")
    try:
        with server() as running:
            copy = complete(shared, snapshot).copy(folder / "project")
            made = Remote(replace(copy, extra={"PYTHONPATH": str(packages)}), running, folder / "store")
            made.origin.run("git", "init", "--quiet", "--initial-branch", "main")
            address = running.address(made.store)
            made.origin.run("dvc", "remote", "add", "--default", "store", address)
            made.introduce(made.origin)
            made.origin.run("dvc", "repro")
            commit(made.origin, "results")
            made.origin.run("dvc", "push")
            yield made
    except NotAvailable as reason:
        unavailable("ssh", reason)


@pytest.fixture(scope="module")
def pulled(remote: Remote, tmp_path_factory: pytest.TempPathFactory) -> tuple[Tiny, int]:
    """A clone after `dvc pull`, not to be altered, and how many bytes that took."""
    with line(remote.server.port) as way:
        project = remote.clone(tmp_path_factory.mktemp("pulled") / "project", port=way.port)
        project.run("dvc", "pull")
        return project, way.passed


@pytest.fixture
def clone(pulled: tuple[Tiny, int], tmp_path: Path) -> Tiny:
    """A clone after `dvc pull` that now reaches no remote."""
    return pulled[0].copy(tmp_path / "project")


@pytest.fixture
def way(remote: Remote) -> Iterator[Line]:
    """A line to the server, to be broken."""
    with line(remote.server.port) as made:
        yield made


def entry(folder: Path, path: Path) -> Path:
    """Where a DVC cache or store keeps the content of a file."""
    digest = hashlib.md5(path.read_bytes()).hexdigest()
    return folder / "files" / "md5" / digest[:2] / digest[2:]


def overwrite(path: Path, content: bytes) -> None:
    """Change what is write-protected, as a bad disk does."""
    path.chmod(0o644)
    path.write_bytes(content)
    path.chmod(0o444)


# Pull and continue ------------------------------------------------------------------------------------------


def test_a_clone_over_the_network_has_nothing_to_do(remote: Remote, clone: Tiny) -> None:
    assert clone.checksums() == remote.origin.checksums()
    assert clone.plan() == {}
    assert CLEAN in clone.run("dvc", "status")
    clone.configure(add_radius)
    assert clone.plan() == ONE_RADIUS


def test_pulled_features_are_where_a_run_begins(remote: Remote, tmp_path: Path) -> None:
    project = remote.clone(tmp_path / "project")
    # As workflow/presets/from_features.yaml says.
    project.run("dvc", "pull", "data/features", ".snakemake/metadata")
    overlay = ("--configfile", "workflow/presets/from_features.yaml")
    said = project.dry_run(*overlay)
    assert not BEFORE_THE_MODEL & ran(said).keys()
    assert {"train_model", "attack", "summarise_attacks"} <= ran(said).keys()
    assert not (project.root / "data/downloads").exists()
    made = project.run("snakemake", "--until", "train_model", *overlay)
    assert ran(made) == {"split_data": 1, "train_model": 1}
    model, results = "tiny/model.safetensors", project.root / "results/presets/from_features"
    assert (results / model).read_bytes() == (remote.origin.root / "results" / model).read_bytes()


# Faults -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("share", [0.03, 0.5])
def test_a_remote_that_disappears(
    remote: Remote, pulled: tuple[Tiny, int], way: Line, tmp_path: Path, share: float
) -> None:
    _, needed = pulled
    project = remote.clone(tmp_path / "project", port=way.port)
    way.break_after(share * needed)
    outcome = project.attempt("dvc", "pull")
    assert outcome.status != 0
    # DVC sometimes takes the broken connection for a reader of its output that left: then it says nothing.
    assert "Connection" in outcome.output or outcome.status == BROKEN_PIPE
    assert "Traceback" not in outcome.output
    # Nothing has a name that isn't whole, and nothing seems done.
    assert project.checksums().items() <= remote.origin.checksums().items()
    kept = [path for path in (project.root / ".dvc/cache/files/md5").glob("??/*") if path.is_file()]
    names = {path: path.parent.name + path.name.removesuffix(".dir") for path in kept}
    assert all(hashlib.md5(path.read_bytes()).hexdigest() == name for path, name in names.items())
    assert "summarise_attacks" in project.plan()
    # The next one goes on from there.
    remote.introduce(project)
    project.run("dvc", "remote", "modify", "--local", "store", "port", str(remote.server.port))
    project.run("dvc", "pull")
    assert project.checksums() == remote.origin.checksums()
    assert project.plan() == {}


def test_a_damaged_file_of_a_verified_remote(remote: Remote, tmp_path: Path) -> None:
    # Folders of the store are the server's: another one has all but one of the same files.
    store = tmp_path / "store"
    good = entry(remote.store, remote.origin.root / FEATURES)
    for path in (remote.store / "files/md5").glob("??/*"):
        target = store / path.relative_to(remote.store)
        target.parent.mkdir(parents=True, exist_ok=True)
        target.hardlink_to(path)
    bad = store / good.relative_to(remote.store)
    bad.unlink()
    bad.write_bytes(good.read_bytes()[:5000])
    project = remote.clone(tmp_path / "project", store=store)
    project.run("dvc", "remote", "modify", "--local", "store", "verify", "true")
    outcome = project.attempt("dvc", "pull")
    assert outcome.status != 0
    assert "data/features" in outcome.output
    assert not (project.root / FEATURES).exists()
    assert project.checksums().items() < remote.origin.checksums().items()
    bad.write_bytes(good.read_bytes())
    project.run("dvc", "pull")
    assert project.checksums() == remote.origin.checksums()
    assert project.plan() == {}


@pytest.mark.parametrize(
    ("damaged", "named", "planned"),
    [
        (FEATURES, "data/features", {"train_model"}),
        # Which no job reads.
        ("results/tables/table1.md", "results/tables", set()),
    ],
    ids=["features", "final table"],
)
def test_a_damaged_cache_entry(
    remote: Remote, clone: Tiny, tmp_path: Path, damaged: str, named: str, planned: set[str]
) -> None:
    remote.introduce(clone)
    clone.run("dvc", "remote", "modify", "--local", "store", "port", str(remote.server.port))
    file = clone.root / damaged
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    overwrite(entry(clone.root / ".dvc/cache", file), bytes(content))
    file.unlink()
    # DVC trusts its cache, but Snakemake knows what it has worked with.
    clone.run("dvc", "checkout")
    assert file.read_bytes() == content
    assert planned <= clone.plan().keys()
    assert planned or clone.plan() == {}
    # As docs/faults.md says: without what it believes to know, DVC reads all files, and names the bad one.
    anew = replace(clone, extra={**clone.extra, "DVC_SITE_CACHE_DIR": str(tmp_path / "anew")})
    said = anew.run("dvc", "status")
    assert CLEAN not in said
    assert named in said
    clone.run("rm", "-rf", ".dvc/cache")
    anew.run("dvc", "pull", "--force")
    assert clone.checksums() == remote.origin.checksums()
    assert clone.plan() == {}


def test_a_damaged_record(clone: Tiny) -> None:
    records = (clone.root / ".snakemake/metadata").iterdir()
    record = next(path for path in records if '"rule":"train_model"' in path.read_text().replace(": ", ":"))
    record.write_bytes(record.read_bytes()[:100])
    said = clone.dry_run()
    assert f"corrupted or currently written metadata record {record}" in said
    assert "train_model" in said
    clone.run("dvc", "checkout", "--force")
    assert clone.plan() == {}
