"""README.md and docs/ say what is so: commands, paths, links, names, the architecture picture."""

from __future__ import annotations

import ast
import graphlib
import importlib
import importlib.util
import re
import shlex
import subprocess
import tomllib
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import yaml

from undue.run.config import validate

ROOT = Path(__file__).resolve().parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
TOOLS = ("make", "snakemake", "dvc", "pip", "git", "python", "scancel")

ENVIRONMENT, SMOKE, DVC = "unit/test_environment.py", "workflow/test_smoke.py", "workflow/test_dvc.py"
INTERRUPTION, PROFILES = "workflow/test_interruption.py", "workflow/test_profiles.py"
REMOTES, SLURM = "workflow/test_remotes.py", "workflow/test_slurm.py"
TYPED, WATCHING = "workflow/test_commands.py", "workflow/test_watching.py"
COMMANDS: Mapping[str, str] = {
    "make reproduce": f"{ENVIRONMENT}::test_reproduce_runs_the_default_and_says_where_the_figures_are",
    "make reproduce PRESET=paper": f"{ENVIRONMENT}::test_reproduce_with_a_preset",
    "make reproduce PRESET=mnist5k": f"{ENVIRONMENT}::test_reproduce_with_a_preset",
    "make reproduce PRESET=mirror": f"{ENVIRONMENT}::test_reproduce_with_a_preset",
    "make reproduce PRESET=variants": f"{ENVIRONMENT}::test_reproduce_with_a_preset",
    'make reproduce PIP_ARGS="--extra-index-url URL"': f"{ENVIRONMENT}::test_pip_gets_further_options",
    "make help": f"{ENVIRONMENT}::test_help_is_the_default_and_lists_every_target",
    "make clean": f"{ENVIRONMENT}::test_clean_keeps_data_and_results",
    "make test": f"{ENVIRONMENT}::test_continuous_integration_runs_everything",
    "make bench": f"{ENVIRONMENT}::test_the_benchmark_is_run",
    'make bench ARGS="--peers-only"': f"{ENVIRONMENT}::test_the_benchmark_is_run",
    "make report": "workflow/test_report.py::test_every_figure_and_table_is_in_it",
    ". .venv/bin/activate": f"{TYPED}::test_in_the_activated_environment",
    "make estimate PRESET=paper": f"{TYPED}::test_an_estimate_of_the_paper_s_run",
    'make estimate PRESET=paper ARGS="--cores 64 --gpu-tflops 20"': f"{TYPED}::"
    "test_an_estimate_of_the_paper_s_run",
    "make estimate ARGS=--all": f"{TYPED}::test_an_estimate_of_what_was_done",
    "make estimate": f"{TYPED}::test_an_estimate_of_what_was_done",
    "make watch": f"{WATCHING}::test_a_run_that_has_ended_is_shown",
    "make fit-costs": f"{WATCHING}::test_a_run_is_measured",
    "pip install -r envs/remotes.txt": f"{REMOTES}::test_a_clone_over_the_network_has_nothing_to_do",
    "dvc remote add -d store ssh://host/folder": f"{REMOTES}::"
    "test_a_clone_over_the_network_has_nothing_to_do",
    "snakemake features": "workflow/test_faults.py::test_too_little_memory",
    "snakemake features --configfile workflow/presets/paper.yaml": f"{TYPED}::test_the_paper_s_features",
    "snakemake --cores all --configfile workflow/presets/from_features.yaml workflow/presets/paper.yaml": (
        f"{TYPED}::test_the_paper_s_run_from_its_features"
    ),
    "dvc pull data/features .snakemake/metadata": f"{REMOTES}::test_pulled_features_are_where_a_run_begins",
    "snakemake --cores 2": f"{TYPED}::test_in_the_activated_environment",
    "snakemake -n": "workflow/test_reruns.py::test_after_a_run_nothing_is_planned",
    "snakemake --cores 2 --configfile my.yaml": "workflow/test_reruns.py::"
    "test_a_changed_setting_plans_its_rules_and_what_follows",
    "snakemake --cores 2 --configfile mine.yaml": "workflow/test_own_data.py::"
    "test_a_few_lines_are_all_it_takes_for_images",
    "snakemake --cores 2 --configfile published.yaml": f"{TYPED}::test_what_was_published",
    "snakemake fairness --cores 2 --configfile mine.yaml": "workflow/test_fairness.py::"
    "test_a_table_of_one_s_own_goes_all_the_way",
    "snakemake --forceall": f"{TYPED}::test_everything_anew",
    "snakemake --unlock": f"{INTERRUPTION}::test_snakemake_killed",
    "snakemake --profile profiles/slurm -n": f"{PROFILES}::test_every_profile_plans_the_same",
    "snakemake --profile profiles/slurm --configfile workflow/presets/paper.yaml": f"{PROFILES}::"
    "test_the_paper_s_run_on_a_cluster",
    "snakemake --profile profiles/slurm --set-resources attack:mem_mb=16000 attack:runtime=600": (
        f"{PROFILES}::test_what_a_job_asks_for_may_be_set"
    ),
    "pip install -r envs/cluster.txt": f"{PROFILES}::test_every_profile_plans_the_same",
    "git clone": f"{DVC}::test_a_clone_has_nothing_to_do",
    "dvc repro": f"{DVC}::test_repro_makes_what_snakemake_makes",
    "dvc push": f"{DVC}::test_a_clone_has_nothing_to_do",
    "dvc pull": f"{DVC}::test_a_clone_has_nothing_to_do",
    "dvc remote add -d store /some/folder": f"{DVC}::test_a_clone_has_nothing_to_do",
    "dvc metrics diff": f"{DVC}::test_metrics_and_plots",
    "dvc plots diff": f"{DVC}::test_metrics_and_plots",
    "dvc checkout": f"{DVC}::test_repro_runs_what_a_change_touches_and_checkout_goes_back",
    "dvc checkout --force": f"{DVC}::test_repro_runs_what_a_change_touches_and_checkout_goes_back",
    "dvc remote modify store verify true": f"{REMOTES}::test_a_damaged_file_of_a_verified_remote",
    "dvc status": f"{REMOTES}::test_a_damaged_cache_entry",
    "DVC_SITE_CACHE_DIR=$(mktemp -d) dvc status": f"{REMOTES}::test_a_damaged_cache_entry",
    "DVC_SITE_CACHE_DIR=$(mktemp -d) dvc pull --force": f"{REMOTES}::test_a_damaged_cache_entry",
    "rm -rf .dvc/cache": f"{REMOTES}::test_a_damaged_cache_entry",
    "scancel": f"{SLURM}::test_a_job_cancelled_from_outside",
}
"""Command in the docs → the test (below tests/) that runs it, or its like on a small project."""

