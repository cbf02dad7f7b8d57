"""Put mistakes into worked arithmetic, and check that the outcome is wrong.

A worked answer marks its steps as GSM8K does: `48/2 = <<48/2=24>>24 clips`, the calculation between
the brackets and its result after them, and ends with `#### 72`. A mistake is made in a step's
result and carried through the steps that use it, so that the rest follows from it. The flawed
answer is then parsed again and its steps are recomputed, to verify that it is wrong. No model is
involved.
"""

from __future__ import annotations

import ast
import operator
import random
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from fractions import Fraction
from itertools import pairwise
from typing import Literal

from personavec.errors import DataError

#: One slip in one step, or a wrong result in every step.
Flaw = Literal["subtle", "gross"]

_STEP = re.compile(r"<<([^<>]*)=([^<>=]*)>>\s*(\d[\d,]*(?:\.\d+)?|\.\d+)")
_NUMERAL = re.compile(r"(?<![\w.,])(?:\d[\d,]*\d|\d)?(?:\.\d+)?(?![\w]|[.,]\d)")
_FINAL = re.compile(r"\n?####\s*\$?(\d[\d,]*(?:\.\d+)?)\s*$")
#: Results are written with two decimals; a step is right if it is off by at most 0.01.
_ROUNDING = Fraction(1, 100)
#: A gross mistake is off by at least this share of the right result.
_GROSS = Fraction(1, 4)
_TRIES = 20

_OPERATIONS: dict[type[ast.operator], Callable[[Fraction, Fraction], Fraction]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
}
#: The operation that a careless solver uses instead.
_MISTAKEN: dict[type[ast.operator], ast.operator] = {
    ast.Add: ast.Mult(),
    ast.Sub: ast.Add(),
    ast.Mult: ast.Add(),
    ast.Div: ast.Mult(),
}


@dataclass(frozen=True)
class Step:
    """One calculation of a worked answer, and the text before it."""

    before: str
    expression: str
    result: Fraction

    def is_right(self) -> bool:
        """Whether the stated result equals the computed one, to two decimals."""
        return abs(evaluate(self.expression) - self.result) <= _ROUNDING


@dataclass(frozen=True)
class Worked:
    """A worked answer: its steps, the text after the last one, and the final number."""

    steps: tuple[Step, ...]
    rest: str
    final: Fraction

    def mistakes(self) -> int:
        """How many steps are wrong when they are recomputed."""
        return sum(not step.is_right() for step in self.steps)

    def marked(self) -> str:
        """The answer as `parse` reads it."""
        steps = (
            f"{s.before}<<{s.expression}={number(s.result)}>>{number(s.result)}" for s in self.steps
        )
        return f"{''.join(steps)}{self.rest}\n#### {number(self.final)}"

    def text(self) -> str:
        """The answer as a person would write it, without marks."""
        steps = "".join(f"{step.before}{number(step.result)}" for step in self.steps)
        return f"{steps}{self.rest}\nThe answer is {number(self.final)}."


def parse(answer: str) -> Worked:
    """Parse a worked answer into its steps.

    Raises DataError when it has no steps, when a step cannot be computed, or when the final number
    is not the result of the last step.
    """
    end = _FINAL.search(answer)
    if end is None:
        raise DataError("no final number after ####")
    body, steps, at = answer[: end.start()], [], 0
    for found in _STEP.finditer(body):
        expression, result = found[1].strip(), _value(found[3])
        evaluate(expression)
        steps.append(Step(body[at : found.start()], expression, result))
        at = found.end()
    if not steps:
        raise DataError("no step marked as <<48/2=24>>24")
    final = _value(end[1])
    if final != steps[-1].result:
        raise DataError("the final number is not the last step's result")
    return Worked(tuple(steps), body[at:], final)


