"""The report of an extraction: one HTML file, drawn from its saved results alone."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar, cast

from markupsafe import Markup
from pydantic import TypeAdapter, ValidationError

from personavec.extract import charts, report_opening, report_run, report_steering
from personavec.extract.report_opening import STATES
from personavec.extract.report_use import use
from personavec.extract.results import (
    DoseResponse,
    ExtractResults,
    MassiveActivation,
    ValidationCheck,
    ValidationVerdict,
)
from personavec.report import (
    Content,
    code,
    element,
    estimate,
    figure,
    not_measured,
    page,
    reading_section,
    section,
    table,
)
from personavec.results import Estimate
from personavec.traits import Polarity
from personavec.vectors import STABLE, TELLS_APART, Estimator, verdict_of
from personavec.wording import plural, with_minus

T = TypeVar("T")


def write_extraction_report(results: ExtractResults, path: Path) -> None:
    """Write the report of one extraction; a value that is missing is shown as not measured."""
    reliability = (
        ("split-half cosine", results.split_half_cosine),
        ("question agreement", results.question_agreement),
        ("held-out AUC", results.separability_auc),
    )
    page.write(
        path,
        f"{results.trait.name}: persona vector in {results.model.name}",
        _heading(
            results.trait.name,
            results.trait.description,
            results.model.name,
            results.layer,
        ),
        report_opening.opened(results),
        _verdict(results.verdict),
        use(results, path.parent),
        report_run.rollouts_kept(results),
        report_run.trait_scores(results),
        report_steering.layer_sweep(results),
        report_steering.dose_response(
            results.dose_response,
            results.control,
            results.prompted,
            results.coherent_range,
            results.coherence_floor,
            curve=False,
        ),
        report_steering.wrong_way(results.wrong_way),
        _reliability(dict(reliability)),
        _vector_size(results),
        report_steering.transcripts(results.transcripts),
        reading_section(results.data),
        report_run.what_was_done(results),
    )


def vector_report(trait: str, layer: int, meta: Mapping[str, Any]) -> str:
    """The page of a vector whose extraction's results are not at hand, from its `vector.json`.

    Anything in `meta` that is not what an extraction writes is shown as not measured.
    """
    model = _as(_StoredModel, meta.get("model")) or _StoredModel()
    kept = _as(dict[Polarity, int], meta.get("kept")) or {}
    verdict = verdict_of(meta)
    facts: list[Sequence[Content]] = [
        ("model", code(model.name)),
        ("revision", code(model.revision)),
        ("trait spec", code(_as(str, meta.get("spec_hash")))),
        ("selected layer", str(layer)),
        (
            "rollouts kept",
            [
                *(figure(kept.get("pos"), "d"), " positive, "),
                *(figure(kept.get("neg"), "d"), " negative"),
            ],
        ),
        ("verdict", verdict.words if verdict else not_measured()),
    ]
    name = model.name or "unnamed model"
    note = (
        "This page shows what is stored with the vector. Its extraction's own report has "
        "the rollouts, the layer sweep and the control beside it."
    )
    doses = _as(tuple[DoseResponse, ...], meta.get("dose_response")) or ()
    return page.document(
        f"{trait}: persona vector in {name}",
        _heading(trait, _as(str, meta.get("description")) or "", name, layer, [note]),
        section("Where it comes from", "origin", table((), facts, "facts")),
        report_steering.dose_response(
            doses, (), {}, _as(tuple[float, float], meta.get("coherent_range")), None
        ),
        _reliability(
            {
                "split-half cosine": _as(Estimate, meta.get("split_half_cosine")),
                "question agreement": None,
                "held-out AUC": _as(Estimate, meta.get("separability_auc")),
            }
        ),
    )


@dataclass(frozen=True)
class _StoredModel:
    """What the page of a vector shows of its model."""

    name: str | None = None
    revision: str | None = None


def _as(kind: Callable[..., T], value: object) -> T | None:
    """The value as a type, None where it is not one."""
    adapter: TypeAdapter[T] = TypeAdapter(cast("Any", kind))
    try:
        return adapter.validate_python(value)
    except ValidationError:
        return None


def _heading(
    trait: str, description: str, model: str, layer: int, notes: Sequence[str] = ()
) -> Markup:
    return page.heading(
        "Persona vector: extraction",
        trait,
        element("p", description, class_="description") if description else None,
        element("p", f"in {model}, layer {layer}", class_="model"),
        notes=notes,
    )


def _verdict(verdict: ValidationVerdict) -> Markup:
    found = Counter(check.verdict for check in verdict.checks)
    rest = [f"{found[each]} {each}" for each in STATES if found[each] and each != "passed"]
    counts = f"{found['passed']} of {plural(len(verdict.checks), 'check')} passed"
    _, style = STATES[verdict.verdict]
    words = verdict.words
    line = element("p", f"{words[0].upper()}{words[1:]}.", class_=f"verdict {style}")
    of = element("p", f"{', '.join([counts, *rest])}.")
    checks = element("ul", *map(_check, verdict.checks), class_="checks")
    return section("Verdict", "verdict", line, of, checks)


def _check(check: ValidationCheck) -> Markup:
    mark, style = STATES[check.verdict]
    state = element("span", f"{mark} {check.verdict}", class_=f"state {style}")
    detail = element("span", with_minus(check.detail), class_="detail")
    return element("li", state, element("span", check.said, detail))


_MEASURES = {
    "split-half cosine": "cosine of two vectors, each made from half of the questions",
    "question agreement": "mean cosine of one question’s difference with the vector of the others",
    "held-out AUC": "how well projections tell positive from negative rollouts; 0.5 is chance",
}


def _reliability(found: Mapping[str, Estimate | None]) -> Markup:
    rows = [(name, estimate(found[name] or Estimate()), _MEASURES[name]) for name in _MEASURES]
    return section(
        "Reliability",
        "reliability",
        element(
            "p",
            "Would other questions have given the same vector? With 95% intervals; that of the "
            f"split-half cosine must lie above {STABLE.bound:g}, that of the AUC above "
            f"{TELLS_APART.bound:g}.",
        ),
        table(("measure", "value", "meaning"), rows, "measures"),
    )


def _vector_size(results: ExtractResults) -> Markup:
    sizes = results.relative_norm
    return section(
        "Vector size per layer",
        "vector-size",
        element(
            "p",
            "How long the vector is beside a typical activation. At α = 1 this is the relative "
            "dose of steering at that layer.",
        ),
        _massive(results.massive, results.estimator),
        page.chart(
            charts.relative_norm(sizes, results.layer),
            "Relative size by layer",
            "Layer 0 is the embedding.",
        )
        if any(size is not None for size in sizes)
        else element("p", not_measured()),
    )


def _massive(massive: MassiveActivation, estimator: Estimator) -> Markup:
    if massive.share is None:
        return element("p", not_measured("Massive activations"), ".")
    where = f"coordinate {massive.coordinate}, layer {massive.layer}"
    if not massive.warning:
        return element(
            "p",
            f"No single coordinate dominates: the largest share is {massive.share:.1%} ({where}).",
        )
    return element(
        "div",
        element(
            "p",
            element("strong", "Massive activation. "),
            f"One coordinate alone holds {massive.share:.0%} of the squared norm of the difference "
            f"of means ({where}). That direction may follow the coordinate rather than the trait",
            "; prefer another layer, or compare with --estimator both."
            if estimator == "mean"
            else [
                f". The vector in use is the {estimator} direction, of which no coordinate holds "
                "more than ",
                figure(massive.share_in_use, ".1%"),
                ".",
            ],
        ),
        class_="note",
    )