SYNONYMS: Mapping[str, str] = {"-n": "--dry-run", "-d": "--default", "-r": "--requirement"}
STAND_INS = {"store", "my.yaml", "mine.yaml", "URL", "ssh://host/folder", "/some/folder", "all", "2"}
"""Words of commands that a reader puts their own in the place of."""
HELPERS = ("runs.py", "tiny.py", "plugins.py")
"""Modules of tests/workflow that run commands for the tests."""


def read(page: Path) -> str:
    return page.read_text(encoding="utf-8")


def blocks(text: str, *languages: str) -> list[str]:
    """The contents of a page's fenced blocks in one of some languages."""
    fenced = re.findall(r"^```(\w*)\n(.*?)^```", text, re.MULTILINE | re.DOTALL)
    return [content for language, content in fenced if language in languages]


def inline(text: str) -> list[str]:
    """What stands between single backticks, outside of blocks."""
    prose = re.sub(r"^```.*?^```", "", text, flags=re.MULTILINE | re.DOTALL)
    return re.findall(r"(?<!`)`([^`\n]+)`(?!`)", prose)


def commands(text: str) -> set[str]:
    """All commands of a page: lines of shell blocks, inline ones, those in remarks of other blocks."""
    lines = [line for block in blocks(text, "sh", "bash", "console") for line in block.splitlines()]
    found = [re.sub(r"(^|\s+)#.*", "", line).strip() for line in lines]
    starts = tuple(f"{tool} " for tool in TOOLS)
    found += [part.strip() for code in inline(text) for part in code.split("&&") if "&&" in code]
    found += [code for code in inline(text) if code.startswith(starts) and "&&" not in code]
    # By its name alone; `make` and the like are also what is spoken of.
    found += [code for code in inline(text) if code == "scancel"]
    for block in blocks(text, "yaml"):
        found += re.findall(rf"#.*?:\s((?:{'|'.join(TOOLS)}) .*)", block)
    for block in blocks(text, ""):
        found += re.findall(rf"(?:^|\()((?:{'|'.join(TOOLS)}) [^()\n]*)", block, re.MULTILINE)
    return {command for command in found if command}