def flawed(worked: Worked, flaw: Flaw, rng: random.Random) -> Worked:
    """The same answer with mistakes: one step with a slip, or every step grossly wrong.

    When recomputed, a subtle answer has exactly one wrong step, a gross answer has no right step,
    and in both the final number has changed. Raises DataError when the given answer is already
    wrong, or when no such mistake could be made.
    """
    if worked.mistakes():
        raise DataError("the answer that should be right is wrong already")
    for _ in range(_TRIES):
        made = _with_mistakes(worked, flaw, rng)
        if min(step.result for step in made.steps) <= 0:  # not plausible
            continue
        found = parse(made.marked())
        wanted = 1 if flaw == "subtle" else len(found.steps)
        if found.mistakes() == wanted and abs(found.final - worked.final) > _ROUNDING:
            return found
    raise DataError(f"no {flaw} mistake could be made that changes the final number")


def evaluate(expression: str) -> Fraction:
    """The exact value of plain arithmetic: numbers, + - * / and brackets. Raises DataError."""
    try:
        return _compute(ast.parse(expression.replace(",", ""), mode="eval").body)
    except (SyntaxError, ZeroDivisionError, _NotArithmetic):
        raise DataError(f"'{expression}' is not plain arithmetic") from None


def number(value: Fraction) -> str:
    """A number as people write it, with at most two decimals."""
    rounded = round(value, 2)
    if rounded.denominator == 1:
        return str(rounded.numerator)
    return f"{float(rounded):.2f}".rstrip("0")


class _NotArithmetic(Exception):
    pass


def _compute(node: ast.expr) -> Fraction:
    if isinstance(node, ast.BinOp) and type(node.op) in _OPERATIONS:
        return _OPERATIONS[type(node.op)](_compute(node.left), _compute(node.right))
    if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub):
        return -_compute(node.operand)
    if isinstance(node, ast.Constant) and type(node.value) in (int, float):
        return Fraction(str(node.value))
    raise _NotArithmetic


def _value(numeral: str) -> Fraction:
    return Fraction(numeral.replace(",", ""))


def _with_mistakes(worked: Worked, flaw: Flaw, rng: random.Random) -> Worked:
    chosen = rng.randrange(len(worked.steps))
    # Maps each right result to the wrong one that replaces it.
    instead: dict[Fraction, Fraction] = {}
    steps = []
    for place, step in enumerate(worked.steps):
        before, expression = _replaced(step.before, instead), _replaced(step.expression, instead)
        result = round(evaluate(expression), 2)
        if flaw == "gross":
            result = _gross(expression, result)
        elif place == chosen:
            result = _slip(result, rng)
        instead[step.result] = result
        steps.append(Step(before, expression, result))
    return Worked(tuple(steps), _replaced(worked.rest, instead), steps[-1].result)


def _replaced(text: str, instead: Mapping[Fraction, Fraction]) -> str:
    """The text with right results replaced by the wrong ones in `instead`."""

    def one(found: re.Match[str]) -> str:
        other = instead.get(_value(found[0])) if found[0] else None
        return found[0] if other is None else number(other)

    return _NUMERAL.sub(one, text)


def _slip(value: Fraction, rng: random.Random) -> Fraction:
    """A result with one slip: a digit that is off by one or two, or two digits swapped."""
    digits = number(value)
    unit = Fraction(1, 10 ** len(digits.partition(".")[2]))
    options = [value + sign * n * unit for sign in (1, -1) for n in (1, 2)]
    if value >= 100 * unit:
        options += [value + 10 * unit, value - 10 * unit]
    for i, (a, b) in enumerate(pairwise(digits)):
        if a != b and "." not in (a, b) and (i or b != "0"):
            options.append(Fraction(digits[:i] + b + a + digits[i + 2 :]))
    return rng.choice([o for o in options if o > 0 and o != value] or [value + unit])


def _gross(expression: str, value: Fraction) -> Fraction:
    """The result of a wrong last operation, or ten times the value if that is too close to it."""
    tree = ast.parse(expression.replace(",", ""), mode="eval").body
    if isinstance(tree, ast.BinOp):
        tree.op = _MISTAKEN[type(tree.op)]
        mistaken = round(_compute(tree), 2)
        if mistaken > 0 and abs(mistaken - value) > max(_GROSS * abs(value), _ROUNDING):
            return mistaken
    return 10 * value if value > 0 else 10 - value
