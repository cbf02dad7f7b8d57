"""What monitoring a log found: the fields of `results.json`, which the report is drawn from."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from personavec.data import DataReading
from personavec.model import ModelIdentity
from personavec.model.engine import EngineRecord
from personavec.monitor.config import MonitorConfig
from personavec.results import Dump, Estimate, dump
from personavec.stats import share_interval
from personavec.vectors import Calibration


@dataclass(frozen=True, kw_only=True)
class ConversationShare:
    """A share of conversations, 0 to 1, with its exact 95% interval."""

    value: float | None
    low: float | None
    high: float | None
    hits: int
    of: int

    @classmethod
    def counted(cls, hits: list[bool]) -> ConversationShare:
        """The share of true ones; of no conversations there is none."""
        found = Estimate.of(share_interval(sum(hits), len(hits)))
        return cls(value=found.value, low=found.low, high=found.high, hits=sum(hits), of=len(hits))


@dataclass(frozen=True, kw_only=True)
class TurnMeans:
    """Mean readings at one assistant turn, in sigmas, with intervals over conversations."""

    turn: int
    """Counted from 1."""
    n: int
    """Conversations that reach it."""
    prompt_last: Estimate
    response_mean: Estimate


@dataclass(frozen=True, kw_only=True)
class AlarmedTurn:
    """A turn at which a conversation's chart crossed its limit."""

    conversation: str
    message: int
    turn: int
    """Of the assistant, counted from 0."""
    reading: float
    """In standard deviations of what is ordinary at that turn."""
    level: float
    """The chart's average, in its own standard deviations."""


@dataclass(frozen=True, kw_only=True)
class ServerAlarm:
    """A turn at which the server's chart crossed its limit."""

    conversation: str
    message: int


@dataclass(frozen=True, kw_only=True)
class ServerLevel:
    """A point of the server's chart."""

    reply: int
    """Counted from 0, in the order in which a server would have met the replies."""
    level: float


@dataclass(frozen=True, kw_only=True)
class TraitDrift:
    """One trait's control charts over the log."""

    fitted_on: int
    """Ordinary conversations that the limits were fitted on; 0 where they are set."""
    limit: float
    """Of a conversation's chart, in its own standard deviations."""
    server_limit: float
    conversations: ConversationShare
    """Those with an alarm."""
    alarmed: tuple[AlarmedTurn, ...]
    """The highest levels first, at most 20."""
    server_alarms: tuple[int, ...]
    """Replies at which the server's chart alarmed."""
    server_alarmed: tuple[ServerAlarm, ...]
    """Their turns, at most 20."""
    server: tuple[ServerLevel, ...]
    """The server's chart, thinned to about 400 points."""


@dataclass(frozen=True, kw_only=True)
class Piece:
    """A token, or several that only together make a character."""

    text: str
    sigma: float
    """Mean projection of its tokens, in sigmas of the neutral baseline."""


@dataclass(frozen=True, kw_only=True)
class ExtremeTurn:
    """One of the turns whose answers stand highest along a trait."""

    index: int
    """Of the conversation's row in the log."""
    conversation: str
    message: int
    turn: int
    """Of the assistant, counted from 0."""
    n_tokens: int
    response_mean: float
    """In sigmas."""
    prompt_last: float
    """In sigmas."""
    question: str
    pieces: tuple[Piece, ...]


@dataclass(frozen=True, kw_only=True)
class TraitReadings:
    """What a log's readings say of one trait, in sigmas of the neutral baseline."""

    layer: int
    mean: float | None
    """Of the answers; `low` and `high` are its 95% interval over conversations."""
    low: float | None
    high: float | None
    forecast: Estimate
    """Mean reading before the answers, of the last prompt token."""
    max: float | None
    """The highest answer."""
    alarms: int
    """Turns at which a conversation's chart crossed its limit."""
    by_turn: tuple[TurnMeans, ...]
    drift: TraitDrift
    extremes: tuple[ExtremeTurn, ...]

    @property
    def answers(self) -> Estimate:
        """The mean of the answers with its interval."""
        return Estimate(self.mean, self.low, self.high)


@dataclass(frozen=True, kw_only=True)
class FittedLimits:
    """Drift limits fitted on the conversations of even rows, tested on those of odd rows."""

    fitted_on: int
    tested_on: int
    any: ConversationShare
    """Tested conversations with a false alarm of any trait."""
    traits: dict[str, ConversationShare]
    """The same by trait."""
    server_alarms: dict[str, int]
    """False alarms of the server's chart, by trait."""
    server_turns: int
    """Replies that it met."""
    folder: str


@dataclass(frozen=True, kw_only=True)
class MonitorFiles:
    """What was written, as paths."""

    readings: str
    rejects: str


@dataclass(frozen=True, kw_only=True)
class MonitorResults:
    """Everything that monitoring a log found."""

    format: int = 1
    log: str
    out: str
    turns: int
    conversations: int
    rejected: int
    """Rows that hold no conversation to read."""
    traits: dict[str, TraitReadings]
    limits: FittedLimits | None
    """Where the log was taken for ordinary."""
    data: dict[str, DataReading]
    """How the log was read, by its name."""
    notes: tuple[str, ...]
    files: MonitorFiles
    model: ModelIdentity
    engine: EngineRecord
    settings: MonitorConfig
    versions: dict[str, str]
    seconds: float


def summarised(results: MonitorResults) -> Dump:
    """The object that `monitor --json` prints."""
    found = dump(results)
    kept = ("layer", "mean", "low", "high", "max", "alarms")
    traits = {name: {key: own[key] for key in kept} for name, own in found["traits"].items()}
    printed = ("format", "turns", "conversations", "rejected", "limits", "data", "out")
    return {key: found[key] for key in printed} | {"traits": traits}


def summarised_calibration(found: Calibration, folder: Path) -> Dump:
    """The object that `calibrate --json` prints; `folder` is where it was written."""
    record = dump(found)
    kept = ("correlations", "coverage", "fitted_on", "tested_on", "unscored", "notes")
    return {
        **{name: record[name] for name in ("trait", "layer", "unit", "slope", "intercept")},
        "interval": [found.below, found.above],
        **{name: record["results"][name] for name in kept},
        "out": str(folder),
    }
