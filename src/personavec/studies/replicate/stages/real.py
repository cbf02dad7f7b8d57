"""Real conversations chosen by projection difference: does training on them move the trait?

All drawn conversations are scored along every trait in one reading. Of each trait the highest and
the lowest are trained on, beside rows drawn at random; and once more the highest and lowest of
those that the judge does not flag. The random rows serve all traits, flagged or not.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from personavec.data import DataRow, Message, RawRow
from personavec.finetune import TrainingRows
from personavec.judges import Score, last_answer
from personavec.results import Estimate
from personavec.rollouts import Rollout
from personavec.runs import Settings, append_records, read_records
from personavec.screen import Plan, Probe, prepare, probe, score_prepared
from personavec.studies import Measured
from personavec.studies.replicate.stage import Stage
from personavec.studies.replicate.stages import measuring
from personavec.studies.replicate.stages.measuring import BASE, difference, level_of
from personavec.studies.replicate.stages.naturals import chats
from personavec.studies.replicate.study import Inputs, LeftOut, Study, in_groups
from personavec.studies.replicate.work import QUESTION, Work, judged, judging_pairs, trained

_FIELDS = (
    *("real_traits", "chat_rows", "real_rows", "real_tokens", "real_seeds", "rank"),
    *(
        "learning_rate",
        "epochs",
        "accumulation",
        "questions",
        "answers",
        "answer_tokens",
        "judge_pairs",
        "seed",
    ),
)
PARTS = ("high", "random", "low")
#: Which rows parts are drawn from.
ALL, FILTERED = "all", "not flagged by the judge"
#: The judge reads at most so many candidates for each row of a filtered part.
_CANDIDATES = 2
#: A row whose log-odds are above this is flagged.
_FLAG = 0.0
_GROUP = 64
#: Rows of the data, where nothing bounds their number.
_MANY = 10_000


@dataclass(frozen=True, kw_only=True)
class RealPart:
    """A part that was trained on, and what the model expresses afterwards, all seeds together."""

    trait: str
    drawn_from: str
    part: str
    rows: int
    projection_difference: float
    """Mean over the rows, in units of the residual stream."""
    length: float
    """Mean tokens of a response."""
    expression: Estimate
    change: Estimate
    """From the base, paired by question."""


@dataclass(frozen=True, kw_only=True)
class RealContrast:
    """Expression after one part minus expression after another, paired by question."""

    trait: str
    drawn_from: str
    what: str
    """`high - random`, `random - low`, `high - low`; or `seed N` of the random rows beside the
    first seed, which is nothing but noise."""
    difference: Estimate


@dataclass(frozen=True, kw_only=True)
class RealResult:
    format: int = 1
    stage: str = "real"
    scored: int
    """Conversations."""
    parts: tuple[RealPart, ...]
    contrasts: tuple[RealContrast, ...]
    left_out: tuple[LeftOut, ...]


@dataclass(frozen=True)
class _Part:
    """Rows to train on."""

    trait: str | None
    """None for the random rows, which serve all traits."""
    drawn_from: str
    part: str
    places: tuple[int, ...]
    """Of its rows among those that were scored."""

    @property
    def name(self) -> str:
        kind = "filtered-" if self.drawn_from == FILTERED else ""
        return self.part if self.trait is None else f"{self.trait}-{kind}{self.part}"


@dataclass(frozen=True, eq=False)
class _Scored:
    """The conversations, cut to length, with the projection differences [row, trait]."""

    rows: tuple[DataRow, ...]
    traits: tuple[str, ...]
    difference: np.ndarray
    length: np.ndarray

    def along(self, trait: str) -> np.ndarray:
        return self.difference[:, self.traits.index(trait)]


def missing(inputs: Inputs) -> str | None:
    return None if inputs.sources.chats else "no real conversations were given (--chats)"


def plan(inputs: Inputs) -> Work:
    config = inputs.config
    if inputs.sources.chats is None:
        return Work()
    rows, traits = config.chat_rows or _MANY, config.real_traits
    work = Work(read=rows * (2 * QUESTION + config.real_tokens))
    for trait in traits:
        pairs = judging_pairs(inputs.specs[trait], config.judge_pairs)
        work += judged(2 * _CANDIDATES * config.real_rows, config.real_tokens, pairs)
    finetunes = (1 + 4 * len(traits)) * len(config.real_seeds)
    work += trained(config.real_rows, QUESTION + config.real_tokens, config.epochs) * finetunes
    return work + measuring.work(inputs, traits, 1 + finetunes, config.questions)


def settings(inputs: Inputs) -> Settings:
    return {
        **inputs.settings(_FIELDS, inputs.config.real_traits),
        "chats": inputs.sources.identity("chats"),
    }


def run(study: Study) -> RealResult:
    config = study.config
    traits = tuple(trait for trait in config.real_traits if study.has_vector(trait))
    scored = _scored(study, traits)
    parts, left_out = _parts(study, scored)
    folder = study.folder("real") / "finetunes"
    jobs = {
        folder / f"{part.name}-seed{seed}": (_rows(scored, part), seed)
        for part in parts
        for seed in config.real_seeds
    }
    study.train(jobs)
    models = {folder.name: folder / "model" for folder in jobs}
    cells = measuring.measured(study, "real", traits, models, config.questions)
    return RealResult(
        scored=len(scored.rows),
        parts=tuple(_results(study, scored, parts, cells)),
        contrasts=tuple(_contrasts(study, scored, parts, cells)),
        left_out=tuple(left_out),
    )


# Scores


def _scored(study: Study, traits: Sequence[str]) -> _Scored:
    """Every conversation's projection differences, which are kept row by row."""
    config, path = study.config, study.folder("real") / "scores.jsonl"
    rows = tuple(_cut(study, row) for row in chats(study))
    own = probe(study.vectors(traits), study.loaded, random=0)
    done = len(read_records(path))
    naturals = study.naturals(config.real_tokens)
    with study.progress.bar("scoring real conversations", len(rows)) as bar:
        bar.found(done)
        for group in in_groups(rows[done:], _GROUP):
            columns = score_prepared(
                study.loaded,
                prepare(study.loaded, list(map(_raw, group)), Plan(turns="last")),
                own,
                Plan(turns="last"),
                naturals=naturals,
                engine=study.engine,
            )
            append_records(path, _records(group, columns.minus_natural, columns.n_tokens, own))
            bar.advance(len(group))
    kept = read_records(path)
    return _Scored(
        rows,
        tuple(traits),
        np.array([[_number(v) for v in own["difference"]] for own in kept], np.float64),
        np.array([own["length"] for own in kept]),
    )


