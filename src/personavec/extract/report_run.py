"""Sections of an extraction's report: what was done, and what the rollouts are like."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from markupsafe import Markup

from personavec.extract import charts
from personavec.extract.results import ExtractResults, RolloutCounts
from personavec.report import (
    Content,
    code,
    element,
    figure,
    folded,
    not_measured,
    page,
    section,
    signed,
    table,
)
from personavec.results import dump
from personavec.traits import Polarity

#: The polarities and their words, in the order of every table.
POLARITY_WORDS: tuple[tuple[Polarity, str], ...] = (("pos", "positive"), ("neg", "negative"))
_ORIGINS = {
    "bundled": "bundled with personavec",
    "file": "read from a file",
    "template": "built from templates",
}
_ESTIMATORS = {"mean": "difference of means", "logistic": "logistic direction"}


def estimator_name(estimator: str) -> str:
    """An estimator in words."""
    return _ESTIMATORS.get(estimator, estimator)


def what_was_done(results: ExtractResults) -> Markup:
    """The run's facts, and its settings, versions and times behind lines that unfold them."""
    seconds = {stage: figure(value, ".1f") for stage, value in results.seconds.items()}
    settings = {name: _setting(value) for name, value in dump(results.settings).items()}
    versions = {name: _setting(value) for name, value in results.versions.items()}
    return section(
        "What was done",
        "what-was-done",
        element(
            "p",
            "The model answered the extraction questions under system prompts that ask for the "
            "trait and under prompts that ask for its opposite. The vector is the difference of "
            "mean activations on the answers kept. It was then added at several layers while the "
            "model answered some of the evaluation questions, which selected the layer, and there "
            "with every coefficient while it answered the others, which gave the figures.",
        ),
        table((), _facts(results), "facts"),
        _listing("Settings", settings),
        _listing("Versions", versions),
        _listing("Seconds by stage", seconds),
    )


def _facts(results: ExtractResults) -> list[Sequence[Content]]:
    model, spec = results.model, results.spec
    minutes, rest = divmod(round(sum(results.seconds.values())), 60)
    return [
        ("model", code(model.name)),
        ("revision", code(model.revision)),
        ("precision", code(model.dtype)),
        ("shape", f"{model.n_layers} layers, hidden size {model.hidden_size}"),
        ("chat template", code(model.template_hash)),
        ("trait spec", [f"{_ORIGINS[results.trait.origin]} ", code(spec.hash)]),
        ("instruction pairs", f"{spec.pairs}, and for judging {spec.judge_pairs}"),
        (
            "questions",
            f"{spec.extraction_questions} for extraction, {spec.evaluation_questions} for "
            "evaluation",
        ),
        ("selected layer", str(results.layer)),
        ("estimator", estimator_name(results.estimator)),
        ("seed", str(results.settings.seed)),
        ("time", f"{minutes} min {rest} s" if minutes else f"{rest} s"),
    ]


def _listing(title: str, values: Mapping[str, Content]) -> Markup:
    return folded(title, table((), list(values.items()), "facts"))


def _setting(value: object) -> Markup:
    return element("code", "not set" if value is None else page.plain(value))


def rollouts_kept(results: ExtractResults) -> Markup:
    """How many rollouts each polarity had and kept, and why the others were dropped."""
    sides = [results.rollouts[polarity] for polarity, _ in POLARITY_WORDS]
    lost = [results.coherence_dropped_share[polarity] for polarity, _ in POLARITY_WORDS]
    reasons = sorted(
        {reason for side in sides for reason in side.dropped},
        key=lambda reason: -sum(side.dropped.get(reason, 0) for side in sides),
    )
    rows: list[Sequence[Content]] = [
        ("generated", *(str(side.of) for side in sides)),
        ("kept for the vector", *(_kept(side) for side in sides)),
        *(
            (f"dropped: {reason}", *(str(side.dropped.get(reason, 0)) for side in sides))
            for reason in reasons
        ),
        ("share lost to incoherence", *(figure(share, ".1%") for share in lost)),
    ]
    return section(
        "Rollouts kept",
        "rollouts",
        element(
            "p",
            "One rollout is one answer. Only answers that are coherent and show what their system "
            "prompt asked for enter the vector; the others were dropped for the reasons below.",
        ),
        table(("rollouts", "positive", "negative"), rows, "numbers"),
    )


def _kept(side: RolloutCounts) -> str:
    return f"{side.kept} ({side.kept / side.of:.0%})" if side.of else str(side.kept)


def trait_scores(results: ExtractResults) -> Markup:
    """Log-odds of both polarities' rollouts, as histograms."""
    values = results.log_odds
    return section(
        "Trait scores of the rollouts",
        "trait-scores",
        element(
            "p",
            "Log-odds above 0 mean that an answer reads more like the trait than like its "
            "opposite. The further the two groups stand apart, the better the system prompts "
            "elicited the trait.",
        ),
        page.chart(
            charts.log_odds_histogram(values["pos"], values["neg"]),
            "Rollouts by log-odds",
            [
                *(
                    f"{word.capitalize()}: {_summary(values[polarity])}. "
                    for polarity, word in POLARITY_WORDS
                ),
                "The dotted line is 0.",
            ],
        )
        if values["pos"] or values["neg"]
        else element("p", not_measured()),
    )


def _summary(values: Sequence[float]) -> str:
    if not values:
        return "not measured"
    above = sum(value > 0 for value in values) / len(values)
    return f"mean {signed(sum(values) / len(values))} nats, {above:.0%} above 0, n = {len(values)}"
