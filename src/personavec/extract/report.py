"""The report of an extraction: one HTML file, drawn from its saved results alone."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from markupsafe import Markup

from personavec.extract import charts
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

_POLARITIES = (("pos", "positive"), ("neg", "negative"))
_ORIGINS = {
    "bundled": "bundled with personavec",
    "file": "read from a file",
    "template": "built from templates",
}
_ESTIMATORS = {"mean": "difference of means", "logistic": "logistic direction"}
_OPEN_TRANSCRIPTS = 3


def write_extraction_report(results: dict[str, Any], path: Path) -> None:
    """Write the report of one extraction; a value that is missing is shown as not measured."""
    trait = str(_mapping(results, "trait").get("name") or "unnamed trait")
    model = str(_mapping(results, "model").get("name") or "unnamed model")
    text = page.document(
        f"{trait}: persona vector in {model}",
        _heading(results, trait, model),
        _verdict(results),
        _what_was_done(results),
        reading_section(_mapping(results, "data")),
        _rollouts(results),
        _distributions(results),
        _layer_sweep(results),
        _dose_response(results),
        _wrong_way(results),
        _reliability(results),
        _vector_size(results),
        _transcripts(results),
    )
    # A model can emit half of a surrogate pair; it is shown as "?".
    atomic_write(path, text.encode("utf-8", "replace"))


def vector_report(trait: str, layer: int, meta: Mapping[str, Any]) -> str:
    """The page of a vector whose extraction's results are not at hand, from its `vector.json`."""
    model = str(_mapping(meta, "model").get("name") or "unnamed model")
    results = {
        **meta,
        "trait": {"name": trait, "description": meta.get("description")},
        "layer": layer,
        "notes": [
            "This page shows what is stored with the vector. Its extraction's own report has "
            "the rollouts, the layer sweep and the control beside it."
        ],
    }
    kept = _mapping(meta, "kept")
    facts: list[Sequence[Content]] = [
        ("model", _code(model)),
        ("revision", _code(_mapping(meta, "model").get("revision"))),
        ("trait spec", _code(meta.get("spec_hash"))),
        ("selected layer", _fixed(layer, 0)),
        ("rollouts kept", [_count(kept, "pos"), " positive, ", _count(kept, "neg"), " negative"]),
        ("checks", _passed(meta.get("passed"))),
    ]
    return page.document(
        f"{trait}: persona vector in {model}",
        _heading(results, trait, model),
        section("Where it comes from", "origin", table((), facts, "facts")),
        _dose_response(results),
        _reliability(results),
    )


def _passed(verdict: Any) -> Content:
    if verdict is None:
        return not_measured()
    return "passed" if verdict else "failed"


def _heading(results: Mapping[str, Any], trait: str, model: str) -> Markup:
    description = _mapping(results, "trait").get("description")
    layer = _whole(results.get("layer"))
    return element(
        "header",
        element("p", "Persona vector: extraction", class_="eyebrow"),
        element("h1", trait),
        element("p", str(description), class_="description") if description else None,
        element(
            "p", f"in {model}" + (f", layer {layer}" if layer is not None else ""), class_="model"
        ),
        *(
            element("div", element("p", str(note)), class_="note")
            for note in _sequence(results, "notes")
            if isinstance(note, str)
        ),
    )


def _verdict(results: Mapping[str, Any]) -> Markup:
    verdict = _mapping(results, "verdict")
    checks = _rows(verdict, "checks")
    failed = sum(check.get("passed") is False for check in checks)
    passed = sum(check.get("passed") is True for check in checks)
    match verdict.get("passed"):
        case True:
            line = element(
                "p", f"Passed: {passed} of {plural(len(checks), 'check')}.", class_="verdict good"
            )
        case False:
            line = element(
                "p", f"Failed: {failed} of {plural(len(checks), 'check')}.", class_="verdict bad"
            )
        case _:
            line = element("p", not_measured())
    return section("Verdict", "verdict", line, _check_list(checks))


