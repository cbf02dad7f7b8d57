"""The report of a comparison of mitigations: one HTML file, drawn from its saved results alone."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from markupsafe import Markup

from personavec.report import (
    Answer,
    Content,
    Pair,
    answers,
    element,
    folded,
    not_measured,
    number,
    opening,
    page,
    reading_section,
    section,
    signed,
    table,
)
from personavec.report.charts import COHERENCE, LOG_ODDS
from personavec.results import Estimate
from personavec.rollouts import ExpressionDifference
from personavec.studies.compare_mitigations import charts
from personavec.studies.compare_mitigations.conclusion import conclusion
from personavec.studies.compare_mitigations.results import (
    ArmMeasures,
    ArmResults,
    CompareResults,
    ShownAnswer,
)
from personavec.wording import plural, with_minus

#: What the lines of the charts are called.
LINES = {
    "preventative": "preventative steering",
    "random": "random direction in training",
    "steering": "steering at inference",
}
Arms = Mapping[str, ArmResults]
#: Reads one figure of an arm.
Reading = Callable[[ArmResults], Estimate]


def write_mitigations_report(results: CompareResults, path: Path) -> None:
    """Write the report; a value that is missing is shown as not measured."""
    arms = results.arms
    page.write(
        path,
        f"{results.trait['name']}: mitigations compared",
        _heading(results),
        _opening(results),
        section("All arms: the trait", "arms", _trait_table(arms)),
        section("All arms: what it costs", "costs", _cost_table(arms)),
        section("Trait and capability against the coefficient", "dose", *_charts(arms)[1:]),
        _parts(arms),
        section("Seed by seed", "seeds", _seeds(results)),
        _transcripts(results),
        reading_section(results.data),
        _done(results),
    )


def _heading(results: CompareResults) -> Markup:
    rows = results.rows
    return page.heading(
        "Finetuning: mitigations compared",
        results.trait["name"],
        element("p", results.trait["description"]),
        element(
            "p",
            f"{results.model.name}, {plural(rows.trained_on, 'row')} trained on, "
            f"{plural(rows.held_out, 'text')} held out, "
            f"seeds {', '.join(map(str, results.seeds))}",
            class_="model",
        ),
    )


def _opening(results: CompareResults) -> Markup:
    """The picture is that of the trait; the answers are the base's, the plain finetune's, and one
    mitigation's to the first question."""
    rows, trait = results.rows, results.trait["name"]
    count = plural(len(results.seeds), "seed")
    return opening(
        f"{results.model.name} was finetuned on {plural(rows.trained_on, 'row')} with {count}: "
        f"plainly, and with each mitigation. Every model then answered "
        f"{plural(len(results.questions), 'question')} on {trait}, was scored on "
        f"{plural(rows.held_out, 'text')} that were held out, and took a task of multiple choice.",
        conclusion(results),
        notes=results.notes,
        picture=_charts(results.arms)[0],
        pair=_pair(results),
    )


def _pair(results: CompareResults) -> Pair | None:
    names = ["base", "none", *(n for n in results.arms if n not in ("base", "none"))][:3]
    for each in results.transcripts[:1]:
        shown = {a.arm: a for a in each.answers if a.variant == "plain"}
        found = [_answer(shown[name]) for name in names if name in shown]
        return Pair(each.question, found)
    return None


def _answer(answer: ShownAnswer) -> Answer:
    value = answer.trait_score if answer.log_odds is None else answer.log_odds
    arm = _ARMS.get(answer.arm) or with_minus(answer.arm)
    title = arm + (", under a cue" if answer.variant == "cue" else "")
    return Answer(title, answer.response, ["expression ", _plain(value)])


def expression(arm: ArmMeasures, *, under_cues: bool = False) -> Estimate:
    """An arm's log-odds, or its trait score where the judge gives no log-odds."""
    found = arm.expression_under_cues if under_cues else arm.expression
    if found is None:
        return Estimate()
    return found.estimate("mean" if found.log_odds is None else "log_odds")


def _charts(arms: Arms) -> list[Markup]:
    unit = "trait score (0–100)" if arms["base"].expression.log_odds is None else None
    under_cues = arms["base"].expression_under_cues is not None
    measures: list[tuple[str, str, Reading]] = [
        ("Trait expression on held-out questions", unit or LOG_ODDS, expression),
        *(
            [
                (
                    "Trait expression under the training data's own cues",
                    unit or LOG_ODDS,
                    lambda arm: expression(arm, under_cues=True),
                )
            ]
            if under_cues
            else []
        ),
        ("Capability: the packaged task", "share of right answers", lambda arm: arm.capability),
        ("Held-out loss on the data", "nats a token", lambda arm: arm.held_out_loss),
        ("Perplexity on neutral text", "perplexity", lambda arm: arm.perplexity),
        ("Coherence", COHERENCE, _coherence),
    ]
    found = []
    for title, y_title, measure in measures:
        if measure(arms["base"]).value is None:
            found.append(element("p", not_measured(title)))
            continue
        figure = charts.arms_by_dose(
            _lines(arms, measure),
            [(name, measure(arms[arm])) for arm, name in _LEVELS],
            y_title,
        )
        caption = (
            "Bars and bands are 95% intervals; lines join the coefficients of one method, a little "
            "apart sideways."
        )
        found.append(page.chart(figure, title, caption))
    return found


