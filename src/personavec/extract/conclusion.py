"""What an extraction says of its vector, in words: headline of the report, end of the command."""

from __future__ import annotations

from collections.abc import Iterable

from personavec.extract.results import ValidationCheck
from personavec.vectors import STABLE, TELLS_APART, StoredVerdict, Verdict
from personavec.wording import capitalised

_PASSED = (
    "Steering by this vector moves the trait further than random directions do, and other "
    "questions would have given nearly the same vector"
)
#: What it means that a check failed, and that it is not decided.
_MEANING = {
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
}

_STEERS = "steering by it moves the trait further than random directions do"
#: The checks of steering alone.
_STEERING = [name for name in _MEANING if name not in (STABLE.name, TELLS_APART.name)]


def conclusion(checks: Iterable[ValidationCheck]) -> str:
    """The verdict, and what each check that it rests on means for whoever uses the vector."""
    states: dict[str, Verdict] = {check.name: check.verdict for check in checks}
    found = StoredVerdict.of(states.items())
    if found.value == "passed":
        return f"Passed. {_PASSED}."
    undecided = found.value == "not decided"
    said = [_MEANING[r][undecided] if r in _MEANING else r for r in found.reasons]
    if all(states.get(name) == "passed" for name in _STEERING):
        said.insert(0, _STEERS)
    return " ".join(f"{capitalised(each)}." for each in (found.value, *said))
