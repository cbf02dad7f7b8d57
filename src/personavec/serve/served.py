"""The served model: a model with its vectors and the server's config."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from personavec.model import Directions, LoadedModel, Thought, split
from personavec.model.engine import VllmEngine, check_joinable
from personavec.monitor import Gauge, gauge
from personavec.serve.config import ServeConfig
from personavec.serve.guards import Guard, parse_guard
from personavec.serve.text import Vocabulary
from personavec.vectors import PersonaVector


@dataclass(frozen=True, eq=False)
class ServedModel:
    """A model, its vectors by trait, and the server's config."""

    loaded: LoadedModel
    vectors: Mapping[str, PersonaVector]
    config: ServeConfig
    context: int
    """Most tokens of a prompt and its reply together."""
    gauge: Gauge | None
    """The directions along which every reply is read; None without vectors."""
    guards: tuple[Guard, ...]
    vocabulary: Vocabulary

    @classmethod
    def of(
        cls,
        loaded: LoadedModel,
        vectors: Mapping[str, PersonaVector],
        config: ServeConfig,
        engine: VllmEngine | None,
    ) -> ServedModel:
        """The served model; without `engine`, the transformers model writes the replies.

        Raises VectorMismatchError for a vector of another shape, DataError for a vector without a
        baseline, UsageError for a wrong guard, and ModelError for a model that requests cannot join
        in a running batch.
        """
        found = gauge(list(vectors.values()), loaded) if vectors else None
        if engine is None:
            check_joinable(loaded.model.config)
        return cls(
            loaded=loaded,
            vectors=dict(vectors),
            config=config,
            context=loaded.context if engine is None else engine.context,
            gauge=found,
            guards=tuple(parse_guard(text, vectors) for text in config.guard),
            vocabulary=Vocabulary(loaded.tokenizer),
        )

    @property
    def name(self) -> str:
        """The model's name for clients."""
        return self.config.name or self.loaded.identity.name

    @property
    def directions(self) -> Directions | None:
        """The directions onto which every token is projected."""
        return self.gauge.directions if self.gauge else None

    def answer(self, text: str) -> str:
        """A reply's text without its thought, which clients do not send back."""
        form = self.loaded.chat.thinking
        return text if form is None else (split(text, form)[1] or text)

    def n_thinking(self, prompt: Sequence[int], ids: Sequence[int]) -> int:
        """The number of thought tokens at the beginning of a reply."""
        form = self.loaded.chat.thinking
        if form is None:
            return 0
        thought = Thought(form, self.loaded.chat.decode_marked, prompt)
        for n in range(1, len(ids) + 1):
            thought.read(ids[:n])
        return len(ids) if thought.unfinished(ids) else thought.start
