"""Whether screening finds what it should, in words: headline of the report, end of the command."""

from __future__ import annotations

from collections.abc import Iterable

from personavec.results import Estimate
from personavec.studies.validate_screen.results import StyleDetection, ValidateScreenResults
from personavec.wording import capitalised, estimated, joined

#: The rows of either style, as reports and tables call them.
STYLES = {"elicited": "rows elicited from the model", "written": "rows written by people"}
#: Methods that need no vector.
BASELINES = ("length", "tfidf", "judge")


def conclusion(results: ValidateScreenResults) -> str:
    """How well the exact difference finds planted rows, and whether something simpler does too."""
    said = [
        each
        for style, found in results.styles.items()
        if found is not None
        for each in _style(results, style, found)
    ]
    return " ".join(f"{capitalised(each)}." for each in said or ["nothing was measured"])


def screened(results: ValidateScreenResults) -> str:
    """The key of the method that a screen is judged by: the exact difference at its best."""
    return "averaged" if "averaged" in results.methods else "generate"


def _style(results: ValidateScreenResults, style: str, found: StyleDetection) -> Iterable[str]:
    method = screened(results)
    own = found.methods[method]["auc"]
    if own.value is None or own.low is None:
        yield f"{STYLES[style]} were not measured"
        return
    yield (
        f"{results.methods[method]} finds {STYLES[style]} with AUC {estimated(own)}"
        + _chance(own)
        + _random(found, own)
    )
    better = [
        f"{results.methods[key]} ({found.methods[key]['auc'].value:.2f})"
        for key in BASELINES
        if (found.methods[key]["auc"].value or 0.0) >= own.value
    ]
    if better:
        verb = "finds" if len(better) == 1 else "find"
        yield f"without a vector, {joined(better)} {verb} them as well or better"


def _chance(own: Estimate) -> str:
    if own.high is not None and own.high < 0.5:
        return ", worse than chance"
    return "" if own.low is not None and own.low > 0.5 else ", which may be chance"


def _random(found: StyleDetection, own: Estimate) -> str:
    other = found.methods["random_directions"]["auc"].value
    if other is None or own.value is None or own.value > other:
        return ""
    return "; random directions do as well: no evidence for the vectors"