def _check_list(checks: Sequence[Mapping[str, Any]]) -> Markup | None:
    if not checks:
        return None
    states = {
        True: element("span", "✓ passed", class_="state good"),
        False: element("span", "✗ failed", class_="state bad"),
        None: element("span", "– open", class_="state missing"),
    }
    return element(
        "ul",
        *(
            element(
                "li",
                states.get(check.get("passed"), states[None]),
                element(
                    "span",
                    str(check.get("name") or "unnamed check"),
                    element("span", str(check.get("detail") or ""), class_="detail"),
                ),
            )
            for check in checks
        ),
        class_="checks",
    )


def _what_was_done(results: Mapping[str, Any]) -> Markup:
    model, spec = _mapping(results, "model"), _mapping(results, "spec")
    settings, versions = _mapping(results, "settings"), _mapping(results, "versions")
    seconds = _mapping(results, "seconds")
    origin = _mapping(results, "trait").get("origin")
    facts = [
        ("model", _code(model.get("name"))),
        ("revision", _code(model.get("revision"))),
        ("precision", _code(model.get("dtype"))),
        ("shape", _shape(model)),
        ("chat template", _code(model.get("template_hash"))),
        (
            "trait spec",
            [_ORIGINS.get(str(origin), str(origin or "")), " ", _code(spec.get("hash"))],
        ),
        (
            "instruction pairs",
            [_count(spec, "pairs"), ", and for judging ", _count(spec, "judge_pairs")],
        ),
        (
            "questions",
            [
                _count(spec, "extraction_questions"),
                " for extraction, ",
                _count(spec, "evaluation_questions"),
                " for evaluation",
            ],
        ),
        ("selected layer", _fixed(results.get("layer"), 0)),
        ("estimator", _ESTIMATORS.get(str(results.get("estimator")), "difference of means")),
        ("seed", _fixed(settings.get("seed"), 0)),
        ("time", _duration(seconds)),
    ]
    return section(
        "What was done",
        "what-was-done",
        element(
            "p",
            "The model answered the extraction questions under system prompts that ask for the "
            "trait and under prompts that ask for its opposite. The vector is the difference of "
            "mean activations on the answers kept. It was then added at several layers and "
            "strengths while the model answered the evaluation questions, which the vector has "
            "not seen.",
        ),
        table((), facts, "facts"),
        _listing("Settings", settings),
        _listing("Versions", versions),
        _listing("Seconds by stage", {stage: _fixed(value, 1) for stage, value in seconds.items()}),
    )


def _shape(model: Mapping[str, Any]) -> Content:
    return [_count(model, "n_layers"), " layers, hidden size ", _count(model, "hidden_size")]


def _duration(seconds: Mapping[str, Any]) -> Content:
    known = [value for raw in seconds.values() if (value := number(raw)) is not None]
    if not known:
        return not_measured()
    minutes, rest = divmod(round(sum(known)), 60)
    return f"{minutes} min {rest} s" if minutes else f"{rest} s"


def _listing(title: str, values: Mapping[str, Any]) -> Markup:
    rows = [(str(name), _setting(value)) for name, value in values.items()]
    return folded(title, table((), rows, "facts") if rows else element("p", not_measured()))


def _setting(value: object) -> Markup:
    if isinstance(value, Markup):
        return value
    return element("code", "not set" if value is None else page.plain(value))


def _rollouts(results: Mapping[str, Any]) -> Markup:
    rollouts = _mapping(results, "rollouts")
    sides = [_mapping(rollouts, polarity) for polarity, _ in _POLARITIES]
    dropped = [_mapping(side, "dropped") for side in sides]
    lost = _mapping(results, "coherence_dropped_share")
    reasons = sorted(
        {reason for counts in dropped for reason in counts},
        key=lambda reason: -sum(number(counts.get(reason)) or 0 for counts in dropped),
    )
    rows: list[Sequence[Content]] = [
        ("generated", *(_count(side, "of") for side in sides)),
        ("kept for the vector", *(_kept(side) for side in sides)),
        *(
            (f"dropped: {reason}", *(_fixed(counts.get(reason, 0), 0) for counts in dropped))
            for reason in reasons
        ),
        (
            "share lost to incoherence",
            *(_percent(lost.get(polarity)) for polarity, _ in _POLARITIES),
        ),
    ]
    return section(
        "Rollouts kept",
        "rollouts",
        element(
            "p",
            "One rollout is one answer. Only answers that are coherent and show what their system "
            "prompt asked for enter the vector; the others fell for the reasons below.",
        ),
        table(("", "positive", "negative"), rows, "numbers")
        if any(sides)
        else element("p", not_measured()),
    )


