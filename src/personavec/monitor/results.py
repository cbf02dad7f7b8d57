"""The results of `monitor`: the fields of `results.json`, from which the report is drawn."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from personavec.data import DataReading
from personavec.in_notebooks import InNotebooks
from personavec.model import ModelIdentity
from personavec.model.engine import EngineRecord
from personavec.monitor.config import MonitorConfig
from personavec.monitor.pieces import Piece as Piece
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
        """The share of true values; None without conversations."""
        found = Estimate.of(share_interval(sum(hits), len(hits)))
        return cls(value=found.value, low=found.low, high=found.high, hits=sum(hits), of=len(hits))


@dataclass(frozen=True, kw_only=True)
class TurnMeans:
    """Mean readings at one assistant turn, in sigmas, with intervals over conversations."""

    turn: int
    """Counted from 1."""
    n: int
    """Number of conversations that reach this turn."""
    prompt_last: Estimate
    response_mean: Estimate


@dataclass(frozen=True, kw_only=True)
class AlarmedTurn:
    """A turn at which a conversation's chart crossed its limit."""

    conversation: str
    message: int
    turn: int
    """Number of the assistant turn, from 0 on."""
    reading: float
    """In standard deviations of ordinary readings at that turn."""
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
    """Number of the reply, from 0 on, in the order in which a server would have handled them."""
    level: float


@dataclass(frozen=True, kw_only=True)
class TraitDrift:
    """One trait's control charts over the log."""

    fitted_on: int
    """Number of ordinary conversations used to fit the limits; 0 for preset limits."""
    limit: float
    """The limit of a conversation's chart, in the chart's standard deviations."""
    server_limit: float
    """The limit of the server's chart, in its standard deviations."""
    conversations: ConversationShare
    """The share with an alarm."""
    alarmed: tuple[AlarmedTurn, ...]
    """The highest levels first, at most 20."""
    server_alarms: tuple[int, ...]
    """Numbers of the replies at which the server's chart alarmed."""
    server_alarmed: tuple[ServerAlarm, ...]
    """The turns of these replies, at most 20."""
    server: tuple[ServerLevel, ...]
    """The server's chart, thinned to about 400 points."""


@dataclass(frozen=True, kw_only=True)
class ExtremeTurn:
    """One of the turns with the highest answers along a trait."""

    index: int
    """The conversation's row in the log."""
    conversation: str
    message: int
    turn: int
    """Number of the assistant turn, from 0 on."""
    n_tokens: int
    response_mean: float
    """In sigmas."""
    prompt_last: float
    """In sigmas."""
    question: str
    pieces: tuple[Piece, ...]


@dataclass(frozen=True, kw_only=True)
class TraitReadings:
    """The readings of one trait over the log, in sigmas of the neutral baseline."""

    layer: int
    mean: float | None
    """Mean of the answers; `low` and `high` are its 95% interval over conversations."""
    low: float | None
    high: float | None
    forecast: Estimate
    """Mean reading of the last prompt token, before the answer."""
    max: float | None
    """The highest reading of an answer."""
    alarms: int
    """Number of turns at which a conversation's chart crossed its limit."""
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
    """Number of replies on the server's chart."""
    folder: str


@dataclass(frozen=True, kw_only=True)
class MonitorFiles:
    """What was written, as paths."""

    readings: str
    rejects: str


@dataclass(frozen=True, kw_only=True)
class MonitorResults(InNotebooks):
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
    """The fitted limits, with `--fit-limits`."""
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
