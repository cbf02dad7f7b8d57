"""What monitoring a log found, in words: headline of the report, end of the command."""

from __future__ import annotations

from collections.abc import Iterable

from personavec.monitor.results import FittedLimits, MonitorResults
from personavec.wording import capitalised, joined, plural


def conclusion(results: MonitorResults) -> str:
    """Which traits conversations drift toward; with fitted limits, how often these are wrong."""
    said = [*_drifts(results)]
    if results.limits is not None:
        said.append(_false_alarms(results.limits))
    return " ".join(f"{capitalised(each)}." for each in said)


def _drifts(results: MonitorResults) -> Iterable[str]:
    shares = {name: found.drift.conversations for name, found in results.traits.items()}
    ranked = sorted(shares.items(), key=lambda item: -item[1].hits)
    found = [f"{share.hits} toward {name}" for name, share in ranked if share.hits]
    calm = [name for name, share in ranked if not share.hits]
    if calm:
        found.append(f"none toward {joined(calm, 'or')}")
    of = max((share.of for share in shares.values()), default=0)
    yield f"alarms of drift in {plural(of, 'conversation')}: {', '.join(found)}"
    unfitted = [name for name, each in results.traits.items() if not each.drift.fitted_on]
    if unfitted:
        yield f"for {joined(unfitted)} no limit was fitted on ordinary conversations"


def _false_alarms(limits: FittedLimits) -> str:
    share = limits.any
    if share.value is None:
        return "false alarms of the fitted limits could not be counted"
    return (
        f"the limits fitted here raise a false alarm in {share.hits} of {share.of} other ordinary "
        f"conversations, {share.value:.1%} [{share.low:.1%}, {share.high:.1%}]"
    )
