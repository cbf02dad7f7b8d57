"""Options that commands share: one spelling, one help text."""

from __future__ import annotations

import atexit
import json
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from personavec.errors import UsageError
from personavec.terminal import console, print_json
from personavec.wording import plural

if TYPE_CHECKING:
    from personavec.judges import Answer, CostEstimate, Judge as JudgeOf
    from personavec.model import LoadedModel
    from personavec.model.engine import Engine as EngineOf
    from personavec.traits import TraitSpec
    from personavec.vectors import PersonaVector

Model = Annotated[
    str, typer.Option("--model", help="smollm2, a Hugging Face id, a folder or a .gguf file.")
]
Dtype = Annotated[
    str | None, typer.Option("--dtype", help="float32, bfloat16 or float16; default: automatic.")
]
Device = Annotated[str | None, typer.Option("--device", help="cpu, cuda, …; default: automatic.")]
ModelArgs = Annotated[
    list[str] | None,
    typer.Option(
        "--model-arg",
        metavar="KEY=VALUE",
        help="For from_pretrained, e.g. device_map=auto; JSON is read as JSON; repeatable.",
    ),
]
TemplateArgs = Annotated[
    list[str] | None,
    typer.Option(
        "--template-arg",
        metavar="KEY=VALUE",
        help="For the chat template, e.g. enable_thinking=false; repeatable.",
    ),
]
Engine = Annotated[
    str, typer.Option("--engine", help="What runs the model: transformers, or vllm.")
]
EngineArgs = Annotated[
    list[str] | None,
    typer.Option(
        "--engine-arg",
        metavar="KEY=VALUE",
        help="For vLLM, e.g. tensor_parallel_size=4; repeatable.",
    ),
]
Trait = Annotated[str, typer.Option("--trait", help="A bundled trait, a spec file, or a name.")]
Description = Annotated[
    str | None,
    typer.Option("--description", help="Describe the trait; a spec is built from templates."),
]
Layers = Annotated[
    str | None, typer.Option("--layer", help="A layer or 'all'; default: the selected one.")
]
Positions = Annotated[str, typer.Option("--positions", help="Steered positions: response or all.")]
Seed = Annotated[int, typer.Option("--seed", help="Seed of all sampling.")]
BatchTokens = Annotated[
    int, typer.Option("--batch-tokens", min=1, help="Tokens in a batch; bounds memory.")
]
OwnTraits = Annotated[
    list[str] | None,
    typer.Option("--trait", help="Spec file of a vector's trait that is not bundled; repeatable."),
]
Json = Annotated[bool, typer.Option("--json", help="One JSON object on stdout; logs on stderr.")]
Debug = Annotated[bool, typer.Option("--debug", help="Show tracebacks and library messages.")]
Out = Annotated[Path | None, typer.Option("--out", help="Folder or file to write.")]
MaxTokens = Annotated[int, typer.Option("--max-tokens", min=1, help="Longest response, in tokens.")]
Temperature = Annotated[float, typer.Option("--temperature", min=0, help="0 is greedy.")]

Judge = Annotated[
    str,
    typer.Option(
        "--judge",
        help="contrast; rubric, on a transformers model; or api, on a model behind an endpoint.",
    ),
]
JudgeModel = Annotated[
    str | None,
    typer.Option("--judge-model", help="Model of a contrast or rubric judge, like --model."),
]
ApiBase = Annotated[
    str | None,
    typer.Option("--api-base", help="The endpoint's URL, up to /v1; default: OpenAI's."),
]
ApiModel = Annotated[str | None, typer.Option("--api-model", help="The endpoint's model.")]
ApiKeyEnv = Annotated[
    str, typer.Option("--api-key-env", help="Environment variable that holds the endpoint's key.")
]
ApiConcurrency = Annotated[
    int, typer.Option("--api-concurrency", min=1, help="Requests under way at a time.")
]
ApiPrice = Annotated[
    str | None,
    typer.Option("--api-price", help="Prices of a million tokens in and out, for --dry-run."),
]
Cache = Annotated[
    Path | None,
    typer.Option("--cache", help="Folder of an endpoint's answers; default: in your cache folder."),
]
DryRun = Annotated[
    bool, typer.Option("--dry-run", help="Print what an endpoint would be asked; ask nothing.")
]


