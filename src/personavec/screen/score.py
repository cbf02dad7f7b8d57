"""Score rows: one forward pass per text gives the projections on all traits at their layers.

`score_rows` takes rows as they were read, a loaded model and a plan, and returns columns of
scores. It reads and writes no files except the folder of natural responses, so the same code runs
in one process and on a cluster. It has two halves: `prepare` tokenises, which does not run the
model; `score_prepared` runs it. `_project` computes a row's score, and `natural_values` the score
of its natural response.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from personavec.data import ColumnMap, Kind, RawRow, Reject, parse_row, reading_text
from personavec.judges import Judge, last_answer
from personavec.model import Directions, Encoded, LoadedModel, Text, encode
from personavec.model.engine import Engine, TransformersEngine
from personavec.plain import json_text, plain
from personavec.rollouts import Naturals, prompt_key
from personavec.screen.config import ScoredTurns
from personavec.traits import TraitSpec
from personavec.vectors import PersonaVector, random_directions

FloatColumns = npt.NDArray[np.float32]


@dataclass(frozen=True, eq=False)
class Probe:
    """The directions onto which rows are projected: the traits', then random ones as controls."""

    traits: tuple[str, ...]
    directions: Directions
    controls: tuple[tuple[int, ...], ...]
    """For each trait, the indices in `directions` of the random directions at its layer."""

    def layer(self, trait: int) -> int:
        """The layer at which a trait is read."""
        return self.directions.layers[trait]


def probe(
    vectors: Sequence[PersonaVector],
    loaded: LoadedModel,
    *,
    layer: int | None = None,
    random: int = 5,
    seed: int = 0,
) -> Probe:
    """The vectors' unit directions, and `random` random unit directions at each of their layers.

    `layer` is used for all vectors; by default each uses its selected layer. Raises
    VectorMismatchError when a vector is for a model of another shape.
    """
    for vector in vectors:
        vector.check_fits(loaded.identity.n_layers, loaded.identity.hidden_size)
    layers = [vector.layer if layer is None else layer for vector in vectors]
    unit = [v.direction(at) / v.direction(at).norm() for v, at in zip(vectors, layers, strict=True)]
    own = list(layers)
    places: dict[int, tuple[int, ...]] = {}
    for at in dict.fromkeys(layers):
        places[at] = tuple(range(len(unit), len(unit) + random))
        like = unit[layers.index(at)]
        unit += list(random_directions(like, random, seed=seed + at)) if random else []
        own += [at] * random
    return Probe(
        traits=tuple(vector.trait for vector in vectors),
        directions=Directions(tuple(own), torch.stack(unit)),
        controls=tuple(places[at] for at in layers),
    )


@dataclass(frozen=True)
class Plan:
    """How rows are read and scored with a given model and probe."""

    kind: Kind = "row"
    columns: ColumnMap = field(default_factory=ColumnMap)
    turns: ScoredTurns = "all"
    by: tuple[str, ...] = ()
    """Columns of the data whose values are kept beside the scores, to group by."""
    batch_tokens: int | None = None
    """Most tokens in one forward pass; by default chosen for the device."""


@dataclass(frozen=True, eq=False)
class Columns:
    """Scores of rows, in the order of the rows. A rejected row has a reason and NaN scores.

    Projections are [row, direction] in units of the residual stream. The value of a row with
    several scored turns is the mean over their tokens, so turns are weighted by length.
    """

    index: npt.NDArray[np.int64]
    hash: list[str]
    """Hash of the row's content, under which its scores are found again."""
    id: list[str]
    reason: list[str | None]
    prompt: npt.NDArray[np.int64]
    """Hash of the messages before the last response; rows with the same prompt form a cluster."""
    n_tokens: npt.NDArray[np.int32]
    """Number of scored response tokens."""
    sequence_tokens: npt.NDArray[np.int32]
    """Number of tokens that went through the model, prompts included."""
    groups: dict[str, list[str | None]]
    """The row's values in the columns `Plan.by`."""
    projection: FloatColumns
    """Mean projection of the response tokens."""
    minus_prompt: FloatColumns
    """Projection minus that of the last prompt token, the paper's cheap approximation."""
    minus_natural: FloatColumns
    """Projection minus that of the natural response; NaN if there is no natural response."""
    rejected: FloatColumns
    """Projection of a preference pair's rejected response."""
    judged: FloatColumns
    """Log-odds [row, trait] by the judge, in nats."""
    told: list[str | None]
    """How a row was read (`reading_text`); None for a row that could not be used."""

    def __len__(self) -> int:
        return len(self.index)