def _records(
    rows: Sequence[DataRow], values: np.ndarray, lengths: np.ndarray, own: Probe
) -> list[dict[str, object]]:
    n = len(own.traits)
    return [
        {
            "row": row.id,
            "difference": [None if np.isnan(v) else float(v) for v in values[i, :n]],
            "length": int(lengths[i]),
        }
        for i, row in enumerate(rows)
    ]


def _number(value: float | None) -> float:
    return np.nan if value is None else value


def _raw(row: DataRow) -> RawRow:
    return RawRow(row.index, "chats", row.index + 1, {"messages": list(row.messages)})


def _cut(study: Study, row: DataRow) -> DataRow:
    """The conversation with its last response cut after `real_tokens`."""
    *before, last = row.messages
    ids = study.loaded.chat.response_ids(last["content"])
    if len(ids) <= study.config.real_tokens:
        return row
    text = study.loaded.chat.decode(ids[: study.config.real_tokens])
    message: Message = {**last, "content": text}
    return replace(row, messages=(*before, message))


# Parts


def _parts(study: Study, scored: _Scored) -> tuple[list[_Part], list[LeftOut]]:
    """The random rows, and the ends of all rows and of those that the judge leaves."""
    config, left_out = study.config, list[LeftOut]()
    n = min(config.real_rows, len(scored.rows) // 3)
    places = random.Random(config.seed).sample(range(len(scored.rows)), n)
    found = [_Part(None, ALL, "random", tuple(sorted(places)))]
    for trait in scored.traits:
        order = _ordered(scored, trait)
        ends = {"high": order[::-1], "low": order}
        for part, ranked in ends.items():
            found.append(_Part(trait, ALL, part, tuple(ranked[:n])))
            kept = _unflagged(study, scored, trait, part, ranked[: _CANDIDATES * n])[:n]
            if len(kept) < n:
                why = (
                    f"the judge leaves {len(kept)} of {_CANDIDATES * n} candidates, {n} are needed"
                )
                left_out.append(LeftOut(what=f"{trait}, {part}, {FILTERED}", why=why))
                continue
            found.append(_Part(trait, FILTERED, part, tuple(kept)))
    return found, left_out


def _ordered(scored: _Scored, trait: str) -> list[int]:
    """Places of the rows with a value, the lowest first."""
    values = scored.along(trait)
    return [int(i) for i in np.argsort(values, kind="stable") if not np.isnan(values[i])]


def _unflagged(
    study: Study, scored: _Scored, trait: str, part: str, candidates: Sequence[int]
) -> list[int]:
    """Those of the candidates that the judge scores below the line, in order; kept as judged."""
    path = study.folder("real") / f"judged-{trait}-{part}.jsonl"
    done = {own["place"]: own["log_odds"] for own in read_records(path)}
    left = [place for place in candidates if place not in done]
    for group in in_groups(left, study.judge_of_tuned.group):
        answers = [last_answer(scored.rows[place].messages) for place in group]
        scores = study.judge_of_tuned.score(study.spec(trait), answers)
        values = [_showing(own) for own in scores]
        new = [{"place": p, "log_odds": v} for p, v in zip(group, values, strict=True)]
        append_records(path, new)
        done |= dict(zip(group, values, strict=True))
    return [p for p in candidates if (value := done[p]) is not None and value < _FLAG]


def _showing(score: Score) -> float | None:
    """Log-odds, or how far a judge without them scores above the middle."""
    if score.trait_score is None:
        return None
    return score.trait_score - 50 if score.log_odds is None else score.log_odds


def _rows(scored: _Scored, part: _Part) -> TrainingRows:
    return TrainingRows.of([scored.rows[place] for place in part.places])


# Results


def _answers(study: Study, cells: Mapping[str, Measured], part: _Part, trait: str) -> list[Rollout]:
    """Those of all seeds."""
    names = [f"{part.name}-seed{seed}" for seed in study.config.real_seeds]
    return [rollout for name in names for rollout in cells[name].of(trait)]


def _three(parts: Sequence[_Part], trait: str, drawn_from: str) -> dict[str, _Part]:
    """High, random and low of one trait; without what was left out."""
    own = [p for p in parts if p.trait is None or (p.trait, p.drawn_from) == (trait, drawn_from)]
    return {part.part: part for part in own}


def _results(
    study: Study, scored: _Scored, parts: Sequence[_Part], cells: Mapping[str, Measured]
) -> Iterator[RealPart]:
    seed = study.config.seed
    for trait in scored.traits:
        for drawn_from in (ALL, FILTERED):
            for name, part in _three(parts, trait, drawn_from).items():
                places = list(part.places)
                answers = _answers(study, cells, part, trait)
                yield RealPart(
                    trait=trait,
                    drawn_from=drawn_from,
                    part=name,
                    rows=len(places),
                    projection_difference=float(np.nanmean(scored.along(trait)[places])),
                    length=float(scored.length[places].mean()),
                    expression=level_of(answers, seed),
                    change=difference(answers, cells[BASE].of(trait), seed),
                )


def _contrasts(
    study: Study, scored: _Scored, parts: Sequence[_Part], cells: Mapping[str, Measured]
) -> Iterator[RealContrast]:
    seed, (first, *seeds) = study.config.seed, study.config.real_seeds
    for trait in scored.traits:
        for drawn_from in (ALL, FILTERED):
            own = _three(parts, trait, drawn_from)
            for a, b in (("high", "random"), ("random", "low"), ("high", "low")):
                if a in own and b in own:
                    ours, theirs = (_answers(study, cells, own[name], trait) for name in (a, b))
                    yield RealContrast(
                        trait=trait,
                        drawn_from=drawn_from,
                        what=f"{a} - {b}",
                        difference=difference(ours, theirs, seed),
                    )
        for other in seeds:
            ours, theirs = (cells[f"random-seed{s}"].of(trait) for s in (other, first))
            yield RealContrast(
                trait=trait,
                drawn_from=ALL,
                what=f"seed {other}",
                difference=difference(ours, theirs, seed),
            )


STAGE = Stage(
    "real",
    "real conversations",
    ("naturals", "extraction"),
    RealResult,
    plan,
    settings,
    run,
    missing,
)
