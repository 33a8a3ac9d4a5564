"""Draws the architecture: python docs/figures/architecture.py writes architecture.svg beside it.

Where boxes stand is written down here; the arrows are read from the code. The SVG carries the names of its
boxes and arrows, so that a test can tell whether it still is what the code says.
"""

from __future__ import annotations

import ast
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterable
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import FancyArrowPatch, FancyBboxPatch

FOLDER = Path(__file__).resolve().parent
ROOT = FOLDER.parents[1]
LIBRARY = ROOT / "workflow" / "undue"
sys.path.insert(0, str(ROOT / "workflow"))

import matplotlib.pyplot as plt  # noqa: E402  # after the library's folder is known

from undue.plots import COLOURS, save, style  # noqa: E402

Edges = set[tuple[str, str]]

GREY, ATTACK, FAIRNESS, CHECK = "0.35", COLOURS[1], COLOURS[2], COLOURS[0]
HEIGHT = 4.2
"""Of a line of text in a box."""

PARTS: dict[str, tuple[str, ...]] = {
    "rules": ("rules",),
    "scripts": ("scripts",),
    "run": ("undue.run",),
    "validation": ("undue.validation",),
    "valuation": ("undue.valuation",),
    "fairness": ("undue.fairness",),
    "training": ("undue.training",),
    "data": ("undue.data",),
    "calculus": ("undue.calculus",),
    "basics": (
        *("undue.agreement", "undue.arrays", "undue.budget", "undue.device", "undue.errors"),
        *(
            "undue.files",
            "undue.formats",
            "undue.intervals",
            "undue.packing",
            "undue.plots",
            "undue.progress",
            "undue.randomness",
            "undue.tables",
        ),
    ),
}
"""Box → the modules in it, or the packages; the longest name that fits decides."""

# Box → x, y of its centre, width, colour, what it says below its name. Imports go downwards.
PART_BOXES: dict[str, tuple[float, float, float, str, str]] = {
    "rules": (26, 95, 40, GREY, "what runs when: *.smk"),
    "scripts": (74, 95, 40, GREY, "one for each rule"),
    "validation": (84, 80, 28, CHECK, "influence against\ntraining again"),
    "run": (16, 65, 28, GREY, "config, code fingerprints,\njobs, estimate, watch"),
    "valuation": (84, 62, 28, ATTACK, "targets, attack,\npublished models, tables"),
    "fairness": (50, 62, 30, FAIRNESS, "reweighing\nand attacks on it"),
    "training": (84, 45, 28, GREY, "of heads, choice of λ"),
    "data": (42, 38, 36, GREY, "files, features, splits"),
    "calculus": (84, 21, 28, CHECK, "derivatives, solvers,\ninfluence"),
    "basics": (
        50,
        4,
        96,
        GREY,
        "errors, files, arrays, tables, formats, plots, progress, device, randomness, intervals",
    ),
}

# Rules that stand in one box → x, row of the box's centre, colour.
RULE_BOXES: dict[tuple[str, ...], tuple[float, float, str]] = {
    ("download",): (49, 0, GREY),
    ("extract_features",): (49, 1, GREY),
    ("split_data", "train_model", "compute_influence"): (49, 2.3, GREY),
    ("select_targets",): (49, 3.7, ATTACK),
    ("attack",): (49, 4.9, ATTACK),
    ("publish_attacks",): (49, 6.1, ATTACK),
    ("plot_objective_steps",): (26, 4.9, ATTACK),
    ("plot_top_ranked",): (26, 8.8, ATTACK),
    ("summarise_ablation", "plot_starts_gain"): (49, 7.4, ATTACK),
    ("summarise_attacks",): (71.5, 7.4, ATTACK),
    ("plot_attack_success", "plot_training_size"): (71.5, 8.8, ATTACK),
    ("reweigh_loss",): (71.5, 4.9, ATTACK),
    ("publish_baseline",): (71.5, 6.1, ATTACK),
    ("attack_sets",): (94, 3.1, ATTACK),
    ("summarise_sets",): (94, 3.95, ATTACK),
    ("compute_gradient_norms",): (94, 4.9, ATTACK),
    ("analyse_easy_targets",): (94, 8.8, ATTACK),
    ("validate_softmax", "validate_hinge", "validate_logistic", "validate_network"): (3, 2.7, CHECK),
    ("validate_rankings",): (26, 6.1, CHECK),
    ("summarise_rankings",): (26, 7.4, CHECK),
    ("summarise_validation",): (3, 7.4, CHECK),
    ("plot_validation", "plot_rankings"): (3, 8.8, CHECK),
    ("check_impossibility", "plot_impossibility"): (3, 0.2, CHECK),
    ("encode_table", "train_base_model"): (94, 0.9, FAIRNESS),
    ("scale_base_model", "attack_fairness"): (94, 2, FAIRNESS),
    ("summarise_fairness", "plot_fairness"): (71.5, 2, FAIRNESS),
}

