"""The state of a client's request while it runs, with its replies so far."""

from __future__ import annotations

import asyncio
import secrets
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal, NamedTuple, NotRequired, TypedDict

from torch import Tensor

from personavec.data import Message
from personavec.model.engine import DecodeJob, End
from personavec.serve.actions import ActionRecord, Applied
from personavec.serve.guards import GuardedRow, GuardRecord
from personavec.serve.text import TextStream
from personavec.serve.watch import AlarmRecord

#: The route of a request, chat or plain completions.
Kind = Literal["chat", "completion"]

_REASONS: dict[End, str] = {"stop": "stop", "length": "length", "refused": "content_filter"}


class ReplyToken(NamedTuple):
    """A token with its log-probabilities and its position in the reply's text."""

    token: int
    logprob: float
    top: tuple[tuple[int, float], ...]
    """The most likely tokens at this position, each with its log-probability."""
    offset: int
    """Where the token begins in the text, in characters."""


@dataclass(eq=False)
class ReplyChoice:
    """One reply to a request, while it is written."""

    index: int
    prompt: int
    """Index of the prompt that it answers."""
    job: DecodeJob
    stream: TextStream
    guard: GuardedRow | None
    messages: Sequence[Message] = ()
    ids: list[int] = field(default_factory=list)
    tokens: list[ReplyToken] = field(default_factory=list)
    """The tokens so far, if log-probabilities were requested."""
    end: End | None = None
    closed: bool = False
    """Whether its last batch has arrived."""
    cut: str = ""
    """Why the server ended it early, for the metrics: `left` or `timeout`."""
    projections: Tensor | None = None
    """Projections [1 + token, direction] of the last prompt token and every response token."""

    @property
    def finish_reason(self) -> str | None:
        """OpenAI's reason for its end; None while it runs, and if it failed."""
        if self.end is None or self.end == "failed":
            return None
        return "stop" if self.stream.stopped else _REASONS[self.end]


class ChoiceReadings(TypedDict):
    """The entry of one reply in the field `personavec`."""

    index: int
    readings: list[dict[str, object]]
    """The fields of `TurnReading` for each requested trait."""
    guards: list[GuardRecord]
    alarms: list[AlarmRecord]
    tokens: NotRequired[list[str]]
    """The texts of the answer's tokens."""


class PersonavecField(TypedDict):
    """The field `personavec` of a reply, or of a stream's last chunk."""

    actions: list[ActionRecord]
    notes: list[str]
    control_strings: bool
    choices: list[ChoiceReadings]


@dataclass(eq=False)
class ReplyRequest:
    """A validated request. `queued` and the later fields change while it runs."""

    kind: Kind
    applied: list[Applied]
    """The requested steering and caps."""
    traits: tuple[str, ...]
    """The traits whose readings were requested."""
    read_tokens: bool
    """Whether the reply includes the projection of every token."""
    prompt_tokens: int
    stream: bool
    include_usage: bool
    choices: list[ReplyChoice] = field(default_factory=list)
    notes: tuple[str, ...] = ()
    """How the messages were changed so that the template could write them."""
    control_strings: bool = False
    """Whether the messages hold strings that look like control tokens."""
    id: str = field(default_factory=lambda: secrets.token_hex(12))
    created: int = field(default_factory=lambda: int(time.time()))
    """Unix time, in seconds."""
    began: float = field(default_factory=time.monotonic)
    queued: bool = False
    released: bool = False
    concluding: asyncio.Task[PersonavecField] | None = None
