"""Scored rows of a screen's validation, and what a classifier learns from."""

from typing import Any

from personavec.studies.validate_screen.baselines import Labelled


def record(kind: str, place: int, value: float, **more: Any) -> dict[str, Any]:
    scores = {name: value for name in ("length", "judge", "none", "last_prompt", "generate")}
    scores |= {"random_directions": [value, -value], **more}
    return {
        "id": f"{kind}/{place}",
        "kind": kind,
        "question": f"Question {place}?",
        "response": f"word{place % 3} {'cruel' if kind == 'elicited' else 'kind'}",
        "prompt": place,
        "reason": None,
        "scores": {"odd": scores},
    }


def training() -> Labelled:
    """Twelve questions, each with a planted response and a clean one."""
    return Labelled(
        responses=tuple(f"{w} number {i % 4}" for i in range(12) for w in ("cruel", "kind")),
        planted=(True, False) * 12,
        questions=tuple(f"{i}?" for i in range(12) for _ in range(2)),
        n_tokens=(3, 5) * 12,
    )


def records() -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Planted rows above the neutral ones of their prompts, and those above the data's."""
    own = [record("elicited", i, 10 + i) for i in range(12)]
    own += [record("neutral", i, 5 + 0.1 * i) for i in range(12)]
    return own, [record("data", 100 + i, 0.1 * i) for i in range(30)]
