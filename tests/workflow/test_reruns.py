"""Precise re-runs: after a change exactly the jobs that it touches are planned, and no others."""

from __future__ import annotations

import os
import re
import time
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml
from runs import RESULTS, Project

PLOTS = {"plot_attack_success": 1, "plot_top_ranked": 1}
IMPOSSIBILITY = {"check_impossibility": 1, "plot_impossibility": 1}
SETS = {"attack_sets": 4, "summarise_sets": 1}
FROM_PAIRS = {"summarise_validation": 1, "plot_validation": 1, "plot_rankings": 1}
# The rankings that are validated are those of the larger radius.
RANKINGS = {"validate_rankings": 1, "summarise_rankings": 1, **FROM_PAIRS}
LOGISTIC = {"validate_logistic": 1, **FROM_PAIRS}
IMAGES = {"validate_softmax": 1, "validate_hinge": 1, **LOGISTIC}
ALL_PLOTS = {
    **PLOTS,
    "plot_objective_steps": 1,
    "analyse_easy_targets": 1,
    "plot_impossibility": 1,
    "summarise_sets": 1,
    "plot_validation": 1,
    "plot_rankings": 1,
}
# The images of plot_top_ranked are drawn from the published models, not from the tables.
FROM_SUMMARISE = {"summarise_attacks": 1, "analyse_easy_targets": 1, "plot_attack_success": 1}
FROM_PUBLISHED = {**FROM_SUMMARISE, "plot_top_ranked": 1}
FROM_PUBLISH = {"publish_attacks": 2, **FROM_PUBLISHED, "summarise_ablation": 1, **RANKINGS}
FROM_ATTACK = {"attack": 4, **FROM_PUBLISH, "plot_objective_steps": 1}
FROM_GRADIENTS = {"compute_gradient_norms": 1, "analyse_easy_targets": 1}
FROM_REWEIGHING = {"reweigh_loss": 2, "publish_baseline": 1, **FROM_SUMMARISE}
FROM_TARGETS = {"select_targets": 2, **FROM_ATTACK, **FROM_REWEIGHING, **FROM_GRADIENTS}
FROM_INFLUENCE = {"compute_influence": 1, **FROM_TARGETS, **SETS}
FROM_TRAINING = {"train_model": 1, **FROM_INFLUENCE}
FROM_SPLIT = {"split_data": 1, **FROM_TRAINING, **IMAGES, "validate_network": 1}
FROM_FEATURES = {"extract_features": 1, **FROM_SPLIT}
ATTACKS = f"{RESULTS}/mnist5k/attack/min_higher"


def touch(root: Path, names: Iterable[str], moment: float) -> None:
    """Give the files, and all files below the folders, a modification time."""
    for name in names:
        start = root / name
        for path in [start, *start.rglob("*")]:
            os.utime(path, (moment, moment))


def plan_of(project: Project, **changes: Any) -> dict[str, int]:
    return project.plan(changes=changes)


# Nothing ----------------------------------------------------------------------------------------------------


def test_after_a_run_nothing_is_planned(complete: Project) -> None:
    assert complete.plan() == {}


def test_touching_everything_plans_nothing(complete: Project) -> None:
    touch(
        complete.root,
        [path.name for path in complete.root.iterdir() if path.name != ".snakemake"],
        time.time(),
    )
    assert complete.plan() == {}


def test_results_older_than_what_they_were_made_from_plan_nothing(complete: Project) -> None:
    now = time.time()
    for age, name in enumerate(
        ("data/downloads", "data/features", f"{RESULTS}/mnist5k", f"{RESULTS}/tables")
    ):
        touch(complete.root, [name], now - 100 * age)
    assert complete.plan() == {}


def test_comments_blank_lines_and_order_of_the_config_plan_nothing(complete: Project) -> None:
    complete.edit("config.yaml", lambda text: "# A remark\n\n" + re.sub(r" *#.*", "  # ...", text) + "\n\n")
    assert complete.plan() == {}

    def reversed_keys(value: Any) -> Any:
        if not isinstance(value, dict):
            return value
        return {key: reversed_keys(value[key]) for key in reversed(value)}

    for name in ("config.yaml", "workflow/presets/smoke.yaml"):
        complete.edit(name, lambda text: yaml.safe_dump(reversed_keys(yaml.safe_load(text)), sort_keys=False))
    assert complete.plan() == {}