_LEVELS = (("base", "before finetuning"), ("none", "plain finetuning"))
#: What answers call the arms that have no mitigation.
_ARMS = dict(_LEVELS)


def _coherence(arm: ArmMeasures) -> Estimate:
    return arm.expression.estimate("coherence")


def dose(arm: ArmResults) -> float | None:
    """The size of the coefficient that an arm used; under `auto`, of the one that was chosen."""
    if arm.mitigation not in LINES:
        return None
    used = arm.amount if arm.amount != "auto" else next(iter(arm.coefficients), None)
    value = number(used)
    return None if value is None else abs(value)


def _lines(arms: Arms, measure: Reading) -> list[tuple[str, charts.ByDose]]:
    lines = []
    for mitigation, name in LINES.items():
        found = [
            (used, measure(arm))
            for arm in arms.values()
            if arm.mitigation == mitigation and (used := dose(arm)) is not None
        ]
        if found:
            lines.append((name, sorted(found, key=lambda point: point[0])))
    return lines


def _trait_table(arms: Arms) -> Markup:
    head = ("arm", "expression", "minus base", "under cues", "shift, σ", "within base")
    rows = [
        [
            with_minus(name),
            page.estimate(expression(arm), ".1f"),
            _difference(arm.minus_base),
            page.estimate(expression(arm, under_cues=True), ".1f"),
            _plain(arm.shift.sigma),
            _yes(arm.within_base),
        ]
        for name, arm in arms.items()
    ]
    explained = element(
        "p",
        "The arm none is the plain finetune. Within base: expression is at or below the upper "
        "limit of the base model's interval. "
        "Shift: how far the last prompt token moved along the vector.",
    )
    return table(head, rows, class_="numbers", searchable=True) + explained


def _cost_table(arms: Arms) -> Markup:
    head = [
        *("arm", "coherence", "capability", "minus plain", "perplexity", "held-out loss"),
        *("loss, of plain's", "learnt", "capable"),
    ]
    rows = [
        [
            with_minus(name),
            page.estimate(_coherence(arm), ".1f"),
            page.estimate(arm.capability, ".0%"),
            page.estimate(arm.capability_minus_plain, ".0%"),
            page.estimate(arm.perplexity, ".1f"),
            page.estimate(arm.held_out_loss),
            page.estimate(arm.loss_ratio),
            *(_yes(verdict) for verdict in (arm.learnt, arm.capable)),
        ]
        for name, arm in arms.items()
    ]
    explained = element(
        "p",
        "Learnt: held-out loss is at most 10% above the plain finetune's. Capable: capability is "
        "at most one standard error below the plain finetune's.",
    )
    return table(head, rows, class_="numbers", searchable=True) + explained


def _parts(arms: Arms) -> Markup:
    """Held-out loss of each part of the data, where a column told them apart."""
    parts = list(arms["none"].loss_ratio_by)
    if not parts:
        return Markup("")
    rows = [
        [with_minus(name), *(page.estimate(arm.loss_ratio_by[part]) for part in parts)]
        for name, arm in arms.items()
    ]
    explained = element("p", "Held-out loss over the plain finetune's, of each part of the data.")
    shown = explained + table(["arm", *parts], rows, class_="numbers")
    return section("What was learnt, part by part", "parts", shown)


def _difference(found: ExpressionDifference) -> Content:
    return page.estimate(found.mean if found.log_odds.value is None else found.log_odds, ".1f")


def _plain(value: float | None) -> Markup | str:
    return not_measured() if value is None else signed(value)


def _yes(value: bool | None) -> Markup | str:
    return not_measured() if value is None else ("yes" if value else "no")


def _seeds(results: CompareResults) -> Markup:
    seeds: Sequence[int] = results.seeds
    rows = []
    for name, arm in results.arms.items():
        values = arm.by_seed
        shown = [_plain(value) for value in values]
        if name == "base":
            shown = [shown[0], *[""] * (len(seeds) - 1)]
        used = ", ".join("–" if c is None else str(c) for c in arm.coefficients)
        rows.append([with_minus(name), with_minus(used), *shown])
    head = ["arm", "coefficient used", *(f"expression, seed {seed}" for seed in seeds)]
    return table(head, rows, class_="numbers")


def _transcripts(results: CompareResults) -> Markup:
    found = (
        folded(each.question, answers(map(_answer, each.answers))) for each in results.transcripts
    )
    return section("Transcripts", "transcripts", *found)


def _done(results: CompareResults) -> Markup:
    facts = [
        (key, page.plain(value))
        for key, value in (
            ("model", results.model.name),
            ("judge", results.judge),
            ("layer", results.layer),
            ("seconds", results.seconds),
        )
    ]
    return page.what_was_done(facts, results.settings, results.versions)
