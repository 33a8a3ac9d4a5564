"""The configuration: checked against one schema, completed with its defaults, cut into slices for rules.

Everything that can be said about one key is said in `workflow/schemas/config.schema.yaml`; only what
concerns several keys at once is checked here. This module is imported at every start of Snakemake, so it
imports nothing heavy.
"""

from __future__ import annotations

import difflib
import json
import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jsonschema
import yaml

from undue.errors import UserError

SCHEMA = Path(__file__).resolve().parents[2] / "schemas" / "config.schema.yaml"

RESERVED = frozenset({"attack", "fairness", "figures", "metrics", "presets", "tables", "validation"})
"""Names that a dataset can't have, because `results/<name>` means something else."""

SOURCES = frozenset({"data", "docs", "envs", "profiles", "tests", "workflow"})
"""Folders of the project that `results` must stay out of."""

ROLES: Mapping[str, tuple[frozenset[str], ...]] = {
    "mnist_csv": (frozenset({"archive"}),),
    "image_folder": (frozenset({"archive"}),),
    "mnist_idx": (frozenset({"train_images", "train_labels", "test_images", "test_labels"}),),
    "cifar10_binary": (frozenset({"archive"}),),
    "oxford_pet": (frozenset({"images", "annotations"}),),
    "caltech101": (frozenset({"archive"}),),
    "arrays": (frozenset({"archive"}), frozenset({"features", "labels"})),
}
"""For each kind of dataset, the sets of files that define one."""

TABLE_ROLES: Mapping[str, frozenset[str]] = {
    "adult": frozenset({"train", "test"}),
    "german": frozenset({"table"}),
    "compas": frozenset({"table"}),
    "table": frozenset({"table"}),
}
"""For each kind of table, the files that define one."""

VARIANT_KEYS = ("l2", "damping", "rank_sign", "train_samples")
"""What a variant may do differently from the dataset that it is based on."""

OWN_TABLE_KEYS = ("label", "positive", "sensitive", "privileged", "privileged_from", "split", "drop")
ARRAY_KEYS = ("features_key", "label_key", "split_key")
LEAST_IMAGE_SIZE = 32
"""Below this side, in pixels, a network's last feature map would be less than one pixel."""

Schema = Mapping[str, Any]
KeyPath = tuple[str | int, ...]


@dataclass(frozen=True)
class Problem:
    """What is wrong with the value at `path`."""

    path: KeyPath
    message: str

    def __str__(self) -> str:
        return f"{_dotted(self.path)}: {self.message}"


def load_schema() -> dict[str, Any]:
    """The schema of the configuration (JSON Schema, draft 2020-12)."""
    # The parser in C, where there is one: this happens at every start of Snakemake.
    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    schema: dict[str, Any] = yaml.load(SCHEMA.read_text(encoding="utf-8"), loader)
    return schema


def validate(config: Mapping[str, Any]) -> dict[str, Any]:
    """Check a configuration and complete it.

    The result has every key of the schema, in the schema's order, with numbers as floats and `results/` as
    `results`: two files that say the same give the same result, whatever their order and spelling. Each
    entry of `datasets` gets `files` in place of the short form `path`, and in `features` the block that
    holds for it: the global one with its own overrides (arrays: backbone `none`, no image size).
    Validating the result again changes nothing.

    Raises:
        UserError: something isn't allowed; lists every problem found, not the first one only.
    """
    plain, problems = _plain(config)
    if not problems:
        schema = load_schema()
        problems = _schema_problems(plain, schema)
        filled: dict[str, Any] = _fill(plain, schema, schema)
        problems += _rule_problems(filled, problems)
    if problems:
        count = "1 problem" if len(problems) == 1 else f"{len(problems)} problems"
        raise UserError(
            "\n".join([count, *(f"  {problem}" for problem in problems)]),
            where="configuration",
            remedy=(
                "correct config.yaml, or what was given by --configfile or --config; "
                "workflow/schemas/config.schema.yaml describes every key"
            ),
        )
    datasets = filled["datasets"]
    fairness = filled["fairness"]
    fairness["tables"] = {
        name: _complete_table(fairness["tables"][name], schema) for name in sorted(fairness["tables"])
    }
    filled["results"] = Path(filled["results"]).as_posix()
    filled["datasets"] = {name: _complete(datasets[name], filled["features"]) for name in sorted(datasets)}
    return filled


