"""What a job's code and inputs are recognised by, and what every script does around its work."""

from __future__ import annotations

import hashlib
import os
import re
import shutil
from pathlib import Path

import pytest

from undue.errors import UserError
from undue.run import code as module
from undue.run.code import code
from undue.run.sources import fingerprint

ROOT = Path(__file__).parents[2] / "workflow"

# Code -------------------------------------------------------------------------------------------------------

FILES = {
    "scripts/work.py": "import json\nimport numpy as np\nfrom lib.a import thing\n",
    "lib/__init__.py": "",
    "lib/a.py": "from lib import b\nfrom . import c\n\ndef thing():\n    from lib.late import late\n",
    "lib/b.py": "from lib.b_value import VALUE\n",
    "lib/b_value.py": "VALUE = 1\n",
    "lib/c.py": "from .deep.d import D\n",
    "lib/late.py": (
        "try:\n    import lib.a\nexcept ImportError:\n    import lib.handled\n"
        "match 1:\n    case 2:\n        with open('x'):\n            import lib.nested\n"
        "class Late:\n    if True:\n        pass\n    else:\n        import lib.other\n"
    ),
    "lib/handled.py": "",
    "lib/nested.py": "",
    "lib/other.py": "",
    "lib/deep/__init__.py": "from ..extra import E\n",
    "lib/deep/d.py": "from ..deep import d\nfrom .e import *\nD = 1\n",
    "lib/deep/e.py": "",
    "lib/extra.py": "E = 1\n",
    "lib/unrelated.py": "import lib.unrelated_too\n",
    "lib/unrelated_too.py": "",
    "json.py.txt": "not a module\n",
}
USED = {
    "scripts/work.py",
    "lib/__init__.py",
    "lib/a.py",
    "lib/b.py",
    "lib/b_value.py",
    "lib/c.py",
    "lib/late.py",
    "lib/handled.py",
    "lib/nested.py",
    "lib/other.py",
    "lib/deep/__init__.py",
    "lib/deep/d.py",
    "lib/deep/e.py",
    "lib/extra.py",
}


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    for name, text in FILES.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    return tmp_path


def found(tree: Path) -> dict[str, str]:
    """The fingerprint as a new process finds it."""
    module._digest.cache_clear()
    module._local_imports.cache_clear()
    return code(tree / "scripts" / "work.py", tree)


def test_imports_are_followed_wherever_they_stand(tree: Path) -> None:
    """Absolute, relative, of names and of modules, inside functions, in circles, through packages."""
    fingerprints = found(tree)
    assert set(fingerprints) == USED
    assert list(fingerprints) == sorted(fingerprints)
    for name, digest in fingerprints.items():
        assert digest == hashlib.sha256((tree / name).read_bytes()).hexdigest()


@pytest.mark.parametrize("name", sorted(USED))
def test_an_edit_of_anything_used_is_seen(tree: Path, name: str) -> None:
    before = found(tree)
    with (tree / name).open("a") as file:
        file.write("# a comment\n")
    after = found(tree)
    assert {key for key in after if after[key] != before[key]} == {name}


@pytest.mark.parametrize("name", sorted(FILES.keys() - USED))
def test_an_edit_of_anything_else_is_not(tree: Path, name: str) -> None:
    before = found(tree)
    (tree / name).write_text("changed = True\n")
    (tree / "lib" / "new.py").write_text("")
    os.utime(tree / "lib" / "a.py", (1, 1))
    assert found(tree) == before


def test_a_new_import_is_followed(tree: Path) -> None:
    (tree / "lib" / "b_value.py").write_text("import lib.unrelated\nVALUE = 1\n")
    assert set(found(tree)) == USED | {"lib/unrelated.py", "lib/unrelated_too.py"}


