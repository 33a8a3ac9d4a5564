"""The configuration: what is refused and in which words, what is filled in, what a rule gets of it."""

from __future__ import annotations

import copy
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml

from undue.data.datasets import KINDS
from undue.errors import UserError
from undue.run.config import (
    ARRAY_KEYS,
    RESERVED,
    ROLES,
    SOURCES,
    describe,
    load_schema,
    settings,
    validate,
)

ROOT = Path(__file__).resolve().parents[2]
PRESETS = sorted((ROOT / "workflow" / "presets").glob("*.yaml"))


def read(path: Path) -> dict[str, Any]:
    content = yaml.safe_load(path.read_text(encoding="utf-8"))
    assert isinstance(content, dict)
    return content


@pytest.fixture
def config() -> dict[str, Any]:
    """The default run, as it stands in config.yaml."""
    return read(ROOT / "config.yaml")


def put(config: dict[str, Any], dotted: str, value: Any) -> dict[str, Any]:
    """A copy with one value changed; missing sections are made."""
    changed = copy.deepcopy(config)
    *sections, last = dotted.split(".")
    inner = changed
    for section in sections:
        inner = inner.setdefault(section, {})
    inner[last] = value
    return changed


def refusal(config: dict[str, Any]) -> list[str]:
    """The lines, one for each problem, with which a configuration is refused."""
    with pytest.raises(UserError) as caught:
        validate(config)
    assert caught.value.where == "configuration"
    assert "config.schema.yaml" in caught.value.remedy
    count, *lines = caught.value.what.splitlines()
    assert int(count.split()[0]) == len(lines)
    return [line.strip() for line in lines]


