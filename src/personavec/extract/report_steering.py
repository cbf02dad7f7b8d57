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
    Answer,
    Content,
    answers,
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
    *,
    curve: bool = True,
) -> Markup:
    """Log-odds and coherence by coefficient, beside random directions and system prompts.

    Without `curve`, the figure of log-odds stands elsewhere on the page.
    """
    drawn: list[Content] = [
        dose_curve(doses, control, prompted, coherent_range)
        if curve
        else element("p", "The figure of log-odds stands at the top of the page.")
    ]
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
            "The vector was added with coefficient α at the selected layer.",
            " Random directions of equal norm show what any push of that size does."
            if control
            else None,
            " The horizontal lines show what the system prompts reach without steering."
            if prompted
            else None,
        ),
        element("p", "Coherent range: ", _range(coherent_range), "."),
        *drawn,
        None if _measured(doses, control) else element("p", not_measured()),
        table(("without steering", "log-odds (nats)"), reached, "numbers") if prompted else None,
        _dose_table(doses, control),
    )


def dose_curve(
    doses: Sequence[DoseResponse],
    control: Sequence[RandomDose],
    prompted: Mapping[Polarity, MeanLogOdds],
    coherent_range: tuple[float, float] | None,
) -> Markup | None:
    """The main figure; None where nothing was measured."""
    if not _measured(doses, control):
        return None
    return page.chart(
        charts.dose_response(doses, control, prompted, coherent_range),
        "Log-odds by coefficient",
        "Bars and bands are 95% intervals. Open markers are doses that were not coherent."
        + (
            " Random directions have the norm of the vector and stand a little apart sideways."
            if control
            else ""
        ),
    )


def _measured(doses: Sequence[DoseResponse], control: Sequence[RandomDose]) -> bool:
    return any(dose.log_odds is not None for dose in (*doses, *control))


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
            "The share of evaluation questions on which steering toward the trait does not raise "
            f"the log-odds{between}",
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
    found = sorted(transcript.answers, key=lambda answer: answer.coefficient)
    alone = [
        Answer(f"{word} system prompt alone", transcript.prompted[polarity])
        for polarity, word in POLARITY_WORDS
        if polarity in transcript.prompted
    ]
    return element(
        "details",
        element("summary", transcript.question),
        answers(map(steered, found)) if found else element("p", not_measured()),
        folded("Without steering, under system prompts", answers(alone)) if alone else None,
        class_="transcript",
        open=open_,
    )


def steered(answer: SteeredAnswer) -> Answer:
    """A steered answer beside its scores, on the side that its coefficient steers to."""
    log_odds = not_measured() if answer.log_odds is None else f"{signed(answer.log_odds)} nats"
    scores = ["log-odds ", log_odds, ", coherence ", figure(answer.coherence, ".0f")]
    c = answer.coefficient
    title = f"α = {signed(c)}, {'away' if c < 0 else 'toward'}" if c else "α = 0, unsteered"
    return Answer(title, answer.response, scores, "away" if c < 0 else "toward" if c > 0 else "")
