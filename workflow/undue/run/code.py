"""Fingerprints of the code that a job runs, so that an edit reruns what it affects and nothing else.

Snakemake sees a changed script by its modification time and does not see a changed module at all.
Here every rule carries the checksums of its script and of all local modules that the script imports,
directly or not, as one of its params.
"""

from __future__ import annotations

import ast
import hashlib
from collections.abc import Iterator
from functools import cache
from pathlib import Path


def code(script: str | Path, package_root: str | Path) -> dict[str, str]:
    """Checksums of a script and of every local module it imports, transitively.

    Imports are found by reading the syntax tree, wherever they stand in the file; each parent
    package's `__init__.py` counts. Modules from outside `package_root` do not.

    Args:
        script: path of the script.
        package_root: the folder that local packages are imported from.

    Returns:
        `{path: sha256}`, sorted; modules relative to `package_root`, the script by its folder and name.

    Raises:
        FileNotFoundError: there is no such script.
        SyntaxError: the script or a module does not parse.
    """
    root = Path(package_root)
    found = {f"{Path(script).parent.name}/{Path(script).name}": _digest(Path(script))}
    queue = [Path(script)]
    while queue:
        for module in _local_imports(queue.pop(), root):
            name = module.relative_to(root).as_posix()
            if name not in found:
                found[name] = _digest(module)
                queue.append(module)
    return dict(sorted(found.items()))


@cache
def _digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


@cache
def _local_imports(path: Path, root: Path) -> tuple[Path, ...]:
    found: dict[Path, None] = {}
    for node in _statements(ast.parse(path.read_text(encoding="utf-8"), filename=str(path))):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = _absolute(node, path, root)
            # `from package import name` may import a module or take a name out of one: try both.
            names = [base, *(f"{base}.{alias.name}" for alias in node.names)]
        else:
            continue
        for name in names:
            found.update(dict.fromkeys(_module_files(name, root)))
    return tuple(found)


def _statements(node: ast.AST) -> Iterator[ast.stmt]:
    """All statements below a node, at any depth; expressions, which are most of a tree, hold none."""
    for name in node._fields:
        inner = getattr(node, name, None)
        for each in inner if isinstance(inner, list) else ():
            if isinstance(each, ast.stmt):
                yield each
            if isinstance(each, (ast.stmt, ast.ExceptHandler, ast.match_case)):
                yield from _statements(each)


def _absolute(node: ast.ImportFrom, path: Path, root: Path) -> str:
    if not node.level:
        return node.module or ""
    package = path.resolve().relative_to(root.resolve()).parent.parts
    anchor = package[: len(package) - node.level + 1]
    return ".".join([*anchor, *([node.module] if node.module else [])])


@cache
def _module_files(name: str, root: Path) -> tuple[Path, ...]:
    """The files that importing `name` runs: the `__init__.py` of each parent, then the module."""
    files: list[Path] = []
    folder = root
    for part in filter(None, name.split(".")):
        if (module := folder / f"{part}.py").is_file():
            return (*files, module)
        folder = folder / part
        if (package := folder / "__init__.py").is_file():
            files.append(package)
        else:
            break
    return tuple(files)
