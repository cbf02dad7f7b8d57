"""Option groups that commands share, and what is built from them. Loads no torch itself."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from cyclopts import Parameter

from personavec.cli import options as shared
from personavec.cli.command import check_writable
from personavec.errors import UsageError
from personavec.options import (
    ENDPOINT,
    GENERAL,
    JUDGE,
    MAIN,
    MODEL,
    Count,
    KeyValues,
    Names,
    options,
    parsed,
)

if TYPE_CHECKING:
    from personavec.judges import Endpoint, Judge
    from personavec.model import LoadedModel
    from personavec.model.engine import Engine
    from personavec.traits import Origin, TraitSpec
    from personavec.vectors import PersonaVector


@contextmanager
def temporary_folder() -> Iterator[Path]:
    """A folder within this context."""
    with tempfile.TemporaryDirectory(prefix="personavec-") as folder:
        yield Path(folder)


@options()
@dataclass(frozen=True)
class TraitOptions:
    """The trait."""

    trait: str
    """A bundled trait, a spec file, or a name."""
    description: str | None = None
    """Describe the trait; a spec is built from templates."""

    def load(self) -> tuple[TraitSpec, Origin]:
        from personavec.traits import load_trait

        return load_trait(self.trait, self.description)


@options(MODEL)
@dataclass(frozen=True)
class ModelLoading:
    """How a model is loaded."""

    dtype: str | None = None
    """float32, bfloat16 or float16; default: automatic."""
    device: str | None = None
    """cpu, cuda, …; default: automatic."""
    model_arg: KeyValues = ()
    """For from_pretrained, e.g. device_map=auto; JSON is read as JSON; repeatable."""
    template_arg: KeyValues = ()
    """For the chat template, e.g. enable_thinking=false; repeatable."""

    def load(self, name: str) -> LoadedModel:
        """The model of this name. Raises UsageError, ModelError."""
        return shared.load_model(name, self.dtype, self.device, self.model_arg, self.template_arg)


@options(MODEL)
@dataclass(frozen=True)
class ModelOptions(ModelLoading):
    """The model."""

    model: Annotated[str, MAIN] = "smollm2"
    """smollm2, a Hugging Face id, a folder or a .gguf file."""

    def load(self, name: str | None = None) -> LoadedModel:
        """The model, or another one in the same way. Raises UsageError, ModelError."""
        return super().load(name or self.model)


def _estimator(text: str) -> str:
    from personavec.vectors import ESTIMATORS

    if text not in ESTIMATORS:
        raise UsageError(f"{text}: use {' or '.join(ESTIMATORS)}")
    return text


@options()
@dataclass(frozen=True)
class VectorsOptions:
    """The vectors that rows of data are projected on."""

    vectors: Names = ()
    """Vectors' folders or bundled names; repeat it, or separate by commas. Default: all bundled
    ones."""
    estimator: Annotated[str | None, MODEL, parsed(_estimator, "mean|logistic")] = None
    """Which of a vector's directions to use. Default: the one that steers."""

    def load(self) -> list[PersonaVector]:
        """Raises UsageError."""
        return shared.screening_vectors(self.vectors, self.estimator)


@options(MODEL)
@dataclass(frozen=True)
class EngineOptions:
    """What runs the model."""

    engine: Literal["transformers", "vllm"] = "transformers"
    """What runs the model."""
    engine_arg: KeyValues = ()
    """For vLLM, e.g. tensor_parallel_size=4; repeatable."""

    def __post_init__(self) -> None:
        shared.check_engine(self.engine, self.engine_arg)

    def start(self, loaded: LoadedModel, batch_tokens: int = 16384) -> Engine:
        return shared.engine(self.engine, self.engine_arg, loaded, batch_tokens)


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
        if self.cache is not None:
            check_writable("--cache", self.cache, is_file=False)

    def connect(self) -> Endpoint:
        """The endpoint. Raises UsageError, EndpointError."""
        from personavec.judges import Endpoint

        return Endpoint(
            self.api_model or "",
            self.api_base or "",
            key_variable=self.api_key_env,
            concurrency=1,
            cache=self.cache,
        )


@options(JUDGE)
@dataclass(frozen=True)
class PlainJudgeOptions(shared.JudgeChoice):
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
        super().__post_init__()
        if self.cache is not None:
            check_writable("--cache", self.cache, is_file=False)

    def make(
        self,
        load: Callable[[str], LoadedModel],
        *,
        subject: LoadedModel | None = None,
        default_model: str = "smollm2",
    ) -> Judge:
        return shared.make_judge(self, load, subject=subject, default_model=default_model)

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

    def check(self, spec: TraitSpec) -> None:
        """Refuse a spec that the judge could not judge, before anything is loaded."""
        if self.judge != "contrast":
            shared.require_rubric(spec)


@options(JUDGE)
@dataclass(frozen=True)
class JudgeOptions(PlainJudgeOptions):
    """The judge, and what an endpoint would cost."""

    api_price: str | None = None
    """Prices of a million tokens in and out, for --dry-run."""
    dry_run: bool = False
    """Print what an endpoint would be asked; ask nothing."""

    def show_estimate_to_come(
        self, asked: Sequence[tuple[TraitSpec, Sequence[str]]], max_tokens: int, as_json: bool
    ) -> None:
        """Print what judging would take, of responses to each spec's questions.

        Each counts as `max_tokens` long. Raises UsageError for judges that call no endpoint.
        """
        coming = [(spec, shared.responses_to_come(texts, max_tokens)) for spec, texts in asked]
        shared.print_estimate(shared.estimate(self, coming), self.api_price, as_json)


@options(GENERAL)
@dataclass(frozen=True)
class PrintOptions:
    """What is printed."""

    config: Path | None = None
    """TOML or YAML file of options; the command line overrides it."""
    as_json: Annotated[bool, Parameter(name="--json")] = False
    """One JSON object on stdout; logs on stderr."""
    debug: bool = False
    """Show tracebacks and library messages."""


@options(GENERAL)
@dataclass(frozen=True)
class OutputOptions(PrintOptions):
    """What is written and printed."""

    out: Annotated[Path | None, MAIN] = None
    """Folder or file to write."""

    def folder(self, default: Path) -> Path:
        """Where to write. Raises StorageError."""
        check_writable("--out", self.out or default, is_file=False)
        return self.out or default

    def folder_or_temporary(self) -> AbstractContextManager[Path]:
        """Where to write; without --out a folder that goes afterwards. Raises StorageError."""
        return nullcontext(self.folder(self.out)) if self.out else temporary_folder()

    def file(self, default: Path) -> Path:
        """The file to write. Raises StorageError, UsageError."""
        check_writable("--out", self.out or default, is_file=True)
        return self.out or default
