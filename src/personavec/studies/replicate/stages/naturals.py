"""The model's own responses to the prompts of the data, which projections are compared with."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from personavec.data import DataRow
from personavec.runs import Settings
from personavec.studies.replicate.stage import Stage
from personavec.studies.replicate.study import Inputs, Study, conversations, in_groups
from personavec.studies.replicate.work import QUESTION, Work, answered

#: Prompts of a hub's or a paper's data, where nothing bounds their number.
_MANY = 10_000
#: Prompts answered between two looks at the bar.
_GROUP = 256
#: Prompts of these data that are longer are not screened.
MAX_PROMPT = 512


@dataclass(frozen=True, kw_only=True)
class NaturalResponses:
    """The prompts of one source."""

    source: str
    prompts: int
    """Distinct ones."""
    answered: int
    mean_tokens: float | None
    finished: float | None
    """Share of responses that ended before the length limit, 0 to 1."""


@dataclass(frozen=True, kw_only=True)
class NaturalsResult:
    format: int = 1
    stage: str = "naturals"
    sources: tuple[NaturalResponses, ...]


def plan(inputs: Inputs) -> Work:
    config = inputs.config
    asked = sum(len(inputs.specs[t].questions.extraction) for t in config.elicited)
    work = answered(asked, config.answer_tokens)
    if inputs.sources.chats is None:
        return work
    # Rows of one prompt share its natural response; that none do is the most it can be.
    return work + answered(config.chat_rows or _MANY, config.real_tokens, 2 * QUESTION)


def settings(inputs: Inputs) -> Settings:
    return {
        **inputs.settings(
            ("answer_tokens", "chat_rows", "real_tokens", "seed"), inputs.config.elicited
        ),
        "chats": inputs.sources.identity("chats"),
    }


def run(study: Study) -> NaturalsResult:
    config = study.config
    questions = [q for t in config.elicited for q in study.spec(t).questions.extraction]
    own = [study.loaded.chat.prompt_ids([{"role": "user", "content": q}]) for q in questions]
    found = [_answered(study, "questions", list(map(tuple, own)), config.answer_tokens)]
    if study.sources.chats is not None:
        found.append(_answered(study, "chats", prompts(study, chats(study)), config.real_tokens))
    return NaturalsResult(sources=tuple(found))


def chats(study: Study) -> tuple[DataRow, ...]:
    """The real conversations that are scored."""
    config = study.config
    rows = conversations(str(study.sources.chats), config.chat_rows, config.seed)
    return tuple(row for row in rows if _fits(study, row))


def prompts(study: Study, rows: Sequence[DataRow]) -> list[tuple[int, ...]]:
    """The token ids before each row's last response."""
    return [tuple(study.loaded.chat.prompt_ids(list(row.messages[:-1]))) for row in rows]


def _fits(study: Study, row: DataRow) -> bool:
    ids = study.loaded.chat.prompt_ids(list(row.messages[:-1]))
    return len(ids) <= min(MAX_PROMPT, study.loaded.context - study.config.real_tokens)


def _answered(
    study: Study, source: str, asked: Sequence[tuple[int, ...]], tokens: int
) -> NaturalResponses:
    distinct = list(dict.fromkeys(asked))
    naturals = study.naturals(tokens)
    with study.progress.bar(f"natural responses: {source}", len(distinct)) as bar:
        for group in in_groups(distinct, _GROUP):
            naturals.means(group, [0], bar)
    kept = [own for ids in distinct if (own := naturals.response(ids)) is not None]
    return NaturalResponses(
        source=source,
        prompts=len(distinct),
        answered=len(kept),
        mean_tokens=sum(own.n_tokens for own in kept) / len(kept) if kept else None,
        finished=sum(own.finished for own in kept) / len(kept) if kept else None,
    )


STAGE = Stage(
    "naturals",
    "natural responses",
    (),
    NaturalsResult,
    plan,
    settings,
    run,
)
