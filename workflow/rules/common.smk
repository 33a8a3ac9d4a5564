# What all rules use: the checked config, slices of it, code fingerprints, paths.
#
# Nothing here runs a job. What a rule's job depends on is said in three places: its input files, its
# params `code` (checksums of the script and all local modules it imports) and `cfg` (its slice of the
# config). Snakemake compares all three with those of the last run. Scripts read nothing else but how a
# machine is to do it (device, batch size and memory from `resources`, the mirror folder, where a user's own
# files are): who has another one needn't do it again.

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
from undue.run import layout
from undue.run.code import code
from undue.run.config import settings, validate
from undue.run.sources import fingerprint


def located(files):
    """Role → path: downloads for names of the registry, else the user's own."""
    return {role: DOWNLOADS.get(file, file) for role, file in files.items()}


def definition(dataset):
    """A data set's entry in the config; a variant's with all that it has from its base."""
    return layout.definition(CONFIG, dataset)


try:
    CONFIG = validate(config)
    REGISTRY = read_registry(Path(workflow.basedir) / "data" / "registry.tsv")
    DOWNLOADS = {name: f"data/downloads/{entry.file}" for name, entry in REGISTRY.items()}
    # Data set → role → path.
    FILES = {dataset: located(definition(dataset)["files"]) for dataset in CONFIG["datasets"]}
except UserError as error:
    raise WorkflowError(str(error)) from None

RESULTS = CONFIG["results"]
DATASETS = CONFIG["data"]["use"]
VALIDATION = CONFIG["validation"]
# Of the experiments on plain images; none if they are left out.
IMAGES = [VALIDATION["dataset"]] if VALIDATION["dataset"] else []
ATTACK = CONFIG["attack"]


wildcard_constraints:
    dataset=r"[A-Za-z0-9][A-Za-z0-9_-]*",
    variant=r"[a-z0-9_]+(-\d+px)?",
    objective="|".join(ATTACK["objectives"]),
    radius=r"[0-9.e+-]+",
    seed=r"-?\d+",
    size=r"\d+",
    block=r"\d+",
    file="|".join(re.escape(entry.file) for entry in REGISTRY.values()),


def code_of(script):
    """The fingerprint of a script in workflow/scripts and of all it imports."""
    return code(Path(workflow.basedir) / "workflow" / "scripts" / f"{script}.py", LIBRARY)


def slice_of(*keys):
    """The named part of the config, for a rule's `cfg`."""
    return settings(CONFIG, *keys)


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
    return {key: definition(dataset)["features"][key] for key in ("backbone", "image_size")}


def features(dataset, file):
    """The path of a file of a data set's features; a variant has its base's."""
    return f"{layout.feature_folder(CONFIG, dataset)}/{file}"


def check_files(dataset):
    """Refuse a data set whose own files aren't there, unless its features were made from the very same."""
    made = Path(features(dataset, "features.json"))
    if made.exists() and read_json(made).get("files") == FILES[dataset]:
        return
    for role, path in FILES[dataset].items():
        if path not in DOWNLOADS.values() and not Path(path).exists():
            source = definition(dataset).get("base", dataset)
            key = "path" if "path" in config["datasets"][source] else f"files.{role}"
            raise UserError(
                f"there is no file or folder {path}",
                where=f"datasets.{source}.{key}",
                remedy="give a path (a relative one begins in the project's folder) "
                "or a name of data/registry.tsv",
            )