def _kept(side: Mapping[str, Any]) -> Content:
    kept, of = number(side.get("kept")), number(side.get("of"))
    if kept is None:
        return not_measured()
    return f"{kept:.0f} ({kept / of:.0%})" if of else f"{kept:.0f}"


def _distributions(results: Mapping[str, Any]) -> Markup:
    log_odds = _mapping(results, "log_odds")
    values = {
        polarity: [
            kept for raw in _sequence(log_odds, polarity) if (kept := number(raw)) is not None
        ]
        for polarity, _ in _POLARITIES
    }
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
                    for polarity, word in _POLARITIES
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


def _layer_sweep(results: Mapping[str, Any]) -> Markup:
    sweep = _rows(results, "sweep")
    layer = _whole(results.get("layer"))
    floor = number(results.get("coherence_floor"))
    pair: list[Content] = []
    if _any_number(sweep, "log_odds"):
        pair.append(
            page.chart(
                charts.sweep_log_odds(sweep, layer),
                "Log-odds by steered layer",
                "Bands are 95% intervals.",
            )
        )
    if _any_number(sweep, "coherence"):
        pair.append(
            page.chart(charts.sweep_coherence(sweep, layer, floor), "Coherence by steered layer")
        )
    rows = [
        (
            _fixed(row.get("layer"), 0),
            _ESTIMATORS.get(str(row.get("estimator")), "difference of means"),
            _signed(row.get("coefficient")),
            _estimate(row, "log_odds", sign=True),
            _fixed(row.get("coherence"), 1),
        )
        for row in sweep
    ]
    return section(
        "Layer sweep",
        "layer-sweep",
        element(
            "p",
            "Each layer’s vector was added at that layer. A good layer moves the trait far while "
            "the text stays coherent.",
        ),
        element("div", *pair, class_="pair") if pair else element("p", not_measured()),
        folded(
            "The numbers",
            table(("layer", "estimator", "α", "log-odds (nats)", "coherence"), rows, "numbers"),
        )
        if rows
        else None,
    )


def _dose_response(results: Mapping[str, Any]) -> Markup:
    doses, control = _rows(results, "dose_response"), _rows(results, "control")
    prompted = _mapping(results, "prompted")
    levels = {polarity: _mapping(prompted, polarity) or None for polarity, _ in _POLARITIES}
    coherent_range = _range(results.get("coherent_range"))
    floor = number(results.get("coherence_floor"))
    drawn: list[Content] = []
    if _any_number([*doses, *control], "log_odds"):
        drawn.append(
            page.chart(
                charts.dose_response(doses, control, levels, coherent_range),
                "Log-odds by coefficient",
                "Bars and bands are 95% intervals. Open markers are doses that were not coherent. "
                "Random directions have the norm of the vector and stand a little apart sideways.",
            )
        )
    if _any_number([*doses, *control], "coherence"):
        drawn.append(
            page.chart(
                charts.dose_coherence(doses, control, floor, coherent_range),
                "Coherence by coefficient",
            )
        )
    reached = [
        (f"{word} system prompt alone", _estimate(levels[polarity] or {}, "log_odds", sign=True))
        for polarity, word in _POLARITIES
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
        element(
            "p",
            "Coherent range: ",
            f"α from {signed(coherent_range[0])} to {signed(coherent_range[1])}"
            if coherent_range
            else not_measured(),
            ".",
        ),
        *(drawn or [element("p", not_measured())]),
        table(("without steering", "log-odds (nats)"), reached, "numbers"),
        _dose_table(doses, control),
    )


def _dose_table(
    doses: Sequence[Mapping[str, Any]], control: Sequence[Mapping[str, Any]]
) -> Markup | None:
    rows: list[Sequence[Content]] = [
        *(
            (
                "persona vector",
                _signed(row.get("coefficient")),
                _fixed(row.get("relative_dose"), 2),
                _estimate(row, "log_odds", sign=True),
                _estimate(row, "coherence", "coherence_low", "coherence_high", digits=1),
                _fixed(row.get("n"), 0),
            )
            for row in doses
        ),
        *(
            (
                charts.direction_name(row),
                _signed(row.get("coefficient")),
                "",
                _estimate(row, "log_odds", sign=True),
                _fixed(row.get("coherence"), 1),
                "",
            )
            for row in control
        ),
    ]
    head = ("direction", "α", "relative dose", "log-odds (nats)", "coherence", "n")
    return folded("The numbers", table(head, rows, "numbers")) if rows else None


