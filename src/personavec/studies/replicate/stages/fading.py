"""How soon a steered persona fades: answers that are steered for one window and then left alone."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from personavec.model import Action, Steering, chat
from personavec.model.engine import Request, Sampling, TransformersEngine
from personavec.results import Estimate
from personavec.runs import append_records, read_records
from personavec.stats import clustered_bootstrap
from personavec.studies.replicate.stages import windows
from personavec.studies.replicate.stages.windows import WINDOW
from personavec.studies.replicate.study import Study
from personavec.vectors import PersonaVector, random_directions

#: What steers the first window.
KINDS = ("vector", "random", "none")
_TEMPERATURE = 0.7
#: The coefficient where the vector's coherent range has no upper end.
_USUAL = 2.0


@dataclass(frozen=True, kw_only=True)
class FadingWindow:
    """One window of answers that were steered in the first and not in the others."""

    trait: str
    steered_by: str
    """`vector`, `random` (a direction of its norm) or `none`."""
    coefficient: float
    window: int
    """0 was steered."""
    projection: Estimate
    """In units of the residual stream, minus that of answers that were never steered."""
    expression: Estimate
    """Log-odds of the window by itself in nats, minus the same."""
    n: int


def fading(study: Study, trait: str, questions: Sequence[str]) -> list[FadingWindow]:
    """Every window of every kind, beside answers with the same noise that were never steered."""
    vector, folder = study.vector(trait), study.folder("persistence") / trait / "fading"
    coefficient = (vector.coherent_range or (0.0, _USUAL))[1] or _USUAL
    asked = {f"{kind}-q{n}": q for kind in KINDS for n, q in enumerate(questions)}
    prompts = {id: _prompt(study, question) for id, question in asked.items()}
    actions = {id: _steering(vector, id.partition("-")[0], coefficient, study) for id in asked}
    first = _generated(study, prompts, actions, WINDOW, folder / "first.jsonl")
    whole = {id: ids for id, ids in first.items() if len(ids) == WINDOW}
    after = {id: (*prompts[id], *ids) for id, ids in whole.items()}
    length = study.config.persistence_tokens - WINDOW
    rest = _generated(study, after, {}, length, folder / "rest.jsonl")
    responses = {id: (*ids, *rest[id]) for id, ids in whole.items()}
    direction = windows.unit([vector.direction()], vector.layer)
    values = windows.projected(study, prompts, responses, direction)
    shown = windows.shown(study, trait, asked, responses, folder)
    levels = {id: (values[id][:, 0], shown[id]) for id in responses}
    return list(_windows(trait, coefficient, levels, study.config.seed))


def _prompt(study: Study, question: str) -> tuple[int, ...]:
    return tuple(study.loaded.chat.prompt_ids(chat(question)))


def _steering(
    vector: PersonaVector, kind: str, coefficient: float, study: Study
) -> tuple[Action, ...]:
    if kind == "none":
        return ()
    direction = vector.direction()
    if kind == "random":
        direction = random_directions(direction, 1, seed=study.config.seed)[0]
    return (Steering(vector.layer, direction, coefficient, "response"),)


def _generated(
    study: Study,
    prompts: Mapping[str, tuple[int, ...]],
    actions: Mapping[str, tuple[Action, ...]],
    tokens: int,
    path: Path,
) -> dict[str, tuple[int, ...]]:
    """The ids of each response, kept as they come; a question's kinds share their noise."""
    found = {own["id"]: tuple(own["ids"]) for own in read_records(path)}
    engine = study.engine or TransformersEngine(study.loaded, study.config.batch_tokens)
    sampling = Sampling(tokens, _TEMPERATURE, seed=study.config.seed)
    requests = [
        Request(id, prompts[id], actions.get(id, ()), noise=f"{path.stem}-{id.partition('-')[2]}")
        for id in prompts
    ]
    with study.progress.bar(f"fading: {path.stem}", len(requests)) as bar:
        bar.found(len(found))
        for group in engine.generate(requests, sampling, done=frozenset(found)):
            new = [g for g in group if g.id not in found]
            append_records(path, [{"id": g.id, "ids": list(g.response_ids)} for g in new])
            found |= {g.id: tuple(g.response_ids) for g in new}
            bar.advance(len(new))
    return found


def _windows(
    trait: str,
    coefficient: float,
    levels: Mapping[str, tuple[np.ndarray, np.ndarray]],
    seed: int,
) -> Iterator[FadingWindow]:
    for kind in KINDS[:2]:
        pairs = {
            id: (own, levels[other])
            for id, own in levels.items()
            if id.startswith(f"{kind}-") and (other := id.replace(kind, "none", 1)) in levels
        }
        longest = max((min(len(a[0]), len(b[0])) for a, b in pairs.values()), default=0)
        for window in range(longest):
            reach = {
                id: (a, b) for id, (a, b) in pairs.items() if window < min(len(a[0]), len(b[0]))
            }
            yield FadingWindow(
                trait=trait,
                steered_by=kind,
                coefficient=coefficient,
                window=window,
                projection=_mean(
                    {i: a[0][window] - b[0][window] for i, (a, b) in reach.items()}, seed
                ),
                expression=_mean(
                    {i: a[1][window] - b[1][window] for i, (a, b) in reach.items()}, seed
                ),
                n=len(reach),
            )


def _mean(values: Mapping[str, float], seed: int) -> Estimate:
    """With its interval over questions."""
    known = {id: value for id, value in values.items() if not np.isnan(value)}
    if len(known) < 2:
        return Estimate()
    return Estimate.of(clustered_bootstrap(list(known.values()), list(known), seed=seed))
