"""The report of a monitored log: an HTML file, drawn only from its results."""

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from markupsafe import Markup

from personavec.monitor import charts
from personavec.monitor.conclusion import conclusion
from personavec.monitor.results import (
    AlarmedTurn,
    ConversationShare,
    ExtremeTurn,
    FittedLimits,
    MonitorResults,
    Piece,
    TraitDrift,
    TraitReadings,
)
from personavec.report import (
    Answer,
    Content,
    Pair,
    clipped,
    element,
    not_measured,
    opening,
    page,
    pictured_above,
    reading_section,
    section,
    signed,
    table,
)
from personavec.results import Estimate
from personavec.wording import plural

_COLOURS = (
    "Tokens are orange toward the trait and blue away from it, the stronger the further; far ones "
    "are underlined, dotted where they lie away."
)
#: From here on a token is underlined, too, in sigma.
_FAR = 2.0
#: A token this far from the neutral baseline, in sigma, has the full colour.
_FULL_COLOUR = 8.0


def write_monitoring_report(results: MonitorResults, path: Path) -> None:
    """Write the page of a run of `monitor`."""
    page.write(
        path,
        f"Monitored: {Path(results.log).name}",
        _head(results),
        _opening(results),
        _overview(results),
        _limits(results.limits),
        *(_trait(name, found, results) for name, found in results.traits.items()),
        reading_section(results.data),
        _what_was_done(results),
    )


def _head(results: MonitorResults) -> Markup:
    rejected = f", {plural(results.rejected, 'row')} rejected" if results.rejected else ""
    return page.heading(
        "Monitoring of conversations",
        Path(results.log).name,
        element(
            "p",
            f"{plural(results.turns, 'assistant turn')} in "
            f"{plural(results.conversations, 'conversation')}"
            f"{rejected}.",
            class_="description",
        ),
        element("p", f"read by {results.model.name}", class_="model"),
    )


def _opening(results: MonitorResults) -> Markup:
    """The picture and the answer are those of the trait with the most alarms."""
    name = _foremost(results)
    found = results.traits[name]
    pair = next((_pair(name, turn) for turn in found.extremes), None)
    return opening(
        f"{results.model.name} read {plural(results.turns, 'answer')} of an assistant, in "
        f"{plural(results.conversations, 'conversation')}, and projected them on the vectors of "
        f"{plural(len(results.traits), 'trait')}. A reading is in standard deviations (σ) of "
        "neutral prompts; above 0 is toward the trait. A conversation drifts where a moving "
        "average of its readings crosses the limit.",
        conclusion(results),
        notes=results.notes,
        picture=_along(found, f", {name}"),
        pair=pair,
    )


def _foremost(results: MonitorResults) -> str:
    """The trait with the most alarms, of several the one with the highest answer."""

    def rank(name: str) -> tuple[int, float]:
        found = results.traits[name]
        return found.drift.conversations.hits, found.max or 0.0

    return max(results.traits, key=rank)


def _pair(name: str, turn: ExtremeTurn) -> Pair:
    reading = f"{signed(turn.response_mean, 1)} σ, {_where(turn)}"
    shown = element("span", *map(_heat, turn.pieces), class_="heat")
    return Pair(turn.question, [Answer(f"The answer that reads most {name}", shown, reading)])


def _overview(results: MonitorResults) -> Markup:
    rows = [
        (
            element("a", name, href=f"#{page.anchor(name)}"),
            str(found.layer),
            _estimate(found.forecast),
            _estimate(found.answers),
            not_measured() if found.max is None else signed(found.max),
            str(found.alarms),
            f"{found.drift.conversations.hits} of {found.drift.conversations.of}",
        )
        for name, found in results.traits.items()
    ]
    return section(
        "Readings of the assistant",
        "overview",
        element(
            "p",
            "Readings are projections in standard deviations (σ) of neutral prompts: answers in "
            "those of the model’s first answers, forecasts in those of the prompts’ last tokens. "
            "Above 0 is toward the trait. Later turns of ordinary conversations may be several σ "
            "away without any drift. Intervals are 95%, over conversations.",
        ),
        table(
            (
                "trait",
                "layer",
                "before the answer (σ)",
                "answer (σ)",
                "highest answer (σ)",
                "alarms",
                "conversations with an alarm",
            ),
            rows,
            "numbers",
        ),
    )


def _limits(limits: FittedLimits | None) -> Markup | None:
    if limits is None:
        return None
    rows = [
        (trait, _share(share), str(limits.server_alarms[trait]))
        for trait, share in limits.traits.items()
    ]
    return section(
        "Limits fitted on this log",
        "limits",
        element(
            "p",
            f"Fitted on {limits.fitted_on} conversations, treated as ordinary. False alarms are "
            f"counted on {limits.tested_on} others. Conversations with one, of any trait: ",
            _share(limits.any),
            f". The server’s chart covers {limits.server_turns} replies of these others.",
        ),
        table(("trait", "conversations with a false alarm", "server alarms"), rows, "numbers"),
    )