@dataclass(frozen=True, eq=False)
class Prepared:
    """Rows with their tokens, or with the reason why they cannot be scored."""

    raws: tuple[RawRow, ...]
    rows: tuple[Encoded | Reject, ...]

    @property
    def encoded(self) -> list[Encoded]:
        return [row for row in self.rows if isinstance(row, Encoded)]


def prepare(loaded: LoadedModel, raws: Sequence[RawRow], plan: Plan) -> Prepared:
    """Parse and tokenise rows, which uses only the model's chat format and context length."""
    rows = tuple(
        encode(
            loaded.chat,
            parse_row(raw, plan.columns, plan.kind),
            context=loaded.context,
            last_turn=plan.turns == "last",
        )
        for raw in raws
    )
    return Prepared(tuple(raws), rows)


def score_rows(
    loaded: LoadedModel,
    raws: Sequence[RawRow],
    probe: Probe,
    plan: Plan,
    *,
    naturals: Naturals | None = None,
    judge: Judge | None = None,
    specs: Sequence[TraitSpec] = (),
) -> Columns:
    """Score rows as they were read; the columns keep the order of the rows.

    With `naturals`, each prompt's natural response is looked up or generated. With `judge`, the
    judge scores the last response of every row for each of the `specs`.
    """
    prepared = prepare(loaded, raws, plan)
    return score_prepared(
        loaded, prepared, probe, plan, naturals=naturals, judge=judge, specs=specs
    )


def score_prepared(
    loaded: LoadedModel,
    prepared: Prepared,
    probe: Probe,
    plan: Plan,
    *,
    naturals: Naturals | None = None,
    judge: Judge | None = None,
    specs: Sequence[TraitSpec] = (),
    engine: Engine | None = None,
) -> Columns:
    """`score_rows` for rows that are already tokenised; `engine` defaults to transformers."""
    projected = _project(engine or TransformersEngine(loaded), prepared, probe, plan)
    minus_natural = np.full_like(projected.response, np.nan)
    if naturals is not None:
        minus_natural = projected.response - natural_projections(prepared, probe, naturals)
    judged = np.full((len(prepared.rows), len(probe.traits)), np.nan, np.float32)
    if judge is not None:
        judged = judge_rows(judge, specs, prepared)
    rejects = {r.index: r.reason for r in prepared.rows if isinstance(r, Reject)}
    return Columns(
        index=np.array([raw.index for raw in prepared.raws], np.int64),
        hash=[raw.hash for raw in prepared.raws],
        id=[row.row.id if isinstance(row, Encoded) else row.id for row in prepared.rows],
        reason=[rejects.get(raw.index) for raw in prepared.raws],
        prompt=np.array([_prompt_hash(row) for row in prepared.rows], np.int64),
        n_tokens=_counts(prepared, lambda text: sum(turn.n_tokens for turn in text.turns)),
        sequence_tokens=_counts(prepared, lambda text: len(text.ids), both=True),
        groups={name: [_group(raw, name) for raw in prepared.raws] for name in plan.by},
        projection=projected.response,
        minus_prompt=projected.minus_prompt,
        minus_natural=minus_natural,
        rejected=projected.rejected,
        judged=judged,
        told=[reading_text(row.row) if isinstance(row, Encoded) else None for row in prepared.rows],
    )


class _Projected(NamedTuple):
    """Projections of rows, each [row, direction]; NaN where there is none."""

    response: FloatColumns
    minus_prompt: FloatColumns
    rejected: FloatColumns


def _project(engine: Engine, prepared: Prepared, probe: Probe, plan: Plan) -> _Projected:
    """Compute the rows' scores: the mean projection of the response tokens on every direction."""
    # A pair's chosen texts precede its rejected ones.
    texts = [text.ids for row in prepared.encoded for text in (*row.texts, *row.rejected)]
    values = iter(engine.project(texts, probe.directions, batch_tokens=plan.batch_tokens))
    shape = (len(prepared.rows), len(probe.directions.layers))
    out = _Projected(*(np.full(shape, np.nan, np.float32) for _ in range(3)))
    for place, row in enumerate(prepared.rows):
        if isinstance(row, Encoded):
            out.response[place], out.minus_prompt[place] = _row(row.texts, values)
            if row.rejected:
                out.rejected[place], _ = _row(row.rejected, values)
    return out


class TurnPrompt(NamedTuple):
    """The tokens before one scored response, from which its natural response is generated."""

    ids: tuple[int, ...]
    n_tokens: int
    """Length of the scored response, which is its weight in the row's mean."""


