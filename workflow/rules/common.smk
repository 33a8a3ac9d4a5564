# What all rules use: the checked config, slices of it, code fingerprints, paths.
#
# Nothing here runs a job. What a rule's job depends on is said in three places: its input files, its
# params `code` (checksums of the script and all local modules it imports) and `cfg` (its slice of the
# config). Snakemake compares all three with those of the last run; scripts read nothing else.

import os
import re
import sys
from pathlib import Path

from snakemake.exceptions import WorkflowError

# The library beside this Snakefile, whatever is installed: here, and in the jobs' own processes.
LIBRARY = str(Path(workflow.basedir) / "workflow")
sys.path.insert(0, LIBRARY)
# Threads that wait may spin for microseconds only: on busy cores more slows jobs down several times, and
# none at all costs a sixth on idle ones.
os.environ.setdefault("OMP_WAIT_POLICY", "passive")
os.environ.setdefault("GOMP_SPINCOUNT", "20000")
os.environ.update(PYTHONPATH=os.pathsep.join(filter(None, [LIBRARY, os.environ.get("PYTHONPATH")])))

from undue.data.registry import read_registry
from undue.errors import UserError
from undue.files import read_json
from undue.run.code import code
from undue.run.config import settings, validate
from undue.run.sources import fingerprint


def located(files):
    """Role → path: downloads for names of the registry, else the user's own."""
    return {role: DOWNLOADS.get(file, file) for role, file in files.items()}


try:
    CONFIG = validate(config)
    REGISTRY = read_registry(Path(workflow.basedir) / "data" / "registry.tsv")
    DOWNLOADS = {name: f"data/downloads/{entry.file}" for name, entry in REGISTRY.items()}
    # Data set → role → path.
    FILES = {dataset: located(entry["files"]) for dataset, entry in CONFIG["datasets"].items()}
except UserError as error:
    raise WorkflowError(str(error)) from None

RESULTS = CONFIG["results"]
DATASETS = CONFIG["data"]["use"]
ATTACK = CONFIG["attack"]


wildcard_constraints:
    dataset=r"[A-Za-z0-9][A-Za-z0-9_-]*",
    variant=r"[a-z0-9_]+(-\d+px)?",
    objective="|".join(ATTACK["objectives"]),
    radius=r"[0-9.e+-]+",
    seed=r"\d+",
    block=r"\d+",
    file="|".join(re.escape(entry.file) for entry in REGISTRY.values()),


def code_of(script):
    """The fingerprint of a script in workflow/scripts and of all it imports."""
    return code(Path(workflow.basedir) / "workflow" / "scripts" / f"{script}.py", LIBRARY)


def slice_of(*keys):
    """The named part of the config, for a rule's `cfg`."""
    return settings(CONFIG, *keys)


def definition(dataset):
    """A data set's entry in the config."""
    return CONFIG["datasets"][dataset]


def dataset_inputs(dataset):
    """Those of a data set's files that are files; folders are fingerprinted instead."""
    return [path for path in FILES[dataset].values() if not Path(path).is_dir()]


def dataset_settings(dataset):
    """What reading a data set depends on, but for the contents of its input files."""
    entry = definition(dataset)
    options = {key: entry[key] for key in ("features_key", "label_key", "split_key") if key in entry}
    folders = {path: FOLDERS[path] for path in FILES[dataset].values() if path in FOLDERS}
    return {"kind": entry["kind"], "options": options, "folders": folders}


def extraction_settings(dataset):
    """How a data set's features are extracted; scaling comes later."""
    keys = ("backbone", "image_size", "batch_size", "device")
    return {key: definition(dataset)["features"][key] for key in keys}


def variant(dataset):
    """The folder name of a data set's features: what they were made with."""
    block = definition(dataset)["features"]
    size = block["image_size"]
    return block["backbone"] + (f"-{size}px" if size else "")


def features(dataset, file):
    """The path of a file of a data set's features."""
    return f"data/features/{dataset}/{variant(dataset)}/{file}"


def check_files(dataset):
    """Refuse a data set whose own files aren't there, unless its features were made from the very same."""
    made = Path(features(dataset, "features.json"))
    if made.exists() and read_json(made).get("files") == FILES[dataset]:
        return
    for role, path in FILES[dataset].items():
        if path not in DOWNLOADS.values() and not Path(path).exists():
            key = "path" if "path" in config["datasets"][dataset] else f"files.{role}"
            raise UserError(
                f"there is no file or folder {path}",
                where=f"datasets.{dataset}.{key}",
                remedy="give a path (a relative one begins in the project's folder) "
                "or a name of data/registry.tsv",
            )


