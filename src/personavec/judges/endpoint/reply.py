"""A chat completion, read in the many forms in which endpoints send it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, TypeAlias

from personavec.data import split_thought
from personavec.judges.endpoint.failures import is_filtered, shortened

#: A chat completion and its choices, as JSON.
Completion: TypeAlias = dict[str, Any]
Choice: TypeAlias = dict[str, Any]

#: Fields of a message that hold a thought beside its text.
_THOUGHTS = ("reasoning_content", "reasoning", "thinking")


@dataclass(frozen=True)
class Reply:
    """The outcome of one request: a chat completion, or the reason why there is none."""

    completion: Completion | None
    """The response as the endpoint wrote it."""
    why: str | None = None
    """The reason of a failure, in one line."""
    status: int | None = None
    """The HTTP status of a failure, if the endpoint sent one."""
    cached: bool = False
    doubtful: bool = False
    """The cause of the failure may affect all requests."""

    @property
    def choice(self) -> Choice:
        """The first choice; only of a request that was answered."""
        assert self.completion is not None
        return self.completion["choices"][0]

    @property
    def text(self) -> str:
        """The answer's text without the thought before it, empty if there is none; only of a
        request that was answered."""
        return split_thought(self._content())[1] or ""

    @property
    def thinks(self) -> bool:
        """Whether it thinks before it answers; only of a request that was answered."""
        return (
            any(self.choice["message"].get(name) for name in _THOUGHTS)
            or split_thought(self._content())[0] is not None
        )

    @property
    def thought(self) -> str | None:
        """The thought before the answer, from a field of its own or from the text."""
        fields = (self.choice["message"].get(name) for name in _THOUGHTS)
        beside = next((text for text in fields if text and isinstance(text, str)), None)
        return split_thought(self._content())[0] or beside

    @property
    def is_all_thought(self) -> bool:
        """Whether it ended before an answer began; only of a request that was answered."""
        inside = split_thought(self._content())[1] is None
        return inside or (self.thinks and not self._content())

    @property
    def refusal(self) -> str | None:
        """The endpoint's words if the model or a content filter declined to answer."""
        if self.completion is None:
            return self.why if is_filtered(self.status, self.why or "") else None
        message = self.choice["message"]
        said = [p.get("refusal") for p in _parts(message.get("content")) if isinstance(p, dict)]
        for refusal in (message.get("refusal"), *said):
            if refusal:
                return shortened(str(refusal))
        filtered = self.choice.get("finish_reason") == "content_filter"
        return "stopped by a content filter" if filtered else None

    def _content(self) -> str:
        found = []
        for part in _parts(self.choice["message"].get("content")):
            if isinstance(part, dict) and part.get("type") in (None, "text", "output_text"):
                part = part.get("text")
            found.append(part if isinstance(part, str) else "")
        return "".join(found)


def _parts(content: Any) -> list[Any]:
    """A message's content is a text, or a list of texts and other parts."""
    return content if isinstance(content, list) else [content]


def is_completion(found: Any) -> bool:
    """Whether JSON is a chat completion with a message."""
    try:
        return isinstance(found["choices"][0]["message"], dict)
    except (TypeError, KeyError, IndexError):
        return False