def names(texts: Sequence[str] | None) -> list[str]:
    """The names in options that may be repeated, or hold several separated by commas."""
    return [name.strip() for text in texts or () for name in text.split(",") if name.strip()]


def screening_vectors(chosen: Sequence[str] | None, estimator: str | None) -> list[PersonaVector]:
    """The vectors named, by default all bundled ones, by the estimator asked for."""
    from personavec.vectors import bundled_vectors, load_vector

    found = [load_vector(name) for name in names(chosen) or bundled_vectors()]
    if estimator is None:
        return found
    return [vector.by(estimator) for vector in found]


def specs_of(vectors: Sequence[PersonaVector], files: Sequence[str] | None) -> list[TraitSpec]:
    """Each vector's trait spec, of the files that were given or bundled.

    Raises UsageError for a trait that is neither.
    """
    from personavec.traits import bundled_traits, load_trait

    given = {spec.name: spec for spec, _ in map(load_trait, files or ())}
    found = []
    for vector in vectors:
        spec = given.get(vector.trait)
        if spec is None and vector.trait not in bundled_traits():
            raise UsageError(
                f"the trait '{vector.trait}' is not bundled: give its spec file with --trait"
            )
        found.append(spec or load_trait(vector.trait)[0])
    return found


def numbers(text: str, option: str) -> tuple[float, ...]:
    """Comma-separated numbers of an option. Raises UsageError."""
    try:
        found = tuple(float(part) for part in text.split(",") if part.strip())
    except ValueError:
        raise UsageError(f"{option} {text}: give numbers separated by commas") from None
    if not all(math.isfinite(number) for number in found):
        raise UsageError(f"{option} {text}: a number is not finite")
    return found


def layers(text: str | None) -> int | Literal["all"] | None:
    """What `--layer` names: a layer, all, or by default the vector's selected one."""
    if text is None or text == "all":
        return text
    try:
        return int(text)
    except ValueError:
        raise UsageError(f"--layer {text}: give a number, or 'all'") from None


def whole_numbers(text: str, option: str) -> tuple[int, ...]:
    """Comma-separated whole numbers of an option. Raises UsageError."""
    found = numbers(text, option)
    if not all(number.is_integer() for number in found):
        raise UsageError(f"{option} {text}: give whole numbers separated by commas")
    return tuple(map(int, found))


def positions_of_training(text: str) -> Literal["response", "all"]:
    if text not in ("response", "all"):
        raise UsageError(f"--positions {text}: use response or all")
    return text


def key_values(pairs: Sequence[str] | None, option: str) -> dict[str, Any]:
    """KEY=VALUE options as a mapping; a VALUE that is JSON is read as JSON, any other is text.

    Raises UsageError.
    """
    found: dict[str, Any] = {}
    for pair in pairs or ():
        key, equals, value = pair.partition("=")
        if not key or not equals:
            raise UsageError(f"{option} {pair}: give KEY=VALUE")
        if key in found:
            raise UsageError(f"{option} {key} is given twice")
        try:
            found[key] = json.loads(value)
        except json.JSONDecodeError:
            found[key] = value
    return found


def load_model(
    name: str,
    dtype: str | None = None,
    device: str | None = None,
    model_args: Sequence[str] | None = None,
    template_args: Sequence[str] | None = None,
) -> LoadedModel:
    """The model that the shared options ask for. Raises UsageError, ModelError."""
    given = {
        "model_args": key_values(model_args, "--model-arg"),
        "template_args": key_values(template_args, "--template-arg"),
    }
    from personavec.model import loading

    return loading.load_model(name, dtype=dtype, device=device, **given)


def check_engine(name: str, arguments: Sequence[str] | None = None) -> None:
    """Refuse an engine that does not exist before any model is loaded. Raises UsageError."""
    if name not in ("transformers", "vllm"):
        raise UsageError(f"--engine {name}: use transformers or vllm")
    if arguments and name != "vllm":
        raise UsageError("--engine-arg is for --engine vllm; for transformers use --model-arg")


