"""Readings of a conversation along persona vectors, for every assistant turn.

A turn has two readings (paper, section 3.3): the projection of the last prompt token, which
forecasts the response before it is written, and the mean projection of the response's tokens. Both
are given in units of the residual stream and in standard deviations of the vector's neutral
prompts. All vectors are read in one forward pass, which ends after the deepest of their layers.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from personavec.data import DataRow, split_thought
from personavec.errors import DataError, UsageError
from personavec.in_notebooks import InNotebooks
from personavec.model import Directions, Encoded, LoadedModel, Message, Text, Turn, encode
from personavec.model.engine import Engine, TransformersEngine
from personavec.monitor.pieces import Piece, pieces_of
from personavec.vectors import PersonaVector


@dataclass(frozen=True, eq=False)
class Gauge:
    """The traits' unit directions, with their neutral baselines, along which turns are read.

    A baseline [direction, (mean, spread)] has the mean and standard deviation of projections on
    neutral prompts.
    """

    traits: tuple[str, ...]
    directions: Directions
    prompt_last: Float[Tensor, "direction statistic"]
    response_mean: Float[Tensor, "direction statistic"]

    def response_sigmas(
        self, values: Float[Tensor, "token direction"]
    ) -> Float[Tensor, "token direction"]:
        """Projections of response tokens, in standard deviations of the neutral baseline."""
        return (values - self.response_mean[:, 0]) / self.response_mean[:, 1]


@dataclass(frozen=True)
class TurnReading:
    """The readings of one assistant turn along one trait, in units of the residual stream.

    A sigma is the same reading in standard deviations from the vector's neutral baseline. A reading
    is None if there are no tokens to read: for an empty response, or without thinking.
    """

    turn: int
    """Index of the message in the conversation, from 0 on."""
    trait: str
    layer: int
    n_tokens: int
    """Number of response tokens, without thinking and end-of-turn token."""
    prompt_last: float
    prompt_last_sigma: float
    response_mean: float | None
    response_mean_sigma: float | None
    thinking_mean: float | None = None
    """Mean over the tokens that the template marks as thinking, which are not in the response."""
    thinking_mean_sigma: float | None = None
    tokens: tuple[float, ...] | None = None
    """The projection of every response token, if requested."""


class Readings(list[TurnReading], InNotebooks):
    """A conversation's readings by turn, then by trait; in a notebook it shows its tokens.

    `messages` are those of the conversation. `pieces` has for each reading the response's pieces of
    text with their sigma, if tokens were requested, and is empty otherwise.
    """

    def __init__(
        self,
        readings: Sequence[TurnReading],
        messages: Sequence[Message],
        pieces: Sequence[tuple[Piece, ...]] = (),
    ):
        super().__init__(readings)
        self.messages, self.pieces = tuple(messages), tuple(pieces)


def gauge(
    vectors: Sequence[PersonaVector], loaded: LoadedModel, *, layer: int | None = None
) -> Gauge:
    """The gauge of these vectors, each at its selected layer or all at `layer`.

    Raises VectorMismatchError for a vector of another shape, UsageError if there is no vector or
    two of one trait, and DataError if the spread of a baseline is not above 0.
    """
    if not vectors:
        raise UsageError("no vector to read along: name at least one")
    traits = tuple(vector.trait for vector in vectors)
    if twice := [trait for trait in traits if traits.count(trait) > 1]:
        raise UsageError(f"two vectors are of the trait '{twice[0]}'; give each trait once")
    for vector in vectors:
        vector.check_fits(loaded.identity.n_layers, loaded.identity.hidden_size)
    layers = [vector.layer if layer is None else layer for vector in vectors]
    directions = [v.direction(at) for v, at in zip(vectors, layers, strict=True)]
    baselines = [
        torch.stack([getattr(v, name)[at] for v, at in zip(vectors, layers, strict=True)])
        for name in ("neutral_prompt_last", "neutral_response_mean")
    ]
    for baseline in baselines:
        for trait, spread in zip(traits, baseline[:, 1].tolist(), strict=True):
            if not spread > 0:
                raise DataError(
                    f"vector '{trait}' has no spread over neutral prompts, so readings cannot be "
                    "standardised; extract it again with more neutral prompts"
                )
    unit = torch.stack([direction / direction.norm() for direction in directions])
    return Gauge(traits, Directions(tuple(layers), unit), *baselines)


def read_turn(
    gauge: Gauge,
    turn: int,
    *,
    prompt_last: Float[Tensor, " direction"],
    response: Float[Tensor, "token direction"],
    thinking: Float[Tensor, "thought direction"] | None = None,
    tokens: bool = False,
) -> list[TurnReading]:
    """A turn's readings, one for each trait, from the projections of its tokens.

    `prompt_last` are the projections of the token before the first that the model wrote, `response`
    those of the answer and `thinking` those of the thought before it, all from `project_tokens`.
    With `tokens` the projection of every response token is included.
    """
    last = _standardised(prompt_last, gauge.prompt_last)
    mean = _mean(response, gauge.response_mean)
    thought = _mean(thinking, gauge.response_mean)
    return [
        TurnReading(
            turn,
            trait,
            gauge.directions.layers[i],
            len(response),
            *last[i],
            *mean[i],
            *thought[i],
            tuple(round(value, 4) for value in response[:, i].tolist()) if tokens else None,
        )
        for i, trait in enumerate(gauge.traits)
    ]


def read_encoded(
    loaded: LoadedModel,
    rows: Sequence[Encoded],
    gauge: Gauge,
    *,
    tokens: bool = False,
) -> list[list[TurnReading]]:
    """The readings of tokenised conversations; for each conversation by turn, then by trait.

    Raises ActivationError for NaN or infinite activations.
    """
    found = project_encoded(TransformersEngine(loaded), rows, gauge)
    return [
        read_projected(gauge, row, values, tokens=tokens)
        for row, values in zip(rows, found, strict=True)
    ]


def project_encoded(
    engine: Engine, rows: Sequence[Encoded], gauge: Gauge, *, batch_tokens: int | None = None
) -> list[list[Tensor]]:
    """The projections [token, direction] of each row's texts.

    Raises ActivationError for NaN or infinite activations.
    """
    ids = [text.ids for row in rows for text in row.texts]
    found = iter(engine.project(ids, gauge.directions, batch_tokens=batch_tokens))
    return [[next(found) for _ in row.texts] for row in rows]


def read_projected(
    gauge: Gauge,
    row: Encoded,
    values: Sequence[Tensor],
    *,
    tokens: bool = False,
) -> list[TurnReading]:
    """A row's readings by turn, then by trait; `values` are [token, direction] for each text."""
    return [
        reading
        for text, own in zip(row.texts, values, strict=True)
        for reading in _read_text(gauge, text, own, tokens=tokens)
    ]