def leaves(schema: dict[str, Any], root: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, inner in schema["properties"].items():
        if "$ref" in inner:
            inner = root["$defs"][inner["$ref"].rpartition("/")[2]]
        if "properties" in inner:
            yield from leaves(inner, root, f"{prefix}{key}.")
        elif prefix + key != "datasets":
            yield prefix + key, inner


LEAVES = dict(leaves(load_schema(), load_schema()))

# The schema -------------------------------------------------------------------------------------------------


def test_schema_is_a_schema() -> None:
    jsonschema.Draft202012Validator.check_schema(load_schema())


def sections(schema: Any, where: str = "schema") -> Iterator[tuple[str, dict[str, Any]]]:
    if isinstance(schema, dict):
        yield where, schema
        for key, inner in schema.items():
            yield from sections(inner, f"{where}.{key}")


def test_every_key_is_described_and_every_section_refuses_unknown_keys() -> None:
    for where, schema in sections(load_schema()):
        if not isinstance(schema.get("properties"), dict):
            continue
        assert schema.get("additionalProperties") is False, where
        for key, inner in schema["properties"].items():
            assert inner.get("description", "").strip().endswith("."), f"{where}.{key}"


@pytest.mark.parametrize("key", LEAVES)
def test_every_key_has_a_default_that_its_own_rule_allows(key: str) -> None:
    jsonschema.validate(LEAVES[key]["default"], {**LEAVES[key], "$defs": load_schema()["$defs"]})


def test_kinds_of_schema_and_code_agree() -> None:
    assert set(load_schema()["$defs"]["dataset"]["properties"]["kind"]["enum"]) == set(ROLES)
    assert {kind: tuple(map(frozenset, layout.roles)) for kind, layout in KINDS.items()} == dict(ROLES)
    assert KINDS["arrays"].options == set(ARRAY_KEYS)


# The files --------------------------------------------------------------------------------------------------


def test_config_file_spells_out_the_defaults_and_nothing_else(config: dict[str, Any]) -> None:
    del config["datasets"]
    spelt = {
        f"{section}.{key}" if isinstance(block, dict) else section: value
        for section, block in config.items()
        for key, value in (block.items() if isinstance(block, dict) else [("", block)])
    }
    assert spelt == {key: leaf["default"] for key, leaf in LEAVES.items()}


def test_config_file_is_complete_and_in_the_schemas_order(config: dict[str, Any]) -> None:
    alone = validate({"datasets": config["datasets"]})
    full = validate(config)
    assert full == alone
    assert list(config) == list(full) == list(load_schema()["properties"])
    for section in ("data", "features", "split", "model", "influence", "attack", "figures"):
        assert list(config[section]) == list(full[section])


@pytest.mark.parametrize("preset", PRESETS, ids=lambda path: path.stem)
def test_presets_are_valid_overlays_that_keep_their_results_apart(
    preset: Path, config: dict[str, Any]
) -> None:
    from snakemake.utils import update_config

    overlay = read(preset)
    update_config(config, overlay)
    checked = validate(config)
    # What chooses devices alone changes no result, and is laid over another.
    devices = all(isinstance(part, dict) and set(part) == {"device"} for part in overlay.values())
    assert checked["results"] == ("results" if devices else f"results/presets/{preset.stem}")
    assert holds(checked, overlay)


def holds(whole: Any, part: Any) -> bool:
    """Whether every value of `part` is at its place in `whole`."""
    if isinstance(part, dict):
        return all(key in whole and holds(whole[key], value) for key, value in part.items())
    return bool(whole == part)


def test_presets_exist() -> None:
    assert {"smoke", "paper"} <= {path.stem for path in PRESETS}


def test_registry_has_the_files_of_the_default_datasets(config: dict[str, Any]) -> None:
    registry = ROOT / "data" / "registry.tsv"
    if not registry.exists():
        pytest.skip("data/registry.tsv is not there")
    rows = [line for line in registry.read_text(encoding="utf-8").splitlines() if not line.startswith("#")]
    column = rows[0].split("\t").index("name")
    names = {row.split("\t")[column] for row in rows[1:]}
    wanted = {file for entry in config["datasets"].values() for file in entry["files"].values()}
    assert wanted <= names


# What comes out ---------------------------------------------------------------------------------------------


def test_input_is_left_alone_and_a_second_validation_changes_nothing(config: dict[str, Any]) -> None:
    config = put(config, "datasets.mine", {"kind": "arrays", "path": "a.npz"})
    before = copy.deepcopy(config)
    first = validate(config)
    assert config == before
    assert list(map(str, first.items())) == list(map(str, validate(first).items()))


def test_order_and_spelling_of_the_file_do_not_matter(config: dict[str, Any]) -> None:
    turned = {
        section: dict(reversed(block.items())) if isinstance(block, dict) else block
        for section, block in reversed(config.items())
    }
    turned["attack"]["memory_gb"] = 2
    turned["results"] = "./results/"
    assert repr(validate(turned)) == repr(validate(config))


def test_numbers_become_floats_and_counts_stay_whole(config: dict[str, Any]) -> None:
    checked = validate(put(put(config, "attack.radii", [1, 0.5]), "model.l2", 1))
    assert list(map(repr, checked["attack"]["radii"])) == ["1.0", "0.5"]
    assert repr(checked["model"]["l2"]) == "1.0"
    assert repr(checked["attack"]["steps"]) == "50"
    assert repr(checked["influence"]["rank_sign"]) == "1"


def test_short_form_of_a_dataset(config: dict[str, Any]) -> None:
    entry = {"kind": "image_folder", "path": "my/images.zip", "features": {"image_size": 64}}
    checked = validate(put(config, "datasets.mine", entry))["datasets"]["mine"]
    assert checked == {
        "kind": "image_folder",
        "files": {"archive": "my/images.zip"},
        "features": {**config["features"], "image_size": 64},
    }


def test_arrays_imply_no_backbone_and_keep_their_keys(config: dict[str, Any]) -> None:
    entry = {"kind": "arrays", "files": {"labels": "y.npy", "features": "x.npy"}, "split_key": "part"}
    checked = validate(put(config, "datasets.mine", entry))["datasets"]["mine"]
    assert checked["files"] == {"features": "x.npy", "labels": "y.npy"}
    assert checked["split_key"] == "part"
    assert (checked["features"]["backbone"], checked["features"]["image_size"]) == ("none", None)
    assert checked["features"]["scaling"] == "standardise"


def test_a_dataset_of_every_kind(config: dict[str, Any]) -> None:
    for kind, options in ROLES.items():
        for roles in options:
            entry = {"kind": kind, "files": {role: f"{role}.gz" for role in roles}}
            assert validate(put(config, "datasets.mine", entry))["datasets"]["mine"]["kind"] == kind


@pytest.mark.parametrize("value", ["cross_validated", 0, 0.01])
def test_l2_may_be_chosen_or_given(config: dict[str, Any], value: str | float) -> None:
    # Without λ there is no one minimum to hold rankings against.
    config = put(config, "validation.ranking_samples", 0)
    assert validate(put(config, "model.l2", value))["model"]["l2"] == value


# What is refused --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("resultz", "x", "resultz: unknown key; did you mean results?"),
        ("radii", [0.1], "radii: unknown key; did you mean attack.radii or impossibility.radii?"),
        ("attack.radius", [0.1], "attack.radius: unknown key; did you mean attack.radii?"),
        (
            "attack.damping",
            1,
            "attack.damping: unknown key; did you mean influence.damping or impossibility.damping?",
        ),
        ("attack.xyzzy", 1, "attack.xyzzy: unknown key"),
        ("datasets.pet.kynd", "x", "datasets.pet.kynd: unknown key; did you mean datasets.pet.kind?"),
        (
            "datasets.pet.features.imagesize",
            9,
            "datasets.pet.features.imagesize: unknown key; did you mean datasets.pet.features.image_size?",
        ),
        ("attack", None, "attack: null is not a section with keys"),
        ("data", 5, "data: 5 is not a section with keys"),
        ("datasets", [], "datasets: [] is not a section with keys"),
        ("datasets", {}, "datasets: is empty"),
        ("results", "", 'results: "" is not a text that matches ^[A-Za-z0-9_./-]+$'),
        ("results", "a{b}", 'results: "a{b}" is not a text that matches ^[A-Za-z0-9_./-]+$'),
        ("results", ".", "results: . is not a folder for results alone"),
        ("results", "data/x", "results: data/x is not a folder for results alone"),
        ("results", "../x", "results: ../x is not a folder for results alone"),
        ("seed", -1, "seed: -1 is not a whole number >= 0 and <= 4294967295"),
        ("seed", 1.0, "seed: 1.0 is not a whole number >= 0 and <= 4294967295"),
        ("seed", True, "seed: true is not a whole number >= 0 and <= 4294967295"),
        ("data.use", [], "data.use: is empty"),
        ("data.use", "mnist", 'data.use: "mnist" is not a list: write ["mnist"]'),
        ("data.use", ["pet", "pet"], 'data.use: "pet" is there more than once'),
        ("data.use", ["cifar"], 'data.use[0]: there is no "cifar" in datasets; did you mean cifar10?'),
        ("data.use", ["pet", "zzz"], 'data.use[1]: there is no "zzz" in datasets; there are caltech101,'),
        ("data.mirror", 3, "data.mirror: 3 is not a text, or null"),
        ("data.mirror", "", "data.mirror: is empty"),
        ("features.backbone", "resnet", 'features.backbone: "resnet" is not one of resnet50,'),
        ("features.backbone", None, "features.backbone: null is not one of resnet50,"),
        ("features.image_size", 0, "features.image_size: 0 is not a whole number >= 1 and <= 2048, or null"),
        ("features.image_size", 31, "features.image_size: 31 pixels are too few for efficientnet_lite0,"),
        ("features.batch_size", 0, "features.batch_size: 0 is not a whole number >= 1"),
        ("features.device", "gpu", 'features.device: "gpu" is not one of auto, cpu, cuda'),
        ("features.scaling", "yes", 'features.scaling: "yes" is not one of standardise, centre, none'),
        ("split.test_fraction", 1, "split.test_fraction: 1 is not a number > 0 and < 1"),
        ("split.test_fraction", 0, "split.test_fraction: 0 is not a number > 0 and < 1"),
        ("model.training", "sgd", 'model.training: "sgd" is not one of newton, paper_sgd'),
        (
            "model.training",
            "paper_sgd",
            "model.l2: paper_sgd trains without a regulariser, so this must be 0",
        ),
        ("model.l2", "auto", 'model.l2: "auto" is not cross_validated or a number >= 0'),
        ("model.l2", -1, "model.l2: -1 is not cross_validated or a number >= 0"),
        ("model.l2", "1e-3", 'model.l2: "1e-3" is not cross_validated or a number >= 0, but text to YAML'),
        ("model.l2_grid", [], "model.l2_grid: is empty"),
        ("model.l2_grid", [0], "model.l2_grid[0]: 0 is not a number > 0"),
        ("model.folds", 1, "model.folds: 1 is not a whole number >= 2"),
        ("model.gradient_norm", 0, "model.gradient_norm: 0 is not a number > 0"),
        ("influence.damping", -0.5, "influence.damping: -0.5 is not a number >= 0"),
        ("influence.damping", float("nan"), "influence.damping: NaN is not a number >= 0"),
        ("influence.damping", float("inf"), "influence.damping: Infinity is not a number >= 0"),
        ("influence.tolerance", 1, "influence.tolerance: 1 is not a number > 0 and < 1"),
        ("influence.rank_sign", 0, "influence.rank_sign: 0 is not one of 1, -1"),
        ("attack.objectives", ["min_hihger"], 'attack.objectives[0]: "min_hihger" is not one of max_target,'),
        ("attack.radii", [0.1, -0.1], "attack.radii[1]: -0.1 is not a number > 0"),
        ("attack.radii", [0.1, "1e-5"], 'attack.radii[1]: "1e-5" is not a number > 0, but text to YAML'),
        ("attack.radii", [0.1, 0.2, 0.10], "attack.radii: 0.1 is there more than once"),
        ("attack.radii", [1, 1.0], "attack.radii: 1.0 is there more than once"),
        ("attack.radii", 0.1, "attack.radii: 0.1 is not a list: write [0.1]"),
        ("attack.radii", [[1], [1]], "attack.radii[0]: [1] is not a number > 0"),
        ("attack.learning_rates", [0], "attack.learning_rates[0]: 0 is not a number > 0"),
        ("attack.seeds", [0, 0], "attack.seeds: 0 is there more than once"),
        ("attack.seeds", [-2], "attack.seeds[0]: -2 is not a whole number >= -1"),
        ("attack.targets", 0, "attack.targets: 0 is not a whole number >= 1"),
        ("attack.targets_per_block", 0, "attack.targets_per_block: 0 is not a whole number >= 1"),
        ("attack.ranks", [0], "attack.ranks[0]: 0 is not a whole number >= 1"),
        ("attack.ranks", [1, 1], "attack.ranks: 1 is there more than once"),
        ("attack.steps", 2.5, "attack.steps: 2.5 is not a whole number >= 1"),
        ("attack.drop_at", 1.5, "attack.drop_at: 1.5 is not a number > 0 and <= 1"),
        ("attack.accuracy_budget", 3, "attack.accuracy_budget: 3 is not a number >= 0 and <= 1"),
        ("attack.device", "gpu", 'attack.device: "gpu" is not one of auto, cpu, cuda'),
        ("attack.monitor_every", 0, "attack.monitor_every: 0 is not a whole number >= 1"),
        ("attack.tolerance", 0, "attack.tolerance: 0 is not a number > 0 and < 1"),
        ("attack.memory_gb", 0, "attack.memory_gb: 0 is not a number > 0"),
        ("figures.gallery_targets", -1, "figures.gallery_targets: -1 is not a whole number >= 0"),
        ("figures.dpi", 10, "figures.dpi: 10 is not a whole number >= 50 and <= 1200"),
    ],
)
def test_a_wrong_value_is_named_with_what_is_allowed(
    config: dict[str, Any], key: str, value: Any, message: str
) -> None:
    lines = refusal(put(config, key, value))
    assert any(line.startswith(message) for line in lines), lines


