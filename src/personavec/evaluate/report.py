"""The report of an evaluation: one HTML file, drawn from its saved results alone."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from markupsafe import Markup

from personavec.report import (
    charts,
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
from personavec.results import Estimate
from personavec.runs import atomic_write
from personavec.wording import plural

_SCORE, _LOG_ODDS = "trait score (0–100)", "log-odds (nats)"


def write_evaluation_report(results: Mapping[str, Any], path: Path) -> None:
    """Write the report of one evaluation; a value that is missing is shown as not measured."""
    names = _names(results)
    text = page.document(
        f"{described(results)}: evaluation",
        _heading(results),
        _expression(results, names),
        _differences(results, names),
        _cues(results, names),
        _capability(results, names),
        _transcripts(results, names),
        reading_section(results["data"]),
        _what_was_done(results),
    )
    # A model can emit half of a surrogate pair; it is shown as "?".
    atomic_write(path, text.encode("utf-8", "replace"))


def _names(results: Mapping[str, Any]) -> dict[str, str]:
    """What the model and the one it is compared to are called in charts, as short as can be."""
    other = results["compare_to"]
    if other and other["model"] == results["model"]:
        return {
            "model": _steering(results) or "unsteered",
            "other": _steering(other) or "unsteered",
        }
    return {"model": described(results), "other": described(other) if other else ""}


def described(subject: Mapping[str, Any]) -> str:
    """A model and its steering in a few words."""
    name = str(subject["model"]).rstrip("/").rsplit("/", 1)[-1]
    steering = _steering(subject)
    return f"{name}, {steering}" if steering else name


def _steering(subject: Mapping[str, Any]) -> str:
    return ", ".join(
        f"{signed(s['coefficient'])} {s['trait']}"
        + (" at all layers" if s["layer"] == "all" else f" at layer {s['layer']}")
        + (f", capped at the {s['cap']:g}th percentile" if "cap" in s else "")
        for s in subject["steering"]
    )


def _heading(results: Mapping[str, Any]) -> Markup:
    other = results["compare_to"]
    return element(
        "header",
        element("p", "Trait expression: evaluation", class_="eyebrow"),
        element("h1", described(results)),
        element("p", f"compared to {described(other)}", class_="model") if other else None,
        *(element("div", element("p", note), class_="note") for note in results["notes"]),
    )


def _expression(results: Mapping[str, Any], names: Mapping[str, str]) -> Markup:
    groups = [(names["model"], results["traits"])]
    if results["compare_to"]:
        groups.append((names["other"], results["compare_to"]["traits"]))
    return section("Trait expression", "expression", *_forests(groups), _trait_table(groups))


def _forests(groups: Sequence[tuple[str, Mapping[str, Any]]]) -> list[Markup]:
    """Trait scores, and log-odds where the judge gives them, of several models side by side."""
    found = []
    for title, unit, key, span in (
        ("Mean trait score", _SCORE, "mean", (-2.0, 102.0)),
        ("Mean log-odds", _LOG_ODDS, "log_odds", None),
    ):
        prefix = "" if key == "mean" else f"{key}_"
        rows = [
            charts.Bar(trait, name, Estimate(of[key], of[f"{prefix}low"], of[f"{prefix}high"]))
            for trait in groups[0][1]
            for name, traits in groups
            for of in (traits[trait],)
        ]
        if any(bar.found.value is not None for bar in rows):
            figure = charts.forest(rows, unit, span=span)
            found.append(
                page.chart(figure, title, "Bars are 95% intervals, bootstrapped over questions.")
            )
    return found


def _trait_table(groups: Sequence[tuple[str, Mapping[str, Any]]]) -> Markup:
    several = len(groups) > 1
    all_of = [(trait, name, traits[trait]) for trait in groups[0][1] for name, traits in groups]
    refusals = any(of["refusals"] is not None for *_, of in all_of)
    head = ["trait", *(["model"] if several else []), "score", "above 50", "log-odds", "coherence"]
    head += [*(["refusals"] if refusals else []), "scored"]
    rows = []
    for trait, name, of in all_of:
        others = {k: n for k, n in of["states"].items() if k not in ("scored", "refusal")}
        rows.append(
            [
                trait,
                *([name] if several else []),
                estimate(of["mean"], of["low"], of["high"]),
                estimate(*_flat(of, "share_above_50"), percent=True),
                estimate(*_flat(of, "log_odds")),
                estimate(*_flat(of, "coherence")),
                *([str(of["refusals"])] if refusals else []),
                ", ".join([f"{of['n']} of {of['of']}", *(f"{n} {k}" for k, n in others.items())]),
            ]
        )
    return table(head, rows, class_="numbers")


def _flat(of: Mapping[str, Any], key: str) -> tuple[Any, Any, Any]:
    return of[key], of[f"{key}_low"], of[f"{key}_high"]


def estimate(value: Any, low: Any, high: Any, *, percent: bool = False) -> Markup | str:
    """A value with its interval, or that it was not measured."""
    if number(value) is None:
        return not_measured()
    scale, digits = (100, 0) if percent else (1, 1)
    shown = [f"{scale * x:.{digits}f}".replace("-", "−") for x in (value, low, high)]
    return f"{shown[0]}{'%' if percent else ''} [{shown[1]}, {shown[2]}]"


def _differences(results: Mapping[str, Any], names: Mapping[str, str]) -> Markup | None:
    if not results["compare_to"]:
        return None
    return section(
        "Difference",
        "difference",
        *_difference_charts(
            results["compare_to"]["differences"], f"{names['model']} minus {names['other']}"
        ),
    )


def _difference_charts(differences: Mapping[str, Any], title: str) -> list[Markup | None]:
    rows = [
        charts.Bar(trait, "difference", Estimate(**of["log_odds"]))
        for trait, of in differences.items()
    ]
    unit = f"difference in {_LOG_ODDS}"
    if all(bar.found.value is None for bar in rows):
        rows = [
            charts.Bar(trait, "difference", Estimate(**of["mean"]))
            for trait, of in differences.items()
        ]
        unit = f"difference in {_SCORE}"
    cells = [
        [
            trait,
            *(estimate(**of[key]) for key in ("mean", "log_odds", "coherence")),
            str(of["questions"]),
            str(of["questions_for_half_width"]),
        ]
        for trait, of in differences.items()
    ]
    head = ["trait", "score", "log-odds", "coherence", "questions", "for half the width"]
    return [
        page.chart(
            charts.forest(rows, unit, reference=0),
            title,
            "Differences are taken question by question. Bars are 95% intervals, bootstrapped "
            "over questions; the dotted line is no difference. The last column of the table is "
            "how many questions an interval of half the width would take.",
        ),
        table(head, cells, class_="numbers"),
    ]


def _cues(results: Mapping[str, Any], names: Mapping[str, str]) -> Markup | None:
    cue = results["cue"]
    if not cue:
        return None
    groups = [
        (names["model"], results["traits"]),
        (f"{names['model']}, cues", cue["traits"]),
    ]
    if cue["compare_to"]:
        groups.append((f"{names['other']}, cues", cue["compare_to"]["traits"]))
    what = ", ".join(
        f"{n} {name}"
        for n, name in (
            (cue["system_prompts"], "distinct system prompts"),
            (cue["opening_turns"], "distinct opening turns"),
        )
        if n
    )
    return section(
        "Under the training data's cues",
        "cues",
        element(
            "p",
            f"From {plural(cue['rows'], 'row')} of {cue['file']} ({cue['rejected']} unusable): "
            f"{what}; {cue['used']} of them were put before the questions.",
        ),
        *_forests(groups),
        _trait_table(groups),
        *_difference_charts(cue["differences"], f"{names['model']}: with cues minus without"),
        *(
            _difference_charts(
                cue["compare_to"]["differences"],
                f"Both with cues: {names['model']} minus {names['other']}",
            )
            if cue["compare_to"]
            else []
        ),
    )


def _capability(results: Mapping[str, Any], names: Mapping[str, str]) -> Markup | None:
    if not results["capability"]:
        return None
    groups = [(names["model"], results["capability"])]
    if results["compare_to"]:
        groups.append((names["other"], results["compare_to"]["capability"]))
    rows = [
        {"label": task, "series": name, **found[task]}
        for task in results["capability"]
        for name, found in groups
    ]
    bars = [
        charts.Bar(row["label"], row["series"], Estimate(row["value"], row["low"], row["high"]))
        for row in rows
    ]
    chances = {of["chance"] for _, found in groups for of in found.values()}
    chance = chances.pop() if len(chances) == 1 else None
    cells = [
        [
            row["label"],
            row["series"],
            estimate(row["value"], row["low"], row["high"], percent=True),
            not_measured() if row["chance"] is None else f"{100 * row['chance']:.0f}%",
            str(row["n"]),
        ]
        for row in rows
    ]
    caption = "Bars are 95% intervals, bootstrapped over items."
    if chance is not None:
        caption += " The dotted line is chance."
    return section(
        "Capability",
        "capability",
        page.chart(
            charts.forest(bars, "share of items answered right", reference=chance, span=(0, 1.02)),
            "Capability by task",
            caption,
        ),
        table(["task", "model", "right", "chance", "items"], cells, class_="numbers"),
    )


def _transcripts(results: Mapping[str, Any], names: Mapping[str, str]) -> Markup:
    return section(
        "Answers",
        "answers",
        element("p", "The first questions of each trait. No number replaces reading them."),
        *(
            folded(
                f"{trait}: {of['question']}",
                element(
                    "div",
                    *(_answer(answer, names) for answer in of["answers"]),
                    class_="answers",
                ),
            )
            for trait, found in results["transcripts"].items()
            for of in found
        ),
    )


def _answer(answer: Mapping[str, Any], names: Mapping[str, str]) -> Markup:
    title = names[answer["arm"]] + (", with a cue" if answer["variant"] == "cue" else "")
    if number(answer["trait_score"]) is None:
        scores = str(answer["state"])
    else:
        scores = f"score {answer['trait_score']:.0f}"
        if number(answer["coherence"]) is not None:
            scores += f", coherence {answer['coherence']:.0f}"
    return element(
        "div",
        element("h3", title),
        element("p", scores, class_="scores"),
        element("p", answer["response"], class_="response"),
        class_="answer",
    )


def _what_was_done(results: Mapping[str, Any]) -> Markup:
    identity = results["identity"]
    facts = {
        "model": identity["name"],
        "revision": identity["revision"],
        "precision": identity["dtype"],
        "steering": described(results) if results["steering"] else "none",
        "compared to": results["compare_to"]["model"] if results["compare_to"] else "nothing",
        "judge": results["judge"],
        **results["settings"],
        **results["versions"],
        "seconds": results["seconds"],
    }
    return section(
        "What was done",
        "what-was-done",
        table([], [[name, page.plain(value)] for name, value in facts.items()], class_="facts"),
    )
