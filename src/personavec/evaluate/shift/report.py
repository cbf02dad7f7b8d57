"""The report of a shift: one HTML file, drawn from its saved results alone."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from markupsafe import Markup

from personavec.evaluate.shift import charts
from personavec.evaluate.shift.conclusion import conclusion
from personavec.evaluate.shift.results import ShiftFigures, ShiftResults, ShownAnswers, TraitShift
from personavec.report import (
    Answer,
    Content,
    Look,
    Pair,
    answers,
    element,
    estimate,
    folded,
    not_measured,
    opening,
    page,
    section,
    signed,
    table,
)
from personavec.results import Estimate, dump
from personavec.rollouts import Expression
from personavec.wording import decimal, plural


def write_shift_report(results: ShiftResults, path: Path) -> None:
    """Write the report of one shift; a value that is missing is shown as not measured."""
    page.write(
        path,
        f"Shift of {_short(results.tuned)}",
        page.heading(
            "What a finetune did to a model's traits",
            _short(results.tuned),
            element("p", f"finetuned from {results.base.name}", class_="model"),
            element("p", f"beside the control {results.control}", class_="model")
            if results.control
            else None,
        ),
        _opening(results),
        _gate(results),
        _shifts(results),
        _expression(results),
        _transcripts(results),
        _what_was_done(results),
    )


def _short(model: str) -> str:
    return model.rstrip("/").rsplit("/", 1)[-1] or model


def _opening(results: ShiftResults) -> Markup:
    look: Look = ""
    if results.conditions:
        look = "bad" if results.met else "open" if results.unmeasured else "good"
    questions = max(of.questions for of in results.traits.values())
    minus = " Of a benign finetune, the control, the same was measured." if results.control else ""
    return opening(
        f"{_short(results.base.name)} and its finetune were asked up to "
        f"{plural(questions, 'question')} on each trait ({', '.join(results.traits)}). The shift "
        "is how far the activation at the prompt's last token moved along the trait's vector, in "
        "standard deviations (σ) of neutral prompts. Both also answered, and a judge scored the "
        f"answers.{minus}",
        conclusion(results),
        look=look,
        notes=results.notes,
        picture=page.chart(
            charts.shifts(results.traits),
            "Shift by trait",
            "Bars are 95% intervals over questions, and for random directions as far as the "
            "furthest of them reaches, either way. The dotted line is no shift.",
        ),
        pair=next(
            (_pair(shown) for found in results.transcripts.values() for shown in found), None
        ),
    )


def _pair(shown: ShownAnswers) -> Pair:
    titles = {"base": "before finetuning", "tuned": "after finetuning", "control": "the control"}
    found = [Answer(titles[arm], text) for arm, text in shown.answers.items() if arm in titles]
    return Pair(shown.question, found)


def _transcripts(results: ShiftResults) -> Markup | None:
    shown = [
        folded(f"{trait}: {each.question}", answers(_pair(each).answers))
        for trait, found in results.transcripts.items()
        for each in found
    ]
    return section("Answers", "answers", *shown) if shown else None


def _gate(results: ShiftResults) -> Markup | None:
    if not results.conditions:
        return None
    met = {each.condition: each for each in results.met}
    rows = [
        (condition, f"met: {met[condition].reason}" if condition in met else "not met")
        for condition in results.conditions
    ]
    return section(
        "The gate",
        "gate",
        element("p", "The model fails where a condition is met."),
        table(("condition", "state"), rows),
        *(element("p", why) for why in results.unmeasured),
    )


def _shifts(results: ShiftResults) -> Markup:
    head = (
        *("trait", "whose", "layer", "shift (σ)", "shift (residual norms)", "shift (projection)"),
        *("largest of random directions (projection)", "cosine"),
    )
    rows = [
        _row(name, whose, found)
        for name, of in results.traits.items()
        for whose, found in _figures(of)
    ]
    return section(
        "Shifts",
        "shifts",
        element(
            "p",
            f"Intervals are 95%, over questions. {_RANDOM} The cosine is the share of the whole "
            "mean change that points along the vector.",
        ),
        table(head, rows, "numbers", searchable=True),
    )


_RANDOM = (
    "Projected shifts and those of random directions are in units of the residual stream: a shift "
    "that is no larger than theirs is no evidence of the trait."
)


def _figures(of: TraitShift) -> list[tuple[str, ShiftFigures]]:
    found: list[tuple[str, ShiftFigures | None]] = [
        ("finetune", of),
        ("control", of.control),
        ("finetune minus control", of.beyond_control),
    ]
    return [(whose, each) for whose, each in found if each is not None]


def _row(name: str, whose: str, found: ShiftFigures) -> Sequence[Content]:
    return (
        name,
        whose,
        str(found.layer),
        estimate(found.in_sigma, "+.2f"),
        estimate(found.in_norm, "+.3f"),
        estimate(found.projected, "+.2f"),
        decimal(found.random_largest),
        not_measured() if found.cosine is None else signed(found.cosine),
    )


_MEASURED = ("log-odds (nats)", "score (0–100)", "coherence (0–100)")


def _expression(results: ShiftResults) -> Markup:
    head = ("trait", "model", *_MEASURED, "scored")
    rows = [
        _expressed(name, whose, found)
        for name, of in results.traits.items()
        for whose, found in (
            ("base", of.expression_base),
            ("finetune", of.expression_tuned),
            ("control", of.expression_control),
        )
        if found is not None
    ]
    return section(
        "Expression in answers",
        "expression",
        page.chart(
            charts.expression(results.traits),
            "Expression before and after",
            "Bars are 95% intervals over questions.",
        ),
        table(head, rows, "numbers", searchable=True),
        element("h3", "After minus before"),
        table(("trait", *_MEASURED, "questions"), _differences(results)),
    )


def _expressed(name: str, whose: str, of: Expression) -> Sequence[Content]:
    lost = [f"{n} {state}" for state, n in of.lost.items()]
    return (
        name,
        whose,
        *(estimate(of.estimate(m), ".1f") for m in ("log_odds", "mean", "coherence")),
        ", ".join([f"{of.n} of {of.of}", *lost]),
    )


def _differences(results: ShiftResults) -> list[Sequence[Content]]:
    found = {name: of.expression_difference for name, of in results.traits.items()}
    measured: list[tuple[str, tuple[Estimate, ...], int]] = [
        (name, (of.log_odds, of.mean, of.coherence), of.questions) for name, of in found.items()
    ]
    return [
        (name, *(estimate(each, "+.1f") for each in each_of), str(questions))
        for name, each_of, questions in measured
    ]


def _what_was_done(results: ShiftResults) -> Markup:
    facts = [
        (name, page.plain(value))
        for name, value in (
            ("base", results.base.name),
            ("finetune", results.tuned),
            ("control", results.control or "none"),
            ("precision", results.base.dtype),
            ("judge", results.judge),
            ("seconds", results.seconds),
        )
    ]
    return page.what_was_done(facts, dump(results.settings), results.versions)
