"""Do personas persist? Past projection against what follows, by lag; how soon steering fades.

The paper suspects that a persona is a latent factor which persists for many tokens, so that its
recent expression foretells the near future. Here the mean projection over a window of an answer is
correlated with the expression of a later window, which is judged by itself. Beside the vector stand
random directions, and directions of what a text is about: these persist, but not as the trait.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from personavec.data import DataRow
from personavec.errors import DataError, VectorMismatchError
from personavec.model.engine import Sampling
from personavec.monitor import read_conversation
from personavec.results import Estimate
from personavec.rollouts import Rollout, Task, collect, load_activations, prompt_ids
from personavec.runs import Settings, append_records, read_records
from personavec.stats import correlation_interval
from personavec.studies.replicate.config import ReplicateConfig
from personavec.studies.replicate.stage import Stage
from personavec.studies.replicate.stages import windows
from personavec.studies.replicate.stages.fading import KINDS, FadingWindow, fading
from personavec.studies.replicate.stages.windows import WINDOW
from personavec.studies.replicate.study import Inputs, LeftOut, Study, conversations
from personavec.studies.replicate.work import (
    INSTRUCTION,
    QUESTION,
    Work,
    answered,
    judged,
    judging_pairs,
    questions_of,
)
from personavec.traits import TraitSpec
from personavec.vectors import PersonaVector, random_directions

_FIELDS = (
    *("persistent", "persistence_questions", "persistence_tokens", "dialogue_rows"),
    *("judge_pairs", "seed"),
)
#: What elicits the trait, its opposite, or nothing.
_CONDITIONS = ("pos", "neg", "none")
RANDOM, TOPICS = 5, 3
#: Fewer pairs than this give no correlation.
_FEWEST = 6
#: A dialogue's tokens, and its turns at most, for a plan.
_DIALOGUE, _TURNS = 300, 6


@dataclass(frozen=True, kw_only=True)
class Lagged:
    """Correlation of a past window's projection with the expression of a later window."""

    trait: str
    direction: str
    """`vector`, `random N`, or `topic N`."""
    lag: int
    """Tokens between both windows."""
    overall: Estimate
    within: Estimate
    """Within a system prompt and a place in the answer."""
    n: int


@dataclass(frozen=True, kw_only=True)
class DialogueLag:
    """Correlation of a turn's projection with that of a later turn of the same conversation."""

    trait: str
    lag: int
    """Assistant turns."""
    within: Estimate
    """Within a place in the conversation."""
    n: int


@dataclass(frozen=True, kw_only=True)
class PersistenceResult:
    format: int = 1
    stage: str = "persistence"
    lags: tuple[Lagged, ...]
    fading: tuple[FadingWindow, ...]
    dialogues: tuple[DialogueLag, ...]
    left_out: tuple[LeftOut, ...]


def plan(inputs: Inputs) -> Work:
    config, work = inputs.config, Work()
    tokens, n_windows = config.persistence_tokens, config.persistence_tokens // WINDOW
    for trait in config.persistent:
        spec = inputs.specs[trait]
        questions = questions_of(spec, config.persistence_questions)
        answers = questions * (len(_CONDITIONS) + len(KINDS))
        work += answered(answers, tokens, QUESTION + INSTRUCTION)
        work += Work(read=answers * (QUESTION + INSTRUCTION + tokens))
        pairs = judging_pairs(spec, config.judge_pairs)
        work += judged(answers * n_windows, WINDOW, pairs)
    if inputs.sources.dialogues is not None:
        work += Work(read=_DIALOGUE * (config.dialogue_rows or 10_000))
    return work


def settings(inputs: Inputs) -> Settings:
    return {
        **inputs.settings(_FIELDS, inputs.config.persistent),
        "dialogues": inputs.sources.identity("dialogues"),
    }


def run(study: Study) -> PersistenceResult:
    lags: list[Lagged] = []
    faded: list[FadingWindow] = []
    left_out: list[LeftOut] = []
    for trait in study.config.persistent:
        if not study.has_vector(trait):
            left_out.append(LeftOut(what=trait, why="it has no vector"))
            continue
        questions = study.spec(trait).questions.evaluation
        questions = questions[-(study.config.persistence_questions or 0) :]
        lags += _lags(study, trait, questions)
        faded += fading(study, trait, questions)
    if study.sources.dialogues is None:
        left_out.append(LeftOut(what="dialogues", why="none were given (--dialogues)"))
    return PersistenceResult(
        lags=tuple(lags),
        fading=tuple(faded),
        dialogues=tuple(_dialogues(study)),
        left_out=tuple(left_out),
    )


# Within answers


def _lags(study: Study, trait: str, questions: Sequence[str]) -> list[Lagged]:
    vector, folder = study.vector(trait), study.folder("persistence") / trait
    answers = {
        r.id: r
        for r in collect(
            study.loaded,
            _tasks(study.spec(trait), questions),
            Sampling(study.config.persistence_tokens, 0.7, seed=study.config.seed),
            folder,
            activations=folder / "activations",
            batch_tokens=study.config.batch_tokens,
            engine=study.engine,
            label=f"{trait}, long answers",
            progress=study.progress,
        )
        if r.n_tokens >= 2 * WINDOW
    }
    if not answers:
        return []
    named = _directions(vector, list(answers.values()), study)
    prompts = {id: prompt_ids(study.loaded, r) for id, r in answers.items()}
    responses = {id: r.response_ids for id, r in answers.items()}
    axes = windows.unit(list(named.values()), vector.layer)
    past = windows.projected(study, prompts, responses, axes)
    asked = {id: r.question for id, r in answers.items()}
    future = windows.shown(study, trait, asked, responses, folder)
    return list(_correlated(trait, list(named), answers, past, future, study.config))