IMAGES = {"kind": "image_folder", "path": "x.zip"}
ARRAYS = {"kind": "arrays", "path": "x.npz"}


@pytest.mark.parametrize(
    ("name", "entry", "message"),
    [
        *[(name, IMAGES, f"datasets.{name}: the name is taken") for name in sorted(RESERVED)],
        ("Tables", IMAGES, "datasets.Tables: the name is taken"),
        ("a.b", IMAGES, "datasets.a.b: a name is letters, digits"),
        ("-a", IMAGES, "datasets.-a: a name is letters, digits"),
        ("a/b", IMAGES, "datasets.a/b: a name is letters, digits"),
        ("mine", {"path": "x.zip"}, "datasets.mine.kind: is missing; it must be one of mnist_csv,"),
        ("mine", {"kind": "image_foldr", "path": "x"}, 'datasets.mine.kind: "image_foldr" is not one of'),
        ("mine", {"kind": "arrays"}, "datasets.mine: needs either `files` or its short form `path`"),
        ("mine", {**ARRAYS, "files": {"archive": "y"}}, "datasets.mine: needs either `files` or its short"),
        ("mine", {**IMAGES, "path": ""}, "datasets.mine.path: is empty"),
        ("mine", {"kind": "arrays", "files": {"archive": 3}}, "datasets.mine.files.archive: 3 is not a text"),
        (
            "mine",
            {"kind": "arrays", "files": {"features": "x"}},
            "datasets.mine.files: arrays is made of the files archive or features, labels; here: features",
        ),
        (
            "mine",
            {"kind": "oxford_pet", "path": "x"},
            "datasets.mine.files: oxford_pet is made of the files annotations, images; here: archive",
        ),
        ("mine", {"kind": "arrays", "files": {}}, "datasets.mine.files: arrays is made of the files archive"),
        (
            "mine",
            {**IMAGES, "label_key": "y"},
            "datasets.mine.label_key: only datasets of kind arrays have it",
        ),
        (
            "mine",
            {**ARRAYS, "features": {"backbone": "resnet50"}},
            "datasets.mine.features.backbone: arrays are features already",
        ),
        (
            "mine",
            {**ARRAYS, "features": {"image_size": 96}},
            "datasets.mine.features.image_size: arrays have no images",
        ),
        (
            "mine",
            {**IMAGES, "features": {"image_size": 8}},
            "datasets.mine.features.image_size: 8 pixels are too few for efficientnet_lite0",
        ),
    ],
)
def test_a_wrong_dataset_is_named_with_what_is_allowed(
    config: dict[str, Any], name: str, entry: dict[str, Any], message: str
) -> None:
    config["datasets"][name] = entry
    lines = refusal(config)
    assert len(lines) == 1
    assert lines[0].startswith(message)