try:
    for dataset in [*DATASETS, *IMAGES]:
        check_files(dataset)
    # Folder → digest of what is in it.
    FOLDERS = {
        path: fingerprint(path)
        for dataset in [*DATASETS, *IMAGES]
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
    used = [*DATASETS, *IMAGES]
    wanted = [path for dataset in used for path in [*FILES[dataset].values(), *weights_of(dataset)]]
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
MAIN_OBJECTIVE = layout.main_objective(CONFIG)


def starts_of(objective):
    """The seeds from which an objective is attacked."""
    return layout.starts_of(CONFIG, objective)


BLOCKS = range(-(-ATTACK["targets"] // ATTACK["targets_per_block"]))


def attack_keys(objective, ranks=True):
    """What every attack reads of the section `attack`: nothing of a solver or an objective that it hasn't."""
    keys = [
        "learning_rates",
        *(["ranks"] if ranks else []),
        "steps",
        "drop_at",
        *(["suppressed_ranks"] if objective == "min_topk" else []),
        "monitor_every",
        "tolerance",
        "solver",
        *(["lissa_batch", "lissa_depth", "lissa_scale"] if ATTACK["solver"] == "lissa" else ["products"]),
    ]
    return [f"attack.{key}" for key in keys]


def memory(factor=0, base=1000):
    """mem_mb of a job that holds its inputs in memory `factor` times over, beside `base` MB.

    Where a profile asks for retries, each has as much again: the first attempt may have been killed for it.
    """
    return lambda w, input, attempt=1: attempt * int(base + (factor and factor * input.size_mb))


def extraction_memory(w, input, attempt=1):
    """mem_mb for a network's activations, which grow with the batch; own arrays are held as they are."""
    entry = definition(w.dataset)
    block = entry["features"]
    images = block["batch_size"] * ((block["image_size"] or layout.NATIVE_SIZE) / layout.NATIVE_SIZE) ** 2
    arrays = 8 * input.size_mb if entry["kind"] == "arrays" else 0
    return attempt * int(2500 + 20 * images + arrays)


def gpus(device):
    """GPUs that a job asks a cluster for: `auto` takes one where there is one, but waits for none."""
    return int(device == "cuda")


def minutes(base, per_mb=0, per_class=0):
    """runtime of a job, in minutes: a limit for cluster schedulers, generous, and as much again for a retry.

    It grows with the size of the job's inputs, and for heads also with that times the number of classes.
    """

    def limit(w, input, attempt=1):
        each = per_mb + (per_class and per_class * classes(w.dataset))
        return attempt * int(base + (each and each * input.size_mb))

    return limit


def classes(dataset):
    """How many a data set has, once its features are there; until then nothing is submitted that asks."""
    made = Path(features(dataset, "features.json"))
    return len(read_json(made)["classes"]) if made.exists() else 10


# Steps of an attack job with one lane for each learning rate: what its time grows with. LiSSA's take no longer
# with more than a few thousand samples.
LANE_STEPS = len(ATTACK["learning_rates"]) * ATTACK["steps"] * layout.lissa_stretch(ATTACK, 4000)
# What lanes attacked side by side may take.
LANES_MB = max(1, int(1000 * ATTACK["memory_gb"]))


def figure_files(name):
    """The files of a figure."""
    return [f"{RESULTS}/figures/{name}.{suffix}" for suffix in ("svg", "png")]


def table_files(name):
    """The files of a table."""
    return [f"{RESULTS}/tables/{name}.{suffix}" for suffix in ("parquet", "csv", "md")]


# The data sets that differ in their data alone, to compare sizes.
SIZES = [name for name in DATASETS if not {"l2", "damping", "rank_sign"} & CONFIG["datasets"][name].keys()]
TRAJECTORIES = [
    f"{attacks(dataset, objective, radius, seed, block)}.parquet"
    for dataset in DATASETS
    for objective in ATTACK["objectives"]
    for radius in RADII
    for seed in starts_of(objective)
    for block in BLOCKS
]
FIGURES = [
    path
    for name in [
        "figure4",
        "figure5",
        "objective_steps",
        # Which need several starts, several data sets.
        *(["starts_gain"] if len(SEEDS) > 1 else []),
        *(["training_size"] if len(SIZES) > 1 else []),
        # Which alone need the images themselves.
        *([f"top_ranked_{dataset}" for dataset in DATASETS] if CONFIG["figures"]["gallery_targets"] else []),
    ]
    for path in figure_files(name)
]
TABLES = [
    path
    for name in ("table1", "table2", "attack_success", "attack_starts", "attacks", "easy_targets")
    for path in table_files(name)
]
if CONFIG["multi_target"]["sizes"]:
    FIGURES += figure_files("figure6")
    TABLES += table_files("multi_target")
if CONFIG["impossibility"]["dimensions"]:
    FIGURES += figure_files("impossibility")
    TABLES += table_files("impossibility")
# Each data set's verdicts on the loss-reweighing baseline.
BASELINE = [f"{RESULTS}/{dataset}/attack/baseline/published.parquet" for dataset in DATASETS]
if CONFIG["baseline"]["weights"]:
    TABLES += table_files("baseline")
METRICS = f"{RESULTS}/metrics.json"
# Predicted and actual effects of training again, of images and of this run's own heads. The latter must be
# minimisers, or leaving a sample out has no answer to compare with.
RANKED = DATASETS if VALIDATION["ranking_samples"] and CONFIG["model"]["training"] == "newton" else []
VALIDATION_PAIRS = [
    *[f"{RESULTS}/validation/{name}.parquet" for _ in IMAGES for name in ("softmax", "hinge", "logistic")],
    *[f"{RESULTS}/validation/network.parquet" for _ in IMAGES if VALIDATION["network_steps"]],
    *[f"{RESULTS}/{dataset}/validation/damping.parquet" for dataset in RANKED],
]
if VALIDATION_PAIRS:
    TABLES += table_files("validation")
for name in ("leave_one_out", "hinge", "influence_parts", "early_stopping"):
    FIGURES += [path for _ in IMAGES for path in figure_files(name)]
TABLES += [path for _ in IMAGES for path in table_files("datamodelling")]
if RANKED:
    FIGURES += figure_files("damping") + figure_files("rankings")
    TABLES += table_files("rankings")


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
    own = definition(dataset)
    return {
        **slice_of("model.regularise_bias"),
        "influence.damping": own.get("damping", CONFIG["influence"]["damping"]),
        "influence.rank_sign": own.get("rank_sign", CONFIG["influence"]["rank_sign"]),
        "scaling": definition(dataset)["features"]["scaling"],
    }


def validation_settings(*keys):
    """What an experiment on images depends on besides their features."""
    return slice_of("split", *[f"validation.{key}" for key in ("dataset", "train_samples", *keys)])


def model_settings(dataset):
    """The section `model`, with a variant's own λ."""
    own = definition(dataset)
    return {**CONFIG["model"], **({"l2": own["l2"]} if "l2" in own else {})}


def set_attacks(dataset, radius, size):
    """The stem of a multi-target job's files."""
    return f"{RESULTS}/{dataset}/attack/sets/radius={radius}/size={size}"


def attack_files(wildcards, pattern):
    """A file of all attack jobs of an objective and radius, by start and block."""
    starts = starts_of(wildcards.objective)
    return [pattern.format(**wildcards, seed=seed, block=block) for seed in starts for block in BLOCKS]