def read_conversation(
    loaded: LoadedModel,
    vectors: Sequence[PersonaVector],
    messages: Sequence[Message],
    *,
    layer: int | None = None,
    tokens: bool = False,
) -> Readings:
    """The readings of every assistant turn for every vector, by turn, then by trait.

    A thought at the start of an answer is read separately if the model thinks, and left out
    otherwise. Raises DataError if there is no assistant turn, if one is empty, or if the
    conversation exceeds the model's context, and VectorMismatchError if a vector is for a model of
    another shape.
    """
    turns = [i for i, message in enumerate(messages) if message["role"] == "assistant"]
    if not turns:
        raise DataError("the conversation has no assistant turn to project")
    own = (_without_thought(loaded, message) for message in messages[: turns[-1] + 1])
    row = DataRow(0, "conversation", tuple(own))
    encoded = encode(loaded.chat, row, context=loaded.context, thinking=True)
    if not isinstance(encoded, Encoded):
        raise DataError(f"the conversation cannot be read: {encoded.reason}")
    along = gauge(vectors, loaded, layer=layer)
    found = read_encoded(loaded, [encoded], along, tokens=tokens)[0]
    pieces = [_pieces(loaded, along, encoded, reading) for reading in found] if tokens else []
    return Readings(found, messages, pieces)


def _pieces(
    loaded: LoadedModel, along: Gauge, row: Encoded, reading: TurnReading
) -> tuple[Piece, ...]:
    """The response's pieces of text, with their sigma along the reading's trait."""
    mean, spread = along.response_mean[along.traits.index(reading.trait)].tolist()
    sigmas = [(value - mean) / spread for value in reading.tokens or ()]
    ids = next(
        text.ids[turn.start : turn.stop].tolist()
        for text in row.texts
        for turn in text.turns
        if turn.message == reading.turn
    )
    return pieces_of(loaded, ids, sigmas)


def _without_thought(loaded: LoadedModel, message: Message) -> Message:
    found = message.copy()
    if loaded.chat.thinking is None and found["role"] == "assistant":
        thought, answer = split_thought(found["content"])
        if thought is not None:
            found["content"] = answer or ""
    return found


def project_conversation(
    loaded: LoadedModel,
    vector: PersonaVector,
    messages: Sequence[Message],
    *,
    layer: int | None = None,
) -> Readings:
    """`read_conversation` for one vector: one reading for each turn."""
    return read_conversation(loaded, [vector], messages, layer=layer)


def _read_text(gauge: Gauge, text: Text, values: Tensor, *, tokens: bool) -> list[TurnReading]:
    return [
        reading
        for turn in text.turns
        for reading in read_turn(
            gauge,
            turn.message,
            prompt_last=values[turn.prompt_last],
            response=values[turn.start : turn.stop],
            thinking=_thought(turn, values),
            tokens=tokens,
        )
    ]


def _thought(turn: Turn, values: Tensor) -> Tensor | None:
    return values[turn.start - turn.thinking : turn.start] if turn.thinking else None


def _mean(values: Tensor | None, baseline: Tensor) -> list[tuple[float | None, float | None]]:
    """Each direction's mean over tokens, raw and standardised; None if there are no tokens."""
    if values is None or not len(values):
        return [(None, None)] * len(baseline)
    return list(_standardised(values.double().mean(0), baseline))


def _standardised(values: Tensor, baseline: Tensor) -> list[tuple[float, float]]:
    """Each direction's projection, and the same in standard deviations of its baseline."""
    sigma = (values.double() - baseline[:, 0].double()) / baseline[:, 1].double()
    return list(zip(values.tolist(), sigma.tolist(), strict=True))