def test_few_pixels_are_fine_without_a_backbone(config: dict[str, Any]) -> None:
    assert validate(put(config, "features", {"backbone": "none", "image_size": 8}))


def test_own_backbone_is_held_against_the_global_image_size(config: dict[str, Any]) -> None:
    config["features"].update(backbone="none", image_size=8)
    config["datasets"]["pet"]["features"] = {"backbone": "resnet50"}
    (line,) = refusal(config)
    assert line.startswith("datasets.pet.features.image_size: 8 pixels are too few for resnet50")


@pytest.mark.parametrize(("l2", "bias"), [(0, True), (0.1, False), ("cross_validated", False)])
def test_a_singular_system_is_refused(config: dict[str, Any], l2: str | float, bias: bool) -> None:
    config["influence"]["damping"] = 0
    config["validation"]["ranking_samples"] = 0
    assert validate(config)
    config["model"].update(l2=l2, regularise_bias=bias)
    (line,) = refusal(config)
    assert line.startswith("influence.damping: with no damping H_δ is singular")


def test_the_papers_recipe_is_accepted_without_a_regulariser(config: dict[str, Any]) -> None:
    config["model"].update(training="paper_sgd", l2=0)
    assert validate(config)["model"]["training"] == "paper_sgd"


def test_all_problems_are_listed_at_once(config: dict[str, Any]) -> None:
    config["attack"].update(radii=[-1], stepz=3)
    config["model"]["folds"] = 0
    config["data"]["use"] = ["mnist5"]
    config["datasets"]["mine"] = {"kind": "arrays", "path": "x", "features": {"backbone": "resnet50"}}
    assert [line.split(":")[0] for line in refusal(config)] == [
        "attack.radii[0]",
        "attack.stepz",
        "model.folds",
        "data.use[0]",
        "datasets.mine.features.backbone",
    ]


