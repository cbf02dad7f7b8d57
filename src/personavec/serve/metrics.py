"""The metrics of `/metrics`, in Prometheus' text format."""

from __future__ import annotations

from collections.abc import Mapping

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

_SECONDS = (0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120)


class Metrics:
    """The metrics of one server, in its own registry."""

    def __init__(self) -> None:
        registry = self._registry = CollectorRegistry()
        self.requests = Counter(
            "personavec_requests", "HTTP requests.", ["route", "status"], registry=registry
        )
        self.tokens = Counter(
            "personavec_tokens", "Tokens of prompts and replies.", ["kind"], registry=registry
        )
        self.replies = Counter(
            "personavec_replies", "Replies by why they ended.", ["end"], registry=registry
        )
        self.control_strings = Counter(
            "personavec_control_strings",
            "Requests whose messages hold strings that look like control tokens; read as text.",
            registry=registry,
        )
        self.first_token = Histogram(
            "personavec_first_token_seconds",
            "From a request's arrival to its first token.",
            buckets=_SECONDS,
            registry=registry,
        )
        self.seconds = Histogram(
            "personavec_reply_seconds",
            "From a request's arrival to its end.",
            buckets=_SECONDS,
            registry=registry,
        )
        self.running = Gauge("personavec_running", "Replies being written.", registry=registry)
        self.waiting = Gauge("personavec_waiting", "Replies in the queue.", registry=registry)
        self.guards = Counter(
            "personavec_guards", "Guards that acted.", ["trait", "did"], registry=registry
        )
        self.alarms = Counter(
            "personavec_drift_alarms", "Drift alarms.", ["trait", "scope"], registry=registry
        )
        self.level = Gauge(
            "personavec_drift_level",
            "Level of the server's drift chart, in its standard deviations.",
            ["trait"],
            registry=registry,
        )

    def text(self, *, running: int, waiting: int, levels: Mapping[str, float]) -> bytes:
        self.running.set(running)
        self.waiting.set(waiting)
        for trait, level in levels.items():
            self.level.labels(trait).set(level)
        return generate_latest(self._registry)
