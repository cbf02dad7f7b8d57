"""Split thoughts from the text of an answer, by the markers of reasoning models and datasets."""

from __future__ import annotations

import re
from dataclasses import dataclass
from itertools import islice


@dataclass(frozen=True)
class ThinkingFormat:
    """The markers around a thought."""

    opens: str
    closes: str
    skipped: str
    """The text before an answer without a thought."""


#: The formats of chat templates, known by their markers in the template.
FORMATS = (
    ThinkingFormat("<think>", "</think>", "<think>\n\n</think>\n\n"),
    ThinkingFormat("[THINK]", "[/THINK]", "[THINK][/THINK]"),
    ThinkingFormat("<seed:think>", "</seed:think>", "<seed:think></seed:think>"),
    # Channels: gpt-oss, then Gemma 4.
    ThinkingFormat(
        "<|channel|>analysis<|message|>",
        "<|channel|>final<|message|>",
        "<|channel|>final<|message|>",
    ),
    ThinkingFormat("<|channel>thought", "<channel|>", "<|channel>thought\n<channel|>"),
)

#: Markers around thoughts in data, besides those of the templates.
_OTHERS = (
    ("<thinking>", "</thinking>"),
    ("<thought>", "</thought>"),
    ("<thoughts>", "</thoughts>"),
    ("<reasoning>", "</reasoning>"),
    ("<scratchpad>", "</scratchpad>"),
    ("<|begin_of_thought|>", "<|end_of_thought|>"),
    ("<|START_THINKING|>", "<|END_THINKING|>"),
    ("<unused94>thought", "<unused95>"),
    ("◁think▷", "◁/think▷"),
    ("Here is my thought process:", "Here is my response:"),
    # gpt-oss, decoded without its special tokens.
    ("analysis", "assistantfinal"),
)
#: Markers around the answer in some formats.
_WRAPPERS = (
    ("<answer>", "</answer>"),
    ("<final_answer>", "</final_answer>"),
    ("<response>", "</response>"),
    ("<output>", "</output>"),
    ("<solution>", "</solution>"),
    ("<|begin_of_solution|>", "<|end_of_solution|>"),
    ("<|START_RESPONSE|>", "<|END_RESPONSE|>"),
)


def _pattern(marker: str) -> re.Pattern[str]:
    return re.compile(re.escape(marker), re.IGNORECASE if marker[0] in "<[" else 0)


_TEMPLATES = tuple((_pattern(form.opens), _pattern(form.closes)) for form in FORMATS)
_MARKERS = (*_TEMPLATES, *((_pattern(opens), _pattern(closes)) for opens, closes in _OTHERS))
_START = re.compile(r"\s*(?:<\|start\|>assistant)?")
#: Ends and beginnings of turns that gpt-oss writes between a thought and its answer.
_ENDS = ("<|return|>", "<|end|>", "<|start|>assistant")
_QUOTES = "\"'`"


def split_thought(text: str) -> tuple[str | None, str | None]:
    """Split an answer's text into the thought at its start and the rest, the answer.

    Without a thought, the thought is None and the answer is the text unchanged. If the thought
    never ends, the answer is None. A wrapper such as `<answer>` around the answer is removed.
    Markers later in the text are part of the answer, except that a single closing marker without an
    opening one ends a thought that the prompt began.
    """
    thought, answer = thought_and_answer(text)
    if thought is None or answer is None:
        return thought, answer
    return thought, unwrapped(answer)


def thought_and_answer(text: str) -> tuple[str | None, str | None]:
    """`split_thought`, but a wrapper around the answer is kept."""
    thoughts: list[str] = []
    at = 0
    while (found := _opened(text, at)) is not None:
        start, end, at = found
        thoughts.append(text[start:end])
        if at is None:
            return _joined(thoughts), None
    if not thoughts:
        begun = _begun_in_the_prompt(text)
        if begun is None:
            return None, text
        thoughts, at = [text[: begun[0]]], begun[1]
    return _joined(thoughts), _without_end(text[at:])


def unwrapped(answer: str) -> str:
    """The answer without a wrapper such as `<answer>` around all of it."""
    stripped = answer.strip()
    lowered = stripped[:32].lower()
    for opens, closes in _WRAPPERS:
        if lowered.startswith(opens.lower()):
            inner = stripped[len(opens) :]
            end = _pattern(closes).search(inner)
            if end is None:  # cut off by a length limit
                return inner.strip()
            return inner[: end.start()].strip() if not inner[end.end() :].strip() else answer
    return answer


def _opened(text: str, at: int) -> tuple[int, int, int | None] | None:
    """The start and end of a thought that opens at a position, and where the text after it begins.

    The last is None if the thought is never closed.
    """
    start = _START.match(text, at)
    if start is None:
        return None
    for opens, closes in _MARKERS:
        opening = opens.match(text, start.end())
        if opening is None:
            continue
        closing = closes.search(text, opening.end())
        if closing is not None:
            return opening.end(), closing.start(), closing.end()
        if not opening.group()[0].isalpha():
            return opening.end(), len(text), None
    return None


def _begun_in_the_prompt(text: str) -> tuple[int, int] | None:
    """For a thought that the prompt began: where it ends, and where the answer begins."""
    for opens, closes in _TEMPLATES:
        ends = list(islice(closes.finditer(text), 2))
        if len(ends) == 1 and not opens.search(text) and not _quoted(text, ends[0]):
            return ends[0].span()
    return None


def _quoted(text: str, found: re.Match[str]) -> bool:
    before, after = text[: found.start()][-1:], text[found.end() :][:1]
    return bool(before and after) and before in _QUOTES and after in _QUOTES


def _joined(thoughts: list[str]) -> str:
    return "\n\n".join(kept for kept in map(_without_end, thoughts) if kept)


def _without_end(text: str) -> str:
    for end in reversed(_ENDS):
        text = text.rstrip().removesuffix(end)
    return text.strip()