def settings(config: Mapping[str, Any], *keys: str) -> dict[str, Any]:
    """The slice of a validated configuration that a rule depends on, as {dotted key: value}.

    A key may name a value (`attack.steps`) or a whole section (`influence`). One dict, because Snakemake
    compares separate params as a set and so misses two values that change places.

    Raises:
        LookupError: there is no such key (a mistake in a rule, not in the user's configuration).
    """
    return {key: _lookup(config, key) for key in keys}


# Checking ---------------------------------------------------------------------------------------------------


def _plain(config: Mapping[str, Any]) -> tuple[dict[str, Any], list[Problem]]:
    """A deep copy made of dicts and lists alone; problems are keys that aren't text (`1:`, `no:`)."""
    problems: list[Problem] = []

    def copy(value: Any, path: KeyPath) -> Any:
        if isinstance(value, Mapping):
            for key in value:
                if not isinstance(key, str):
                    text = f"YAML reads the key {_show(key)} as something else than text; put it in quotes"
                    problems.append(Problem((*path, _show(key)), text))
            return {str(key): copy(inner, (*path, str(key))) for key, inner in value.items()}
        if isinstance(value, list | tuple):
            return [copy(inner, (*path, index)) for index, inner in enumerate(value)]
        return value

    return copy(config, ()), problems