#: The column of a part with every row's prompts, kept for a second stage.
TURN_PROMPTS = "turn_prompts"


def turn_prompts(row: Encoded) -> list[TurnPrompt]:
    """The prompt of each of a row's scored responses."""
    return [
        TurnPrompt(tuple(text.ids[: turn.prompt_last + 1].tolist()), turn.n_tokens)
        for text in row.texts
        for turn in text.turns
    ]


def turn_prompts_text(row: Encoded | Reject) -> str | None:
    """A row's prompts as JSON, to be kept beside its scores."""
    return None if isinstance(row, Reject) else json.dumps(turn_prompts(row))


def parse_turn_prompts(text: str) -> list[TurnPrompt]:
    """Parse the JSON of `turn_prompts_text`."""
    return [TurnPrompt(tuple(ids), n_tokens) for ids, n_tokens in json.loads(text)]


def natural_projections(prepared: Prepared, probe: Probe, naturals: Naturals) -> FloatColumns:
    """`natural_values` of tokenised rows, as [row, direction]; NaN for a reject."""
    rows = [turn_prompts(r) if isinstance(r, Encoded) else [] for r in prepared.rows]
    return natural_values(rows, probe, naturals)


def natural_values(
    rows: Sequence[Sequence[TurnPrompt]], probe: Probe, naturals: Naturals
) -> FloatColumns:
    """The natural responses' projections [row, direction], with turns weighted as in the row.

    NaN for a row without prompts, or with a prompt that has no natural response. Responses that
    are not stored yet are generated.
    """
    directions = probe.directions
    layers = sorted(set(directions.layers))
    slot = torch.tensor([layers.index(layer) for layer in directions.layers])
    means = naturals.means([prompt.ids for row in rows for prompt in row], layers)
    found = {
        key: None if mean is None else (mean[slot] * directions.unit).sum(-1).double()
        for key, mean in means.items()
    }
    out = np.full((len(rows), len(directions.layers)), np.nan, np.float32)
    for place, row in enumerate(rows):
        values = [found[prompt_key(prompt.ids)] for prompt in row]
        known = [value for value in values if value is not None]
        if row and len(known) == len(row):
            out[place] = _weighted(known, [prompt.n_tokens for prompt in row])
    return out


def judge_rows(judge: Judge, specs: Sequence[TraitSpec], prepared: Prepared) -> FloatColumns:
    """The judge's log-odds [row, trait] of every row's last response; NaN if there are none."""
    out = np.full((len(prepared.rows), len(specs)), np.nan, np.float32)
    places = [i for i, row in enumerate(prepared.rows) if isinstance(row, Encoded)]
    answers = [last_answer(row.row.messages) for row in prepared.encoded]
    for trait, spec in enumerate(specs):
        for place, found in zip(places, judge.score(spec, answers), strict=True):
            if found.log_odds is not None:
                out[place, trait] = found.log_odds
    return out


def _row(texts: Sequence[Text], values: Iterator[Tensor]) -> tuple[Tensor, Tensor]:
    """A row's mean projection over response tokens, and that minus the last prompt token's."""
    means, before, weights = [], [], []
    for text in texts:
        own = next(values)
        for turn in text.turns:
            means.append(own[turn.start : turn.stop].double().mean(0))
            before.append(own[turn.prompt_last].double())
            weights.append(turn.n_tokens)
    mean = _weighted(means, weights)
    return mean, mean - _weighted(before, weights)


def _weighted(values: Sequence[Tensor], weights: Sequence[int]) -> Tensor:
    share = torch.tensor(weights, dtype=torch.float64) / sum(weights)
    return (torch.stack(list(values)) * share[:, None]).sum(0)


def _counts(prepared: Prepared, count: Callable[[Text], int], *, both: bool = False) -> Any:
    return np.array(
        [
            sum(map(count, (*row.texts, *(row.rejected if both else ()))))
            if isinstance(row, Encoded)
            else 0
            for row in prepared.rows
        ],
        np.int32,
    )


def _prompt_hash(row: Encoded | Reject) -> int:
    if isinstance(row, Reject):
        return 0
    text = json.dumps(row.row.messages[:-1], ensure_ascii=False)
    digest = hashlib.blake2b(text.encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little", signed=True)


def _group(raw: RawRow, column: str) -> str | None:
    value = plain(raw.columns.get(column))
    return value if value is None or isinstance(value, str) else json_text(value)
