"""The report of a monitored log: one HTML file, drawn from its saved results alone."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from markupsafe import Markup

from personavec.monitor import charts
from personavec.report import (
    Content,
    element,
    folded,
    not_measured,
    number,
    page,
    reading_section,
    section,
    signed,
    table,
)
from personavec.runs import atomic_write
from personavec.wording import plural

Record = Mapping[str, Any]

#: A token this far from the neutral baseline, in sigma, has the full colour.
_FULL_COLOUR = 8.0


def write_monitoring_report(results: Record, path: Path) -> None:
    """Write the page of a run of `monitor`."""
    body = page.document(
        f"Monitored: {Path(results['log']).name}",
        _head(results),
        _overview(results),
        _limits(results),
        *(_trait(name, record) for name, record in results["traits"].items()),
        reading_section(results["data"]),
        _what_was_done(results),
    )
    atomic_write(path, body)


def _head(results: Record) -> Markup:
    rejected = f", {plural(results['rejected'], 'row')} rejected" if results["rejected"] else ""
    return element(
        "header",
        element("p", "Monitoring of conversations", class_="eyebrow"),
        element("h1", Path(results["log"]).name),
        element(
            "p",
            f"{plural(results['turns'], 'assistant turn')} in "
            f"{plural(results['conversations'], 'conversation')}"
            f"{rejected}.",
            class_="description",
        ),
        element("p", f"read by {results['model']['name']}", class_="model"),
        *(element("div", element("p", note), class_="note") for note in results["notes"]),
    )


def _overview(results: Record) -> Markup:
    rows = [
        (
            element("a", name, href=f"#{_anchor(name)}"),
            str(record["layer"]),
            _estimate(record["forecast"]),
            _estimate({"value": record["mean"], "low": record["low"], "high": record["high"]}),
            _sigma(record["max"]),
            str(record["alarms"]),
            f"{record['drift']['conversations']['hits']} of "
            f"{record['drift']['conversations']['of']}",
        )
        for name, record in results["traits"].items()
    ]
    return section(
        "Where the assistant stands",
        "overview",
        element(
            "p",
            "Projections in standard deviations of the model’s first answers to neutral prompts, "
            "above 0 toward the trait; forecasts in those of these prompts’ last tokens. Later "
            "turns of ordinary talk may stand several of them away without any drift. Intervals "
            "are 95%, over conversations.",
        ),
        table(
            (
                "trait",
                "layer",
                "before the answer",
                "answer",
                "highest answer",
                "alarms",
                "in conversations",
            ),
            rows,
            "numbers",
        ),
    )


def _limits(results: Record) -> Markup | None:
    limits = results["limits"]
    if limits is None:
        return None
    rows = [
        (trait, _share(share), str(limits["server_alarms"][trait]))
        for trait, share in limits["traits"].items()
    ]
    return section(
        "Limits fitted on this log",
        "limits",
        element(
            "p",
            f"Fitted on {limits['fitted_on']} conversations, taken for ordinary; false alarms "
            f"counted on {limits['tested_on']} others. For any of the traits: ",
            _share(limits["any"]),
            f". The server’s chart met {limits['server_turns']} replies of the others.",
        ),
        table(("trait", "conversations with a false alarm", "server alarms"), rows, "numbers"),
    )


def _trait(name: str, record: Record) -> Markup:
    drift = record["drift"]
    by_turn = record["by_turn"]
    lines = [
        (label, [{"turn": row["turn"], "n": row["n"], **row[key]} for row in by_turn])
        for label, key in (
            ("before the answer", "prompt_last"),
            ("answer", "response_mean"),
        )
    ]
    fitted = (
        f"The limit was fitted on {drift['fitted_on']} ordinary conversations."
        if drift["fitted_on"]
        else "The limit was set, not fitted."
    )
    return section(
        name,
        _anchor(name),
        page.chart(
            charts.turn_lines(lines),
            "Along the turns",
            "Mean over conversations at each assistant turn, with 95% intervals.",
        )
        if len(by_turn) > 1
        else None,
        element("h3", "Drift"),
        element(
            "p",
            "The chart averages what stands before each answer, standardised by what is ordinary "
            f"at its turn, newest first; it alarms above {drift['limit']:.2f} of its own standard "
            f"deviations. {fitted} Conversations with an alarm: ",
            _share(drift["conversations"]),
            ".",
        ),
        table(
            ("conversation", "turn", "reading (σ)", "chart"),
            [
                (
                    row["conversation"],
                    str(row["turn"] + 1),
                    signed(row["reading"]),
                    signed(row["level"]),
                )
                for row in drift["alarmed"]
            ],
            "numbers",
        )
        if drift["alarmed"]
        else None,
        page.chart(
            charts.server_chart(drift["server"], drift["server_limit"]),
            "All replies, as a server that holds 16 conversations at a time would have met them",
            f"{len(drift['server_alarms'])} crossings of the limit.",
        )
        if len(drift["server"]) > 1
        else None,
        element("h3", "Answers that stand highest"),
        *(_extreme(row, open_=i < 2) for i, row in enumerate(record["extremes"])),
    )


def _extreme(row: Record, *, open_: bool) -> Markup:
    question = _clipped(row["question"], 100)
    return element(
        "details",
        element("summary", f"{signed(row['response_mean'], 1)} σ  {question}"),
        element(
            "p",
            f"{row['conversation']} · assistant turn {row['turn'] + 1} · "
            f"{plural(row['n_tokens'], 'token')} · "
            f"before the answer {signed(row['prompt_last'], 1)} σ",
            class_="scores",
        ),
        element("p", _clipped(row["question"], 1500), class_="response", dir="auto")
        if len(row["question"]) > 100
        else None,
        element("p", [_heat(piece) for piece in row["pieces"]], class_="response heat", dir="auto"),
        class_="transcript",
        open=open_,
    )


def _heat(piece: Record) -> Markup:
    """A token shaded by its projection: orange toward the trait, blue away from it."""
    sigma = number(piece["sigma"]) or 0.0
    share = round(min(1.0, abs(sigma) / _FULL_COLOUR) * 100)
    return element(
        "span",
        piece["text"],
        class_="toward" if sigma > 0 else "away",
        style=f"--heat: {share}%",
        title=f"{signed(sigma, 1)} σ",
    )


def _what_was_done(results: Record) -> Markup:
    model = results["model"]
    facts: list[tuple[Content, Content]] = [
        ("model", element("code", str(model["name"]))),
        ("precision", element("code", str(model["dtype"]))),
        *((name, element("code", str(path))) for name, path in results["files"].items()),
        ("seconds", str(results["seconds"])),
    ]
    settings = [(n, element("code", page.plain(v))) for n, v in results["settings"].items()]
    versions = [(n, element("code", str(v))) for n, v in results["versions"].items()]
    return section(
        "What was done",
        "what-was-done",
        table((), facts, "facts"),
        folded("Settings", table((), settings, "facts")),
        folded("Versions", table((), versions, "facts")),
    )


def _clipped(text: str, limit: int) -> str:
    return text if len(text) <= limit else text[:limit] + " …"


def _anchor(name: str) -> str:
    return "trait-" + "".join(c if c.isalnum() else "-" for c in name)


def _sigma(value: Any) -> Content:
    found = number(value)
    return not_measured() if found is None else signed(found)


def _share(record: Record) -> Content:
    value, low, high = (number(record[name]) for name in ("value", "low", "high"))
    if value is None or low is None or high is None:
        return not_measured()
    return f"{record['hits']} of {record['of']}, {value:.1%} [{low:.1%}, {high:.1%}]"


def _estimate(record: Record) -> Content:
    value, low, high = (number(record[name]) for name in ("value", "low", "high"))
    if value is None:
        return not_measured()
    if low is None or high is None:
        return [signed(value), " ", not_measured("interval")]
    return f"{signed(value)} [{signed(low)}, {signed(high)}]"
