"""What an extraction says of its vector: every check has its meaning in words."""

from dataclasses import replace

import pytest

from personavec.extract.conclusion import conclusion
from personavec.extract.results import SteeredDose
from personavec.extract.verdict import Reliability, verdict
from personavec.results import Estimate
from personavec.vectors import STABLE, TELLS_APART, Verdict
from personavec.vectors.verdict import MEANINGS, STEERS

MISSING = dict.fromkeys(("log_odds", "low", "high", "coherence", "coherence_low", "coherence_high"))
UNMEASURED = SteeredDose(layer=1, coefficient=0.0, **MISSING, coherent=False, n=0, empty=0)
RELIABILITY = Reliability(Estimate(), Estimate(), 0)
CHECKS = verdict([UNMEASURED], [], (0.0, 0.0), RELIABILITY).checks


def test_every_check_of_a_verdict_has_its_meaning() -> None:
    assert [*(check.name for check in CHECKS), STEERS] == [*MEANINGS]


@pytest.mark.parametrize("index", range(len(CHECKS)))
@pytest.mark.parametrize("state", ["failed", "not decided"])
def test_the_conclusion_names_what_a_check_leaves_unsafe(index: int, state: Verdict) -> None:
    checks = [replace(check, verdict="passed") for check in CHECKS]
    assert conclusion(checks).startswith("Passed. Steering by this vector")
    checks[index] = replace(checks[index], verdict=state)
    said = conclusion(checks)
    meaning = MEANINGS[checks[index].name][state == "not decided"]
    steers = "Steering by it moves the trait further than random directions do. "
    before = steers if CHECKS[index].name in (STABLE.name, TELLS_APART.name) else ""
    assert said == f"{state.capitalize()}. {before}{meaning[0].upper()}{meaning[1:]}."


def test_a_check_of_another_version_is_named_as_it_is() -> None:
    other = replace(CHECKS[0], name="of another version", verdict="failed")
    assert conclusion([other]) == "Failed. The check 'of another version' failed."
