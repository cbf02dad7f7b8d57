"""Answer questions under several steering coefficients, for people to compare.

1. Every question is put under every condition: the coefficients and, where the vector's trait is
   bundled, its first eliciting system prompt, unsteered.
2. The engine generates what an earlier run has not, and answers are written as they come.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path

from pydantic import TypeAdapter, ValidationError

from personavec.errors import DataError, SpecError, UsageError
from personavec.evaluate.steer.config import SteerConfig
from personavec.evaluate.steer.results import SteeredAnswer, SteerResults
from personavec.model import EarlierTurns, LoadedModel, Steering, chat
from personavec.model.engine import Engine, Generation, Request, Sampling, TransformersEngine
from personavec.results import dump
from personavec.runs import MANIFEST, Settings, append_records, claim, lock, read_records
from personavec.traits import load_trait
from personavec.vectors import PersonaVector


@dataclass(frozen=True)
class SteerCondition:
    """What stands before a question, and how strongly the answer is steered."""

    name: str
    coefficient: float = 0.0
    system: str | None = None
    earlier: EarlierTurns = ()


def run(
    loaded: LoadedModel,
    vector: PersonaVector,
    questions: Sequence[str],
    config: SteerConfig | None = None,
    *,
    out: Path | None = None,
    engine: Engine | None = None,
) -> SteerResults:
    """Answers to every question under every condition, in that order.

    With `out`, answers are appended to that JSONL file as they come, and a killed run continues.
    Raises VectorMismatchError when the vector does not fit, UsageError when `out` is a file of
    another origin, SettingsMismatchError when it was begun with other settings.
    """
    config = config or SteerConfig()
    vector.check_fits(loaded.identity.n_layers, loaded.identity.hidden_size)
    layer = vector.layer if config.layer is None else config.layer
    engine = engine or TransformersEngine(loaded, config.batch_tokens)
    sampling = Sampling(config.max_tokens, config.temperature, seed=config.seed)
    system = _system_prompt(vector.trait)
    conditions = [*_steered(config.coefficients), *([system] if system else [])]
    asked = {
        f"q{number}-{condition.name}": (question, condition)
        for number, question in enumerate(questions)
        for condition in conditions
    }
    settings = {
        "command": "steer",
        "questions": list(questions),
        "coefficients": list(config.coefficients),
        **{"trait": vector.trait, "layer": layer, "vector": vector.identity},
        "system": [system.system, system.earlier] if system else None,
        **{"model": loaded.identity.as_dict(), "engine": engine.name},
        "sampling": sampling.__dict__,
    }
    with _begun(out, settings) if out else nullcontext({}) as earlier:
        done = dict(earlier)
        todo = [
            _request(id, *each, loaded, vector, layer)
            for id, each in asked.items()
            if id not in done
        ]
        for batch in engine.generate(todo, sampling):
            finished = [_answer(g, *asked[g.id], loaded, layer) for g in batch]
            done |= {answer.id: answer for answer in finished}
            if out:
                append_records(out, [dump(answer) for answer in finished])
    return SteerResults(trait=vector.trait, layer=layer, answers=tuple(done[id] for id in asked))


def _steered(coefficients: Sequence[float]) -> list[SteerCondition]:
    """One condition for each coefficient; the same one twice is one."""
    named = {f"{c:+g}" if c else "0": c for c in coefficients}
    return [SteerCondition(name, coefficient) for name, coefficient in named.items()]


def _system_prompt(trait: str) -> SteerCondition | None:
    """A bundled trait's first positive system prompt with its examples."""
    try:
        pair = load_trait(trait)[0].instruction[0]
    except SpecError:
        return None
    return SteerCondition("system prompt", system=pair.pos, earlier=pair.turns("pos"))


def _request(
    id: str,
    question: str,
    condition: SteerCondition,
    loaded: LoadedModel,
    vector: PersonaVector,
    layer: int,
) -> Request:
    steering: tuple[Steering, ...] = ()
    if condition.coefficient:
        steering = (Steering(layer, vector.direction(layer), condition.coefficient),)
    prompt = chat(question, condition.system, condition.earlier)
    return Request(id, tuple(loaded.chat.prompt_ids(prompt)), steering)


def _answer(
    generation: Generation,
    question: str,
    condition: SteerCondition,
    loaded: LoadedModel,
    layer: int,
) -> SteeredAnswer:
    return SteeredAnswer(
        id=generation.id,
        question=question,
        condition=condition.name,
        coefficient=condition.coefficient,
        layer=layer,
        system=condition.system,
        response=loaded.chat.decode(generation.response_ids),
        n_tokens=len(generation.response_ids),
        state="failed" if generation.failed else "answered" if generation.response_ids else "empty",
    )


def run_folder(out: Path) -> Path:
    """Where the settings of the run that writes `out` are kept."""
    return out.with_name(f".{out.name}.run")


_ANSWER = TypeAdapter(SteeredAnswer)


@contextmanager
def _begun(out: Path, settings: Settings) -> Iterator[dict[str, SteeredAnswer]]:
    """The answers that an earlier run with these settings left in `out`, by id, under its lock.

    Raises UsageError for a file that `steer` did not write.
    """
    beside = run_folder(out)
    with lock(beside):
        if out.exists() and not (beside / MANIFEST).exists():
            raise UsageError(f"--out {out} was not written by 'steer'; write to another file")
        claim(beside, settings)
        try:
            found = [_ANSWER.validate_python(record) for record in read_records(out)]
        except ValidationError as error:
            raise DataError(
                f"{out} is damaged (a line is no answer); delete it to answer anew"
            ) from error
        yield {answer.id: answer for answer in found}
