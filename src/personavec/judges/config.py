"""Which judge judges, and what `personavec judges` does; the fields are the commands' options.

Loads no torch itself.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from personavec.errors import UsageError
from personavec.extras import check_extras
from personavec.options import ENDPOINT, JUDGE, MAIN, Count, Names, options
from personavec.runs import check_writable

if TYPE_CHECKING:
    from personavec.judges import Answer, Endpoint, Judge
    from personavec.model import LoadedModel
    from personavec.traits import TraitSpec

#: The tune half of the known answers is for choosing and fitting, the report half for reporting.
Half = Literal["tune", "report"]


@options()
@dataclass(frozen=True)
class ScoreConfig:
    """The columns of a file of answers."""

    question_column: str = "question"
    """Column of the question."""
    answer_column: str = "answer"
    """Column of the answer."""


@options()
@dataclass(frozen=True)
class CheckConfig:
    """The known answers that a judge is tested on."""

    half: Half | None = None
    """One half of the checks, tune or report; default: both."""


@options()
@dataclass(frozen=True)
class CompareConfig:
    """The scores that are compared."""

    columns: Names
    """Columns of scores, e.g. judge_a,judge_b."""
    question_column: str = "question"
    """Column of the question."""
    seed: int = 0
    """Seed of the bootstrap and of the pairs of rows that are drawn."""


@options(ENDPOINT)
@dataclass(frozen=True)
class EndpointOptions:
    """A model behind an endpoint that writes."""

    api_model: Annotated[str | None, MAIN] = None
    """The endpoint's model."""
    api_base: str | None = None
    """The endpoint's URL, up to /v1; default: OpenAI's."""
    api_key_env: str = "OPENAI_API_KEY"
    """Environment variable that holds the endpoint's key."""
    cache: Path | None = None
    """Folder that keeps an endpoint's answers; default: in your cache folder."""
    api_price: str | None = None
    """Prices of a million tokens in and out, for --dry-run."""
    dry_run: bool = False
    """Print what an endpoint would be asked; ask nothing."""

    def __post_init__(self) -> None:
        _check_cache(self.cache)

    def connect(self) -> Endpoint:
        """The endpoint. Raises UsageError, EndpointError."""
        return _endpoint(self, 1)


@options(JUDGE)
@dataclass(frozen=True)
class PlainJudgeOptions:
    """The judge of a command that has no dry run."""

    judge: Annotated[Literal["contrast", "rubric", "api"], MAIN] = "contrast"
    """contrast; rubric, on a transformers model; or api, on a model behind an endpoint."""
    judge_model: str | None = None
    """Model of a contrast or rubric judge, like --model."""
    api_base: str | None = None
    """The endpoint's URL, up to /v1; default: OpenAI's."""
    api_model: str | None = None
    """The endpoint's model."""
    api_key_env: str = "OPENAI_API_KEY"
    """Environment variable that holds the endpoint's key."""
    api_concurrency: Count = 16
    """Requests under way at a time."""
    cache: Path | None = None
    """Folder that keeps an endpoint's answers; default: in your cache folder."""

    def __post_init__(self) -> None:
        if self.judge == "api" and not self.api_model:
            raise UsageError("--judge api needs --api-model, the endpoint's name for the model")
        if self.judge == "api" and self.judge_model:
            raise UsageError("--judge-model is no option of --judge api; use --api-model")
        if self.judge != "api" and (self.api_model or self.api_base):
            raise UsageError("--api-model and --api-base need --judge api")
        _check_cache(self.cache)

    def connect(self) -> Endpoint:
        """The endpoint. Raises UsageError, EndpointError."""
        return _endpoint(self, self.api_concurrency)

    def check(self, spec: TraitSpec) -> None:
        """Refuse what the judge lacks or could not judge, before anything is loaded."""
        from personavec.judges import trait_rubric

        if self.judge != "contrast":
            trait_rubric(spec)
        if self.asks_endpoint:
            check_extras("api")

    @property
    def asks_endpoint(self) -> bool:
        return self.judge == "api"

    def make(
        self,
        load: Callable[[str], LoadedModel],
        *,
        subject: LoadedModel | None = None,
        default_model: str = "smollm2",
    ) -> Judge:
        """The judge.

        A judge on a model of its own loads it with `load`. Otherwise it is the subject, the model
        whose responses are judged, unsteered; where there is none, `default_model`.
        """
        from personavec.judges import ApiRubricJudge, ContrastJudge, LocalRubricJudge

        if self.judge == "api":
            return ApiRubricJudge(self.connect())
        loaded = subject if self.judge_model is None else None
        if loaded is None:
            loaded = load(self.judge_model or default_model)
        if self.judge == "rubric":
            return LocalRubricJudge(loaded)
        return ContrastJudge(loaded, wrote_answers=loaded is subject)

    def make_unless_default(
        self, load: Callable[[str], LoadedModel], nearest: Callable[[], LoadedModel]
    ) -> Judge | None:
        """The judge that was asked for; None where the verb's own is to judge.

        A rubric judge without a model of its own is `nearest()`, the one that nothing changed.
        """
        if self.judge == "contrast" and not self.judge_model:
            return None
        own = self.judge == "rubric" and not self.judge_model
        # A contrast judge on a model that is named reads texts, whoever wrote them.
        return self.make(load, subject=nearest() if own else None)


@options(JUDGE)
@dataclass(frozen=True)
class JudgeOptions(PlainJudgeOptions):
    """The judge, and what an endpoint would cost."""

    api_price: str | None = None
    """Prices of a million tokens in and out, for --dry-run."""
    dry_run: bool = False
    """Print what an endpoint would be asked; ask nothing."""

    @property
    def asks_endpoint(self) -> bool:
        return self.judge == "api" and not self.dry_run

    def show_cost(
        self, answers: Sequence[tuple[TraitSpec, Sequence[Answer]]], *, as_json: bool
    ) -> None:
        """Print what judging every spec's answers would take of an endpoint.

        Raises UsageError for judges that call none.
        """
        from personavec.judges import ApiRubricJudge, total
        from personavec.judges.endpoint.terminal import show_cost

        if self.judge != "api":
            raise UsageError(f"--dry-run: --judge {self.judge} calls no endpoint; use --judge api")
        judge = ApiRubricJudge(self.connect())
        found = total(judge.estimate(spec, own) for spec, own in answers)
        show_cost(found, self.api_price, as_json=as_json)

    def show_estimate_to_come(
        self, asked: Sequence[tuple[TraitSpec, Sequence[str]]], max_tokens: int, as_json: bool
    ) -> None:
        """Print what judging would take, of responses to each spec's questions.

        Each counts as `max_tokens` long. Raises UsageError for judges that call no endpoint.
        """
        from personavec.judges import responses_to_come

        coming = [(spec, responses_to_come(texts, max_tokens)) for spec, texts in asked]
        self.show_cost(coming, as_json=as_json)


def _check_cache(folder: Path | None) -> None:
    if folder is not None:
        check_writable("--cache", folder, is_file=False)


def _endpoint(of: EndpointOptions | PlainJudgeOptions, concurrency: int) -> Endpoint:
    from personavec.judges import Endpoint

    return Endpoint(
        of.api_model or "",
        of.api_base or "",
        key_variable=of.api_key_env,
        concurrency=concurrency,
        cache=of.cache,
    )
