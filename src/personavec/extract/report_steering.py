"""Sections of an extraction's report about steering: layers, doses, and what was answered."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from markupsafe import Markup

from personavec.extract import charts
from personavec.extract.report_run import POLARITY_WORDS, estimator_name
from personavec.extract.results import (
    DoseResponse,
    ExtractResults,
    MeanLogOdds,
    RandomDose,
    SteeredAnswer,
    Transcript,
    WrongWay,
)
from personavec.report import (
    Content,
    element,
    estimate,
    figure,
    folded,
    not_measured,
    page,
    section,
    signed,
    table,
)
from personavec.results import Estimate
from personavec.traits import Polarity

#: Transcripts that the report shows unfolded.
_OPEN_TRANSCRIPTS = 3


def layer_sweep(results: ExtractResults) -> Markup:
    """Log-odds and coherence by steered layer."""
    sweep, layer, floor = results.sweep, results.layer, results.coherence_floor
    drawn: list[Content] = []
    if any(dose.log_odds is not None for dose in sweep):
        chart = charts.sweep_log_odds(sweep, layer)
        drawn.append(page.chart(chart, "Log-odds by steered layer", "Bands are 95% intervals."))
    if any(dose.coherence is not None for dose in sweep):
        chart = charts.sweep_coherence(sweep, layer, floor)
        drawn.append(page.chart(chart, "Coherence by steered layer"))
    rows = [
        (
            str(dose.layer),
            estimator_name(dose.estimator),
            signed(dose.coefficient),
            estimate(dose.log_odds_estimate, "+.2f"),
            figure(dose.coherence, ".1f"),
        )
        for dose in sweep
    ]
    head = ("layer", "estimator", "α", "log-odds (nats)", "coherence")
    return section(
        "Layer sweep",
        "layer-sweep",
        element(
            "p",
            "Each layer’s vector was added at that layer. A good layer moves the trait far while "
            "the text stays coherent.",
        ),
        element("div", *drawn, class_="pair") if drawn else element("p", not_measured()),
        folded("The numbers", table(head, rows, "numbers")) if rows else None,
    )


def dose_response(
    doses: Sequence[DoseResponse],
    control: Sequence[RandomDose],
    prompted: Mapping[Polarity, MeanLogOdds],
    coherent_range: tuple[float, float] | None,
    floor: float | None,
) -> Markup:
    """Log-odds and coherence by coefficient, beside random directions and system prompts."""
    drawn: list[Content] = []
    if any(dose.log_odds is not None for dose in (*doses, *control)):
        drawn.append(
            page.chart(
                charts.dose_response(doses, control, prompted, coherent_range),
                "Log-odds by coefficient",
                "Bars and bands are 95% intervals. Open markers are doses that were not coherent. "
                "Random directions have the norm of the vector and stand a little apart sideways.",
            )
        )
    if any(dose.coherence is not None for dose in (*doses, *control)):
        chart = charts.dose_coherence(doses, control, floor, coherent_range)
        drawn.append(page.chart(chart, "Coherence by coefficient"))
    reached = [
        (f"{word} system prompt alone", _reached(prompted.get(polarity)))
        for polarity, word in POLARITY_WORDS
    ]
    return section(
        "Dose-response",
        "dose-response",
        element(
            "p",
            "The vector was added with coefficient α at the selected layer. Random directions of "
            "equal norm show what any push of that size does; the horizontal lines show what the "
            "system prompts reach without steering.",
        ),
        element("p", "Coherent range: ", _range(coherent_range), "."),
        *(drawn or [element("p", not_measured())]),
        table(("without steering", "log-odds (nats)"), reached, "numbers"),
        _dose_table(doses, control),
    )


def _reached(level: MeanLogOdds | None) -> Content:
    return estimate(level.estimate if level else Estimate(), "+.2f")


def _range(coherent_range: tuple[float, float] | None) -> Content:
    if coherent_range is None:
        return not_measured()
    low, high = coherent_range
    return f"α from {signed(low)} to {signed(high)}"


def _dose_table(doses: Sequence[DoseResponse], control: Sequence[RandomDose]) -> Markup | None:
    rows: list[Sequence[Content]] = [
        *(
            (
                "persona vector",
                signed(dose.coefficient),
                figure(dose.relative_dose, ".2f"),
                estimate(dose.log_odds_estimate, "+.2f"),
                estimate(dose.coherence_estimate, ".1f"),
                str(dose.n),
            )
            for dose in doses
        ),
        *(
            (
                f"random direction {dose.direction}",
                signed(dose.coefficient),
                "",
                estimate(dose.log_odds_estimate, "+.2f"),
                figure(dose.coherence, ".1f"),
                "",
            )
            for dose in control
        ),
    ]
    head = ("direction", "α", "relative dose", "log-odds (nats)", "coherence", "n")
    return folded("The numbers", table(head, rows, "numbers")) if rows else None


def wrong_way(found: WrongWay | None) -> Markup:
    """The share of questions that steering moves away from the trait."""
    between = "."
    if found is not None:
        start, end = found.coefficients
        between = f", from α = {signed(start)} to α = {signed(end)}."
    stated: list[Content] = [not_measured()]
    if found is not None and found.share is not None:
        stated = [f"{found.share:.0%}"]
        if found.low is not None and found.high is not None:
            interval = f" of questions, 95% interval {found.low:.0%} to {found.high:.0%}"
            stated.append(element("small", interval))
    measured = found is not None and found.share is not None
    return section(
        "Wrong-way share",
        "wrong-way",
        element(
            "p",
            "The share of evaluation questions on which steering moves the answer away from the "
            f"trait instead of toward it{between}",
        ),
        element("p", *stated, class_="figure" if measured else None),
    )


def transcripts(found: Sequence[Transcript]) -> Markup:
    """Questions with their steered and unsteered answers."""
    return section(
        "Transcripts",
        "transcripts",
        element(
            "p",
            "The same evaluation questions, steered away from the trait, unsteered and steered "
            "toward it.",
        ),
        *(_transcript(row, open_=index < _OPEN_TRANSCRIPTS) for index, row in enumerate(found)),
        None if found else element("p", not_measured()),
    )


def _transcript(transcript: Transcript, *, open_: bool) -> Markup:
    answers = sorted(transcript.answers, key=lambda answer: answer.coefficient)
    alone = [
        _answer(f"{word} system prompt alone", None, transcript.prompted[polarity], "")
        for polarity, word in POLARITY_WORDS
        if polarity in transcript.prompted
    ]
    return element(
        "details",
        element("summary", transcript.question),
        element("div", *map(_steered, answers), class_="answers")
        if answers
        else element("p", not_measured()),
        folded("Without steering, under system prompts", element("div", *alone, class_="answers"))
        if alone
        else None,
        class_="transcript",
        open=open_,
    )


def _steered(answer: SteeredAnswer) -> Markup:
    log_odds = not_measured() if answer.log_odds is None else signed(answer.log_odds)
    scores = ["log-odds ", log_odds, ", coherence ", figure(answer.coherence, ".0f")]
    c = answer.coefficient
    side = "below" if c < 0 else "above" if c > 0 else ""
    return _answer(f"α = {signed(c)}" if c else "α = 0, unsteered", scores, answer.response, side)


def _answer(title: str, scores: Content, response: str, side: str) -> Markup:
    """One answer; an empty response is shown as one."""
    if response.strip():
        text = element("p", response, class_="response", dir="auto")
    else:
        text = element("p", element("span", "(empty response)", class_="missing"))
    return element(
        "div",
        element("h3", title),
        element("p", scores, class_="scores") if scores else None,
        text,
        class_=f"answer {side}".strip(),
    )
