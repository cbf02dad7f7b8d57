"""Cards: how vectors, readings and results show themselves in a notebook."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from markupsafe import Markup
from pydantic import TypeAdapter, ValidationError

from personavec.evaluate.conclusion import conclusion as evaluation_says
from personavec.evaluate.report import described
from personavec.evaluate.results import EvaluateResults
from personavec.evaluate.shift.conclusion import conclusion as shift_says
from personavec.evaluate.shift.results import ShiftResults
from personavec.extract.conclusion import conclusion as extraction_says
from personavec.extract.results import DoseResponse, ExtractResults
from personavec.monitor.conclusion import conclusion as monitoring_says
from personavec.monitor.pieces import Piece
from personavec.monitor.readings import Readings, TurnReading
from personavec.monitor.results import MonitorResults
from personavec.report import Content, element
from personavec.report.notebook import card, dose_chart, sigma, small_table, tokens
from personavec.results import Estimate
from personavec.screen.conclusion import conclusion as screening_says
from personavec.screen.results import ScreenResults
from personavec.studies.compare_mitigations.conclusion import conclusion as comparison_says
from personavec.studies.compare_mitigations.report import expression
from personavec.studies.compare_mitigations.results import CompareResults
from personavec.studies.validate_screen.conclusion import STYLES, conclusion as validation_says
from personavec.studies.validate_screen.results import ValidateScreenResults
from personavec.vectors import PersonaVector
from personavec.wording import capitalised, estimated, joined, plural, signed, with_minus

_DOSES: TypeAdapter[tuple[DoseResponse, ...]] = TypeAdapter(tuple[DoseResponse, ...])


def card_of(value: object) -> str:
    """The HTML of a value's card. Raises TypeError for what has none."""
    match value:
        case PersonaVector():
            return _vector(value)
        case Readings():
            return _readings(value)
        case ExtractResults():
            return _extraction(value)
        case EvaluateResults():
            return _evaluation(value)
        case ScreenResults():
            return _screen(value)
        case MonitorResults():
            return _monitoring(value)
        case ShiftResults():
            return _shift(value)
        case CompareResults():
            return _comparison(value)
        case ValidateScreenResults():
            return _validation(value)
    raise TypeError(f"{type(value).__name__} has no card")


def _vector(vector: PersonaVector) -> Markup:
    verdict = vector.verdict
    span = vector.coherent_range
    rows = [
        ("model", str(vector.meta.get("model", {}).get("name", "not recorded"))),
        ("selected layer", f"{vector.layer} of {vector.n_layers}"),
        ("norm there", f"{vector.relative_dose(1):.0%} of the residual stream's"),
        (
            "coherent coefficients",
            f"{signed(span[0])} to {signed(span[1])}" if span else "not measured",
        ),
    ]
    try:
        doses = _DOSES.validate_python(vector.meta.get("dose_response") or ())
    except ValidationError:
        doses = ()  # A file of other hands.
    return card(
        f"persona vector: {vector.trait}",
        f"{capitalised(verdict.words)}." if verdict else None,
        _chart(doses),
        small_table((), rows),
    )


def _extraction(results: ExtractResults) -> Markup:
    pos, neg = results.rollouts["pos"], results.rollouts["neg"]
    rows = [
        ("layer", f"{results.layer}, estimator {results.estimator}"),
        ("rollouts kept", f"{pos.kept} positive, {neg.kept} negative, of {pos.of} each"),
        ("split-half cosine", _estimated(results.split_half_cosine)),
        ("held-out AUC", _estimated(results.separability_auc)),
    ]
    return card(
        f"extraction: {results.trait.name} in {results.model.name}",
        extraction_says(results.verdict.checks),
        _chart(results.dose_response),
        small_table((), rows),
    )


def _evaluation(results: EvaluateResults) -> Markup:
    rows = [
        (
            f"{trait}, {who}",
            _estimated(of[trait].estimate("mean"), ".0f"),
            _estimated(of[trait].estimate("log_odds"), "+.1f"),
            f"{of[trait].n} of {of[trait].of}",
        )
        for trait in results.traits
        for who, of in results.measured_for("model", "other", ", cues")
    ]
    head = ("", "score", "log-odds", "scored")
    title = f"evaluation: {described(results)}"
    return card(title, evaluation_says(results), small_table(head, rows))