def _trait(name: str, found: TraitReadings, results: MonitorResults) -> Markup:
    return section(
        name,
        page.anchor(name),
        pictured_above() if name == _foremost(results) else _along(found),
        *_drift(found.drift),
        element("h3", "Highest answers"),
        element("p", _COLOURS),
        element(
            "div",
            *(_extreme(turn, open_=i < 2) for i, turn in enumerate(found.extremes)),
            data_filter=True,
        ),
    )


def _along(found: TraitReadings, whose: str = "") -> Markup | None:
    if len(found.by_turn) < 2:
        return None
    return page.chart(
        charts.turn_lines(found.by_turn),
        f"Along the turns{whose}",
        "Mean over the conversations that reach a turn, at least five, with 95% intervals. "
        "The dotted line is 0, the mean of neutral prompts.",
    )


def _drift(drift: TraitDrift) -> list[Content]:
    fitted = (
        f"The limit was fitted on {drift.fitted_on} ordinary conversations."
        if drift.fitted_on
        else "The limit was set, not fitted."
    )
    return [
        element("h3", "Drift"),
        element(
            "p",
            "Each conversation has a control chart: a moving average of its answers’ readings, "
            "standardised by ordinary readings at the same turn, with most weight on the newest. "
            f"It alarms above {drift.limit:.2f} of its own standard deviations. {fitted} "
            "Conversations with an alarm: ",
            _share(drift.conversations),
            ".",
        ),
        _alarmed(drift.alarmed),
        page.chart(
            charts.server_chart(drift.server, drift.server_limit),
            "The whole log, as a server would chart it",
            "The level after each reply, in the order of a server that handles 16 conversations "
            "at a time. A reply counts only if three of others came since the last one of its "
            "conversation, so the chart is no average of all replies. "
            f"{plural(len(drift.server_alarms), 'crossing')} of the limit.",
        )
        if len(drift.server) > 1
        else None,
    ]


def _alarmed(turns: Sequence[AlarmedTurn]) -> Markup | None:
    rows = [
        (turn.conversation, str(turn.turn + 1), signed(turn.reading), signed(turn.level))
        for turn in turns
    ]
    head = ("conversation", "turn", "reading (σ)", "level of the chart")
    return table(head, rows, "numbers") if rows else None


def _extreme(turn: ExtremeTurn, *, open_: bool) -> Markup:
    question = clipped(turn.question, 100)
    return element(
        "details",
        element("summary", f"{signed(turn.response_mean, 1)} σ  {question}"),
        element(
            "p",
            f"{_where(turn)} · "
            f"{plural(turn.n_tokens, 'token')} · "
            f"before the answer {signed(turn.prompt_last, 1)} σ",
            class_="scores",
        ),
        element("p", clipped(turn.question, 1500), class_="response", dir="auto")
        if len(turn.question) > 100
        else None,
        element("p", [_heat(piece) for piece in turn.pieces], class_="response heat", dir="auto"),
        class_="transcript",
        open=open_,
    )


def _where(turn: ExtremeTurn) -> str:
    return f"conversation {turn.conversation}, assistant turn {turn.turn + 1}"


def _heat(piece: Piece) -> Markup:
    """A token shaded by its projection: orange toward the trait, blue away from it."""
    share = round(min(1.0, abs(piece.sigma) / _FULL_COLOUR) * 100)
    return element(
        "span",
        piece.text,
        class_=("toward" if piece.sigma > 0 else "away")
        + (" strong" if abs(piece.sigma) >= _FAR else ""),
        style=f"--heat: {share}%",
        title=f"{signed(piece.sigma, 1)} σ",
    )


def _what_was_done(results: MonitorResults) -> Markup:
    facts: list[tuple[Content, Content]] = [
        ("model", element("code", results.model.name)),
        ("precision", element("code", results.model.dtype)),
        ("readings", element("code", results.files.readings)),
        ("rejects", element("code", results.files.rejects)),
        ("seconds", str(results.seconds)),
    ]
    return page.what_was_done(facts, asdict(results.settings), results.versions)


def _share(found: ConversationShare) -> Content:
    if found.value is None:
        return not_measured()
    return f"{found.hits} of {found.of}, {found.value:.1%} [{found.low:.1%}, {found.high:.1%}]"


def _estimate(found: Estimate) -> Content:
    """An estimate with signs, since 0 is the reading of neutral prompts."""
    if found.value is None:
        return not_measured()
    if found.low is None or found.high is None:
        return [signed(found.value), " ", not_measured("interval")]
    return f"{signed(found.value)} [{signed(found.low)}, {signed(found.high)}]"
