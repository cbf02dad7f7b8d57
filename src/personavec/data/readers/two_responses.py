"""Rows with two responses and a column that says which is better."""

from __future__ import annotations

from typing import Any

from personavec.data.fields import Fields, Unusable, decoded
from personavec.data.message_lists.lists import read_messages
from personavec.data.readers.beside import add_system
from personavec.data.readers.columns import TWO
from personavec.data.readers.found import Found
from personavec.data.readers.pairs import both_sides, pair_in

_TIE = "a tie: neither of the two responses is the better"
_STRENGTHS = ("overall_preference", "preference_strength")


def two_responses(fields: Fields) -> Found | None:
    """The pair of two responses; a third column says which is better."""
    for first, second in TWO:
        if fields.has(first) and fields.has(second):
            better = _better(fields, first, second)
            names = (first, second) if better == 0 else (second, first)
            return _pair_of_lists(fields, *names) or pair_in(fields, *names)
    return None


def _pair_of_lists(fields: Fields, chosen: str, rejected: str) -> Found | None:
    """Prompts and responses of several turns as JSON lists of texts, as LMSYS published them."""
    lists = [decoded(fields.get(name)) for name in ("prompt", chosen, rejected)]
    if not all(isinstance(texts, list) and texts for texts in lists):
        return None
    if len({len(texts) for texts in lists}) > 1 or not all(
        isinstance(text, str) for texts in lists for text in texts
    ):
        return None
    sides = []
    for answers in lists[1:]:
        turns = [list(turn) for turn in zip(lists[0], answers, strict=True)]
        sides.append(read_messages(turns, "prompt"))
    for name in ("prompt", chosen, rejected):
        fields.use(name)
    add_system(fields, *sides)
    return both_sides(fields, sides, chosen, rejected)


def _better(fields: Fields, first: str, second: str) -> int:
    """Which of two columns is the better. Raises Unusable for a tie, or if nothing says so."""
    better = _better_by_number(fields, first)
    if better is None:
        better = _better_by_name(fields, first, second)
    if better is not None:
        return better
    if _preference(fields) == 0:
        raise Unusable(_TIE)
    raise Unusable(
        f"two responses, and no column says which is the better; choose with --columns "
        f"chosen={fields.own(first)},rejected={fields.own(second)}"
    )


def _preference(fields: Fields) -> Any:
    """The signed strength of the preference: positive if the second response is better."""
    strength = fields.first(*_STRENGTHS)
    return fields.get(strength) if strength else None


def _better_by_number(fields: Fields, first: str) -> int | None:
    """The place of the better response by a column of numbers. Raises Unusable for a tie."""
    for name in ("winner_model_a", "winner_model_b"):
        if fields.get(name) == 1:
            return int(name.endswith("b"))
    if fields.get("winner_tie") == 1:
        raise Unusable(_TIE)
    strength, preference = fields.first(*_STRENGTHS), _preference(fields)
    if strength and isinstance(preference, (int, float)) and preference:
        fields.use(strength)
        return int(preference > 0)
    if first == "human_ref_A" and fields.get("labels") in (0, 1):
        fields.use("labels")
        return 1 - int(fields.get("labels"))
    return None


def _better_by_name(fields: Fields, first: str, second: str) -> int | None:
    """The place of the response that a column names. Raises Unusable for a tie."""
    ends = [name.lower()[-1] for name in (first, second)]
    for name in ("better_response_id", "winner", "preference", "preferred", "better", "choice"):
        value = fields.get(name)
        if value in (0, 1, 2) and not isinstance(value, bool):
            value = str(int(value))
        if not isinstance(value, str):
            continue
        named = value.strip().lower()
        fields.use(name)
        for place, own in enumerate((first, second)):
            end = ends[place]
            if named in (own.lower(), end, f"model_{end}", f"response_{end}"):
                return place
        if "tie" in named or "both" in named:
            raise Unusable(_TIE)
    return None