def test_keys_that_yaml_reads_as_something_else(config: dict[str, Any]) -> None:
    odd = yaml.safe_load("datasets: {1: {kind: arrays}}\nno: 3")
    assert refusal({**config, **odd}) == [
        "false: YAML reads the key false as something else than text; put it in quotes",
        "datasets.1: YAML reads the key 1 as something else than text; put it in quotes",
    ]


def test_long_values_are_cut(config: dict[str, Any]) -> None:
    (line,) = refusal(put(config, "attack.steps", "x" * 500))
    assert len(line) < 120


def test_nothing_at_all() -> None:
    assert refusal({}) == ["datasets: is missing; it must be a section with keys"]


def test_describe() -> None:
    assert describe({"type": ["integer", "null"], "minimum": 1}) == "a whole number >= 1, or null"
    assert describe({"anyOf": [{"const": "a"}, {"type": "number"}]}) == "a or a number"


# Slices -----------------------------------------------------------------------------------------------------


def test_settings_slices_values_and_sections(config: dict[str, Any]) -> None:
    checked = validate(config)
    assert settings(checked, "attack.steps", "influence", "datasets.mnist5k.kind") == {
        "attack.steps": 50,
        "influence": checked["influence"],
        "datasets.mnist5k.kind": "mnist_csv",
    }


