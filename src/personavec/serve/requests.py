"""A client's request while it runs: its replies, and what is known of them so far."""

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

#: Which of OpenAI's two routes a request came by.
Kind = Literal["chat", "completion"]

_REASONS: dict[End, str] = {"stop": "stop", "length": "length", "refused": "content_filter"}


class ReplyToken(NamedTuple):
    """A token with its log-probabilities, and where in the reply's text it begins."""

    token: int
    logprob: float
    top: tuple[tuple[int, float], ...]
    """The likeliest tokens at this place, each with its log-probability."""
    offset: int
    """In characters."""


@dataclass(eq=False)
class ReplyChoice:
    """One reply to a request, while it is written."""

    index: int
    prompt: int
    """Index of the request's prompt that it answers."""
    job: DecodeJob
    stream: TextStream
    guard: GuardedRow | None
    messages: Sequence[Message] = ()
    ids: list[int] = field(default_factory=list)
    tokens: list[ReplyToken] = field(default_factory=list)
    """The tokens so far, where log-probabilities were asked for."""
    end: End | None = None
    closed: bool = False
    """Whether its last batch has come: it has ended, or failed."""
    cut: str = ""
    """In the metrics, why the server ended it: `left` or `timeout`."""
    projections: Tensor | None = None
    """[1 + token, direction]: of the last prompt token, then of every response token."""

    @property
    def finish_reason(self) -> str | None:
        """OpenAI's name for why it ended; None while it runs, and when it failed."""
        if self.end is None or self.end == "failed":
            return None
        return "stop" if self.stream.stopped else _REASONS[self.end]


class ChoiceReadings(TypedDict):
    """What `personavec` says of one reply."""

    index: int
    readings: list[dict[str, object]]
    """The fields of `TurnReading`, for each trait that was asked for."""
    guards: list[GuardRecord]
    alarms: list[AlarmRecord]
    tokens: NotRequired[list[str]]
    """The texts of the tokens that were read."""


class PersonavecField(TypedDict):
    """The field `personavec` of a reply, or of a stream's last chunk."""

    actions: list[ActionRecord]
    notes: list[str]
    control_strings: bool
    choices: list[ChoiceReadings]


@dataclass(eq=False)
class ReplyRequest:
    """A validated request. `queued` and what follows change while it runs."""

    kind: Kind
    applied: list[Applied]
    """The steering and caps that it asked for."""
    traits: tuple[str, ...]
    """The traits whose readings it asked for."""
    read_tokens: bool
    """Whether every token's projection comes back too."""
    prompt_tokens: int
    stream: bool
    include_usage: bool
    choices: list[ReplyChoice] = field(default_factory=list)
    notes: tuple[str, ...] = ()
    """What was done to the messages so that the template could write them."""
    control_strings: bool = False
    """Whether the messages hold strings that look like control tokens."""
    id: str = field(default_factory=lambda: secrets.token_hex(12))
    created: int = field(default_factory=lambda: int(time.time()))
    """Unix time, in seconds."""
    began: float = field(default_factory=time.monotonic)
    queued: bool = False
    released: bool = False
    concluding: asyncio.Task[PersonavecField] | None = None
