"""Results in the repository, of runs too long for the tests: what they must show, and what pages say."""

from __future__ import annotations

import json
from collections.abc import Hashable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def validation() -> pd.DataFrame:
    """Influence against training again on 55,000 images: the table of the preset `validation`."""
    return pd.read_csv(ROOT / "results/presets/validation/tables/validation.csv")


def correlation(table: pd.DataFrame, experiment: str, predictor: str, level: float | None = None) -> float:
    chosen = (table["experiment"] == experiment) & (table["predictor"] == predictor)
    if level is not None:
        chosen &= table["level"] == level
    (row,) = table[chosen].to_dict("records")
    value: float = row["pearson"]
    return value


def test_influence_predicts_training_again(validation: pd.DataFrame) -> None:
    assert correlation(validation, "softmax", "exact solve") >= 0.99
    assert correlation(validation, "softmax", "LiSSA, r = 10") >= 0.9
    assert correlation(validation, "hinge", "t", 0.001) >= 0.9
    softmax = validation[validation["experiment"] == "softmax"]
    assert set(softmax["samples"]) == {500}
    assert (softmax["precision"] <= 1e-8).all()


def test_the_page_has_the_table_s_numbers(validation: pd.DataFrame) -> None:
    lines = (ROOT / "docs/influence.md").read_text(encoding="utf-8").splitlines()
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines if line.startswith("|")]
    said = {row[1]: float(row[2]) for row in rows if len(row) == 3 and row[2].replace(".", "").isdigit()}
    hinge = {f"smooth hinge, t = {t}": ("hinge", "t", float(t)) for t in ("0.0001", "0.001", "0.1")}
    network = validation.loc[validation["experiment"].str.startswith("network"), ["experiment", "level"]]
    (experiment,), (least, most) = network["experiment"].unique(), sorted(network["level"])
    expected: dict[str, tuple[Any, ...]] = {
        "exact solve": ("softmax", "exact solve"),
        "LiSSA, r = 10, t = 5,000": ("softmax", "LiSSA, r = 10"),
        "LiSSA, r = 1": ("softmax", "LiSSA, r = 1"),
        "the hinge's own derivatives": ("hinge", "t", 0.0),
        **hinge,
        "influence": ("logistic", "influence"),
        "without the training loss": ("logistic", "without loss"),
        "without the Hessian": ("logistic", "without hessian"),
        "without both": ("logistic", "without both"),
        f"δ = {least:.2f}, half as much again as makes its Hessian positive definite": (
            experiment,
            "δ",
            least,
        ),
        f"δ = {most:g}": (experiment, "δ", most),
    }
    found = {name: round(correlation(validation, *where), 3) for name, where in expected.items()}
    assert said == found


def test_pages_quote_the_rankings_as_they_are(validation: pd.DataFrame) -> None:
    rankings = pd.read_csv(ROOT / "results/presets/validation/tables/rankings.csv")
    honest, *manipulated = rankings.to_dict("records")
    undamped = validation[validation["level"] == 0].set_index("experiment").to_dict("index")
    ends, drawn = (undamped[f"{which}, damping"] for which in ("first and last", "random"))
    page, readme = ((ROOT / name).read_text(encoding="utf-8") for name in ("docs/influence.md", "README.md"))
    for row, suffix in ((honest, ""), (honest, "_random")):
        assert quoted(row, f"pearson{suffix}") in page
        assert quoted(row, f"pearson{suffix}") in readme
    for row in (ends, drawn, *manipulated):
        assert quoted(row, "pearson") in page
    assert f"{ends['pearson']:.2f} and {drawn['pearson']:.2f}" in readme
    assert f"{honest['right_sign']:.0%}".replace("%", " %") in page


@pytest.fixture(scope="module")
def variants() -> dict[Hashable, Any]:
    """Rank 1 with another λ, sign or number of samples: rows of the preset `variants`, by data set."""
    table = pd.read_csv(ROOT / "results/presets/variants/tables/table1.csv")
    rows: dict[Hashable, Any] = table[table["k"] == 1].set_index("dataset").to_dict("index")
    return rows


def test_the_page_has_every_variant_s_row(variants: dict[Hashable, Any]) -> None:
    page = (ROOT / "docs/valuation.md").read_text(encoding="utf-8")
    for name, row in variants.items():
        honest = [f"{row['l2']:g}", f"{row['theta_norm']:.1f}", f"{100 * row['honest_accuracy']:.1f} %"]
        cheap = [quoted(row, "success"), f"{row['radius']:g}", f"{100 * row['accuracy_lost']:.1f}"]
        best = [f"{row['best_radius']:g}", f"{100 * row['best_accuracy_lost']:.1f}"]
        cells = [*honest, *cheap, quoted(row, "best_success"), *best]
        assert f" | {' | '.join(cells)} |\n" in page, name
    sizes = [variants[name]["success"] for name in ("mnist5k_500", "mnist5k_1000", "mnist5k_2000", "mnist5k")]
    assert sizes == sorted(sizes, reverse=True)