@pytest.mark.parametrize(
    ("key", "message"),
    [
        ("attack.stepz", "no key 'attack.stepz'; did you mean steps?"),
        ("atack", "no key 'atack'; did you mean attack?"),
        ("seed.x", "no key 'seed.x'"),
        ("", "no key ''"),
    ],
)
def test_settings_of_an_unknown_key(config: dict[str, Any], key: str, message: str) -> None:
    with pytest.raises(LookupError, match=message.replace("?", r"\?")):
        settings(validate(config), key)


def test_importing_is_light() -> None:
    heavy = {"torch", "pandas", "numpy", "scipy", "snakemake"}
    code = f"import sys, undue.run.config; print(sorted({heavy} & set(sys.modules)))"
    found = subprocess.run(
        [sys.executable, "-c", code],
        env={"PYTHONPATH": str(ROOT / "workflow")},
        capture_output=True,
        text=True,
        check=True,
    )
    assert found.stdout.strip() == "[]"


def test_results_stay_out_of_the_projects_own_folders() -> None:
    folders = {path.name for path in ROOT.iterdir() if path.is_dir() and not path.name.startswith(".")}
    computed = {"results", "logs", "benchmarks", "build"}
    assert folders - computed <= SOURCES


# Variants ---------------------------------------------------------------------------------------------------


def with_variant(config: dict[str, Any], **entry: Any) -> dict[str, Any]:
    return {**config, "datasets": {**config["datasets"], "variant": {"base": "mnist5k", **entry}}}


def test_a_variant_keeps_what_it_says_and_nothing_else(config: dict[str, Any]) -> None:
    entry = {"l2": 0.01, "rank_sign": -1, "train_samples": 500}
    checked = validate(with_variant(config, **entry))
    assert checked["datasets"]["variant"] == {"base": "mnist5k", **entry}
    assert validate(checked) == checked


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        (
            {"base": "mnist5"},
            'datasets.variant.base: there is no "mnist5" in datasets; did you mean mnist5k?',
        ),
        (
            {"path": "x"},
            "datasets.variant.path: is the base's; a variant has l2, damping, rank_sign, train_samples",
        ),
        (
            {"l2": 0, "damping": 0},
            "datasets.variant.damping: with no damping H_δ is singular, because l2 is 0",
        ),
        ({"train_samples": 1}, "datasets.variant.train_samples: 1 is not a whole number >= 2"),
    ],
)
def test_what_a_variant_cannot_be(config: dict[str, Any], entry: dict[str, Any], message: str) -> None:
    (line,) = refusal(with_variant(config, **entry))
    assert message in line


def test_a_variant_is_held_to_what_holds_for_it(config: dict[str, Any]) -> None:
    config["validation"]["ranking_samples"] = 0
    undamped = put(config, "influence", {**config["influence"], "damping": 0})
    (line,) = refusal(with_variant(undamped, l2=0))
    assert line.startswith("datasets.variant.damping: with no damping H_δ is singular, because l2 is 0")
    free = put(config, "model", {**config["model"], "regularise_bias": False})
    (line,) = refusal(with_variant(free, damping=0))
    assert line.startswith("datasets.variant.damping: with no damping H_δ is singular, because model.regul")
    # Its own λ does what the run's doesn't.
    without = put(config, "model", {**config["model"], "l2": 0})
    assert validate(with_variant(without, l2=0.01, damping=0))


def test_a_variant_s_numbers_are_floats(config: dict[str, Any]) -> None:
    entries = [validate(with_variant(config, l2=l2, damping=1))["datasets"]["variant"] for l2 in (1, 1.0)]
    assert [type(entry[key]) for entry in entries for key in ("l2", "damping")] == [float] * 4


def test_a_variant_of_a_variant_is_refused(config: dict[str, Any]) -> None:
    changed = with_variant(config, l2=0.1)
    changed["datasets"]["again"] = {"base": "variant"}
    assert refusal(changed) == [
        "datasets.again.base: variant is a variant itself: name the dataset that it is based on"
    ]


def test_only_variants_differ(config: dict[str, Any]) -> None:
    lines = refusal(put(config, "datasets.mnist5k.l2", 0.1))
    assert lines == ["datasets.mnist5k.l2: only variants have it, which name a `base`"]


def test_the_published_training_has_no_regulariser_to_vary(config: dict[str, Any]) -> None:
    changed = with_variant(put(put(config, "model.training", "paper_sgd"), "model.l2", 0), l2=0.1)
    assert refusal(changed) == ["datasets.variant.l2: paper_sgd trains without a regulariser"]