def _is_integer(_: Any, value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _is_number(_: Any, value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


# JSON has no NaN and calls 1.0 an integer; YAML has `.nan` and `.inf`, and a count of 1.0 is a slip.
_Validator = jsonschema.validators.extend(
    jsonschema.Draft202012Validator,
    type_checker=jsonschema.Draft202012Validator.TYPE_CHECKER.redefine_many(
        {"integer": _is_integer, "number": _is_number}
    ),
)


def _schema_problems(config: Mapping[str, Any], schema: Schema) -> list[Problem]:
    errors = _Validator(schema).iter_errors(config)
    found = (problem for error in errors for problem in _explain(error, schema))
    # A value may break two keywords and then get the same message twice.
    return sorted(dict.fromkeys(found), key=str)


def _explain(error: Any, schema: Schema) -> Iterator[Problem]:
    """Problems, in words, for one error of jsonschema."""
    path, value = tuple(error.absolute_path), error.instance
    if "propertyNames" in error.absolute_schema_path:
        yield Problem((*path, value), "a name is letters, digits, - and _, and begins with a letter or digit")
    elif error.validator == "additionalProperties":
        known = error.schema["properties"]
        for key in value:
            if key not in known:
                yield Problem((*path, key), f"unknown key{_nearest_key(key, path, known, schema)}")
    elif error.validator == "required":
        for key in error.validator_value:
            if key not in value:
                sort = describe(_resolve(error.schema["properties"][key], schema))
                yield Problem((*path, key), f"is missing; it must be {sort}")
    elif error.validator == "uniqueItems":
        for index, item in enumerate(value):
            if item in value[:index]:
                yield Problem(path, f"{_show(item)} is there more than once")
    elif error.validator in {"minItems", "minProperties", "minLength"}:
        yield Problem(path, "is empty")
    else:
        yield Problem(path, f"{_show(value)} is not {describe(error.schema)}{_hint(value, error.schema)}")


def describe(schema: Schema) -> str:
    """What a value must be, in words: "a number > 0", "one of auto, cpu, cuda"."""
    if "anyOf" in schema:
        return " or ".join(describe(option) for option in schema["anyOf"])
    if "const" in schema:
        return str(schema["const"])
    if "enum" in schema:
        return "one of " + ", ".join(str(option) for option in schema["enum"])
    nouns = {
        "array": "a list",
        "boolean": "true or false",
        "integer": "a whole number",
        "null": "null",
        "number": "a number",
        "object": "a section with keys",
        "string": "a text",
    }
    signs = {"minimum": ">=", "exclusiveMinimum": ">", "maximum": "<=", "exclusiveMaximum": "<"}
    bounds = " and ".join(f"{sign} {schema[word]}" for word, sign in signs.items() if word in schema)
    if "pattern" in schema:
        bounds = f"that matches {schema['pattern']}"
    first, *others = [nouns[name] for name in _types(schema)]
    return ", or ".join([f"{first} {bounds}".rstrip(), *others])


def _hint(value: Any, schema: Schema) -> str:
    types = _types(schema)
    if isinstance(value, str) and {"number", "integer"} & types.keys() and _reads_as_number(value):
        return ", but text to YAML: write numbers without quotes, and with a point before the e (1.0e-5)"
    if "array" in types and not isinstance(value, dict | list):
        return f": write [{_show(value)}]"
    if "enum" in schema and isinstance(value, str):
        return _did_you_mean(value, [str(option) for option in schema["enum"]])
    return ""


def _reads_as_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def _nearest_key(key: str, section: KeyPath, siblings: Iterable[str], schema: Schema) -> str:
    """The nearest name in the same section, or else the places where that very name does exist."""
    prefix = f"{_dotted(section)}." if section else ""
    near = difflib.get_close_matches(key, list(siblings), n=1)
    elsewhere = [known for known in _dotted_keys(schema, schema) if known.rpartition(".")[2] == key]
    options = [prefix + near[0]] if near else elsewhere
    return f"; did you mean {' or '.join(options)}?" if options else ""


def _did_you_mean(name: str, known: Iterable[str]) -> str:
    near = difflib.get_close_matches(name, list(known), n=1)
    return f"; did you mean {near[0]}?" if near else ""


# Rules between keys -----------------------------------------------------------------------------------------


def _rule_problems(config: Mapping[str, Any], found: list[Problem]) -> list[Problem]:
    """Problems of several keys together; a rule is left out where what it reads is wrong in itself."""

    def sound(*sections: KeyPath) -> bool:
        return not any(
            problem.path[: len(section)] == section[: len(problem.path)]
            for problem in found
            for section in sections
        )

    rules: tuple[tuple[tuple[KeyPath, ...], Callable[[Mapping[str, Any]], Iterator[Problem]]], ...] = (
        ((("results",),), _results_stay_apart),
        ((("data", "use"),), _used_datasets_exist),
        ((("validation",), ("features",), ("datasets",)), _validation_can_be_had),
        ((("validation",), ("model",), ("data", "use"), ("datasets",)), _ranked_heads_are_minima),
        ((("fairness", "use"), ("fairness", "optional")), _used_tables_exist),
        ((("features",),), _images_suit_the_backbone),
        ((("model",),), _paper_recipe_is_plain),
        ((("model",), ("influence",), ("datasets",)), _systems_are_regular),
    )
    problems = [problem for reads, rule in rules if sound(*reads) for problem in rule(config)]
    for name, entry in _datasets(config).items():
        if sound(("datasets", name), ("features",)):
            if "base" not in entry:
                problems += _dataset_problems(name, entry, config["features"])
            elif sound(("model",)):
                problems += _variant_problems(name, entry, config)
    for name, entry in _tables(config).items():
        if sound(("fairness", "tables", name)):
            problems += _table_problems(name, entry)
    return problems


def _datasets(config: Mapping[str, Any]) -> Mapping[str, Any]:
    datasets = config["datasets"]
    return datasets if isinstance(datasets, dict) else {}


def _tables(config: Mapping[str, Any]) -> Mapping[str, Any]:
    fairness = config["fairness"]
    tables = fairness["tables"] if isinstance(fairness, dict) else {}
    return tables if isinstance(tables, dict) else {}


def _results_stay_apart(config: Mapping[str, Any]) -> Iterator[Problem]:
    parts = Path(config["results"]).parts
    if not parts or parts[0] in SOURCES or ".." in parts:
        yield Problem(("results",), f"{config['results']} is not a folder for results alone")


def _used_datasets_exist(config: Mapping[str, Any]) -> Iterator[Problem]:
    known = _datasets(config)
    for index, name in enumerate(config["data"]["use"]):
        if known and name not in known:
            near = _did_you_mean(name, known) or f"; there are {', '.join(sorted(known))}"
            yield Problem(("data", "use", index), f"there is no {_show(name)} in datasets{near}")


def _validation_can_be_had(config: Mapping[str, Any]) -> Iterator[Problem]:
    known, name = _datasets(config), config["validation"]["dataset"]
    path = ("validation", "dataset")
    if known and name is not None and name not in known:
        near = _did_you_mean(name, known) or f"; there are {', '.join(sorted(known))}"
        yield Problem(path, f"there is no {_show(name)} in datasets{near} (null leaves it out)")
    elif known and name is not None:
        entry = known[name]
        backbone = {**config["features"], **entry.get("features", {})}["backbone"]
        if "base" in entry:
            yield Problem(path, f"{name} is a variant: name the dataset that it is based on")
        elif entry.get("kind") != "arrays" and backbone != "none":
            message = f"takes plain pixels, and {name} has the features of {backbone}; give one with"
            yield Problem(path, f"{message} features: {{backbone: none}}")
    if len(set(config["validation"]["pair"])) != 2:
        yield Problem(("validation", "pair"), "takes two different classes")


def _ranked_heads_are_minima(config: Mapping[str, Any]) -> Iterator[Problem]:
    # Without λ a head has no one minimum, and what training again without a sample changes has no answer.
    if not config["validation"]["ranking_samples"] or config["model"]["training"] != "newton":
        return
    for name in config["data"]["use"]:
        entry = _datasets(config).get(name, {})
        if entry.get("l2", config["model"]["l2"]) == 0:
            path = ("datasets", name, "l2") if "l2" in entry else ("model", "l2")
            message = (
                f"with 0 {name} has no one minimum to train again to without a sample: take > 0, or set "
                "validation.ranking_samples to 0"
            )
            yield Problem(path, message)


def _used_tables_exist(config: Mapping[str, Any]) -> Iterator[Problem]:
    known = _tables(config)
    for key in ("use", "optional"):
        for index, name in enumerate(config["fairness"][key]):
            if known and name not in known:
                near = _did_you_mean(name, known) or f"; there are {', '.join(sorted(known))}"
                text = f"there is no {_show(name)} in fairness.tables{near}"
                yield Problem(("fairness", key, index), text)


def _images_suit_the_backbone(config: Mapping[str, Any]) -> Iterator[Problem]:
    yield from _image_size_problems(config["features"], ("features",))


def _image_size_problems(features: Mapping[str, Any], path: KeyPath) -> Iterator[Problem]:
    size, backbone = features["image_size"], features["backbone"]
    if backbone != "none" and size is not None and size < LEAST_IMAGE_SIZE:
        message = f"{size} pixels are too few for {backbone}, which needs {LEAST_IMAGE_SIZE} at least"
        yield Problem((*path, "image_size"), message)


def _paper_recipe_is_plain(config: Mapping[str, Any]) -> Iterator[Problem]:
    model = config["model"]
    if model["training"] == "paper_sgd" and model["l2"] != 0:
        message = f"paper_sgd trains without a regulariser, so this must be 0, not {model['l2']}"
        yield Problem(("model", "l2"), message)


def _systems_are_regular(config: Mapping[str, Any]) -> Iterator[Problem]:
    # Adding one vector to the weights of every class leaves a softmax, and so the mean loss, as it was:
    # only λ and δ keep H_δ away from singular.
    model, damping = config["model"], config["influence"]["damping"]
    entries: dict[KeyPath, Mapping[str, Any]] = {("influence",): {}}
    entries |= {("datasets", name): entry for name, entry in _datasets(config).items() if "base" in entry}
    for path, own in entries.items():
        if own.get("damping", damping) > 0 or (own and not own.keys() & {"damping", "l2"}):
            continue
        message = "with no damping H_δ is singular, because "
        if own.get("l2", model["l2"]) == 0:
            yield Problem((*path, "damping"), f"{message}l2 is 0, too: one of the two must be > 0")
        elif not model["regularise_bias"]:
            yield Problem((*path, "damping"), f"{message}model.regularise_bias is false: take > 0")


def _name_problems(name: str) -> Iterator[Problem]:
    if name.lower() in RESERVED:
        yield Problem(
            ("datasets", name), "the name is taken: results has a folder or file of its own called so"
        )


def _variant_problems(name: str, entry: Mapping[str, Any], config: Mapping[str, Any]) -> Iterator[Problem]:
    path, base = ("datasets", name), entry["base"]
    yield from _name_problems(name)
    known = _datasets(config)
    if base not in known:
        near = _did_you_mean(base, known) or f"; there are {', '.join(sorted(known))}"
        yield Problem((*path, "base"), f"there is no {_show(base)} in datasets{near}")
    elif "base" in known[base]:
        yield Problem((*path, "base"), f"{base} is a variant itself: name the dataset that it is based on")
    for key in entry:
        if key not in ("base", *VARIANT_KEYS):
            yield Problem((*path, key), f"is the base's; a variant has {', '.join(VARIANT_KEYS)} alone")
    if "l2" in entry and config["model"]["training"] == "paper_sgd":
        yield Problem((*path, "l2"), "paper_sgd trains without a regulariser")


def _dataset_problems(name: str, entry: Mapping[str, Any], features: Mapping[str, Any]) -> Iterator[Problem]:
    path = ("datasets", name)
    yield from _name_problems(name)
    if "kind" not in entry:
        kinds = ", ".join(ROLES)
        yield Problem((*path, "kind"), f"is missing; it must be one of {kinds} (or give a `base`)")
        return
    kind = entry["kind"]
    for key in VARIANT_KEYS:
        if key in entry:
            yield Problem((*path, key), "only variants have it, which name a `base`")
    if ("files" in entry) == ("path" in entry):
        yield Problem(path, "needs either `files` or its short form `path`, and not both")
    elif (roles := frozenset(_files(entry))) not in ROLES[kind]:
        wanted = " or ".join(", ".join(sorted(option)) for option in ROLES[kind])
        given = ", ".join(sorted(roles)) or "none"
        yield Problem((*path, "files"), f"{kind} is made of the files {wanted}; here: {given}")
    for key in ARRAY_KEYS:
        if kind != "arrays" and key in entry:
            yield Problem((*path, key), f"only datasets of kind arrays have it, not {kind}")
    own = entry.get("features", {})
    if kind == "arrays":
        if own.get("backbone", "none") != "none":
            message = f"arrays are features already: leave it out, or say none, not {own['backbone']}"
            yield Problem((*path, "features", "backbone"), message)
        if own.get("image_size") is not None:
            yield Problem((*path, "features", "image_size"), "arrays have no images: leave it out")
    elif own:
        yield from _image_size_problems({**features, **own}, (*path, "features"))


def _table_problems(name: str, entry: Mapping[str, Any]) -> Iterator[Problem]:
    path, kind = ("fairness", "tables", name), entry["kind"]
    if ("files" in entry) == ("path" in entry):
        yield Problem(path, "needs either `files` or its short form `path`, and not both")
    elif (roles := frozenset(_table_files(entry))) != TABLE_ROLES[kind]:
        wanted, given = ", ".join(sorted(TABLE_ROLES[kind])), ", ".join(sorted(roles)) or "none"
        yield Problem((*path, "files"), f"{kind} is made of the files {wanted}; here: {given}")
    if kind == "table":
        for key in ("label", "sensitive"):
            if entry.get(key) is None:
                yield Problem((*path, key), "is missing; it must be the name of a column")
        if entry.get("privileged") is not None and entry.get("privileged_from") is not None:
            yield Problem((*path, "privileged_from"), "contradicts `privileged`: take one of the two")
        for key in ("label", "sensitive", "split"):
            if entry.get(key) is not None and entry[key] in entry.get("drop", []):
                yield Problem((*path, "drop"), f"{entry[key]} is the column named by `{key}`: keep it")
    else:
        for key in OWN_TABLE_KEYS:
            if entry.get(key) not in (None, []):
                yield Problem((*path, key), f"only tables of kind table have it, not {kind}")
    if kind != "german" and entry.get("published_groups"):
        yield Problem((*path, "published_groups"), f"only the table german has it, not {kind}")


# Completing -------------------------------------------------------------------------------------------------


def _fill(value: Any, schema: Schema, root: Schema) -> Any:
    """`value` with the schema's defaults, key order and number type; what doesn't fit stays as it is."""
    schema = _resolve(schema, root)
    if "properties" in schema and isinstance(value, dict):
        return {
            key: _fill(value.get(key, _resolve(inner, root).get("default", {})), inner, root)
            for key, inner in schema["properties"].items()
        }
    if "items" in schema and isinstance(value, list):
        return [_fill(item, schema["items"], root) for item in value]
    if "number" in _types(schema) and _is_number(None, value):
        return float(value)
    return value


def _complete(entry: Mapping[str, Any], features: Mapping[str, Any]) -> dict[str, Any]:
    """An entry of `datasets` with its files, its own options and the features block that holds for it."""
    if "base" in entry:
        numbers = {key: float(entry[key]) for key in ("l2", "damping") if key in entry}
        return {key: entry[key] for key in ("base", *VARIANT_KEYS) if key in entry} | numbers
    arrays = entry["kind"] == "arrays"
    implied = {"backbone": "none", "image_size": None, "scaling": "standardise"} if arrays else {}
    return {
        "kind": entry["kind"],
        "files": dict(sorted(_files(entry).items())),
        **{key: entry[key] for key in ARRAY_KEYS if key in entry},
        "features": {**features, **implied, **entry.get("features", {})},
    }


def _complete_table(entry: Mapping[str, Any], schema: Schema) -> dict[str, Any]:
    """An entry of `fairness.tables` with its files and the defaults of everything else."""
    complete: dict[str, Any] = _fill(dict(entry), schema["$defs"]["table"], schema)
    del complete["path"]
    return {**complete, "files": dict(sorted(_table_files(entry).items()))}


def _table_files(entry: Mapping[str, Any]) -> Mapping[str, str]:
    files: Mapping[str, str] = {"table": entry["path"]} if "path" in entry else entry["files"]
    return files


def _files(entry: Mapping[str, Any]) -> Mapping[str, str]:
    files: Mapping[str, str] = {"archive": entry["path"]} if "path" in entry else entry["files"]
    return files


# Schemas and paths ------------------------------------------------------------------------------------------


def _resolve(schema: Schema, root: Schema) -> Schema:
    """Follow a reference of the form `#/$defs/name`."""
    reference = schema.get("$ref")
    if reference is None:
        return schema
    target: Schema = root["$defs"][reference.removeprefix("#/$defs/")]
    return target


def _types(schema: Schema) -> dict[str, None]:
    """The names of the JSON types a schema allows, in its order (those of `enum` and `const` aside)."""
    if "anyOf" in schema:
        return {name: None for option in schema["anyOf"] for name in _types(option)}
    types = schema.get("type", [])
    return dict.fromkeys([types] if isinstance(types, str) else types)


def _dotted_keys(schema: Schema, root: Schema, prefix: str = "") -> Iterator[str]:
    for key, inner in schema.get("properties", {}).items():
        yield prefix + key
        yield from _dotted_keys(_resolve(inner, root), root, f"{prefix}{key}.")


def _dotted(path: Iterable[str | int]) -> str:
    text = ""
    for part in path:
        text += f"[{part}]" if isinstance(part, int) else f".{part}" if text else part
    return text or "(top level)"


def _show(value: Any) -> str:
    """A value as YAML would have it, on one line and not too long."""
    text = json.dumps(value, ensure_ascii=False, default=str)
    return text if len(text) <= 60 else text[:57] + "..."


def _lookup(config: Mapping[str, Any], key: str) -> Any:
    value: Any = config
    for part in key.split("."):
        if not isinstance(value, Mapping) or part not in value:
            near = _did_you_mean(part, value) if isinstance(value, Mapping) else ""
            raise LookupError(f"the configuration has no key {key!r}{near}")
        value = value[part]
    return value