def _tasks(spec: TraitSpec, questions: Sequence[str]) -> list[Task]:
    """Every question under the first instruction, under its opposite, and under none."""
    pair = spec.instruction[0]
    prompts = {
        "pos": (pair.pos, pair.turns("pos")),
        "neg": (pair.neg, pair.turns("neg")),
        "none": (None, ()),
    }
    return [
        Task(f"{condition}-q{n}", question, system, earlier=earlier)
        for condition, (system, earlier) in prompts.items()
        for n, question in enumerate(questions)
    ]


def _directions(
    vector: PersonaVector, answers: Sequence[Rollout], study: Study
) -> dict[str, Float[Tensor, " hidden"]]:
    """The vector, random directions, and directions of the first questions' topics."""
    own = vector.direction()
    found = {"vector": own}
    drawn = random_directions(own, RANDOM, seed=study.config.seed)
    found |= {f"random {i}": direction for i, direction in enumerate(drawn)}
    folder = study.folder("persistence") / vector.trait / "activations"
    means = load_activations(folder, [r.id for r in answers])[:, 0, vector.layer].float()
    for i, question in enumerate(list(dict.fromkeys(r.question for r in answers))[:TOPICS]):
        about = torch.tensor([r.question == question for r in answers])
        topic = means[about].mean(0) - means[~about].mean(0)
        if (~about).any() and float(topic.norm()) > 0:
            found[f"topic {i}"] = topic
    return found


def _correlated(
    trait: str,
    directions: Sequence[str],
    answers: Mapping[str, Rollout],
    past: Mapping[str, np.ndarray],
    future: Mapping[str, np.ndarray],
    config: ReplicateConfig,
) -> Iterator[Lagged]:
    longest = max(len(own) for own in past.values())
    for skipped in range(longest - 1):
        places = [
            (id, w)
            for id, own in past.items()
            for w in range(len(own) - 1 - skipped)
            if not np.isnan(future[id][w + 1 + skipped])
        ]
        later = [float(future[id][w + 1 + skipped]) for id, w in places]
        groups = [f"{id.partition('-')[0]} {w}" for id, w in places]
        clusters = [answers[id].question for id, _ in places]
        for k, name in enumerate(directions):
            before = [float(past[id][w, k]) for id, w in places]
            yield Lagged(
                trait=trait,
                direction=name,
                lag=skipped * WINDOW,
                overall=_correlation(before, later, clusters, None, config.seed),
                within=_correlation(before, later, clusters, groups, config.seed),
                n=len(places),
            )


def _correlation(
    x: Sequence[float],
    y: Sequence[float],
    clusters: Sequence[str],
    within: Sequence[str] | None,
    seed: int,
) -> Estimate:
    if len(x) < _FEWEST or len(set(clusters)) < 2:
        return Estimate()
    return Estimate.of(correlation_interval(x, y, clusters, within=within, seed=seed))


# Over the turns of dialogues


def _dialogues(study: Study) -> Iterator[DialogueLag]:
    """By trait and lag, over the given dialogues."""
    traits = [trait for trait in study.config.persistent if study.has_vector(trait)]
    if study.sources.dialogues is None or not traits:
        return
    read = _read_dialogues(study, traits)
    for t, trait in enumerate(traits):
        for lag in range(1, _TURNS):
            pairs = [
                (float(own[turn][t]), float(own[turn + lag][t]), turn, number)
                for number, own in enumerate(read)
                for turn in range(len(own) - lag)
            ]
            x, y = ([pair[side] for pair in pairs] for side in (0, 1))
            places, clusters = ([str(pair[side]) for pair in pairs] for side in (2, 3))
            yield DialogueLag(
                trait=trait,
                lag=lag,
                within=_correlation(x, y, clusters, places, study.config.seed),
                n=len(pairs),
            )


def _read_dialogues(study: Study, traits: Sequence[str]) -> list[list[list[float]]]:
    """[dialogue][turn][trait]: mean projections of assistant turns, kept as they are read."""
    config, path = study.config, study.folder("persistence") / "dialogues.jsonl"
    rows = conversations(str(study.sources.dialogues), config.dialogue_rows, config.seed)
    found = [own["turns"] for own in read_records(path)]
    vectors = study.vectors(traits)
    with study.progress.bar("reading dialogues", len(rows)) as bar:
        bar.found(len(found))
        for row in rows[len(found) :]:
            turns = _turns(study, row, vectors)
            append_records(path, [{"row": row.id, "turns": turns}])
            found.append(turns)
            bar.advance(1)
    return found


def _turns(study: Study, row: DataRow, vectors: Sequence[PersonaVector]) -> list[list[float]]:
    """Of a dialogue that cannot be read, none."""
    try:
        readings = read_conversation(study.loaded, vectors, row.messages)
    except VectorMismatchError:
        raise
    except DataError:
        return []
    by_turn: dict[int, list[float]] = {}
    for reading in readings:
        if reading.response_mean is not None:
            by_turn.setdefault(reading.turn, []).append(reading.response_mean)
    return [own for own in by_turn.values() if len(own) == len(vectors)]


STAGE = Stage(
    "persistence",
    "persistence of personas",
    ("extraction",),
    PersistenceResult,
    plan,
    settings,
    run,
)
