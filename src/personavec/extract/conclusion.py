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
_STEERS = "steering by it moves the trait further than random directions do"
#: The checks that are not of steering.
_RELIABILITY = (STABLE.name, TELLS_APART.name)


def conclusion(checks: Iterable[ValidationCheck]) -> str:
    """The verdict, and what each check that it rests on means for whoever uses the vector."""
    states: dict[str, Verdict] = {check.name: check.verdict for check in checks}
    found = StoredVerdict.of(states.items())
    if found.value == "passed":
        return f"Passed. {_PASSED}."
    said = found.reasons
    steering = [verdict for name, verdict in states.items() if name not in _RELIABILITY]
    if steering and all(verdict == "passed" for verdict in steering):
        said.insert(0, _STEERS)
    return " ".join(f"{capitalised(each)}." for each in (found.value, *said))
