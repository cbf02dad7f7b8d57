"""Answer questions under several steering coefficients, for people to compare."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from personavec.errors import SpecError
from personavec.model.chat import chat
from personavec.model.engine.base import Engine, Request, Sampling
from personavec.model.engine.hf import TransformersEngine
from personavec.model.loading import LoadedModel
from personavec.model.steering import Steering
from personavec.runs import append_records, claim, read_records
from personavec.traits import InstructionPair, load_trait
from personavec.vectors import PersonaVector


def steered_answers(
    loaded: LoadedModel,
    vector: PersonaVector,
    questions: Sequence[str],
    coefficients: Sequence[float],
    sampling: Sampling,
    *,
    layer: int | None = None,
    out: Path | None = None,
    batch_tokens: int = 16384,
    engine: Engine | None = None,
) -> list[dict[str, Any]]:
    """One record per question and condition, in that order; written to `out` as they come.

    Conditions are the coefficients and, where the vector's trait is bundled, the answer under
    its first positive system prompt and that prompt's examples, unsteered.

    Raises VectorMismatchError when the vector does not fit.
    """
    vector.check_fits(loaded.identity.n_layers, loaded.identity.hidden_size)
    layer = vector.layer if layer is None else layer
    direction = vector.direction(layer)
    pair = _eliciting_pair(vector.trait)
    conditions: list[tuple[str, str | None, float]] = [
        (f"{c:+g}" if c else "0", None, c) for c in coefficients
    ]
    if pair is not None:
        conditions.append(("system prompt", pair.pos, 0.0))
    if out is not None:
        claim(
            out.with_name(f".{out.name}.run"),
            {
                "questions": list(questions),
                "coefficients": list(coefficients),
                "trait": vector.trait,
                "layer": layer,
                "model": loaded.identity.as_dict(),
                "sampling": sampling.__dict__,
            },
        )
    records = {}
    requests = []
    for number, question in enumerate(questions):
        for name, prompt, coefficient in conditions:
            key = f"q{number}-{name}"
            records[key] = {
                "id": key,
                "question": question,
                "condition": name,
                "coefficient": coefficient,
                "layer": layer,
                "system": prompt,
            }
            steering = (Steering(layer, direction, coefficient),) if coefficient else ()
            earlier = pair.turns("pos") if pair and prompt else ()
            ids = tuple(loaded.chat.prompt_ids(chat(question, prompt, earlier)))
            requests.append(Request(key, ids, steering))
    done = {r["id"]: r for r in read_records(out)} if out else {}
    todo = [request for request in requests if request.id not in done]
    engine = engine or TransformersEngine(loaded, batch_tokens)
    for batch in engine.generate(todo, sampling):
        finished = [
            {
                **records[g.id],
                "response": loaded.chat.decode(g.response_ids),
                "n_tokens": len(g.response_ids),
            }
            for g in batch
        ]
        done |= {r["id"]: r for r in finished}
        if out:
            append_records(out, finished)
    return [done[key] for key in records]


def _eliciting_pair(trait: str) -> InstructionPair | None:
    try:
        return load_trait(trait)[0].instruction[0]
    except SpecError:
        return None