def _wrong_way(results: Mapping[str, Any]) -> Markup:
    wrong = _mapping(results, "wrong_way")
    share, low, high = (number(wrong.get(name)) for name in ("share", "low", "high"))
    between = _range(wrong.get("coefficients"))
    stated = [f"{share:.0%}"] if share is not None else [not_measured()]
    if share is not None and low is not None and high is not None:
        stated.append(element("small", f" of questions, 95% interval {low:.0%} to {high:.0%}"))
    return section(
        "Wrong-way share",
        "wrong-way",
        element(
            "p",
            "The share of evaluation questions on which steering moves the answer away from the "
            "trait instead of toward it"
            + (f", from α = {signed(between[0])} to α = {signed(between[1])}." if between else "."),
        ),
        element("p", *stated, class_="figure" if share is not None else None),
    )


def _reliability(results: Mapping[str, Any]) -> Markup:
    measures = (
        (
            "split-half cosine",
            "split_half_cosine",
            "cosine of two vectors, each made from half of the questions",
        ),
        (
            "question agreement",
            "question_agreement",
            "mean cosine of one question’s difference with the vector of the others",
        ),
        (
            "held-out AUC",
            "separability_auc",
            "how well projections tell positive from negative rollouts; 0.5 is chance",
        ),
    )
    rows = [
        (name, _estimate(_mapping(results, field), "value"), meaning)
        for name, field, meaning in measures
    ]
    return section(
        "Reliability",
        "reliability",
        element("p", "Would other questions have given the same vector? With 95% intervals."),
        table(("measure", "value", "meaning"), rows, "measures"),
    )


def _vector_size(results: Mapping[str, Any]) -> Markup:
    sizes = _sequence(results, "relative_norm")
    measured = any(number(size) is not None for size in sizes)
    return section(
        "Vector size per layer",
        "vector-size",
        element(
            "p",
            "How long the vector is beside a typical activation. At α = 1 this is the relative "
            "dose of steering at that layer.",
        ),
        _massive(_mapping(results, "massive"), str(results.get("estimator") or "mean")),
        page.chart(
            charts.relative_norm(sizes, _whole(results.get("layer"))),
            "Relative size by layer",
            "Layer 0 is the embedding.",
        )
        if measured
        else element("p", not_measured()),
    )


def _massive(massive: Mapping[str, Any], estimator: str) -> Markup:
    share = number(massive.get("share"))
    if share is None:
        return element("p", not_measured("Massive activations"), ".")
    known = {name: _whole(massive.get(name)) for name in ("coordinate", "layer")}
    where = ", ".join(f"{name} {at}" for name, at in known.items() if at is not None) or "unnamed"
    if massive.get("warning") is not True:
        return element(
            "p", f"No single coordinate dominates: the largest share is {share:.1%} ({where})."
        )
    return element(
        "div",
        element(
            "p",
            element("strong", "Massive activation. "),
            f"One coordinate alone holds {share:.0%} of the squared norm of the difference of "
            f"means ({where}). That direction may follow the coordinate rather than the trait",
            "; prefer another layer, or compare with --estimator both."
            if estimator == "mean"
            else [
                ". The vector in use is the logistic direction, of which no coordinate holds more "
                "than ",
                _percent(massive.get("share_in_use")),
                ".",
            ],
        ),
        class_="note",
    )


def _transcripts(results: Mapping[str, Any]) -> Markup:
    rows = _rows(results, "transcripts")
    return section(
        "Transcripts",
        "transcripts",
        element(
            "p",
            "The same evaluation questions, steered away from the trait, unsteered and steered "
            "toward it.",
        ),
        *(_transcript(row, open_=index < _OPEN_TRANSCRIPTS) for index, row in enumerate(rows)),
        None if rows else element("p", not_measured()),
    )