def test_other_ways_to_say_the_same_plan_nothing(complete: Project) -> None:
    assert plan_of(complete, results=f"./{RESULTS}/", attack={"drop_at": 0.5, "memory_gb": 2}) == {}


def test_where_downloads_come_from_plans_nothing(complete: Project, tmp_path: Path) -> None:
    assert plan_of(complete, data={"mirror": str(tmp_path)}) == {}


@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_another_device_plans_nothing(complete: Project, device: str) -> None:
    """So that what was made on a GPU is taken as it is where there is none."""
    features, attack = {"device": device, "batch_size": 8}, {"device": device, "memory_gb": 0.5}
    assert plan_of(complete, features=features, attack=attack) == {}


def test_an_unused_data_set_plans_nothing(complete: Project) -> None:
    assert plan_of(complete, datasets={"spare": {"kind": "arrays", "path": "nowhere.npz"}}) == {}


@pytest.mark.parametrize("name", ["workflow/undue/unused.py", "workflow/undue/run/config.py", "README.md"])
def test_files_that_no_job_reads_plan_nothing(complete: Project, name: str) -> None:
    with (complete.root / name).open("a", encoding="utf-8") as file:
        file.write("\n# One line more\n")
    assert complete.plan() == {}


# The configuration ------------------------------------------------------------------------------------------

FEWER_OR_MORE = {**FROM_PUBLISHED, "summarise_ablation": 1}
ONE_RADIUS = {"attack": 2, "publish_attacks": 1, **FEWER_OR_MORE, "attack_sets": 2, "summarise_sets": 1}


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        pytest.param({"attack": {"radii": [0.2, 0.5, 0.8]}}, ONE_RADIUS, id="one more radius"),
        pytest.param({"attack": {"radii": [0.8, 0.2, 0.5]}}, ONE_RADIUS, id="one more radius, first"),
        # The trajectories that are shown are those of the middle radius.
        pytest.param(
            {"attack": {"radii": [0.2]}},
            {**FEWER_OR_MORE, "plot_objective_steps": 1, "summarise_sets": 1, **RANKINGS},
            id="one radius less",
        ),
        pytest.param(
            {"attack": {"radii": [0.5, 0.2]}},
            {**FEWER_OR_MORE, "summarise_sets": 1},
            id="radii in another order",
        ),
        pytest.param(
            {"attack": {"seeds": [0, 1]}},
            {"attack": 4, **FROM_PUBLISH, "plot_starts_gain": 1, **SETS},
            id="one more seed",
        ),
        pytest.param(
            {"attack": {"objectives": ["min_higher", "min_topk"]}},
            {
                "attack": 4,
                "publish_attacks": 2,
                **FROM_SUMMARISE,
                "summarise_ablation": 1,
                "plot_objective_steps": 1,
            },
            id="one more objective",
        ),
        # Of the blocks 0-1, 2-2 the second fills up to 2-3 and 4-4 comes anew.
        pytest.param({"attack": {"targets": 5}}, FROM_TARGETS, id="more targets"),
        pytest.param(
            {"attack": {"targets": 2}},
            {**FROM_PUBLISH, **FROM_GRADIENTS, "publish_baseline": 1, "plot_objective_steps": 1},
            id="fewer targets",
        ),
        pytest.param({"attack": {"steps": 31}}, {**FROM_ATTACK, **SETS}, id="attack.steps"),
        pytest.param(
            {"attack": {"steps": 10, "monitor_every": 30}}, {**FROM_ATTACK, **SETS}, id="two values swapped"
        ),
        pytest.param(
            {"attack": {"learning_rates": [0.1]}}, {**FROM_ATTACK, **SETS}, id="attack.learning_rates"
        ),
        pytest.param({"attack": {"ranks": [1, 20]}}, FROM_TARGETS, id="attack.ranks"),
        pytest.param(
            {"attack": {"accuracy_budget": 0.05}},
            {**FROM_PUBLISH, "publish_baseline": 1, **SETS},
            id="attack.accuracy_budget",
        ),
        pytest.param({"multi_target": {"ranks": [2]}}, SETS, id="multi_target.ranks"),
        pytest.param(
            {"multi_target": {"sizes": [1, 5, 7]}},
            {"attack_sets": 2, "summarise_sets": 1},
            id="multi_target.sizes",
        ),
        pytest.param({"baseline": {"steps": 60}}, FROM_REWEIGHING, id="baseline.steps"),
        pytest.param({"baseline": {"weights": []}}, FROM_SUMMARISE, id="no baseline"),
        pytest.param({"attack": {"suppressed_ranks": 20}}, {}, id="of an objective that isn't there"),
        pytest.param(
            {"attack": {"publish": "first_hit"}},
            {"attack": 4, **FROM_PUBLISH, "plot_objective_steps": 1},
            id="attack.publish",
        ),
        pytest.param({"influence": {"tolerance": 1e-9}}, FROM_INFLUENCE, id="influence.tolerance"),
        pytest.param({"influence": {"damping": 0.5}}, FROM_INFLUENCE, id="influence.damping"),
        pytest.param({"influence": {"rank_sign": -1}}, FROM_INFLUENCE, id="influence.rank_sign"),
        pytest.param({"model": {"l2": 0.01}}, FROM_TRAINING, id="model.l2"),
        pytest.param({"split": {"seed": 1}}, FROM_SPLIT, id="split.seed"),
        pytest.param({"features": {"image_size": 12}}, FROM_FEATURES, id="features.image_size"),
        pytest.param({"figures": {"dpi": 80}}, ALL_PLOTS, id="figures.dpi"),
        pytest.param({"validation": {"subsets": 6}}, LOGISTIC, id="validation.subsets"),
        pytest.param({"validation": {"dampings": [1.0]}}, RANKINGS, id="validation.dampings"),
        pytest.param(
            {"validation": {"gradient_norm": 1e-7}},
            {**IMAGES, **RANKINGS},
            id="validation.gradient_norm",
        ),
        pytest.param({"impossibility": {"steps": 5}}, IMPOSSIBILITY, id="impossibility.steps"),
        pytest.param(
            {"figures": {"gallery_targets": 1}}, {"plot_top_ranked": 1}, id="figures.gallery_targets"
        ),
        pytest.param({"figures": {"gradient_samples": 40}}, FROM_GRADIENTS, id="figures.gradient_samples"),
    ],
)
def test_a_changed_setting_plans_its_rules_and_what_follows(
    complete: Project, changes: Mapping[str, Any], expected: dict[str, int]
) -> None:
    assert complete.plan(changes=changes) == expected