@cache
def all_commands() -> frozenset[str]:
    return frozenset().union(*(commands(read(page)) for page in PAGES))


def test_commands_are_found() -> None:
    """The finder itself: a finder that finds nothing would let everything pass."""
    page = "Say `make x`, `. a && snakemake -n`, not `make`.\n```sh\ndvc pull  # remark\n# none\n```\n"
    page += "```yaml\n# my.yaml, run by: snakemake --cores 2\na: {b: c}\n```\n"
    page += "```\ngit clone\na/  not to make, or (make y)\n```\nThen `scancel` it.\n"
    found = {"make x", ". a", "snakemake -n", "dvc pull", "snakemake --cores 2"}
    assert commands(page) == found | {"git clone", "make y", "scancel"}


def test_every_command_is_known_to_a_test_and_none_is_left_over() -> None:
    unknown, gone = all_commands() - set(COMMANDS), set(COMMANDS) - all_commands()
    assert not unknown, "say in COMMANDS which test runs these commands"
    assert not gone, "these commands of COMMANDS are in no page any more"


def names_of_tests(path: Path) -> set[str]:
    return {node.name for node in ast.walk(ast.parse(read(path))) if isinstance(node, ast.FunctionDef)}


def missing_tests(names: set[str]) -> set[str]:
    """Those of `file::test`, below tests/, that do not exist."""
    files = {name: ROOT / "tests" / name.partition("::")[0] for name in names}
    return {
        name
        for name, path in files.items()
        if not path.is_file() or name.partition("::")[2] not in names_of_tests(path)
    }


def test_the_tests_that_run_commands_exist() -> None:
    assert not missing_tests(set(COMMANDS.values()))
    assert missing_tests({"unit/test_docs.py::test_no_such_thing", "unit/nowhere.py::test"})


def words(command: str) -> list[str]:
    """What a command is made of, but for what stands for a reader's own."""
    plain = shlex.split(command.replace("$(mktemp -d)", ""))
    return [part for word in plain if word not in STAND_INS for part in re.split(r"[=:/\s]", word) if part]


@pytest.mark.parametrize("command", sorted(COMMANDS))
def test_the_test_of_a_command_says_the_command(command: str) -> None:
    """Word by word, in its file or in what that runs commands by."""
    file = ROOT / "tests" / COMMANDS[command].partition("::")[0]
    text = "\n".join(map(read, [file, *(ROOT / "tests" / "workflow" / name for name in HELPERS)]))
    said = {word for word in words(command) if word in text or SYNONYMS.get(word, word) in text}
    assert said == set(words(command))


def test_tests_that_pages_name_exist() -> None:
    named = {match for page in PAGES for match in re.findall(r"`(test_\w+\.py::test_\w+)`", read(page))}
    assert {
        name for name in named if missing_tests({f"unit/{name}"}) and missing_tests({f"workflow/{name}"})
    } == set()


def arguments(command: str, tool: str) -> list[str]:
    words = shlex.split(re.sub(r"^\w+=\$\([^)]*\)\s*", "", command))
    return words[1:] if words[0] == tool else []


@pytest.mark.parametrize("command", sorted(name for name in COMMANDS if name.startswith("make ")))
def test_make_knows_its_targets(command: str) -> None:
    planned = subprocess.run(
        ["make", "-n", *arguments(command, "make")], cwd=ROOT, capture_output=True, text=True
    )
    assert planned.returncode == 0, planned.stderr


def test_snakemake_and_dvc_know_their_options() -> None:
    # Here, as both take a second to import.
    snakemake, dvc = (importlib.import_module(name) for name in ("snakemake.cli", "dvc.cli.parser"))
    parsers = {"snakemake": snakemake.get_argument_parser(), "dvc": dvc.get_main_parser()}
    for tool, parser in parsers.items():
        for command in COMMANDS:
            if words := arguments(command, tool):
                _, unknown = parser.parse_known_args(words)
                assert not unknown, command


@cache
def schema() -> dict[str, Any]:
    content: dict[str, Any] = yaml.safe_load(read(ROOT / "workflow" / "schemas" / "config.schema.yaml"))
    return content