def _transcript(row: Mapping[str, Any], *, open_: bool) -> Markup:
    answers = sorted(
        _rows(row, "answers"), key=lambda answer: number(answer.get("coefficient")) or 0
    )
    prompted = _mapping(row, "prompted")
    alone = [
        _answer(f"{word} system prompt alone", None, prompted.get(polarity), "")
        for polarity, word in _POLARITIES
    ]
    question = row.get("question")
    return element(
        "details",
        element("summary", question if isinstance(question, str) else "(no question)"),
        element("div", *(_steered(answer) for answer in answers), class_="answers")
        if answers
        else element("p", not_measured()),
        folded("Without steering, under system prompts", element("div", *alone, class_="answers"))
        if prompted
        else None,
        class_="transcript",
        open=open_,
    )


def _steered(answer: Mapping[str, Any]) -> Markup:
    coefficient = number(answer.get("coefficient"))
    scores = [
        "log-odds ",
        _signed(answer.get("log_odds")),
        ", coherence ",
        _fixed(answer.get("coherence"), 0),
    ]
    if coefficient is None:
        return _answer("α not recorded", scores, answer.get("response"), "")
    side = "below" if coefficient < 0 else "above" if coefficient > 0 else ""
    title = f"α = {signed(coefficient)}" if coefficient else "α = 0, unsteered"
    return _answer(title, scores, answer.get("response"), side)


def _answer(title: str, scores: Content, response: object, side: str) -> Markup:
    """One answer; an empty response is a response, None is a missing one."""
    if not isinstance(response, str):
        text = element("p", not_measured())
    elif not response.strip():
        text = element("p", element("span", "(empty response)", class_="missing"))
    else:
        text = element("p", response, class_="response", dir="auto")
    return element(
        "div",
        element("h3", title),
        element("p", scores, class_="scores") if scores else None,
        text,
        class_=f"answer {side}".strip(),
    )


def _mapping(values: Mapping[str, Any], key: str) -> Mapping[str, Any]:
    value = values.get(key)
    return value if isinstance(value, Mapping) else {}


def _sequence(values: Mapping[str, Any], key: str) -> Sequence[Any]:
    value = values.get(key)
    return value if isinstance(value, list | tuple) else ()


def _rows(values: Mapping[str, Any], key: str) -> list[Mapping[str, Any]]:
    return [row for row in _sequence(values, key) if isinstance(row, Mapping)]


def _any_number(rows: Sequence[Mapping[str, Any]], field: str) -> bool:
    return any(
        number(row.get(field)) is not None and number(row.get("coefficient")) is not None
        for row in rows
    )


def _whole(value: object) -> int | None:
    known = number(value)
    return None if known is None else int(known)


def _range(value: object) -> tuple[float, float] | None:
    if not isinstance(value, list | tuple) or len(value) != 2:
        return None
    low, high = number(value[0]), number(value[1])
    return None if low is None or high is None else (low, high)


def _code(value: object) -> Markup:
    if value is None:
        return element("span", "not recorded", class_="missing")
    return element("code", str(value))


def _count(values: Mapping[str, Any], key: str) -> Content:
    return _fixed(values.get(key), 0)


def _fixed(value: object, digits: int) -> Markup:
    known = number(value)
    if known is None:
        return not_measured()
    return page.markup(f"{known:.{digits}f}".replace("-", "−"))


def _signed(value: object) -> Markup:
    known = number(value)
    return not_measured() if known is None else page.markup(signed(known))


def _percent(value: object) -> Markup:
    known = number(value)
    return not_measured() if known is None else page.markup(f"{known:.1%}")


def _estimate(
    row: Mapping[str, Any],
    field: str,
    low: str = "low",
    high: str = "high",
    *,
    digits: int = 2,
    sign: bool = False,
) -> Markup:
    """A value with its interval, which is named as missing where it is."""
    value, bounds = number(row.get(field)), (number(row.get(low)), number(row.get(high)))
    if value is None:
        return not_measured()
    plus = "+" if sign else ""
    text = f"{value:{plus}.{digits}f}"
    if bounds[0] is None or bounds[1] is None:
        return page.markup([text.replace("-", "−"), " ", not_measured("interval")])
    text += f" [{bounds[0]:{plus}.{digits}f}, {bounds[1]:{plus}.{digits}f}]"
    return page.markup(text.replace("-", "−"))