def engine(
    name: str, arguments: Sequence[str] | None, loaded: LoadedModel, batch_tokens: int = 16384
) -> EngineOf:
    """The engine that the shared options ask for. Raises UsageError, PersonavecError."""
    check_engine(name, arguments)
    given = key_values(arguments, "--engine-arg")
    if name == "transformers":
        from personavec.model.engine import TransformersEngine

        return TransformersEngine(loaded, batch_tokens)
    from personavec.model.engine import VllmEngine

    started = VllmEngine(loaded, given)
    # At exit Python waits for the processes that multiprocessing started; this comes before.
    atexit.register(started.close)
    return started


@dataclass(frozen=True)
class JudgeChoice:
    """What the options above say of the judge."""

    judge: str = "contrast"
    judge_model: str | None = None
    api_base: str | None = None
    api_model: str | None = None
    api_key_env: str = "OPENAI_API_KEY"
    api_concurrency: int = 16
    cache: Path | None = None

    def __post_init__(self) -> None:
        if self.judge not in ("contrast", "rubric", "api"):
            raise UsageError(f"--judge {self.judge}: use contrast, rubric or api")
        if self.judge == "api" and not self.api_model:
            raise UsageError("--judge api needs --api-model, the endpoint's name for the model")
        if self.judge == "api" and self.judge_model:
            raise UsageError("--judge-model is no option of --judge api; use --api-model")
        if self.judge != "api" and (self.api_model or self.api_base):
            raise UsageError("--api-model and --api-base need --judge api")


def make_judge(
    choice: JudgeChoice,
    load: Callable[[str], LoadedModel] = load_model,
    *,
    subject: LoadedModel | None = None,
    default_model: str = "smollm2",
) -> JudgeOf:
    """The judge that the options name.

    A judge on a model of its own loads it with `load`. Otherwise it is the subject, the model
    whose responses are judged, unsteered; where there is none, `default_model`.
    """
    if choice.judge == "api":
        from personavec.judges import ApiRubricJudge, Endpoint

        endpoint = Endpoint(
            choice.api_model or "",
            choice.api_base or "",
            key_variable=choice.api_key_env,
            concurrency=choice.api_concurrency,
            cache=choice.cache,
        )
        return ApiRubricJudge(endpoint)
    from personavec.judges import ContrastJudge, LocalRubricJudge

    loaded = subject if choice.judge_model is None else None
    if loaded is None:
        loaded = load(choice.judge_model or default_model)
    if choice.judge == "rubric":
        return LocalRubricJudge(loaded)
    return ContrastJudge(loaded, wrote_answers=loaded is subject)


def require_rubric(spec: TraitSpec) -> None:
    """Raises SpecError before anything is loaded where a rubric judge could not judge."""
    from personavec.judges import trait_rubric

    trait_rubric(spec)


def responses_to_come(questions: Sequence[str], max_tokens: int) -> list[Answer]:
    """Stand-ins for responses that a model will write, each as long as it may become."""
    from personavec.judges import Answer, unwritten

    return [Answer(question, unwritten(max_tokens)) for question in questions]


def estimate(
    choice: JudgeChoice, answers: Sequence[tuple[TraitSpec, list[Answer]]]
) -> CostEstimate:
    """What judging every spec's answers would take of an endpoint.

    Raises UsageError for judges that call none.
    """
    from personavec.judges import ApiRubricJudge, total

    judge = make_judge(choice) if choice.judge == "api" else None
    if not isinstance(judge, ApiRubricJudge):
        raise UsageError(f"--dry-run: --judge {choice.judge} calls no endpoint; use --judge api")
    return total(judge.estimate(spec, own) for spec, own in answers)


def print_estimate(found: CostEstimate, price: str | None, as_json: bool) -> None:
    """What --dry-run prints of an endpoint's calls. Raises UsageError for prices."""
    record: dict[str, Any] = dict(found.__dict__)
    if price:
        prices = numbers(price, "--api-price")
        if len(prices) != 2:
            raise UsageError(f"--api-price {price}: give two prices, of tokens in and out")
        record["cost"] = round(found.cost(*prices), 4)
    if as_json:
        print_json({"dry_run": record})
        return
    console.print(
        f"{plural(found.calls, 'call')} ({found.cached} more on disk), about {found.prompt_tokens} "
        f"tokens in and at most {found.answer_tokens} out"
        + (f", cost {record['cost']:g}" if price else "; --api-price IN,OUT gives the cost"),
        highlight=False,
    )
