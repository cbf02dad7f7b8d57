"""Write docs/models.md from what the tests of every family say.

pytest tests/unit/model/test_architectures.py --junitxml out/models.xml
python scripts/models_page.py out/models.xml
"""

from __future__ import annotations

import sys
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

personavec works with every decoder-only family that transformers ships with one regular stack of
blocks. It looks for the stack rather than for a name: within the model's text decoder, the
`ModuleList` as long as the config's `num_hidden_layers`. `personavec models show MODEL` prints
what was found; a model that it cannot serve is refused in one line.

This page is written by `make models` from the tests' own result, on tiny models with random
weights (transformers {transformers}, torch {torch}). Each check compares with the plain route:
one text at a time, no cache, no padding.

| family | {head} |
| --- | {rule} |
{rows}

✓ equal within rounding; – not comparable. Eight-bit weights round activations by the batch, so
no two batches agree to the last token there; capture and scores agree to a tenth.

What the columns say: captured means equal those of the plain loop under either padding;
layers are the `hidden_states` of transformers, up to the last, which it returns normed;
steering with coefficient 0 changes no logit; greedy decoding of a mixed batch on the cache,
some rows steered, picks what full forwards over the growing text pick; means captured while
generating equal those of the finished text; the judge's log-probabilities equal a full forward's.

## Large models

`--model-arg KEY=VALUE` is passed on to transformers' `from_pretrained`; a VALUE that is JSON is
read as JSON:

    personavec extract --trait evil --model Qwen/Qwen2.5-72B-Instruct --model-arg device_map=auto
    personavec extract --trait evil --model meta-llama/Llama-3.1-8B-Instruct \\
      --model-arg 'quantization_config={{"quant_method": "bitsandbytes", "load_in_4bit": true}}'

Hooks follow the blocks to whatever device they sit on, also where weights wait on disk until they
run. Quantised models need `pip install 'personavec[quantise]'` (bitsandbytes); a machine that
cannot run a kind of quantisation says so when the model is loaded. Code that a model's folder or
repository brings is never run, of a tokenizer or an adapter neither: such a model is refused, and
so is `trust_remote_code`.

A folder that holds a LoRA adapter is loaded onto its base model (`pip install
'personavec[finetune]'`), with its own tokenizer and chat template where it holds them. Its vectors
and those of its base fit each other.

Image-text checkpoints (LLaVA, Qwen2.5-VL, Mistral 3, SmolVLM, Gemma 3) are loaded with their text
decoder's layers and read text alone.

## Chat templates

Messages are written by the model's own chat template. What it cannot write is mended where the
meaning is plain, and counted in the result: a system prompt is merged into the first question,
neighbouring messages of one role are joined with a blank line, tool calls and their results become
text (`[call NAME(ARGUMENTS)]`, `Tool result: …`). Every message's text must then stand in the
prompt, in order; a conversation of which the template would lose a part is refused.

Text is text: a message that holds strings of the tokenizer's control tokens (`<|im_end|>`,
`<|endoftext|>`, `<tool_call>`) is read as those characters, and noted. Control tokens come from
the template alone; a prompt that is templated already, and `/v1/completions`, are read as they
stand. Added tokens that stand for ordinary text (runs of white space, HTML tags, words) are none.

A response ends with the token that the template writes behind it, beside the model's own end of
text, in generation and in finetuning. A template that writes the day's date gets one date for a
whole run, which the result names; a run that is continued on another day wants it again:
`--template-arg today=2026-01-31`.

## Models that think

For templates with `<think>`, `[THINK]` or channels, the response is the final answer: thinking is
cut off before judging and never part of the response mean (`extract --include-thinking` takes it
in). A response that ends before its thought does is *unfinished*: it is counted and shown, and has
no scores. Give such models more room (`--max-tokens 2000`), or turn thinking off where the
template knows how (`--template-arg enable_thinking=false`).
"""


def main(path: Path) -> None:
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
    main(Path(sys.argv[1]))