def _screen(results: ScreenResults) -> Markup:
    rows = []
    for name, trait in results.traits.items():
        own, at = trait.estimate, trait.sigma
        ends = (None if e is None or not at else e / at for e in (own.value, own.low, own.high))
        flagged = "no line" if trait.flagged is None else str(trait.flagged)
        rows.append((name, _estimated(Estimate(*ends), "+.2f"), flagged))
    head = ("trait", "mean difference, σ", "rows flagged")
    title = f"screen: {plural(results.rows, 'row')} for {results.model.name}"
    return card(title, screening_says(results), small_table(head, rows))


def _monitoring(results: MonitorResults) -> Markup:
    rows = [
        (name, sigma(own.answers.value), sigma(own.max), str(own.alarms))
        for name, own in results.traits.items()
    ]
    title = f"monitoring: {plural(results.conversations, 'conversation')}"
    head = ("trait", "mean answer", "highest", "alarms")
    return card(title, monitoring_says(results), small_table(head, rows))


def _shift(results: ShiftResults) -> Markup:
    rows = [
        (
            trait,
            _estimated((own.beyond_control or own).in_sigma, "+.2f"),
            f"±{own.random_largest / abs(own.shift) * abs(own.sigma):.2f}" if own.shift else "",
            *(_estimated(each, "+.1f") for each in own.expressed),
        )
        for trait, own in results.traits.items()
    ]
    moved = "shift beyond the control’s, σ" if results.control else "shift, σ"
    head = ("trait", moved, "random directions", "answers before", "after", "difference")
    title = f"shift: {results.tuned} beside {results.base.name}"
    return card(title, shift_says(results), small_table(head, rows))


def _comparison(results: CompareResults) -> Markup:
    rows = [
        (
            with_minus(name),
            *(_decided(each) for each in (arm.within_base, arm.learnt, arm.capable)),
            _estimated(expression(arm), "+.1f"),
        )
        for name, arm in results.arms.items()
    ]
    head = ("arm", "within base", "learnt", "capable", "expression")
    title = f"mitigations of {results.trait['name']} in {results.model.name}"
    return card(title, comparison_says(results), small_table(head, rows))


def _validation(results: ValidateScreenResults) -> Markup:
    styles = {style: found for style, found in results.styles.items() if found is not None}
    rows = [
        (title, *(_estimated(found.methods[method].get("auc")) for found in styles.values()))
        for method, title in results.methods.items()
    ]
    head = ("AUC of", *(STYLES[style] for style in styles))
    title = f"validation of screening: {joined(results.traits)} in {results.model.name}"
    return card(title, validation_says(results), small_table(head, rows))


def _decided(found: bool | None) -> str:
    return "not measured" if found is None else "yes" if found else "no"


def _readings(readings: Readings) -> Markup:
    """Every turn in order: what was asked, and the answer in the colours of each trait."""
    shown: list[Content] = []
    pieces = readings.pieces or [()] * len(readings)
    read = list(zip(readings, pieces, strict=True))
    for place, message in enumerate(readings.messages):
        own = [each for each in read if each[0].turn == place]
        if own:
            shown += [_turn(*each, str(message["content"])) for each in own]
        else:
            text = f"{message['role']}: {message['content']}"
            shown.append(element("div", text, style="margin-top: 8px; opacity: 0.75"))
    legend = (
        "Orange, underlined: toward the trait. Blue, dotted: away from it. σ of neutral prompts."
    )
    return card("conversation", None, *shown, element("div", element("small", legend)))


def _turn(reading: TurnReading, pieces: Sequence[Piece], text: str) -> Markup:
    return element(
        "div",
        element("strong", reading.trait),
        " ",
        sigma(reading.response_mean_sigma),
        " (before the answer ",
        sigma(reading.prompt_last_sigma),
        ") ",
        tokens((piece.text, piece.sigma) for piece in pieces) if pieces else text,
        style="margin: 2px 0; max-width: 60em",
    )


def _chart(doses: Iterable[DoseResponse]) -> Markup | None:
    return dose_chart([(d.coefficient, d.log_odds_estimate, d.coherent) for d in doses])


def _estimated(found: Estimate | None, form: str = ".2f") -> str:
    return estimated(found or Estimate(), form, missing="not measured")
