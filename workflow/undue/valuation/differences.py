"""How a run differs from the paper's, in words: what must be known to compare the two in Table 1."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from undue.budget import percents
from undue.randomness import AT_THETA
from undue.valuation import paper
from undue.valuation.summary import UNRANKED

_WORDS = {
    "l2": "λ =",
    "damping": "δ =",
    "rank_sign": "rank sign",
    "train_samples": "fewer training samples,",
}


def differences(
    settings: Mapping[str, Any],
    features: Mapping[str, Mapping[str, Any]],
    models: Mapping[str, Mapping[str, Any]],
    variants: Mapping[str, Mapping[str, Any]],
) -> list[str]:
    """What is to be said under Table 1.

    Args:
        settings: of the config: model.training, influence.damping, influence.rank_sign, attack.targets,
            attack.seeds, attack.steps, attack.drop_at, attack.radii, attack.learning_rates, attack.ranks,
            attack.accuracy_budget, attack.publish, attack.solver, baseline.weights; with min_topk
            attack.suppressed_ranks, with a baseline the rest of its section; and `starts`: objective → from
            how many seeds it is attacked.
        features: data set → its backbone, image_size and scaling.
        models: data set → its model.json.
        variants: variant → its base and what it does differently.

    Returns:
        Sentences: of each data set its model and how it differs from the paper's, then what all share.
    """
    return [
        *(_dataset(name, features[name], models[name], settings, variants.get(name)) for name in models),
        *_attack(settings),
        *_objectives(settings),
        *_baseline(settings),
        *_ranking(settings),
        *_counting(settings),
    ]


def refused(*, claims: int, unconfirmed: int, attacks: int, invalid: int) -> str:
    """What the checks of the attacks found, as a sentence."""
    return (
        f"Of {claims:,} claims of success the float64 check refused {unconfirmed:,}; of {attacks:,} attacks "
        f"{invalid:,} had a solve that missed its tolerance. Both count as failures."
    )


def markdown_list(sentences: Sequence[str]) -> str:
    """Sentences as a list, in Markdown and reStructuredText alike."""
    return "".join(f"* {sentence}\n" for sentence in sentences)


def _dataset(
    name: str,
    features: Mapping[str, Any],
    model: Mapping[str, Any],
    settings: Mapping[str, Any],
    variant: Mapping[str, Any] | None,
) -> str:
    if variant is not None:
        changes = [f"{_WORDS[key]} {value:,g}" for key, value in variant.items() if key != "base"]
        accuracy = _percent(model["accuracy_pristine"])
        return (
            f"{name}, a variant of {variant['base']} with {', '.join(changes)}: "
            f"honest accuracy on the pristine half {accuracy}, "
            f"{_training(model, settings['model.training'])}."
        )
    known = paper.paper_dataset(name)
    test = model["samples_shared"] + model["samples_pristine"]
    facts = [
        f"{model['samples_train']:,} training and {test:,} test samples"
        + (_instead("{:,} and {:,}", (model["samples_train"], test), paper.SAMPLES[known]) if known else ""),
        f"honest accuracy on the pristine half {_percent(model['accuracy_pristine'])}"
        + (f" (the paper: {_percent(paper.HONEST_ACCURACY[known])})" if known else ""),
        _features(features, model["features"]),
        _training(model, settings["model.training"]),
    ]
    what = f"beside the paper's {known}" if known else "not a data set of the paper"
    return f"{name}, {what}: {'; '.join(facts)}."


def _features(features: Mapping[str, Any], count: int) -> str:
    backbone, size, scaling = features["backbone"], features["image_size"], features["scaling"]
    source = "features without a backbone" if backbone == "none" else f"features of {backbone}"
    text = f"{count:,} {source}{f' at {size} pixels' if size else ''}, scaling {scaling}"
    if (backbone, size, scaling) == (paper.BACKBONE, None, paper.SCALING):
        return text
    return f"{text} (the paper: {paper.FEATURES:,} of {paper.BACKBONE}, {paper.SCALING})"


def _training(model: Mapping[str, Any], training: str) -> str:
    norm = f"‖θ*‖ = {model['theta_norm']:.2f}"
    if training == "paper_sgd":
        return f"θ* by the paper's SGD, not converged, {norm}"
    chosen = ", chosen by cross-validation" if model["cross_validation"] else ""
    return (
        f"θ* is the minimiser with λ = {model['l2']:g}{chosen}, {norm} "
        "(the paper: SGD without λ, not converged)"
    )


def _attack(settings: Mapping[str, Any]) -> list[str]:
    seeds = settings["attack.seeds"]
    drawn = len([seed for seed in seeds if seed != AT_THETA])
    said = [
        ("targets for each k", settings["attack.targets"], paper.TARGETS),
        ("random starts", f"{drawn}{' and θ*' if AT_THETA in seeds else ''}", str(paper.STARTS)),
        ("steps", settings["attack.steps"], paper.STEPS),
        ("share of the steps before the rate drops", settings["attack.drop_at"], paper.DROP_AT),
        ("radii C", _numbers(settings["attack.radii"]), _numbers(paper.RADII)),
        ("learning rates", _numbers(settings["attack.learning_rates"]), _numbers(paper.LEARNING_RATES)),
    ]
    other = _unlike(said)
    return [f"The attacks' {other}."] if other else []


def _objectives(settings: Mapping[str, Any]) -> list[str]:
    starts, said = settings["starts"], []
    if len(set(starts.values())) > 1:
        each = ", ".join(f"{objective} {count}" for objective, count in starts.items())
        said.append(f"Starts of each objective: {each}; the paper's Table 1 is of min_higher alone.")
    if "min_topk" in starts:
        top = settings["attack.suppressed_ranks"]
        if settings["attack.ranks"] != [top]:
            said.append(f"min_topk pushes down the top {top} whatever k is; the paper's the top k.")
    return said


def _baseline(settings: Mapping[str, Any]) -> list[str]:
    if not settings["baseline.weights"]:
        return []
    grid = _numbers(settings["baseline.weights"])
    other = _unlike(
        [
            ("steps", settings["baseline.steps"], paper.BASELINE_STEPS),
            ("batch size", settings["baseline.batch_size"], paper.BASELINE_BATCH),
            ("learning rate", settings["baseline.learning_rate"], paper.BASELINE_RATE),
        ]
    )
    return [
        f"The baseline is the best of ω = {grid}; the paper doesn't say which weights it tried.",
        *([f"The baseline's {other}."] if other else []),
    ]


def _unlike(said: Sequence[tuple[str, Any, Any]]) -> str:
    """What differs of (what, ours, the paper's)."""
    return "; ".join(f"{what}: {ours} (the paper: {theirs})" for what, ours, theirs in said if ours != theirs)


def _ranking(settings: Mapping[str, Any]) -> list[str]:
    damping = settings["influence.damping"]
    theirs = "as in" if damping == paper.DAMPING else f"{paper.DAMPING:g} in"
    said = [
        f"The Hessian's damping δ is {damping:g}, {theirs} the paper's code; the paper doesn't mention it."
    ]
    if settings["attack.solver"] == "lissa":
        said.append("Solves in the attack are LiSSA's estimates, as in the paper's code.")
    else:
        said.append("Solves are exact to a stated residual; the paper's code estimates them by LiSSA.")
    if settings["influence.rank_sign"] == -1:
        said.append("Rank 1 lowers the test loss most; with the paper's sign it raises it most.")
    return said


def _counting(settings: Mapping[str, Any]) -> list[str]:
    budget = settings["attack.accuracy_budget"]
    theirs = "" if budget == paper.BUDGET else f" (the paper: {percents(paper.BUDGET)})"
    published = {
        "best_iterate": "its most accurate iterate with rank ≤ k; the paper's code the first one",
        "first_hit": "its first iterate with rank ≤ the smallest k, or else its last, as in the paper's code",
    }
    return [
        f"An attack publishes {published[settings['attack.publish']]}.",
        f"The accuracy budget of {percents(budget)}{theirs} is kept on the shared half, "
        "and the radius C chosen there; the accuracy lost is what the pristine half then says. The paper "
        'reports the highest over C (the column "highest, pristine" does, too).',
        "All targets count, and the intervals are Wilson's at 95 %. The paper's code drops a target from the "
        f"denominator if no run at that C ranks it below {UNRANKED:,}: the last columns show what that would "
        "report.",
    ]


def _instead(form: str, ours: tuple[int, int], theirs: tuple[int, int]) -> str:
    return "" if ours == theirs else f" (the paper: {form.format(*theirs)})"


def _percent(share: float) -> str:
    return f"{100 * share:.1f} %"


def _numbers(values: Sequence[float]) -> str:
    return ", ".join(f"{value:g}" for value in sorted(values))