def exists_in_schema(key: str) -> bool:
    """Whether a dotted config key is described; below data sets and tables, any name stands for one."""
    node = schema()
    for part in key.split("."):
        if "$ref" in node:
            node = schema()["$defs"][node["$ref"].rpartition("/")[2]]
        inner = node.get("properties", {}).get(part) or node.get("additionalProperties")
        if not isinstance(inner, dict):
            return False
        node = inner
    return True


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_config_keys_exist(page: Path) -> None:
    sections = "|".join(schema()["properties"])
    named = [re.match(rf"((?:{sections})(?:\.[a-z_0-9]+)+)(?!\w)", code) for code in inline(read(page))]
    keys = [match[1] for match in named if match and not match[1].endswith((".py", ".parquet", ".yaml"))]
    assert [key for key in keys if not exists_in_schema(key)] == []


def test_a_key_that_is_none_is_told() -> None:
    assert exists_in_schema("attack.radii")
    assert not exists_in_schema("attack.radius")
    assert not exists_in_schema("attack.radii.more")


def merged(base: Any, overlay: Any) -> Any:
    """What Snakemake makes of a configuration and a file laid over it."""
    if not (isinstance(base, dict) and isinstance(overlay, dict)):
        return overlay
    return {**base, **{key: merged(base.get(key), value) for key, value in overlay.items()}}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_yaml_blocks_are_configurations(page: Path) -> None:
    default = yaml.safe_load(read(ROOT / "config.yaml"))
    for block in blocks(read(page), "yaml"):
        validate(merged(default, yaml.safe_load(block)))


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_presets_and_profiles_exist(page: Path) -> None:
    text = read(page)
    presets = set(re.findall(r"PRESET=(\w+)|presets?/(\w+)\.yaml", text))
    assert [name for pair in presets for name in pair if name and not preset(name)] == []
    assert [name for name in re.findall(r"\bpreset `(\w+)`", text) if not preset(name)] == []
    profiles = set(re.findall(r"profiles/(\w+)", text))
    assert [name for name in profiles if not (ROOT / "profiles" / name).is_dir()] == []


def preset(name: str) -> bool:
    return (ROOT / "workflow" / "presets" / f"{name}.yaml").is_file()


def test_the_readme_s_table_has_every_preset_and_no_other() -> None:
    table = re.search(r"\| preset \|.*?\n\n", read(ROOT / "README.md"), re.DOTALL)
    assert table
    names = re.findall(r"^\| `(\w+)` \|", table[0], re.MULTILINE)
    assert sorted(names) == sorted(path.stem for path in (ROOT / "workflow" / "presets").glob("*.yaml"))


TREES = ("workflow/", "docs/", "tests/", "profiles/", "envs/", "undue/", "data/registry.tsv")
"""What a path in the docs begins with if it is one of the project's own files."""


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_paths_exist(page: Path) -> None:
    paths = [
        code for code in inline(read(page)) if code.startswith(TREES) and re.fullmatch(r"[\w./*-]+", code)
    ]
    places = [f"workflow/{path}" if path.startswith("undue/") else path for path in paths]
    assert [path for path in places if not list(ROOT.glob(path.rstrip("/")))] == []


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_links_lead_somewhere(page: Path) -> None:
    text = read(page)
    defined = dict(re.findall(r"^\[([^\]]+)\]: (\S+)$", text, re.MULTILINE))
    used = set(re.findall(r"\]\[([^\]]+)\]", text))
    assert used ^ set(defined) == set()
    targets = [*defined.values(), *re.findall(r"\]\(([^)\s]+)\)", text)]
    local = [target.partition("#")[0] for target in targets if not target.startswith(("https://", "#"))]
    assert [target for target in local if not (page.parent / target).exists()] == []


@cache
def rules_text() -> str:
    return "\n".join(read(path) for path in sorted((ROOT / "workflow" / "rules").glob("*.smk")))


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_tables_and_figures_exist(page: Path) -> None:
    """Names of results stand in the rules as they stand in the docs."""
    named = re.findall(r"(?<!docs/)\b(?:tables|figures)/([a-z_0-9]+)(?![\w.])", " ".join(inline(read(page))))
    named += [code for code in inline(read(page)) if re.fullmatch(r"(table|figure)\d", code)]
    assert [name for name in named if f'"{name}"' not in rules_text()] == []


