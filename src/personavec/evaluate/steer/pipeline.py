"""Answer questions under several steering coefficients, for people to compare.

1. Every question is put under every condition: the coefficients and, where the vector's trait is
   bundled, its first eliciting system prompt, unsteered.
2. The engine generates what an earlier run has not, and answers are written as they come.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path

from jaxtyping import Float
from pydantic import TypeAdapter, ValidationError
from torch import Tensor

from personavec.errors import DataError, SpecError, UsageError
from personavec.evaluate.steer.choice import choose_coefficients
from personavec.evaluate.steer.config import SteerConfig
from personavec.evaluate.steer.results import PROMPTED, SteeredAnswer, SteerResults
from personavec.evaluate.steer.writing import AnswerSoFar, Spelling
from personavec.model import Directions, EarlierTurns, LoadedModel, Steering, chat
from personavec.model.engine import (
    SPANS,
    Engine,
    Generation,
    Request,
    Sampling,
    TransformersEngine,
    Watch,
    Written,
)
from personavec.results import dump, finite
from personavec.runs import MANIFEST, Settings, append_records, claim, lock, read_records
from personavec.traits import load_trait
from personavec.vectors import PersonaVector

_RESPONSE = SPANS.index("response_mean")


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
    show: Callable[[AnswerSoFar], None] | None = None,
) -> SteerResults:
    """Answers to every question under every condition, in that order.

    With `out`, answers are appended to that JSONL file as they come, and a killed run continues.
    `show` is first called with every answer that is to come, in order, then with each as it grows,
    where the engine shows that, and once it has ended.

    Raises VectorMismatchError when the vector does not fit, UsageError when `out` is a file of
    another origin, SettingsMismatchError when it was begun with other settings.
    """
    config = config or SteerConfig()
    vector.check_fits(loaded.identity.n_layers, loaded.identity.hidden_size)
    layer = vector.layer if config.layer is None else config.layer
    chosen = choose_coefficients(vector, config)
    system = _system_prompt(vector.trait)
    conditions = [*_steered(chosen.values), *([system] if system else [])]
    own = _Run(
        loaded,
        vector,
        layer,
        asked={
            f"q{number}-{condition.name}": (question, condition)
            for number, question in enumerate(questions)
            for condition in conditions
        },
        show=show,
    )
    engine = engine or TransformersEngine(loaded, config.batch_tokens)
    sampling = Sampling(config.max_tokens, config.temperature, seed=config.seed)
    settings = {
        "command": "steer",
        "questions": list(questions),
        "coefficients": list(chosen.values),
        **{"trait": vector.trait, "layer": layer, "vector": vector.identity},
        "system": [system.system, system.earlier] if system else None,
        **{"model": loaded.identity.as_dict(), "engine": engine.name},
        # Of a question's answers, which draw the same.
        **{"sampling": sampling.__dict__, "noise": "question"},
    }
    with _begun(out, settings) if out else nullcontext({}) as earlier:
        done = own.answered(engine, sampling, earlier, out)
    return SteerResults(
        trait=vector.trait,
        layer=layer,
        coefficients=chosen.values,
        why=chosen.why,
        answers=tuple(done[id] for id in own.asked),
    )


@dataclass(frozen=True, eq=False)
class _Run:
    """What is asked of which model, and who is shown the answers."""

    loaded: LoadedModel
    vector: PersonaVector
    layer: int
    asked: Mapping[str, tuple[str, SteerCondition]]
    show: Callable[[AnswerSoFar], None] | None

    def answered(
        self,
        engine: Engine,
        sampling: Sampling,
        earlier: Mapping[str, SteeredAnswer],
        out: Path | None,
    ) -> dict[str, SteeredAnswer]:
        """All answers by id; those that are new are appended to `out`, if any."""
        done = dict(earlier)
        spellings = {id: Spelling(self.loaded.chat.decode) for id in self.asked}
        for id in self.asked:
            self._tell(id, spellings[id], done.get(id))
        todo = [self._request(id) for id in self.asked if id not in done]
        watch = self._watch(spellings) if self.show else None
        # Captured for the readings of whole answers, which every engine has.
        for batch in engine.generate(todo, sampling, capture=True, watch=watch):
            finished = [self._answer(generation) for generation in batch]
            done |= {answer.id: answer for answer in finished}
            if out:
                append_records(out, [dump(answer) for answer in finished])
            for answer in finished:
                self._tell(answer.id, spellings[answer.id], answer)
        return done

    def _watch(self, spellings: Mapping[str, Spelling]) -> Watch:
        def take(written: Written) -> None:
            sigmas = self._sigmas(written.projections[:, 0])
            spellings[written.id].take(written.response_ids, sigmas.tolist())
            self._tell(written.id, spellings[written.id], None)

        direction = self.vector.direction(self.layer)
        return Watch(Directions((self.layer,), (direction / direction.norm())[None]), take)

    def _tell(self, id: str, spelling: Spelling, answer: SteeredAnswer | None) -> None:
        """Show an answer as it is now, if anyone is shown."""
        if self.show is None:
            return
        question, condition = self.asked[id]
        whole = spelling.whole(answer.response) if answer else tuple(spelling.pieces)
        self.show(
            AnswerSoFar(
                id=id,
                question=question,
                condition=condition.name,
                coefficient=condition.coefficient,
                pieces=whole,
                answer=answer,
            )
        )

    def _sigmas(self, projections: Float[Tensor, "*n"]) -> Float[Tensor, "*n"]:
        """Projections in standard deviations of answers to neutral prompts."""
        mean, spread = self.vector.neutral_response_mean[self.layer].tolist()
        return (projections.double() - mean) / spread

    def _request(self, id: str) -> Request:
        question, condition = self.asked[id]
        steering: tuple[Steering, ...] = ()
        if condition.coefficient:
            direction = self.vector.direction(self.layer)
            steering = (Steering(self.layer, direction, condition.coefficient),)
        prompt = chat(question, condition.system, condition.earlier)
        return Request(id, tuple(self.loaded.chat.prompt_ids(prompt)), steering, noise=question)

    def _answer(self, generation: Generation) -> SteeredAnswer:
        question, condition = self.asked[generation.id]
        state = "answered" if generation.response_ids else "empty"
        return SteeredAnswer(
            id=generation.id,
            question=question,
            condition=condition.name,
            coefficient=condition.coefficient,
            layer=self.layer,
            system=condition.system,
            response=self.loaded.chat.decode(generation.response_ids),
            n_tokens=len(generation.response_ids),
            cut=not (generation.finished or generation.failed),
            state="failed" if generation.failed else state,
            sigma=self._sigma(generation),
        )

    def _sigma(self, generation: Generation) -> float | None:
        if generation.activations is None:
            return None
        own = generation.activations[_RESPONSE, self.layer]
        return finite(self._sigmas(self.vector.project(own, self.layer)))


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
    return SteerCondition(PROMPTED, system=pair.pos, earlier=pair.turns("pos"))


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
