"""Option groups that commands share, and what is built from them. Loads no torch itself."""

from __future__ import annotations

import atexit
import tempfile
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from cyclopts import Parameter

from personavec.errors import PersonavecError, UsageError
from personavec.options import (
    GENERAL,
    MAIN,
    MODEL,
    NO_OPTION,
    KeyValues,
    Names,
    key_values,
    options,
    parsed,
)
from personavec.runs import Settings, check_writable
from personavec.terminal import Ending, log, open_report, print_json, show_ending

if TYPE_CHECKING:
    from personavec.model import LoadedModel
    from personavec.model.engine import Engine, VllmEngine
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
        given = {
            "model_args": key_values(self.model_arg, "--model-arg"),
            "template_args": key_values(self.template_arg, "--template-arg"),
        }
        from personavec.model import loading

        return loading.load_model(name, dtype=self.dtype, device=self.device, **given)


@options(MODEL)
@dataclass(frozen=True)
class ModelOptions(ModelLoading):
    """The model."""

    model: Annotated[str, MAIN] = "smollm2"
    """smollm2, a Hugging Face id, a folder or a .gguf file."""

    def load(self, name: str | None = None) -> LoadedModel:
        """The model, or another one in the same way. Raises UsageError, ModelError."""
        return super().load(name or self.model)

    def named(self) -> tuple[str, ...]:
        """The words that name it in a command, for what may be done next."""
        return () if self.model == "smollm2" else ("--model", self.model)


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
        from personavec.vectors import bundled_vectors, load_vector

        found = [load_vector(name) for name in self.vectors or bundled_vectors()]
        if self.estimator is None:
            return found
        return [vector.by(self.estimator) for vector in found]


@options(MODEL)
@dataclass(frozen=True)
class EngineOptions:
    """What runs the model."""

    engine: Literal["auto", "transformers", "vllm"] = "auto"
    """What runs the model; auto: vLLM where it is installed and worth its start."""
    engine_arg: KeyValues = ()
    """For vLLM, e.g. tensor_parallel_size=4; repeatable."""
    or_transformers: Annotated[bool, NO_OPTION] = False
    """Whether the transformers engine takes over where vLLM does not start."""

    def __post_init__(self) -> None:
        if self.engine_arg and self.engine != "vllm":
            raise UsageError("--engine-arg is for --engine vllm; for transformers use --model-arg")

    def resolved(
        self,
        loaded: LoadedModel,
        *,
        folder: Path | None = None,
        tokens: int | None = None,
        models: int = 1,
    ) -> EngineOptions:
        """With an engine in the place of `auto`; a line on stderr says which, and why.

        The run that was begun in `folder` keeps its engine. `tokens` is what is generated at most
        (None: unknown), by so many models. Raises PersonavecError for a run that began with vLLM,
        which is missing.
        """
        if self.engine != "auto":
            return self
        from personavec.model.engine import choice

        kept = choice.kept_engine(folder) if folder is not None else None
        if kept is not None:
            return replace(self, engine=kept)
        if not choice.worth_vllm(loaded, tokens, models):
            return replace(self, engine="transformers")
        return replace(self, engine="vllm", or_transformers=True)

    def start(self, loaded: LoadedModel, batch_tokens: int = 16384) -> Engine:
        """The engine that is named. Raises UsageError, PersonavecError."""
        from personavec.model.engine import TransformersEngine, VllmEngine

        def begin(arguments: Settings) -> VllmEngine:
            started = VllmEngine(loaded, arguments)
            # At exit Python waits for multiprocessing's processes; this comes before.
            atexit.register(started.close)
            return started

        return self.vllm(begin) or TransformersEngine(loaded, batch_tokens)

    def vllm(self, begin: Callable[[Settings], VllmEngine]) -> VllmEngine | None:
        """vLLM, if it is named, as `begin` starts it with the user's settings.

        Raises UsageError, PersonavecError.
        """
        if self.engine != "vllm":
            return None
        try:
            started = begin(key_values(self.engine_arg, "--engine-arg"))
        except PersonavecError as error:
            if not self.or_transformers:
                raise
            log(f"engine: transformers ({error})")
            return None
        log(f"engine: {started.mode}")
        return started


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

    def tell(self, record: dict[str, Any], show: Callable[[], object]) -> None:
        """Print a result: the record as JSON, or what people are shown."""
        if self.as_json:
            print_json(record)
        else:
            show()


@options(GENERAL)
@dataclass(frozen=True)
class ReportOptions:
    """What is done with the report."""

    open_report: Annotated[bool, Parameter(name="--open")] = False
    """Open the report in the browser at the end."""

    def end(
        self,
        output: PrintOptions,
        record: dict[str, Any],
        show: Callable[[], None],
        ending: Ending,
    ) -> None:
        """Print a command's result, with its last lines for people, and open its report."""
        output.tell(record, lambda: (show(), show_ending(ending)))
        if self.open_report and ending.written is not None:
            open_report(ending.written)


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
