# What the rules of fairness.smk use: which tables take part, their files, the names of results.

from undue.data.registry import mirror_folder
from undue.fairness.sources import obtainable
from undue.run.config import OWN_TABLE_KEYS

FAIRNESS = CONFIG["fairness"]


def table_files_of(dataset):
    """The files of a table, by role."""
    return located(FAIRNESS["tables"][dataset]["files"])


def unobtainable(dataset):
    """Those of a table's files that only an official site has."""
    mirror = mirror_folder(CONFIG["data"]["mirror"])
    named = [file for file in FAIRNESS["tables"][dataset]["files"].values() if file in REGISTRY]
    return [name for name in named if not obtainable(REGISTRY[name], DOWNLOADS[name], mirror)]


LEFT_OUT = [name for name in FAIRNESS["use"] if name in FAIRNESS["optional"] and unobtainable(name)]
FAIR_DATASETS = [name for name in FAIRNESS["use"] if name not in LEFT_OUT]
FAIR_METRICS = FAIRNESS["metrics"]

# Not again in every job's own process.
if workflow.is_main_process:
    for left_out in LEFT_OUT:
        logger.warning(
            f"fairness: {left_out} is left out: {', '.join(unobtainable(left_out))} is in neither "
            "data/downloads nor a mirror folder (data.mirror, UNDUE_MIRROR), and no package has it. "
            "Its official site is asked with fairness.optional: []"
        )

# Of a table's entry, what decides how it is read.
READING_KEYS = ["kind", "categorical", "published_groups", *OWN_TABLE_KEYS]
FAIR_FIGURES = {
    "figure7": "Figure 7: downstream gap against scale",
    "fairness_why": "Why scaling works",
    "fairness_audit": "What an auditor sees",
    "fairness_direct": "Direct attack against scaling",
}
FAIR_TABLES = {
    "table3": "Table 3",
    "table4": "Table 4",
    "fairness_attack": "Scaling attack",
    "fairness_scales": "Every scale",
    "fairness_direct": "Direct attack",
    "fairness_audit": "Harm within budgets of log-loss",
}
FAIR_DOWNLOADS = sorted(
    {path for name in FAIR_DATASETS for path in table_files_of(name).values() if path in DOWNLOADS.values()}
)


def figure_name(name, metric):
    """The name of a metric's figure: the paper's metric has the plain one."""
    return name if metric == "demographic_parity" else f"{name}_{metric}"


FAIR_FIGURE_NAMES = {
    metric: {name: figure_name(name, metric) for name in FAIR_FIGURES} for metric in FAIR_METRICS
}
FAIR_RESULTS = (
    [path for name in FAIR_TABLES for path in table_files(name)]
    + [path for names in FAIR_FIGURE_NAMES.values() for name in names.values() for path in figure_files(name)]
    if FAIR_DATASETS
    else []
)


def judge_settings(dataset, metric):
    """What the judgement of a base model depends on."""
    table = FAIRNESS["tables"][dataset]
    keys = ["bound", "infeasible", "solver", "bootstrap", "log_loss_budgets", "direct_radii"]
    settings = slice_of("seed", *[f"fairness.{key}" for key in keys])
    return {**settings, "l2": table["l2"], "program": table[metric]}
