"""How to go on with a vector, as the report of its extraction shows it."""

from __future__ import annotations

import shlex
from pathlib import Path

from markupsafe import Markup

from personavec.extract.results import ExtractResults
from personavec.model import EMBEDDED
from personavec.report import signed, use_it


def use(results: ExtractResults, folder: Path) -> Markup:
    """Commands and code that use the vector in `folder`, at the ends of its coherent range."""
    low, high = results.coherent_range
    intro = (
        f"α from {signed(low)} to {signed(high)} kept answers coherent; other tools also steer the "
        "prompt, so begin lower there. What the vector can be relied on for, the verdict says."
    )
    return use_it(
        intro,
        [
            ("Command line", _command_line(results, folder)),
            ("Python", _python(results, folder)),
            ("vLLM", _vllm(results, folder)),
            *([("llama.cpp", _llamacpp(results, folder))] if results.layer > 1 else []),
        ],
    )


def _strength(results: ExtractResults) -> float:
    """The strongest dose toward the trait that was coherent; the weakest at all without one."""
    return float(results.coherent_range[1] or 1.0)


def _model(results: ExtractResults) -> str:
    name = results.model.name
    return "" if name == EMBEDDED else f" --model {shlex.quote(name)}"


def _command_line(results: ExtractResults, folder: Path) -> str:
    vectors, model = shlex.quote(str(folder)), _model(results)
    low, high = results.coherent_range
    doses = ",".join(f"{dose:g}" for dose in dict.fromkeys((low, 0, high or 1)))
    return (
        f'personavec steer "How was your day?" --vectors {vectors} --coefficient={doses}{model}\n'
        f"personavec screen data.jsonl --vectors {vectors}{model} --out out/screen\n"
        f"personavec monitor log.jsonl --vectors {vectors}{model} --out out/monitor\n"
        f"personavec serve --vectors {vectors}{model}"
    )


def _python(results: ExtractResults, folder: Path) -> str:
    return (
        "import personavec as pv\n\n"
        f'loaded = pv.load_model("{_quoted(results.model.name)}")\n'
        f'vector = pv.load_vector("{_quoted(str(folder))}")\n'
        'inputs = loaded.tokenizer("The exam tomorrow", return_tensors="pt")\n'
        f"with pv.steer(loaded.model, vector, coefficient={_strength(results):g}):\n"
        "    output = loaded.model.generate(**inputs, max_new_tokens=32)\n"
        "print(loaded.tokenizer.decode(output[0]))"
    )


def _vllm(results: ExtractResults, folder: Path) -> str:
    name = results.trait.name
    return (
        f"{_export(results, folder, 'vllm-lens', f'{name}.json')}\n"
        "vllm serve MODEL --host 127.0.0.1\n"
        f"jq -n --rawfile vector {shlex.quote(f'{name}.json')} "
        '\'{"model": "MODEL", "messages":\n'
        '  [{"role": "user", "content": "How was your day?"}],\n'
        '  "vllm_xargs": {"apply_steering_vectors": $vector}}\' |\n'
        "  curl -s 127.0.0.1:8000/v1/chat/completions -H 'Content-Type: application/json' -d @-"
    )


def _llamacpp(results: ExtractResults, folder: Path) -> str:
    file = f"{results.trait.name}.gguf"
    return (
        f"{_export(results, folder, 'gguf', file)}\n"
        f"llama-server -m MODEL.gguf --control-vector-scaled {shlex.quote(f'{file}:1.0')}"
    )


def _export(results: ExtractResults, folder: Path, form: str, file: str) -> str:
    return (
        f"personavec export --vectors {shlex.quote(str(folder))} --format {form} "
        f"--coefficient {_strength(results):g} --out {shlex.quote(file)}"
    )


def _quoted(text: str) -> str:
    return text.replace("\\", "\\\\").replace('"', '\\"')
