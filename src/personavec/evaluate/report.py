"""The report of an evaluation: one HTML file, drawn from its saved results alone."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TypeAlias

from markupsafe import Markup

from personavec.evaluate.conclusion import conclusion
from personavec.evaluate.results import (
    ComparedModel,
    EvaluateResults,
    SteeringRecord,
    TranscriptAnswer,
)
from personavec.evaluate.subject import Arm
from personavec.report import (
    Answer,
    Pair,
    answers,
    charts,
    element,
    folded,
    not_measured,
    opening,
    page,
    reading_section,
    section,
    signed,
    table,
)
from personavec.results import dump
from personavec.rollouts import Expression, ExpressionDifference, Measure
from personavec.wording import plural

_SCORE, _LOG_ODDS = "trait score (0–100)", "log-odds (nats)"
_MEASURED = ("score (0–100)", _LOG_ODDS, "coherence (0–100)")

#: What a model is called, and its traits.
Group: TypeAlias = tuple[str, Mapping[str, Expression]]


def write_evaluation_report(results: EvaluateResults, path: Path) -> None:
    """Write the report of one evaluation; a value that is missing is shown as not measured."""
    names = _names(results)
    page.write(
        path,
        f"{described(results)}: evaluation",
        _heading(results),
        _opening(results, names),
        _expression(results, names),
        _differences(results, names),
        _cues(results, names),
        _capability(results, names),
        _transcripts(results, names),
        reading_section(results.data),
        _what_was_done(results),
    )


def _names(results: EvaluateResults) -> dict[Arm, str]:
    """What the model and the one it is compared to are called in charts, as short as can be."""
    other = results.compare_to
    if other is None:
        return {"model": described(results)}
    if other.model == results.model:
        return {
            "model": _steering(results.steering) or "unsteered",
            "other": _steering(other.steering) or "unsteered",
        }
    return {"model": described(results), "other": described(other)}


def described(found: EvaluateResults | ComparedModel) -> str:
    """A model and its steering in a few words."""
    name = found.model.rstrip("/").rsplit("/", 1)[-1]
    steering = _steering(found.steering)
    return f"{name}, {steering}" if steering else name


def _steering(steering: Sequence[SteeringRecord]) -> str:
    return ", ".join(
        f"{signed(s.coefficient)} {s.trait}"
        + (" at all layers" if s.layer == "all" else f" at layer {s.layer}")
        + (f", capped at the {s.cap:g}th percentile" if s.cap is not None else "")
        for s in steering
    )


def _heading(results: EvaluateResults) -> Markup:
    other = results.compare_to
    return page.heading(
        "Trait expression: evaluation",
        described(results),
        element("p", f"compared to {described(other)}", class_="model") if other else None,
    )


def _opening(results: EvaluateResults, names: Mapping[Arm, str]) -> Markup:
    other = results.compare_to
    if other:
        picture = difference_chart(other.differences, f"{names['model']} minus {names['other']}")
    else:
        shown = _forests([(names["model"], results.traits)])
        picture = shown[0] if shown else None
    found = next((found[0] for found in results.transcripts.values() if found), None)
    pair = found and Pair(found.question, [_answer(each, names) for each in found.answers])
    return opening(
        _measured(results),
        conclusion(results),
        notes=results.notes,
        picture=picture,
        pair=pair,
    )


def _measured(results: EvaluateResults) -> str:
    one, other = next(iter(results.traits.values())), results.compare_to
    beside = (
        f" The same was asked of {described(other)}{'' if other.steering else ', unsteered'}, and "
        "differences are taken question by question."
        if other
        else ""
    )
    return (
        f"The model, {described(results)}, answered {plural(one.questions, 'question')} on each "
        f"trait ({', '.join(results.traits)}), and the judge "
        f"'{results.judge['judge']}' scored how strongly its answers show the trait.{beside}"
    )


# Trait expression


def _expression(results: EvaluateResults, names: Mapping[Arm, str]) -> Markup:
    groups = [(names["model"], results.traits)]
    if results.compare_to:
        groups.append((names["other"], results.compare_to.traits))
    # Without another model, the first stands at the top of the page.
    shown = _forests(groups)[0 if results.compare_to else 1 :]
    return section("Trait expression", "expression", *shown, _trait_table(groups))


def _forests(groups: Sequence[Group]) -> list[Markup]:
    """Trait scores, and log-odds where the judge gives them, of several models side by side."""
    found = []
    measures: list[tuple[str, str, Measure, tuple[float, float] | None]] = [
        ("Mean trait score", _SCORE, "mean", (-2.0, 102.0)),
        ("Mean log-odds", _LOG_ODDS, "log_odds", None),
    ]
    for title, unit, measure, span in measures:
        rows = [
            charts.Bar(trait, name, traits[trait].estimate(measure))
            for trait in groups[0][1]
            for name, traits in groups
        ]
        if any(bar.found.value is not None for bar in rows):
            figure = charts.forest(rows, unit, span=span)
            found.append(
                page.chart(figure, title, "Bars are 95% intervals, bootstrapped over questions.")
            )
    return found


def _trait_table(groups: Sequence[Group]) -> Markup:
    several = len(groups) > 1
    all_of = [(trait, name, traits[trait]) for trait in groups[0][1] for name, traits in groups]
    refusals = any(of.refusals is not None for *_, of in all_of)
    head = ["trait", *(["model"] if several else []), *_MEASURED]
    head.insert(-2, "above 50")
    head += [*(["refusals"] if refusals else []), "scored"]
    rows = [
        [
            trait,
            *([name] if several else []),
            page.estimate(of.estimate("mean"), ".1f"),
            page.estimate(of.estimate("share_above_50"), ".0%"),
            page.estimate(of.estimate("log_odds"), ".1f"),
            page.estimate(of.estimate("coherence"), ".1f"),
            *([str(of.refusals)] if refusals else []),
            ", ".join([f"{of.n} of {of.of}", *(f"{n} {k}" for k, n in of.lost.items())]),
        ]
        for trait, name, of in all_of
    ]
    return table(head, rows, class_="numbers")


# Differences


def _differences(results: EvaluateResults, names: Mapping[Arm, str]) -> Markup | None:
    if not results.compare_to:
        return None
    title = f"{names['model']} minus {names['other']}"
    shown = _difference_charts(results.compare_to.differences, title)
    return section("Difference", "difference", *shown[1:])


def difference_chart(differences: Mapping[str, ExpressionDifference], title: str) -> Markup:
    """Differences in log-odds, or in scores where the judge gives none."""
    unit = _LOG_ODDS
    rows = [charts.Bar(trait, "difference", of.log_odds) for trait, of in differences.items()]
    if all(bar.found.value is None for bar in rows):
        unit = _SCORE
        rows = [charts.Bar(trait, "difference", of.mean) for trait, of in differences.items()]
    return page.chart(
        charts.forest(rows, f"difference in {unit}", reference=0, by_side=True),
        title,
        "Differences are taken question by question. Bars are 95% intervals, bootstrapped over "
        "questions; the dotted line is no difference, orange more of the trait, blue less.",
    )


def _difference_charts(
    differences: Mapping[str, ExpressionDifference], title: str
) -> tuple[Markup, Markup, Markup]:
    """A chart, what its numbers are, and their table."""
    cells = [
        [
            trait,
            *(page.estimate(each, ".1f") for each in (of.mean, of.log_odds, of.coherence)),
            str(of.questions),
            str(of.questions_for_half_width),
        ]
        for trait, of in differences.items()
    ]
    head = ["trait", *_MEASURED, "questions", "questions for half the width"]
    return (
        difference_chart(differences, title),
        element(
            "p",
            f"{title}, question by question. The last column is the number of questions that "
            "would halve the interval.",
        ),
        table(head, cells, class_="numbers"),
    )


# Cues


def _cues(results: EvaluateResults, names: Mapping[Arm, str]) -> Markup | None:
    cue = results.cue
    if not cue:
        return None
    groups = [(names["model"], results.traits), (f"{names['model']}, cues", cue.traits)]
    shown = [
        *_difference_charts(cue.differences, f"{names['model']}: with cues minus without"),
    ]
    if cue.compare_to:
        groups.append((f"{names['other']}, cues", cue.compare_to.traits))
        title = f"Both with cues: {names['model']} minus {names['other']}"
        shown += _difference_charts(cue.compare_to.differences, title)
    counts = {
        "distinct system prompts": cue.system_prompts,
        "distinct opening turns": cue.opening_turns,
    }
    what = ", ".join(f"{n} {name}" for name, n in counts.items() if n)
    return section(
        "Under the training data's cues",
        "cues",
        element(
            "p",
            f"From {plural(cue.rows, 'row')} of {cue.file} ({cue.rejected} unusable): "
            f"{what}; {cue.used} of them were put before the questions.",
        ),
        *_forests(groups),
        _trait_table(groups),
        *shown,
    )


# Capability


def _capability(results: EvaluateResults, names: Mapping[Arm, str]) -> Markup | None:
    if not results.capability:
        return None
    groups = [(names["model"], results.capability)]
    if results.compare_to:
        groups.append((names["other"], results.compare_to.capability))
    shown = [(task, name, found[task]) for task in results.capability for name, found in groups]
    chances = {of.chance for *_, of in shown}
    chance = chances.pop() if len(chances) == 1 else None
    caption = "Bars are 95% intervals, bootstrapped over items."
    if chance is not None:
        caption += " The dotted line is chance."
    cells = [
        [
            task,
            name,
            page.estimate(of.estimate, ".0%"),
            not_measured() if of.chance is None else f"{of.chance:.0%}",
            str(of.n),
        ]
        for task, name, of in shown
    ]
    figure = charts.forest(
        [charts.Bar(task, name, of.estimate) for task, name, of in shown],
        "share of items answered right",
        reference=chance,
        span=(0, 1.02),
    )
    return section(
        "Capability",
        "capability",
        page.chart(figure, "Capability by task", caption),
        table(["task", "model", "right", "chance", "items"], cells, class_="numbers"),
    )


# Answers, and what was done


def _transcripts(results: EvaluateResults, names: Mapping[Arm, str]) -> Markup:
    return section(
        "Answers",
        "answers",
        element("p", "The first questions of each trait. No number replaces reading them."),
        *(
            folded(
                f"{trait}: {of.question}",
                answers(_answer(each, names) for each in of.answers),
            )
            for trait, found in results.transcripts.items()
            for of in found
        ),
    )


def _answer(answer: TranscriptAnswer, names: Mapping[Arm, str]) -> Answer:
    title = names[answer.arm] + (", with a cue" if answer.variant == "cue" else "")
    scores = answer.state
    if answer.trait_score is not None:
        scores = f"score {answer.trait_score:.0f}"
        if answer.coherence is not None:
            scores += f", coherence {answer.coherence:.0f}"
    return Answer(title, answer.response, scores)


def _what_was_done(results: EvaluateResults) -> Markup:
    facts = {
        "model": results.identity.name,
        "revision": results.identity.revision or "not recorded",
        "precision": results.identity.dtype,
        "steering": described(results) if results.steering else "none",
        "compared to": results.compare_to.model if results.compare_to else "nothing",
        "judge": results.judge,
        "seconds": results.seconds,
    }
    shown = [(name, page.plain(value)) for name, value in facts.items()]
    return page.what_was_done(shown, dump(results.settings), results.versions)