def test_pages_tell_where_both_signs_lead(variants: dict[Hashable, Any]) -> None:
    attacks = pd.read_csv(ROOT / "results/presets/variants/tables/attacks.csv")
    cheap = (attacks["k"] == 1) & (attacks["radius"] == 0.1) & attacks["within_budget"] & attacks["confirmed"]
    ranks = attacks[cheap].groupby("dataset")["rank_pristine"].apply(sorted)
    harmful, helpful = ranks["mnist5k"], ranks["mnist5k_helpful"]
    assert (len(harmful), harmful[0], harmful[-1]) == (7, 3787, 3993)
    assert (len(helpful), sum(rank <= 9 for rank in helpful)) == (11, 10)
    readme, page = ((ROOT / name).read_text(encoding="utf-8") for name in ("README.md", "docs/valuation.md"))
    for name in ("mnist5k", "mnist5k_helpful"):
        assert variants[name]["radius"] == 0.1
        assert quoted(variants[name], "success") in readme
    points = 100 * variants["mnist5k_helpful"]["accuracy_lost"]
    assert f"for {points:.1f} points of accuracy, and ten" in readme
    success = pd.read_csv(ROOT / "results/presets/variants/tables/attack_success.csv")
    rates = success[(success["k"] == 1) & (success["radius"] == 0.1)].set_index("dataset")["success"]
    weakest, middle, strongest = rates[["mnist5k_weak_l2", "mnist5k", "mnist5k_strong_l2"]]
    assert f"{weakest:.2f}, {middle:.2f} and {strongest:.2f} reach rank 1" in page


@pytest.fixture(scope="module")
def bench() -> dict[str, Any]:
    """What `make bench` measured."""
    found: dict[str, Any] = json.loads((ROOT / "results/bench.json").read_text(encoding="utf-8"))
    return found


def test_scores_are_faster_than_any_peer_s_and_no_less_accurate(bench: dict[str, Any]) -> None:
    ours, peers = bench["peers"]["undue"], without_ours(bench["peers"])
    assert {name.partition(",")[0] for name in peers} == {"captum", "pydvl", "dattri"}
    assert ours["seconds"] < 10
    assert ours["residual"] <= 1e-6
    assert min(peer["seconds"] for peer in peers.values()) / ours["seconds"] >= 5
    assert all(ours["error_max"] <= peer["error_max"] for peer in peers.values())
    assert all(ours["peak_rss_bytes"] <= peer["peak_rss_bytes"] for peer in peers.values())


def without_ours(methods: dict[str, Any]) -> dict[str, Any]:
    """Of the other libraries, what came to an answer."""
    return {name: row for name, row in methods.items() if not name.startswith("undue") and "seconds" in row}


def test_pages_quote_the_seconds_as_they_were_measured(bench: dict[str, Any]) -> None:
    seconds = {name: f"{row['seconds']:.1f} s" for name, row in bench["peers"].items() if "seconds" in row}
    named = {"this project": "undue", "pyDVL": "pydvl", "dattri": "dattri", "captum": "captum"}
    said = ", ".join(f"{name} {seconds[key]}" for name, key in named.items())
    assert said in (ROOT / "docs/comparison.md").read_text(encoding="utf-8")
    faster = bench["peers"]["pydvl"]["seconds"] / bench["peers"]["undue"]["seconds"]
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    assert f"take {seconds['undue']} (`solve_once`" in readme
    assert f"{faster:.1f} times less than pyDVL takes" in readme


def quoted(row: dict[Hashable, Any], name: str) -> str:
    """An estimate as pages write it."""
    numbers = f"{row[name]:.2f} [{row[f'{name}_low']:.2f}, {row[f'{name}_high']:.2f}]"
    return numbers.replace("-", "−")


@pytest.mark.parametrize("table", sorted(ROOT.glob("results/presets/*/tables/*.csv")), ids=lambda p: p.name)
def test_estimates_are_inside_their_intervals(table: Path) -> None:
    found = pd.read_csv(table)
    for low in [name for name in found.columns if name.endswith("_low")]:
        name = low.removesuffix("_low")
        known = found[found[name].notna()]
        # As they are rounded.
        assert (known[low] <= known[name] + 1e-5).all(), name
        assert (known[name] <= known[f"{name}_high"] + 1e-5).all(), name
