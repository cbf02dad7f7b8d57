"""The Python that the documentation shows runs, on the embedded model and at small sizes."""

import ast
import inspect
import json
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import openai
import pytest
import torch
import transformers
from tiny_models import build, random_vector

import personavec as pv
from personavec import LoadedModel, TraitSpec
from personavec.judges import Answer
from personavec.model import chat
from personavec.progress import Progress
from personavec.serve import ServeConfig, serving
from personavec.vectors import export

ROOT = Path(__file__).parents[2]
_BLOCK = re.compile(r"^```python\n(.*?)^```", re.MULTILINE | re.DOTALL)
PAGES = [
    page
    for page in [ROOT / "README.md", *sorted(ROOT.glob("docs/*.md"))]
    if _BLOCK.search(page.read_text(encoding="utf-8"))
]
#: Sizes that take the place of defaults and of a page's own.
SMALL: dict[str, dict[str, Any]] = {
    "extract": {
        "samples": 1,
        "max_tokens": 3,
        "layers": (16,),
        "coefficients": (-1, 0, 1),
        "sweep_coefficients": (1,),
        "sweep_questions": 2,
        "validation_samples": 1,
        "random_directions": 1,
        "neutral_prompts": 4,
    },
    "evaluate": {"questions": 2, "max_tokens": 6, "capability_items": 2},
    "screen": {"natural_tokens": 6, "random_directions": 1},
}


def small(run: Callable[..., Any], config: type, changes: dict[str, Any]) -> Callable[..., Any]:
    """A verb's `run` at small sizes."""

    def smaller(*args: Any, **kwargs: Any) -> Any:
        given = inspect.signature(run).bind(*args, **kwargs)
        given.arguments["config"] = replace(given.arguments.get("config") or config(), **changes)
        given.arguments["progress"] = Progress(quiet=True)
        return run(*given.args, **given.kwargs)

    return smaller


def shortened(load: Callable[..., Any]) -> Callable[..., Any]:
    """`load_trait`, with a spec of few questions, and one pair of each kind without examples."""

    def loaded(*args: Any) -> tuple[TraitSpec, str]:
        spec, origin = load(*args)
        kept = {name: getattr(spec.questions, name)[:4] for name in ("extraction", "evaluation")}
        few: dict[str, Any] = {"questions": spec.questions.model_copy(update=kept)}
        for pairs in ("instruction", "judge_instruction"):
            (pair, *_) = getattr(spec, pairs)
            few[pairs] = (pair.model_copy(update={"examples": ()}),)
        return spec.model_copy(update=few), origin

    return loaded


@pytest.fixture
def _small_world(smollm2: LoadedModel, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The files that the pages name, in an empty folder, and verbs at small sizes."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PERSONAVEC_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(pv, "load_model", lambda name: {"smollm2": smollm2}[name])
    monkeypatch.setattr(pv, "load_trait", shortened(pv.load_trait))
    monkeypatch.setattr("personavec.extract.extraction.MIN_KEPT", 1)
    monkeypatch.setattr(
        "personavec.judges.coherence_model.CoherenceModel.coherence", lambda *_: 90.0
    )
    for name, changes in SMALL.items():
        verb: ModuleType = getattr(pv, name)
        config = getattr(verb, f"{name.title()}Config")
        monkeypatch.setattr(verb, "run", small(verb.run, config, changes))
    rows = [{"prompt": f"Say {n}.", "response": f"{n} it is."} for n in range(12)]
    Path("data.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    Path("answers.csv").write_text("question,answer\nWhy?,Because.\n")
    pv.load_vector("optimistic").save(Path("vectors/optimistic"))
    export(pv.load_vector("humorous"), Path("humorous.json"), "vllm-lens")


def given(smollm2: LoadedModel) -> dict[str, Any]:
    """Names that a page's text introduces in words."""
    vector = pv.load_vector("sycophantic")
    ids = smollm2.tokenizer(smollm2.chat.text(chat("Hi?")), return_tensors="pt")
    return {
        "pv": pv,
        "loaded": smollm2,
        "model": smollm2.model,
        "vector": vector,
        "other": vector,
        "hidden": torch.ones(3, vector.response_mean_diff.shape[1]),
        "inputs": {**ids, "max_new_tokens": 4},
        "messages": [*chat("Any news?"), {"role": "assistant", "content": "Good!"}],
        "rows": [],
        "spec": pv.load_trait("evil")[0],
        "answers": [Answer("Why?", "Because.")],
        "path": Path("answers.csv"),
        "out": Path("scored.jsonl"),
        "SFTTrainer": transformers.Trainer,
    }


@contextmanager
def served(name: str) -> Iterator[str]:
    """The address of a tiny model behind OpenAI's API, under a name."""
    tiny = build()
    vectors = {"humorous": random_vector(tiny, trait="humorous")}
    config = ServeConfig(name=name, max_tokens=6)
    with serving(tiny, vectors, config, shutdown_seconds=20) as (url, _):
        yield f"{url}/v1"


def execute(page: Path, names: dict[str, Any]) -> None:
    """Run a page's blocks in order; a failure names the page and the line."""
    text = page.read_text(encoding="utf-8")
    for block in _BLOCK.finditer(text):
        lines_before = text.count("\n", 0, block.start(1))
        tree = ast.increment_lineno(ast.parse(block[1]), lines_before)
        exec(compile(tree, str(page), "exec"), names)


@pytest.mark.usefixtures("_small_world")
@pytest.mark.parametrize(
    "page", [p for p in PAGES if p.name not in ("serve.md", "judges.md")], ids=lambda p: p.name
)
def test_blocks_of_a_page_run(page: Path, smollm2: LoadedModel) -> None:
    execute(page, given(smollm2))


@pytest.mark.usefixtures("_small_world")
def test_blocks_of_the_server_page_run(monkeypatch: pytest.MonkeyPatch) -> None:
    client, names = openai.OpenAI, dict[str, Any]()
    with served("smollm2") as address:

        def reaching(base_url: str, api_key: str) -> openai.OpenAI:
            assert base_url == "http://127.0.0.1:8000/v1"
            return client(base_url=address, api_key=api_key)

        monkeypatch.setattr(openai, "OpenAI", reaching)
        execute(ROOT / "docs" / "serve.md", names)
    (reading,) = names["reply"].model_extra["personavec"]["choices"][0]["readings"]
    assert reading["trait"] == "humorous"


@pytest.mark.usefixtures("_small_world")
def test_blocks_of_the_judges_page_run(
    smollm2: LoadedModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = given(smollm2)
    with served("gpt-4.1-mini") as address:
        monkeypatch.setenv("OPENAI_BASE_URL", address)
        monkeypatch.delenv("OPENAI_API_KEY", raising=False)
        execute(ROOT / "docs" / "judges.md", names)
    assert names["results"].rows == len(names["scores"]) == 1