try:
    for dataset in DATASETS:
        check_files(dataset)
    # Folder → digest of what is in it.
    FOLDERS = {
        path: fingerprint(path)
        for dataset in DATASETS
        for path in FILES[dataset].values()
        if Path(path).is_dir()
    }
except UserError as error:
    raise WorkflowError(str(error)) from None


def required(file):
    """What the registry says that a downloaded file must be."""
    (entry,) = [entry for entry in REGISTRY.values() if entry.file == file]
    return {"name": entry.name, "bytes": entry.bytes, "sha256": entry.sha256}


def downloads():
    """All files of the registry that this run downloads."""
    wanted = [path for dataset in DATASETS for path in FILES[dataset].values()]
    wanted += [path for dataset in DATASETS for path in weights_of(dataset)]
    return sorted({path for path in wanted if path in DOWNLOADS.values()})


def backbone(dataset):
    """The name of a data set's backbone."""
    return definition(dataset)["features"]["backbone"]


def weights_of(dataset):
    """The downloaded weights of a data set's backbone; pixels need none."""
    name = backbone(dataset)
    return [] if name == "none" else [DOWNLOADS[name]]


def attacks(dataset, objective, radius, seed, block):
    """The stem of an attack job's files."""
    return f"{RESULTS}/{dataset}/attack/{objective}/radius={radius}/seed={seed}/block={block}"


RADII = [str(radius) for radius in ATTACK["radii"]]
SEEDS = ATTACK["seeds"]
BLOCKS = range(-(-ATTACK["targets"] // ATTACK["targets_per_block"]))
# What an attack job reads of the section `attack`; the rest says which jobs there are.
ATTACK_KEYS = [
    "learning_rates",
    "ranks",
    "steps",
    "drop_at",
    "suppressed_ranks",
    "monitor_every",
    "tolerance",
    "memory_gb",
    "device",
]


def memory(factor):
    """mem_mb of a job that holds its inputs in memory `factor` times over, beside Python and torch."""
    return lambda w, input: int(1000 + factor * input.size_mb)


def block_places(block):
    """The places in the lists of targets that a block takes."""
    first = block * ATTACK["targets_per_block"]
    return {"first": first, "count": min(ATTACK["targets_per_block"], ATTACK["targets"] - first)}


def figure_files(name):
    """The files of a figure."""
    return [f"{RESULTS}/figures/{name}.{suffix}" for suffix in ("svg", "png")]


def table_files(name):
    """The files of a table."""
    return [f"{RESULTS}/tables/{name}.{suffix}" for suffix in ("parquet", "csv", "md")]


TRAJECTORIES = [
    f"{attacks(dataset, objective, radius, seed, block)}.parquet"
    for dataset in DATASETS
    for objective in ATTACK["objectives"]
    for radius in RADII
    for seed in SEEDS
    for block in BLOCKS
]
FIGURES = [
    path
    for name in ["figure4", *[f"top_ranked_{dataset}" for dataset in DATASETS]]
    for path in figure_files(name)
]
TABLES = [path for name in ("table1", "attack_success", "attacks") for path in table_files(name)]
METRICS = f"{RESULTS}/metrics.json"


def reported(path, category, caption, title):
    """A file, or a list of files, that the report shows under a title, with workflow/report/<caption>.rst."""
    if isinstance(path, list):
        return [reported(file, category, caption, title) for file in path]
    labels = {"result": title, "format": Path(path).suffix[1:]}
    return report(path, category=category, caption=f"../report/{caption}.rst", labels=labels)


def figure(name, caption, title):
    """The files of a figure, as an output for the report."""
    return reported(figure_files(name), "Figures", caption, title)


def table(name, title):
    """The files of a table, as an output; those for reading are for the report."""
    parquet, *readable = table_files(name)
    return [parquet, *reported(readable, "Tables", name, title)]


def calculator_settings(dataset):
    """What influences depend on besides the data and the model."""
    return {
        **slice_of("model.regularise_bias", "influence.damping", "influence.rank_sign"),
        "scaling": definition(dataset)["features"]["scaling"],
    }
