"""Read a conversation's position along a persona vector."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from personavec.errors import DataError
from personavec.model.capture import capture_means
from personavec.model.chat import Message
from personavec.model.loading import LoadedModel
from personavec.projection import projections
from personavec.vectors import PersonaVector


@dataclass(frozen=True)
class Reading:
    """Projections of one assistant turn, in units of the residual stream.

    The sigmas are the same in standard deviations from the vector's neutral baseline.
    """

    turn: int
    prompt_last: float
    prompt_last_sigma: float
    response_mean: float
    response_mean_sigma: float


def project_conversation(
    loaded: LoadedModel,
    vector: PersonaVector,
    messages: Sequence[Message],
    *,
    layer: int | None = None,
) -> list[Reading]:
    """Project every assistant turn of a conversation onto a persona vector.

    For each turn: the last prompt token, before a word is written, and the mean over the
    response's own tokens. Raises DataError when there is no assistant turn or one is empty,
    VectorMismatchError when the vector is for a model of another shape.
    """
    vector.check_fits(loaded.identity.n_layers, loaded.identity.hidden_size)
    layer = vector.layer if layer is None else layer
    turns = [i for i, message in enumerate(messages) if message["role"] == "assistant"]
    if not turns:
        raise DataError("the conversation has no assistant turn to project")
    rows, spans = [], []
    for turn in turns:
        prompt = loaded.chat.prompt_ids(messages[:turn])
        response = loaded.chat.response_ids(messages[turn]["content"])
        if not response:
            raise DataError(f"message {turn} is an empty assistant turn; remove it")
        before = loaded.chat.answer_prompt_ids(messages[:turn])
        rows.append([*before, *response])
        last = len(prompt)
        spans.append([(last - 1, last), (len(before), len(before) + len(response))])
    means = capture_means(loaded.model, rows, spans, layers=[layer])
    values = projections(means[:, :, 0].flatten(0, 1), vector.direction(layer)).reshape(-1, 2)
    baselines = (vector.neutral_prompt_last[layer], vector.neutral_response_mean[layer])
    readings = []
    for turn, (last, mean) in zip(turns, values.tolist(), strict=True):
        sigma = [
            (v - float(b[0])) / float(b[1]) for v, b in zip((last, mean), baselines, strict=True)
        ]
        readings.append(Reading(turn, last, sigma[0], mean, sigma[1]))
    return readings