def rows(text: str) -> list[list[str]]:
    """The cells of all tables of a page, without the lines below the headers."""
    lines = [line for line in text.splitlines() if line.startswith("|") and not line.startswith("| ---")]
    return [[cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]] for line in lines]


def test_the_project_is_cited_by_its_name_and_version() -> None:
    citation = yaml.safe_load(read(ROOT / "CITATION.cff"))
    project = tomllib.loads(read(ROOT / "pyproject.toml"))["project"]
    assert citation["version"] == project["version"]
    assert [author["name"] for author in citation["authors"]] == [
        author["name"] for author in project["authors"]
    ]
    (entry,) = blocks(read(ROOT / "README.md"), "bibtex")
    (paper,) = citation["references"]
    assert paper["title"] in entry
    for author in paper["authors"]:
        assert f"{author['family-names']}, {author['given-names']}" in entry


def test_results_come_from_where_the_page_says() -> None:
    text = (
        read(ROOT / "docs" / "results.md").partition("## Where a number comes from")[2].partition("\n## ")[0]
    )
    table = rows(text)[1:]
    assert len(table) > 5
    for seen, made_by, _ in table:
        for name in inline(seen):
            assert name.removesuffix(".parquet") in rules_text(), name
        for rule in inline(made_by):
            assert f"\nrule {rule}:" in rules_text(), rule


def test_every_cell_of_the_comparison_can_be_checked() -> None:
    """Each says "[what](where)"."""
    header, *table = rows(read(ROOT / "docs" / "comparison.md"))
    assert header[1] == "this project"
    assert len(table) > 15
    for row in table:
        assert len(row) == len(header), row[0]
        if row[0]:
            assert [cell for cell in row[1:] if "](" not in cell and "][" not in cell] == [], row[0]


@cache
def picture() -> Any:
    """docs/figures/architecture.py."""
    path = ROOT / "docs" / "figures" / "architecture.py"
    spec = importlib.util.spec_from_file_location("architecture", path)
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@cache
def part_imports() -> frozenset[tuple[str, str]]:
    return frozenset(picture().part_imports())


DRAW_AGAIN = "draw again: python docs/figures/architecture.py"


def drawn(*kinds: str) -> set[str]:
    """The names of some kinds that the picture of the page carries."""
    (shown,) = re.findall(r"!\[[^\]]*\]\(([^)]+)\)", read(ROOT / "docs" / "architecture.md"))
    names = picture().drawn(read(ROOT / "docs" / shown))
    return {name for name in names if name.partition(":")[0] in kinds}


def test_modules_import_one_way() -> None:
    order: graphlib.TopologicalSorter[str] = graphlib.TopologicalSorter()
    for module, imported in picture().module_imports():
        order.add(module, imported)
    order.prepare()


def test_packages_import_downwards() -> None:
    height = {name: box[1] for name, box in picture().PART_BOXES.items()}
    assert {(a, b) for a, b in part_imports() if height[a] <= height[b]} == set()


def test_the_picture_has_the_packages_and_imports_that_there_are() -> None:
    wanted = picture().names(set(part_imports()), set())
    assert drawn("part", "import") == {n for n in wanted if n.startswith(("part:", "import:"))}, DRAW_AGAIN


def test_the_picture_has_the_rules_that_there_are() -> None:
    placed = [rule for rules in picture().RULE_BOXES for rule in rules]
    assert sorted(placed) == sorted(picture().written_rules()), "give the rule a place in RULE_BOXES"
    assert drawn("rule") == {f"rule:{rule}" for rule in placed}, DRAW_AGAIN


@pytest.mark.slow
def test_the_picture_has_the_arrows_between_rules_that_there_are() -> None:
    arrows = picture().box_arrows(picture().rule_dependencies())
    assert drawn("files") == {f"files:{a}-{b}" for a, b in arrows}, DRAW_AGAIN


def test_arrows_that_others_imply_are_left_out() -> None:
    assert picture().reduced({("a", "b"), ("b", "c"), ("a", "c")}) == {("a", "b"), ("b", "c")}
    assert picture().imported(
        "from undue.x import y\nimport undue.z\n", {"undue.x.y", "undue.z", "undue.w"}
    ) == {
        "undue.x.y",
        "undue.z",
    }
