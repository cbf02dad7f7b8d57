"""The report of a screen: one HTML file, drawn from its saved results alone."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from markupsafe import Markup

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
from personavec.screen import charts
from personavec.wording import plural

Record = Mapping[str, Any]

_NATURAL = {
    "generate": "the model’s own greedy response to the same prompt",
    "last-prompt": "the prompt’s last token, the paper’s stand-in for the model’s own response",
    "none": "nothing: these are raw projections, which also hold what the prompt is about",
    "two-stage": "the last token of the prompt for every row, and the model’s own greedy response "
    "for the top slice and a random sample",
    "rejected": "the rejected response to the same prompt",
}
#: Groups in charts; the table has all.
_CHARTED_GROUPS = 30


def write_screening_report(results: dict[str, Any], path: Path) -> None:
    """Write the report of one screen; a value that is missing is shown as not measured."""
    title = ", ".join(dataset["name"] for dataset in results["datasets"])
    text = page.document(
        f"Screen of {title}",
        _heading(results, title),
        _overview(results),
        _comparison(results),
        *(_trait(name, record, results) for name, record in results["traits"].items()),
        _unseen(),
        reading_section(results["data"]),
        _what_was_done(results),
    )
    # A row can hold half of a surrogate pair; it is shown as "?".
    atomic_write(path, text.encode("utf-8", "replace"))


def _heading(results: Record, title: str) -> Markup:
    rejected = results["rejected"]
    bad = f", {rejected} could not be used" if rejected else ""
    flagged = results["flagged_any"]
    return element(
        "header",
        element("p", "Screen of training data", class_="eyebrow"),
        element("h1", title),
        element(
            "p",
            f"{results['rows']} {'pairs' if results['kind'] == 'pair' else 'rows'} scored{bad}. "
            + (f"{flagged} flagged for at least one trait." if flagged is not None else ""),
            class_="description",
        ),
        element("p", f"for {results['model']['name']}", class_="model"),
        *(element("div", element("p", note), class_="note") for note in results["notes"]),
    )


def _overview(results: Record) -> Markup:
    rows = []
    for name, record in results["traits"].items():
        sigma = number(record["sigma"])
        mean = number(record["mean"])
        against = record.get("against_reference")
        rows.append(
            (
                element("a", name, href=f"#{_anchor(name)}"),
                str(record["layer"]),
                _estimate(record),
                signed(mean / sigma, 3) if mean is not None and sigma else not_measured(),
                _estimate(against) if against else "–",
                signed(record["threshold"]) if record["threshold"] is not None else "–",
                _flagged(record),
            )
        )
    return section(
        "How far the data would push",
        "overview",
        element(
            "p",
            f"Each figure is the mean of a row’s projection on the trait’s vector, minus that of "
            f"{_NATURAL[results['natural']]}. Above 0, training on the data would push "
            "the model toward the trait. Intervals are 95%, over prompts.",
        )
        if results["natural"] != "none"
        else element("p", "Raw projections, compared with nothing. Intervals are 95%."),
        table(
            (
                "trait",
                "layer",
                "mean difference",
                "in σ of neutral prompts",
                "minus reference",
                "line",
                "flagged",
            ),
            rows,
            "numbers",
        ),
        _two_stages(results),
    )


def _flagged(record: Record) -> Content:
    if record["flagged"] is None:
        return "–"
    share = record["share_flagged"]
    return f"{record['flagged']} ({share['mean']:.1%})" if share["mean"] is not None else "–"


def _two_stages(results: Record) -> Markup | None:
    found = {n: r for n, r in results["traits"].items() if r.get("two_stage")}
    if not found:
        return None
    stage = next(iter(found.values()))["two_stage"]
    rows = [
        (
            name,
            signed(record["two_stage"]["cheap_mean"]),
            _estimate(record),
            _estimate(record["two_stage"]["recall"], percent=True),
        )
        for name, record in found.items()
    ]
    return element(
        "div",
        element("h3", "Two stages"),
        element(
            "p",
            f"{plural(stage['top'], 'row')}, the highest of every trait by the cheap score, and "
            f"{plural(stage['sample'], 'random other')} got the exact score. The corrected "
            "mean is the regression estimator of survey sampling, with the top slice as a "
            "stratum taken whole. Recall is the share of rows over the line, by their exact "
            "score, that the top slice holds; the random sample tells how many it misses.",
        ),
        table(("trait", "cheap mean", "corrected mean", "recall"), rows, "numbers"),
    )


def _comparison(results: Record) -> Markup | None:
    """All groups and traits in one chart, for every column that rows were grouped by."""
    traits = results["traits"]
    columns = next(iter(traits.values()))["groups"]
    if not columns:
        return None
    drawn = []
    for column in columns:
        by_trait = {
            name: {row["group"]: row for row in record["groups"][column]}
            for name, record in traits.items()
        }
        groups = list(next(iter(by_trait.values())))[:_CHARTED_GROUPS]
        means = [
            [_in_sigma(by_trait[name].get(group), traits[name]["sigma"]) for name in traits]
            for group in groups
        ]
        drawn.append(
            page.chart(
                charts.group_map(groups, list(traits), means),
                f"Mean difference by {column}, in σ of neutral prompts",
                "Orange pushes toward the trait, blue away from it. Intervals stand in the tables "
                "below.",
            )
        )
    return section("Comparison", "comparison", *drawn)


def _in_sigma(row: Record | None, sigma: float | None) -> float | None:
    mean = None if row is None else number(row["mean"])
    return None if mean is None or not sigma else mean / sigma


def _trait(name: str, record: Record, results: Record) -> Markup:
    unit = "projection" if results["natural"] == "none" else "projection difference"
    histogram = record["histogram"]
    return section(
        name,
        _anchor(name),
        element("p", f"Rows without a natural response to compare with: {record['missing']}.")
        if record["missing"]
        else None,
        page.chart(
            charts.difference_histogram(histogram, number(record["threshold"]), unit),
            f"Rows by {unit}",
            "The outermost bins hold what lies beyond.",
        )
        if histogram["edges"]
        else element("p", not_measured()),
        *(_groups(column, rows, unit) for column, rows in record["groups"].items()),
        element("h3", "Is it only length, or any direction?"),
        *_controls(record),
        element("h3", "Rows that push toward it most"),
        *(_row(row, open_=i < 2) for i, row in enumerate(record["ranked"]["high"])),
        folded(
            "Rows that push away from it most",
            *(_row(row, open_=False) for row in record["ranked"]["low"]),
        ),
    )


def _groups(column: str, rows: Sequence[Record], unit: str) -> Markup:
    cells = [
        (
            row["group"],
            str(row["rank"]),
            str(row["n"]),
            _estimate(row),
            "–"
            if row["flagged"] is None
            else f"{row['flagged']} ({row['flagged'] / row['n']:.1%})"
            if row["n"]
            else "–",
            not_measured() if row["mean_without"] is None else signed(row["mean_without"]),
        )
        for row in rows
    ]
    return element(
        "div",
        page.chart(charts.group_means(rows[:_CHARTED_GROUPS], unit), f"Mean by {column}")
        if len(rows) > 1
        else None,
        folded(
            f"The numbers by {column}",
            table(
                (column, "rank", "rows", "mean", "flagged", "mean without this group"),
                cells,
                "numbers",
            ),
        ),
    )


def _controls(record: Record) -> list[Markup]:
    length, random = record["controls"]["length"], record["controls"]["random"]
    found: list[Markup] = []
    if "why" in length:
        found.append(element("p", f"Length: not measured, {length['why']}."))
    else:
        found.append(
            element(
                "p",
                "Rank correlation of the value with the response’s length: ",
                _estimate(length["spearman"], value="value"),
                ".",
            )
        )
        if length.get("flags_by_length"):
            found.append(
                table(
                    ("response tokens", "rows", "flagged"),
                    [
                        (f"{r['from']} to {r['to']}", str(r["n"]), _estimate(r, percent=True))
                        for r in length["flags_by_length"]
                    ],
                    "numbers",
                )
            )
        matched = length.get("matched")
        if matched and "why" not in matched:
            found.append(
                element(
                    "p",
                    "Mean minus reference: ",
                    _estimate(record["against_reference"]),
                    "; against reference rows of like length: ",
                    _estimate(matched),
                    f" (rows without a counterpart of their length: {matched['without_match']}).",
                )
            )
    if "why" in random:
        found.append(element("p", f"Random directions: not measured, {random['why']}."))
        return found
    rows = [("the vector", *_effect(random["trait"]))]
    rows += [
        (f"random direction {i}", *_effect(direction))
        for i, direction in enumerate(random["directions"], start=1)
    ]
    found.append(
        table(
            ("direction", "mean shift in σ of the rows", "over the reference’s 95th percentile"),
            rows,
            "numbers",
        )
    )
    found.append(
        element(
            "p",
            "A vector that shifts no further than random directions at its layer says only that "
            "the texts differ. No intervals here: the spread of the random directions is the "
            "measure.",
        )
    )
    return found


def _effect(record: Record) -> tuple[Content, Content]:
    effect, over = number(record["effect"]), number(record["share_over"])
    return (
        not_measured() if effect is None else signed(effect),
        "–" if over is None else f"{over:.1%}",
    )


def _row(row: Record, *, open_: bool) -> Markup:
    question = next(
        (m["content"] for m in reversed(row["messages"]) if m["role"] == "user"), "(no question)"
    )
    response = row["messages"][-1]["content"]
    where = ", ".join(str(value) for value in row["groups"].values() if value is not None)
    scores = [
        f"{signed(row['value'])}" if number(row["value"]) is not None else "not measured",
        f", {plural(row['n_tokens'], 'token')}",
        f", log-odds {signed(row['log_odds'])}" if number(row["log_odds"]) is not None else "",
        ", flagged" if row["flagged"] else "",
    ]
    others = [
        (title, row[key])
        for title, key in (("natural response", "natural"), ("rejected", "rejected"))
        if row[key] is not None
    ]
    return element(
        "details",
        element("summary", f"{signed(row['value'])}  {_clipped(question, 100)}"),
        element("p", " · ".join(filter(None, (row["dataset"], where, row["id"]))), class_="scores"),
        element("p", _clipped(question, 1500), class_="response", dir="auto")
        if len(question) > 100
        else None,
        element(
            "div",
            _answer("response", scores, _marked(row, response), "below"),
            *(_answer(title, None, _clipped(text, 3000), "") for title, text in others),
            class_="answers",
        ),
        class_="transcript",
        open=open_,
    )


def _marked(row: Record, response: str) -> Content:
    """The response with the spans that project highest marked, where it was explained."""
    if not row.get("pieces"):
        return _clipped(response, 3000)
    return [
        element("mark", piece["text"], title=signed(piece["projection"]))
        if piece["span"]
        else _clipped(piece["text"], 1500)
        for piece in row["pieces"]
    ]


def _answer(title: str, scores: Content, text: Content, side: str) -> Markup:
    return element(
        "div",
        element("h3", title),
        element("p", scores, class_="scores") if scores else None,
        element("p", text, class_="response", dir="auto"),
        class_=f"answer {side}".strip(),
    )


def _clipped(text: str, limit: int) -> str:
    return text if len(text) <= limit else text[:limit] + " …"


def _unseen() -> Markup:
    return section(
        "What this does not see",
        "unseen",
        element(
            "ul",
            element(
                "li",
                "Traits that no visible content carries. A model can pass a trait on through "
                "numbers or code that look harmless (subliminal learning), and a few poisoned "
                "rows can plant one behind a trigger. Their responses project like any others.",
            ),
            element(
                "li",
                "Narrow errors, such as wrong arithmetic or unsafe code in a calm tone. Training "
                "on them can shift a model’s character, yet the literature finds their "
                "projections weak. Check facts by other means.",
            ),
            element(
                "li",
                "Anything that the vectors do not measure. A vector holds what its prompts "
                "elicited, style and length among it; the controls above say how much of a flag "
                "that could be.",
            ),
            element(
                "li",
                "Effects of rows together. Means add up rows one by one; training does not.",
            ),
        ),
    )


def _what_was_done(results: Record) -> Markup:
    model, reference = results["model"], results["reference"]
    speed = results["tokens_per_second"]
    facts: list[tuple[Content, Content]] = [
        ("model", element("code", str(model["name"]))),
        ("precision", element("code", str(model["dtype"]))),
        ("natural side", _NATURAL[results["natural"]]),
        ("turns", results["turns"]),
        (
            "reference",
            "none"
            if reference is None
            else f"{reference['name']}, {plural(reference['rows'], 'row')}",
        ),
        ("judge", page.plain(results["judge"]["judge"]) if results["judge"] else "none"),
        ("tokens per second", not_measured() if speed is None else f"{speed:.0f}"),
        *((f"rows of {d['name']}", _counted(d)) for d in results["datasets"]),
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


def _counted(dataset: Record) -> str:
    bad = f", {dataset['rejected']} rejected" if dataset["rejected"] else ""
    return f"{dataset['rows']}{bad}"


def _anchor(name: str) -> str:
    return "trait-" + "".join(c if c.isalnum() else "-" for c in name)


def _estimate(record: Record | None, *, value: str = "mean", percent: bool = False) -> Content:
    """A value with its interval."""
    found = None if record is None else number(record.get(value))
    if record is None or found is None:
        return not_measured()

    def shown(x: float) -> str:
        return f"{x:.1%}" if percent else signed(x, 3)

    low, high = number(record.get("low")), number(record.get("high"))
    if low is None or high is None:
        return [shown(found), " ", not_measured("interval")]
    return f"{shown(found)} [{shown(low)}, {shown(high)}]"