# Code -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("module", "expected"),
    [
        (
            "undue/valuation/attack.py",
            {**FROM_ATTACK, **FROM_GRADIENTS, **IMPOSSIBILITY, **SETS},
        ),
        ("undue/valuation/reweighing.py", FROM_REWEIGHING),
        ("undue/valuation/baseline.py", {"publish_baseline": 1, **FROM_SUMMARISE}),
        ("undue/valuation/publish.py", {**FROM_PUBLISH, "publish_baseline": 1}),
        ("undue/valuation/evaluate.py", {**FROM_PUBLISH, **FROM_REWEIGHING, **SETS}),
        ("undue/valuation/summary.py", {**FROM_SUMMARISE, "publish_baseline": 1, "summarise_ablation": 1}),
        ("undue/valuation/targets.py", FROM_TARGETS),
        ("undue/valuation/sets.py", SETS),
        ("undue/valuation/__init__.py", {**FROM_INFLUENCE, **IMPOSSIBILITY}),
        ("undue/calculus/newton.py", {**FROM_TRAINING, **IMPOSSIBILITY, **IMAGES}),
        ("undue/data/split.py", {**FROM_SPLIT, **IMPOSSIBILITY}),
        ("undue/data/datasets.py", FROM_FEATURES),
        ("undue/validation/svm.py", {"validate_hinge": 1, **FROM_PAIRS}),
        ("undue/plots.py", ALL_PLOTS),
        ("undue/run/job.py", {"download": 1, **FROM_FEATURES, **IMPOSSIBILITY}),
        ("scripts/summarise_attacks.py", FROM_SUMMARISE),
        ("scripts/plot_top_ranked.py", {"plot_top_ranked": 1}),
        ("scripts/train_model.py", FROM_TRAINING),
    ],
)
def test_an_edit_plans_the_rules_that_run_the_code_and_what_follows(
    complete: Project, module: str, expected: dict[str, int]
) -> None:
    complete.edit(f"workflow/{module}", lambda text: text + "\n# An edit\n")
    assert complete.plan() == expected


