"""Write docs/models.md from the test results of every family.

pytest tests/unit/model/test_architectures.py --junitxml out/models.xml
python scripts/models_page.py out/models.xml
"""

from __future__ import annotations

import argparse
from importlib import metadata
from pathlib import Path
from xml.etree import ElementTree

PAGE = Path(__file__).parents[1] / "docs" / "models.md"
CHECKS = {
    "test_capture_equals_the_plain_loop[left-": "capture, padded left",
    "test_capture_equals_the_plain_loop[right-": "capture, padded right",
    "test_layers_are_those_that_transformers_counts[": "layers",
    "test_coefficient_zero_changes_nothing[": "coefficient 0",
    "test_cached_steered_decoding_equals_full_forwards[": "steered decoding",
    "test_capture_while_generating_equals_capture_of_the_text[": "capture while generating",
    "test_scores_equal_a_full_forward[": "scores",
}
MARKS = {"passed": "✓", "skipped": "–", "failure": "✗", "error": "✗"}
TEXT = """# Models

personavec works with every decoder-only family of transformers that has one regular stack of
blocks. This page lists the families that the tests cover. To see what is found in a model:

    personavec models show MODEL

```
$ personavec models show smollm2
│ name         │ smollm2                 │
│ n_layers     │ 30                      │
│ hidden_size  │ 576                     │
│ block        │ LlamaDecoderLayer       │
│ …            │                         │
```

The stack is found by its structure, not by name: it is the `ModuleList` of the text decoder whose
length is the config's `num_hidden_layers`. A model without one is refused in one line.

`make models` writes this page from the results of the tests, on tiny models with random weights
(transformers {transformers}, torch {torch}). Each check compares with a plain implementation: one
text at a time, no cache, no padding.

| family | {head} |
| --- | {rule} |
{rows}

✓ equal within rounding; – not comparable. Eight-bit weights round activations by the batch, so
no two batches agree to the last token there; capture and scores agree to a tenth.

| column | what is tested |
| --- | --- |
| capture, padded left or right | captured means equal those of the plain loop |
| layers | they are the `hidden_states` of transformers, except the last, which it returns normed |
| coefficient 0 | steering with it changes no logit |
| steered decoding | cached greedy decoding, some rows steered, equals full forwards |
| capture while generating | the means equal those of the finished text |
| scores | the judge's log-probabilities equal those of a full forward |

## Large models

`--model-arg KEY=VALUE` is passed on to transformers' `from_pretrained`; a VALUE that is JSON is
read as JSON:

    personavec extract --trait evil --model Qwen/Qwen2.5-72B-Instruct --model-arg device_map=auto
    personavec extract --trait evil --model meta-llama/Llama-3.1-8B-Instruct \\
      --model-arg 'quantization_config={{"quant_method": "bitsandbytes", "load_in_4bit": true}}'

Hooks work on whatever device a block is, also if its weights are offloaded to disk. Quantised
models need `pip install 'personavec[quantise]'` (bitsandbytes). If a machine cannot run a kind of
quantisation, loading the model says so. Code from a model's folder or repository is never run,
including code of its tokenizer or adapter: such a model is refused, and so is `trust_remote_code`.

A folder that holds a LoRA adapter is loaded onto its base model (`pip install
'personavec[finetune]'`), with the adapter's tokenizer and chat template if it has its own. Its
vectors and those of its base fit each other.

Of image-text checkpoints (LLaVA, Qwen2.5-VL, Mistral 3, SmolVLM, Gemma 3) the layers of the text
decoder are used, and they read text only.

## Chat templates

Messages are written by the model's own chat template. If it cannot write them and the meaning is
clear, they are changed, and the result counts the changes: a system prompt is merged into the first
question, neighbouring messages of one role are joined with a blank line, tool calls and their
results become text (`[call NAME(ARGUMENTS)]`, `Tool result: …`). The prompt must then contain every
message's text, in order; a conversation of which the template would lose a part is refused.

Messages are always text: strings of the tokenizer's control tokens in a message (`<|im_end|>`,
`<|endoftext|>`, `<tool_call>`) are read as those characters, and noted. Control tokens come from
the template alone. Prompts that are templated already, and those of `/v1/completions`, are
tokenised as they are. Added tokens that are ordinary text (runs of white space, HTML tags, words)
are not control tokens.

A response ends with the token that the template writes after it, or with the model's own end of
text, in generation and in finetuning. If a template writes today's date, a whole run uses one date,
which the result names. To continue such a run on another day, give that date again:
`--template-arg today=2026-01-31`.

## Models that think

For templates with `<think>`, `[THINK]` or channels, the response is the final answer: thinking is
cut off before judging and never part of the response mean (`extract --include-thinking` takes it
in). A response that ends before its thinking does is *unfinished*: it is counted and shown, and has
no scores. Give such models more room (`--max-tokens 2000`), or turn thinking off if the template
can (`--template-arg enable_thinking=false`).
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("path", type=Path, help="the test results that pytest wrote")
    path = parser.parse_args().path
    found: dict[str, dict[str, str]] = {}
    for case in ElementTree.parse(path).iter("testcase"):
        name = case.get("name", "")
        check = next((c for prefix, c in CHECKS.items() if name.startswith(prefix)), None)
        if check is None:
            continue
        family = name.removesuffix("]").split("[", 1)[1].removeprefix("left-")
        state = next((MARKS[child.tag] for child in case if child.tag in MARKS), MARKS["passed"])
        found.setdefault(family.removeprefix("right-"), {})[check] = state
    columns = list(CHECKS.values())
    rows = [
        f"| {family} | " + " | ".join(states.get(c, "?") for c in columns) + " |"
        for family, states in found.items()
    ]
    text = TEXT.format(
        transformers=metadata.version("transformers"),
        torch=metadata.version("torch"),
        head=" | ".join(columns),
        rule=" | ".join(":-:" for _ in columns),
        rows="\n".join(rows),
    )
    PAGE.write_text(text, "utf-8")
    print(f"wrote {PAGE.name}: {len(rows)} families")


if __name__ == "__main__":
    main()
