"""Answer questions under several steering coefficients, for people to compare."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

from personavec.errors import DataError, SpecError, UsageError
from personavec.model.chat import chat
from personavec.model.engine.base import Engine, Request, Sampling
from personavec.model.engine.hf import TransformersEngine
from personavec.model.loading import LoadedModel
from personavec.model.steering import Steering
from personavec.runs import MANIFEST, append_records, claim, lock, read_records
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

    A record's `state` is `answered`, `empty`, or `failed` where the numbers overflowed under that
    coefficient. Raises VectorMismatchError when the vector does not fit, UsageError when `out` is
    a file of another origin, SettingsMismatchError when it was begun with other settings.
    """
    vector.check_fits(loaded.identity.n_layers, loaded.identity.hidden_size)
    layer = vector.layer if layer is None else layer
    direction = vector.direction(layer)
    pair = _eliciting_pair(vector.trait)
    named = {f"{c:+g}" if c else "0": c for c in coefficients}
    conditions: list[tuple[str, str | None, float]] = [(name, None, c) for name, c in named.items()]
    if pair is not None:
        conditions.append(("system prompt", pair.pos, 0.0))
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
    engine = engine or TransformersEngine(loaded, batch_tokens)
    settings = {
        "command": "steer",
        "questions": list(questions),
        "coefficients": list(coefficients),
        "trait": vector.trait,
        "layer": layer,
        "vector": vector.identity,
        "system": None if pair is None else [pair.pos, pair.turns("pos")],
        "model": loaded.identity.as_dict(),
        "engine": engine.name,
        "sampling": sampling.__dict__,
    }
    with _begun(out, settings) if out else nullcontext({}) as earlier:
        done = dict(earlier)
        todo = [request for request in requests if request.id not in done]
        for batch in engine.generate(todo, sampling):
            finished = [
                {
                    **records[g.id],
                    "response": loaded.chat.decode(g.response_ids),
                    "n_tokens": len(g.response_ids),
                    "state": "failed" if g.failed else "answered" if g.response_ids else "empty",
                }
                for g in batch
            ]
            done |= {r["id"]: r for r in finished}
            if out:
                append_records(out, finished)
    return [done[key] for key in records]


@contextmanager
def _begun(out: Path, settings: dict[str, Any]) -> Iterator[dict[str, dict[str, Any]]]:
    """The records that an earlier run with these settings left in `out`, by id, under its lock.

    Raises UsageError for a file that `steer` did not write.
    """
    beside = out.with_name(f".{out.name}.run")
    with lock(beside):
        if out.exists() and not (beside / MANIFEST).exists():
            raise UsageError(f"--out {out} was not written by 'steer'; write to another file")
        claim(beside, settings)
        found = read_records(out)
        if not all({"id", "response", "n_tokens", "state"} <= record.keys() for record in found):
            raise DataError(f"{out} is damaged (a line is no answer); delete it to answer anew")
        yield {str(record["id"]): record for record in found}


def _eliciting_pair(trait: str) -> InstructionPair | None:
    try:
        return load_trait(trait)[0].instruction[0]
    except SpecError:
        return None