def test_an_edit_taken_back_plans_nothing(complete: Project) -> None:
    name = "workflow/undue/valuation/attack.py"
    complete.edit(name, lambda text: text + "\n# An edit\n")
    complete.edit(name, lambda text: text.removesuffix("\n# An edit\n"))
    assert complete.plan() == {}


LOOSE = """

rule loose:
    output:
        "results/loose.txt",
    log:
        "logs/loose.log",
"""


@pytest.mark.parametrize(
    "work",
    [
        pytest.param('    shell:\n        "touch {output}"\n', id="shell"),
        pytest.param('    run:\n        open(output[0], "w").close()\n', id="run"),
        pytest.param('    script:\n        "../scripts/download.py"\n', id="script without code"),
        pytest.param(
            '    params:\n        code=code_of("download"),\n    shell:\n        "touch {output}"\n',
            id="shell with code",
        ),
    ],
)
def test_a_rule_that_does_not_state_its_code_is_refused(fresh: Project, work: str) -> None:
    fresh.edit("workflow/rules/figures.smk", lambda text: text + LOOSE + work)
    outcome = fresh.dry_run()
    assert outcome.status != 0
    assert "rule loose must run a script and have a param `code`" in outcome.output


# Files ------------------------------------------------------------------------------------------------------


def test_a_deleted_result_is_made_again(complete: Project) -> None:
    (complete.root / RESULTS / "tables" / "table1.md").unlink()
    assert complete.plan() == FROM_SUMMARISE


def test_a_deleted_intermediate_is_not_made_for_its_own_sake(complete: Project) -> None:
    (complete.root / RESULTS / "mnist5k" / "model.safetensors").unlink()
    (complete.root / ATTACKS / "radius=0.5" / "seed=0" / "block=0.candidates.parquet").unlink()
    assert complete.plan() == {}


def test_a_deleted_intermediate_is_made_again_when_it_is_needed(complete: Project) -> None:
    (complete.root / ATTACKS / "radius=0.5" / "seed=0" / "block=0.candidates.parquet").unlink()
    assert plan_of(complete, figures={"dpi": 80}) == ALL_PLOTS
    expected = {"attack": 1, **FROM_PUBLISH, "publish_baseline": 1, "plot_objective_steps": 1, **SETS}
    assert plan_of(complete, attack={"accuracy_budget": 0.05}) == expected


def test_a_changed_intermediate_plans_what_reads_it(complete: Project) -> None:
    table = complete.root / ATTACKS / "radius=0.2" / "published.parquet"
    table.write_bytes((complete.root / ATTACKS / "radius=0.5" / "published.parquet").read_bytes())
    assert complete.plan() == FROM_PUBLISHED


def test_a_moved_project_has_nothing_to_do(complete: Project, tmp_path: Path) -> None:
    moved = complete.copy(tmp_path / "else" / "where")
    assert moved.plan() == {}
    assert moved.plan(changes={"figures": {"dpi": 80}}) == ALL_PLOTS


# What was planned is what runs ------------------------------------------------------------------------------


def test_after_a_partial_run_nothing_is_planned(complete: Project) -> None:
    changes = {"figures": {"dpi": 80}}
    before = complete.checksums(RESULTS)
    complete.complete(changes=changes)
    after = complete.checksums(RESULTS)
    changed = {Path(name).name for name in before if after[name] != before[name]}
    # The images inside an .svg have the resolution, too; those of plain lines stay.
    figures = {path.stem for path in (complete.root / RESULTS / "figures").glob("*.png")}
    with_images = {"top_ranked_mnist5k.svg", "influence_parts.svg"}
    assert changed == {f"{name}.png" for name in figures} | with_images
    assert complete.plan(changes=changes) == {}
    assert complete.plan() == ALL_PLOTS