EVERYTHING = """\
data: {use: [mnist5k, mnist5k_pixels]}
validation: {network_steps: 1}
"""
"""The configuration, over the default one, of a run in which every rule has a part."""


def modules() -> dict[str, Path]:
    """Every module of the library, by its dotted name."""
    return {
        ".".join(path.relative_to(LIBRARY.parent).with_suffix("").parts): path
        for path in sorted(LIBRARY.rglob("*.py"))
        if path.name != "__init__.py"
    }


def imported(source: str, known: Iterable[str]) -> set[str]:
    """The modules of the library that a Python source imports, anywhere in it."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            names.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            names.update({node.module, *(f"{node.module}.{alias.name}" for alias in node.names)})
    return names & set(known)


def module_imports() -> Edges:
    """(importing module, imported module) within the library."""
    known = modules()
    return {
        (name, other) for name, path in known.items() for other in imported(path.read_text("utf-8"), known)
    }


def part_of(module: str) -> str:
    """The box that a module stands in.

    Raises:
        KeyError: none does.
    """
    fitting = {
        name: part
        for part, names in PARTS.items()
        for name in names
        if module == name or module.startswith(f"{name}.")
    }
    if not fitting:
        raise KeyError(f"{module} stands in no box: add it to PARTS in {__file__}")
    return fitting[max(fitting, key=len)]


def part_imports() -> Edges:
    """(importing box, imported box), of the library, the scripts and the rules."""
    known = modules()
    edges = {(part_of(a), part_of(b)) for a, b in module_imports()}
    for path in (ROOT / "workflow" / "scripts").glob("*.py"):
        edges |= {("scripts", part_of(name)) for name in imported(path.read_text("utf-8"), known)}
    for path in (ROOT / "workflow" / "rules").glob("*.smk"):
        # Snakemake's language is not Python, but its import lines are.
        lines = re.findall(r"^(?:from|import) +undue.*$", path.read_text("utf-8"), re.MULTILINE)
        edges |= {("rules", part_of(name)) for name in imported("\n".join(lines), known)}
    return {(a, b) for a, b in edges if a != b}


def written_rules() -> set[str]:
    """The names of all rules that make files."""
    texts = [path.read_text("utf-8") for path in (ROOT / "workflow" / "rules").glob("*.smk")]
    return set(re.findall(r"^rule (\w+):", "\n".join(texts), re.MULTILINE))


def rule_dependencies() -> Edges:
    """(rule, rule that reads its files), as Snakemake sees them in a run that has every part.

    Raises:
        RuntimeError: Snakemake refuses; with what it said.
    """
    with tempfile.TemporaryDirectory() as folder:
        overlay = Path(folder) / "everything.yaml"
        overlay.write_text(EVERYTHING, encoding="utf-8")
        command = [sys.executable, "-m", "snakemake", "--rulegraph", "--configfile", str(overlay)]
        made = subprocess.run(command, cwd=ROOT, text=True, capture_output=True)
    if made.returncode:
        raise RuntimeError(f"snakemake --rulegraph failed:\n{made.stderr}")
    names = dict(re.findall(r'(\d+)\[label = "(\w+)"', made.stdout))
    pairs = re.findall(r"(\d+) -> (\d+)", made.stdout)
    return {(names[a], names[b]) for a, b in pairs if names[b] != "all"}


def reduced(edges: Edges) -> Edges:
    """Those edges of an acyclic graph that no longer path replaces."""
    after: dict[str, set[str]] = {}
    for a, b in edges:
        after.setdefault(a, set()).add(b)

    def reaches(a: str, b: str) -> bool:
        return b in after.get(a, set()) or any(reaches(next_, b) for next_ in after.get(a, set()))

    return {(a, b) for a, b in edges if not any(reaches(other, b) for other in after[a] - {b})}


def box_of() -> dict[str, str]:
    """Rule → the name of its box, which is that of the box's first rule."""
    return {rule: rules[0] for rules in RULE_BOXES for rule in rules}


def box_arrows(dependencies: Edges) -> Edges:
    """Arrows between boxes of rules, without those that others imply."""
    boxes = box_of()
    between = {(boxes[a], boxes[b]) for a, b in dependencies}
    return reduced({(a, b) for a, b in between if a != b})


def drawn(svg: str) -> set[str]:
    """The names of boxes and arrows that an SVG of this script carries."""
    return set(re.findall(r'id="((?:import|part|rule|files):[^"]+)"', svg))