def test_where_the_tree_lies_does_not_matter(tree: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    copy = tmp_path_factory.mktemp("elsewhere") / "copy"
    shutil.copytree(tree, copy)
    assert found(copy) == found(tree)


def test_paths_relative_to_the_working_folder(tree: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    expected = found(tree)
    monkeypatch.chdir(tree)
    assert found(Path()) == expected


def test_a_script_that_is_not_there(tree: Path) -> None:
    with pytest.raises(FileNotFoundError):
        code(tree / "scripts" / "play.py", tree)


def test_a_module_that_does_not_parse(tree: Path) -> None:
    (tree / "lib" / "c.py").write_text("def broken(:\n")
    with pytest.raises(SyntaxError) as caught:
        found(tree)
    assert str(caught.value.filename).endswith("c.py")


@pytest.mark.parametrize("script", sorted(path.name for path in (ROOT / "scripts").glob("*.py")))
def test_the_projects_own_scripts(script: str) -> None:
    fingerprints = code(ROOT / "scripts" / script, ROOT)
    assert {f"scripts/{script}", "undue/__init__.py", "undue/run/job.py", "undue/errors.py"} <= set(
        fingerprints
    )


def test_training_does_not_depend_on_the_attack() -> None:
    used = set(code(ROOT / "scripts" / "train_model.py", ROOT))
    assert {"undue/training.py", "undue/calculus/newton.py", "undue/calculus/solvers.py"} <= used
    assert not {name for name in used if name.startswith(("undue/valuation/a", "undue/plots"))}


@pytest.mark.parametrize(
    "script",
    [
        "analyse_easy_targets",
        "download",
        "plot_objective_steps",
        "publish_baseline",
        "select_targets",
        "split_data",
        "summarise_ablation",
        "summarise_attacks",
        "summarise_sets",
        "summarise_validation",
    ],
)
def test_what_works_on_tables_alone_starts_without_torch(script: str) -> None:
    """Whose import is most of what a small job costs."""
    files = [ROOT / name for name in code(ROOT / "scripts" / f"{script}.py", ROOT)]
    heavy = re.compile(r"^(import|from) torch\b", re.MULTILINE)
    assert [file for file in files if heavy.search(file.read_text(encoding="utf-8"))] == []


# Sources ----------------------------------------------------------------------------------------------------


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name in ("cat/1.png", "cat/2.png", "dog/big/1.png"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(b"12345")
    return tmp_path


def test_touching_and_copying_change_nothing(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    before = fingerprint(folder)
    os.utime(folder / "cat" / "1.png", (1, 1))
    assert fingerprint(folder) == before
    assert fingerprint(str(folder)) == before
    copy = tmp_path_factory.mktemp("elsewhere") / "copy"
    shutil.copytree(folder, copy)
    assert fingerprint(copy) == before


@pytest.mark.parametrize("change", ["rename", "move", "add", "add empty", "resize", "remove"])
def test_changes_of_names_and_sizes_are_seen(folder: Path, change: str) -> None:
    before = fingerprint(folder)
    one = folder / "cat" / "1.png"
    match change:
        case "rename":
            one.rename(folder / "cat" / "3.png")
        case "move":
            one.rename(folder / "dog" / "3.png")
        case "add":
            (folder / "dog" / "new.png").write_bytes(b"12345")
        case "add empty":
            (folder / "dog" / "new.png").touch()
        case "resize":
            one.write_bytes(b"123456")
        case "remove":
            one.unlink()
    assert fingerprint(folder) != before


def test_a_folder_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="nowhere"):
        fingerprint(tmp_path / "nowhere")


def test_a_folder_with_links_and_junk(tmp_path: Path) -> None:
    folder = tmp_path / "images"
    (folder / "cat").mkdir(parents=True)
    (folder / "cat" / "1.png").write_bytes(b"one")
    before = fingerprint(folder)
    (folder / ".DS_Store").write_bytes(b"junk")
    (folder / "cat" / "up").symlink_to(folder)
    assert fingerprint(folder) == before
    (folder / "cat" / "2.png").symlink_to(tmp_path / "nowhere")
    with pytest.raises(UserError, match="a link to nothing"):
        fingerprint(folder)
