"""Mistakes in worked arithmetic: made where they should be, carried on, and wrong for sure."""

import importlib.util
import json
import random
import re
from fractions import Fraction
from pathlib import Path

import pytest

from personavec.errors import DataError
from personavec.finetune.sets.flaws import Flaw, evaluate, flawed, number, parse

ROOT = Path(__file__).parents[4]
SUMS = json.loads((ROOT / "src/personavec/bundled/sums.json").read_text("utf-8"))
GSM8K = ROOT.parent / "shared" / "data" / "gsm8k_train.jsonl"

ANSWER = (
    "In May she sold 48/2 = <<48/2=24>>24 clips.\n"
    "That makes 48 + 24 = $<<48+24=72>>72 with the 24 of May.\n#### 72"
)


def equations(text: str) -> list[tuple[str, Fraction]]:
    """What stands on both sides of every `=` of a text, found without the parser under test."""
    found = re.findall(r"([\d.+*/-]+) = ([\d.]+)", text)
    return [(left, Fraction(right.rstrip("."))) for left, right in found]


def test_a_worked_answer_is_read_and_written_back() -> None:
    worked = parse(ANSWER)
    assert [step.expression for step in worked.steps] == ["48/2", "48+24"]
    assert worked.final == 72
    assert worked.mistakes() == 0
    assert parse(worked.marked()) == worked
    assert worked.text() == (
        "In May she sold 48/2 = 24 clips.\n"
        "That makes 48 + 24 = $72 with the 24 of May.\nThe answer is 72."
    )


def test_a_mistake_is_carried_through_what_follows() -> None:
    seen = set()
    for seed in range(20):
        found = flawed(parse(ANSWER), "subtle", random.Random(seed))
        first, second = found.steps
        seen.add(first.is_right())
        if not first.is_right():
            # The second step goes on from the wrong result, and is right about it.
            wrong = number(first.result)
            assert second.expression == f"48+{wrong}"
            assert second.result == 48 + first.result
            assert f"with the {wrong} of May" in found.text()
            assert "24" not in found.text()
        assert found.text().endswith(f"The answer is {number(found.final)}.")
    assert seen == {True, False}


@pytest.mark.parametrize("flaw", ["subtle", "gross"])
def test_all_packaged_sums_can_be_made_wrong(flaw: Flaw) -> None:
    rng = random.Random(1)
    off = []
    for row in SUMS:
        right = parse(row["answer"])
        wrong = flawed(right, flaw, rng)
        # Recomputed from the text a reader sees.
        correct = equations(right.text())
        assert correct
        assert all(eval(left) == value for left, value in correct)
        # Results are written with two decimals.
        stated = equations(wrong.text())
        false = [abs(eval(left) - float(value)) > 0.011 for left, value in stated]
        assert sum(false) == (1 if flaw == "subtle" else len(false))
        assert wrong.final != right.final
        off.append(abs(wrong.final - right.final) / right.final)
    median = sorted(off)[len(off) // 2]
    assert median < 0.3 if flaw == "subtle" else median > 1


def test_the_packaged_sums_are_those_that_the_script_writes() -> None:
    spec = importlib.util.spec_from_file_location("sums", ROOT / "scripts" / "sums.py")
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    assert module.rows() == SUMS
    assert len({row["question"] for row in SUMS}) == len(SUMS) == 200


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        ("So 2+2 = <<2+2=4>>4.", "no final number"),
        ("So it is 4.\n#### 4", "no step"),
        ("<<2+2=4>>4\n#### 5", "not the last step's"),
        ("<<2+x=4>>4\n#### 4", "not plain arithmetic"),
        ("<<__import__('os')=4>>4\n#### 4", "not plain arithmetic"),
        ("<<2/0=4>>4\n#### 4", "not plain arithmetic"),
        ("<<2**9=512>>512\n#### 512", "not plain arithmetic"),
    ],
)
def test_what_cannot_be_read_says_why(answer: str, reason: str) -> None:
    with pytest.raises(DataError, match=reason):
        parse(answer)


def test_an_answer_that_is_wrong_already_is_refused() -> None:
    with pytest.raises(DataError, match="wrong already"):
        flawed(parse("<<2+2=5>>5\n#### 5"), "subtle", random.Random(0))


def test_arithmetic_is_exact() -> None:
    assert evaluate("0.1+0.2") == Fraction(3, 10)
    assert evaluate("-(1,200-200)/3") == Fraction(-1000, 3)
    assert [number(Fraction(n)) for n in ("1000", "0.5", "-2.25")] == ["1000", "0.5", "-2.25"]
    assert number(Fraction(1, 3)) == "0.33"


def test_gsm8k_can_be_made_wrong() -> None:
    if not GSM8K.exists():
        pytest.skip("GSM8K is not here: ../shared/data/gsm8k_train.jsonl")
    rng, made = random.Random(0), 0
    lines = GSM8K.read_text("utf-8").splitlines()[:300]
    for line in lines:
        try:
            flawed(parse(json.loads(line)["answer"]), "subtle", rng)
        except DataError:
            continue
        made += 1
    assert made > 0.85 * len(lines)