def names(imports: Edges, dependencies: Edges) -> set[str]:
    """The names that the picture must carry."""
    return {
        *(f"part:{part}" for part in PARTS),
        *(f"import:{a}-{b}" for a, b in reduced(imports)),
        *(f"rule:{rule}" for rules in RULE_BOXES for rule in rules),
        *(f"files:{a}-{b}" for a, b in box_arrows(dependencies)),
    }


def architecture(imports: Edges, dependencies: Edges) -> Figure:
    """Packages with their imports above, rules with their files below."""
    figure, (above, below) = plt.subplots(2, 1, figsize=(7.6, 11.2), height_ratios=(4, 6))
    _packages(above, imports)
    _rules(below, dependencies)
    return figure


def _packages(axis: Axes, imports: Edges) -> None:
    _blank(
        axis, "Packages: an arrow is an import (those that others imply are left out)", (-2, 102), (-4, 101)
    )
    lines = {name: 1 + text.count("\n") + 1 for name, (*_, text) in PART_BOXES.items()}
    where = {}
    for name, (x, y, width, colour, text) in PART_BOXES.items():
        height = 1.15 * HEIGHT * lines[name]
        where[name] = (x, y, width, height)
        _box(axis, where[name], colour, f"part:{name}")
        top = y + height / 2 - 0.62 * HEIGHT
        axis.text(x, top, name, ha="center", va="center", weight="bold", color=colour, fontsize=8)
        axis.text(x, top - 0.6 * HEIGHT, text, ha="center", va="top", fontsize=7, linespacing=1.3)
    for a, b in sorted(reduced(imports)):
        _arrow(axis, where[a], where[b], f"import:{a}-{b}")


def _rules(axis: Axes, dependencies: Edges) -> None:
    _blank(axis, "Rules: an arrow is files (those that others imply are left out)", (-8, 105), (-98, 5))
    where = {}
    for rules, (x, row, colour) in RULE_BOXES.items():
        height = 2.9 * len(rules) + 1.2
        y = -10.5 * row
        where[rules[0]] = (x, y, 19.6, height)
        _box(axis, where[rules[0]], colour, None)
        for place, rule in enumerate(rules):
            offset = (place - (len(rules) - 1) / 2) * 2.9
            axis.text(
                x, y - offset, rule, ha="center", va="center", fontsize=6.5, color=colour, gid=f"rule:{rule}"
            )
    for a, b in sorted(box_arrows(dependencies)):
        _arrow(axis, where[a], where[b], f"files:{a}-{b}")


def _blank(axis: Axes, title: str, x: tuple[float, float], y: tuple[float, float]) -> None:
    axis.set_title(title, loc="left")
    axis.set_xlim(*x)
    axis.set_ylim(*y)
    axis.axis("off")


Box = tuple[float, float, float, float]
"""x, y of the centre, width, height."""


def _box(axis: Axes, box: Box, colour: str, name: str | None) -> None:
    x, y, width, height = box
    axis.add_patch(
        FancyBboxPatch(
            (x - width / 2, y - height / 2),
            width,
            height,
            boxstyle="round,pad=0,rounding_size=1.2",
            fc="white",
            ec=colour,
            lw=1.2,
            gid=name,
            zorder=2,
        )
    )


def _arrow(axis: Axes, start: Box, end: Box, name: str) -> None:
    axis.add_patch(
        FancyArrowPatch(
            _edge(start, end),
            _edge(end, start),
            arrowstyle="-|>",
            mutation_scale=8,
            color="0.55",
            lw=0.9,
            shrinkA=0,
            shrinkB=0,
            gid=name,
            zorder=1,
        )
    )


def _edge(box: Box, towards: Box) -> tuple[float, float]:
    """Where an arrow meets a box: at the side or end that faces the other, as near to it as may be."""
    x, y, width, height = box
    other_x, other_y, other_width, other_height = towards
    gap = abs(other_y - y) - (height + other_height) / 2
    if gap < 0.5:
        return x + width / 2 * (1 if other_x > x else -1), y
    # Straight down where the boxes overlap, else from corner to corner, nearly.
    left, right = (
        max(x - 0.42 * width, other_x - 0.42 * other_width),
        min(x + 0.42 * width, other_x + 0.42 * other_width),
    )
    nearest = min(max((left + right) / 2, x - 0.42 * width), x + 0.42 * width)
    return nearest, y + height / 2 * (1 if other_y > y else -1)


def main() -> None:
    """Draw."""
    with style():
        figure = architecture(part_imports(), rule_dependencies())
        save(figure, [str(FOLDER / "architecture.svg")], dpi=150)


if __name__ == "__main__":
    main()
