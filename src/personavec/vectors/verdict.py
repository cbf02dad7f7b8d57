"""Whether a vector can be relied on, as its `vector.json` says it. Loads no torch."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from importlib import resources
from typing import Any, Literal, TypeAlias, get_args

#: Of a check; not decided where its interval is too wide.
Verdict: TypeAlias = Literal["passed", "failed", "not decided"]


@dataclass(frozen=True)
class ReliabilityCheck:
    """A figure of a vector whose whole 95% interval must lie above a bound."""

    figure: str
    """Its field in results and in `vector.json`."""
    name: str
    bound: float

    def verdict(self, low: float | None, high: float | None) -> Verdict:
        """By the ends of the figure's interval; None for one that was not measured."""
        if low is not None and low > self.bound:
            return "passed"
        return "failed" if high is not None and high < self.bound else "not decided"


STABLE = ReliabilityCheck(
    "split_half_cosine", "either half of the questions gives the same direction", 0.6
)
TELLS_APART = ReliabilityCheck(
    "separability_auc", "projections tell held-out responses apart", 0.75
)
#: Of steering, in files that name no checks.
STEERS = "steering with it"
#: By a check's name: what it means for whoever uses the vector that it failed, and that it is not
#: decided.
MEANINGS = {
    "coherent over a range on both sides of 0": (
        "answers lose their coherence before the trait moves",
        "answers may lose their coherence next to 0 already",
    ),
    "dose-response rises, as far as its intervals tell": (
        "log-odds do not rise with the dose",
        "log-odds may not rise steadily with the dose",
    ),
    "beyond every random direction's interval at the positive end": (
        "toward the trait a random direction moves as far: no evidence that the vector carries it",
        "toward the trait a random direction may move as far",
    ),
    "beyond every random direction's interval at the negative end": (
        "away from the trait a random direction moves as far: no evidence that the vector "
        "carries it",
        "away from the trait a random direction may move as far",
    ),
    STABLE.name: (
        "other questions give another direction",
        "other questions may give another direction",
    ),
    TELLS_APART.name: (
        "projections do not tell answers that show the trait from those that do not",
        "projections may not tell answers that show the trait from those that do not",
    ),
    STEERS: ("steering with it does not work", "steering with it may not work"),
}


def said_check(name: str, verdict: Verdict) -> str:
    """What a check found, so that it cannot be read as its opposite: its name only if it passed."""
    if verdict == "passed":
        return name
    unknown = (f"the check '{name}' failed", f"the check '{name}' is not decided")
    failed, undecided = MEANINGS.get(name, unknown)
    return failed if verdict == "failed" else undecided


@dataclass(frozen=True)
class StoredVerdict:
    """The verdict on a vector, and the checks that it rests on if it is not passed."""

    value: Verdict
    checks: tuple[str, ...] = ()

    @property
    def reasons(self) -> list[str]:
        """What each of these checks found."""
        return [said_check(name, self.value) for name in self.checks]

    @property
    def words(self) -> str:
        """As reports, commands and the page print it."""
        return ": ".join([self.value, *filter(None, ["; ".join(self.reasons)])])

    @classmethod
    def of(cls, checks: Iterable[tuple[str, Verdict]]) -> StoredVerdict:
        """Failed where a check failed, else not decided where one is not, else passed."""
        checks = list(checks)
        found = {verdict for _, verdict in checks}
        open_one: Verdict = "not decided" if "not decided" in found else "passed"
        value: Verdict = "failed" if "failed" in found else open_one
        return cls(value, tuple(name for name, each in checks if each == value != "passed"))


def verdict_of(meta: Mapping[str, Any]) -> StoredVerdict | None:
    """The verdict in what a `vector.json` holds; None where it says none.

    Files of versions in which a verdict was of steering alone are held to both reliability checks
    as well, by the figures that they hold.
    """
    stored = _stored(meta)
    if stored is None:
        return None
    return StoredVerdict.of(_checks(meta.get("checks")) or _checks_of_earlier(stored, meta))


def _stored(meta: Mapping[str, Any]) -> Verdict | None:
    found = meta.get("verdict")
    if found is None and isinstance(passed := meta.get("passed"), bool):
        # As files said it before a verdict could be left open.
        found = "passed" if passed else "failed"
    return found if found in get_args(Verdict) else None


def _checks(found: object) -> list[tuple[str, Verdict]]:
    """The checks in a `vector.json`, by name; none if they are not all well formed."""
    if not isinstance(found, dict) or any(each not in get_args(Verdict) for each in found.values()):
        return []
    return list(found.items())


def _checks_of_earlier(stored: Verdict, meta: Mapping[str, Any]) -> list[tuple[str, Verdict]]:
    steering: list[tuple[str, Verdict]] = [(STEERS, stored)]
    return [*steering, *((check.name, _reliable(check, meta)) for check in (STABLE, TELLS_APART))]


def _reliable(check: ReliabilityCheck, meta: Mapping[str, Any]) -> Verdict:
    found = meta.get(check.figure)
    ends = [found.get(end) if isinstance(found, dict) else None for end in ("low", "high")]
    low, high = (end if isinstance(end, int | float) else None for end in ends)
    return check.verdict(low, high)


def bundled_verdicts() -> dict[str, str | None]:
    """The verdicts on the bundled vectors in words, by trait; None for one without."""
    folder = resources.files("personavec") / "bundled" / "vectors"
    vectors = sorted((p for p in folder.iterdir() if p.is_dir()), key=lambda p: p.name)
    found = {
        vector.name: verdict_of(json.loads((vector / "vector.json").read_text("utf-8")))
        for vector in vectors
    }
    return {name: verdict and verdict.words for name, verdict in found.items()}
