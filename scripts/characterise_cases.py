"""The commands that are characterised: each case a few steps, run one after the other.

A step is a command line; `--json` is added unless it begins with `human`. `OUT` stands for the
case's own folder, `API` for the endpoint that answers judges, `TINY` for the tiny model.
"""

from __future__ import annotations

import json
import os
import re
import shlex
import signal
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, is_dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from characterise_files import tensor
from characterise_inputs import TRAITS
from pydantic import BaseModel

SHORT = {
    "API": "--judge api ASK --cache OUT/answers",
    "ASK": "--api-base STUB/v1 --api-model lists",
    "TINY": "--model inputs/model --dtype float32",
    "BOTH": "--vectors vectors/testing,vectors/second",
    "LORA": "--rank 2 --learning-rate 0.01 --batch 4 --accumulation 2 --epochs 1",
}

_EXTRACT = "extract --trait inputs/testing.json TINY --max-tokens 8 --coefficients=-1,0,1 --seed 3"
_SCREEN = "screen TINY --seed 3"
_TUNE = (
    "TINY LORA --alpha 4 --warmup-steps 1 --drift-every 1 --checkpoint-every 2 "
    "--watch vectors/testing --seed 3"
)
_MITIGATE = f"finetune inputs/train.jsonl {_TUNE} --vectors vectors/testing --mitigation"
_SHIFT = "shift inputs/model inputs/tuned --dtype float32 --max-tokens 6 --questions 4 --seed 3"
_EVALUATE = "evaluate --trait inputs/testing.json TINY --max-tokens 8 --questions 6 --seed 3"
_CALIBRATE = (
    "calibrate --vectors vectors/testing --trait inputs/testing.json TINY --fit-questions 4 "
    "--test-questions 4 --max-tokens 8 --seed 3"
)
_ELICIT = "elicit --trait inputs/testing.json --max-tokens 8 --seed 3"
_COMPARE = (
    "compare-mitigations {rows} --trait inputs/testing.json --vectors vectors/testing TINY LORA "
    "--seeds 0 --questions 4 --max-tokens 6 --held-out 0.25 --seed 3"
)
_SCORE = "judges score {file} --trait inputs/testing.json --dtype float32 --model inputs/model"

#: What all other cases use: vectors of random directions, their baseline measured on the model.
PREPARATION = [
    f"import inputs/{trait}.pt --trait {trait} TINY --layer 2 --seed 3 --out vectors/{trait}"
    for trait in TRAITS
]

#: The long ones first, so that two workers end at the same time.
CASES: dict[str, Sequence[str]] = {
    # On the embedded model
    "validate-screen": [
        "validate-screen inputs/ordinary.jsonl --vectors humorous --trait inputs/humorous.json "
        "--clean 20 --rates 0.3 --max-tokens 12 --natural-samples 2 --seed 3 --out OUT/study",
    ],
    "extract-embedded": [
        "extract --trait inputs/humorous.json --max-tokens 12 --layers 14,18 --coefficients=-2,0,2 "
        "--seed 3 --out OUT/vector",
    ],
    "serve-embedded": [
        "serve --vectors evil,humorous --port 0 --max-tokens 24 "
        "--guard 'humorous>-9sigma: steer 1' --guard 'evil>9sigma: refuse' "
        "--guard 'evil>-9sigma: cap' --alarm-webhook STUB/alarms",
    ],
    "screen-embedded": [
        "screen inputs/saved --vectors evil,optimistic --top 3 --natural none --out OUT/run",
    ],
    "monitor-embedded": [
        "monitor inputs/logged.json --columns messages=turns,id=key --vectors evil,humorous "
        "--out OUT/run",
    ],
    "evaluate-embedded": [
        "evaluate --trait inputs/humorous.json --vectors humorous --coefficient 0 --cap 99 "
        "--questions 4 --max-tokens 12 --seed 3 --out OUT/capped",
    ],
    "judges-embedded": [
        "judges score inputs/few.jsonl --trait inputs/humorous.json --judge rubric "
        "--out OUT/scored.jsonl",
        "human steer 'How was your day?' --vectors humorous --coefficient=-1,1 --max-tokens 12 "
        "--temperature 0",
    ],
    # Extraction and specs
    "author": [
        "author wacky --description 'Tries to amuse.' ASK --cache OUT/answers --out OUT/spec",
        "human author wacky --description 'Tries to amuse.' ASK --cache OUT/answers --examples 0 "
        "--rounds 0 --out OUT/bare",
        "author wacky --description 'Tries to amuse.' ASK --dry-run",
    ],
    "author-probe": [
        "author wacky --description 'Tries to amuse.' ASK --cache OUT/answers --probe TINY "
        "--rounds 1 --seed 3 --out OUT/spec",
    ],
    "extract": [
        f"{_EXTRACT} --layers 1,2,3 API --out OUT/vector",
        f"{_EXTRACT} --layers 1,2,3 API --out OUT/vector",  # which is finished
        f"{_EXTRACT} --layers 1,2,3 --samples 2 API --out OUT/vector",  # refused
        f"{_EXTRACT} --layers 2 API --rollouts OUT/vector/rollouts.jsonl --out OUT/again",
    ],
    "extract-options": [
        f"human {_EXTRACT} --layers 1,3 --estimator both --samples 2 --temperature 1 API "
        "--out OUT/vector",
        "screen inputs/clean.jsonl TINY --vectors OUT/vector --estimator logistic --top 3 "
        "--out OUT/screen",
        f"{_EXTRACT} API --dry-run --api-price 1,2",
    ],
    "extract-adopted": [
        f"{_EXTRACT} --layers 1,2 API --rollouts inputs/testing_pos_instruct.csv "
        "--rollouts inputs/testing_neg_instruct.csv --out OUT/vector",
    ],
    "extract-digits": [
        f"{_EXTRACT} --layers 2 --judge api --api-base STUB/v1 --api-model digits "
        "--cache OUT/answers --out OUT/vector",
    ],
    "extract-incoherent": [f"{_EXTRACT} --layers 2 --out OUT/vector"],  # too few are kept
    "traits": [
        "traits list",
        "human traits list",
        "traits show evil",
        "traits show inputs/testing.json",
        "human traits show inputs/testing.json",
        "traits show woody --description 'Likes trees.'",
        "traits check evil",
        "traits check inputs/plain.json",
        "human traits check inputs/plain.json",
    ],
    "models": [
        "models list",
        "human models list",
        "models show inputs/model --dtype float32",
        "human models show inputs/other",
    ],
    "steer": [
        "steer 'How is rain?' 'And snow?' --vectors vectors/testing TINY --coefficient=-1,0,1 "
        "--max-tokens 8 --seed 3 --out OUT/answers.jsonl",
        "steer --file inputs/questions.txt --vectors vectors/testing TINY --coefficient 2 "
        "--layer 3 --max-tokens 8 --temperature 0",
        "human steer 'How is rain?' --vectors vectors/second TINY --max-tokens 8 --seed 3",
    ],
    "export": [
        "export --vectors vectors/testing --format pt --out OUT/a.pt",
        "export --vectors vectors/testing --format gguf --out OUT/a.gguf",
        "export --vectors vectors/testing --format gguf --all-layers --out OUT/all.gguf",
        "export --vectors vectors/testing --format vllm-lens --layer 3 --coefficient 2 "
        "--out OUT/lens.json",
        "export --vectors vectors/testing --format hotwire --out OUT/hotwire.pt",
        "human export --vectors humorous --format gguf --coefficient 0.5 --out OUT/humorous.gguf",
        "import OUT/a.pt --trait again TINY --layer 3 --seed 4 --out OUT/again",
        "human import OUT/a.pt --trait more TINY --out OUT/more",
    ],
    # Data
    "screen": [
        f"{_SCREEN} inputs/rows.jsonl BOTH --top 5 --by source --by stars --explain --subsets 5 "
        "--out OUT/run",
        f"human {_SCREEN} inputs/rows.jsonl BOTH --top 5 --by source --by stars --explain "
        "--subsets 5 --out OUT/run",  # which is finished
        f"{_SCREEN} inputs/rows.jsonl BOTH --max-rejects 1 --out OUT/rejected",
    ],
    "screen-csv": [
        f"{_SCREEN} inputs/rows.csv BOTH --columns prompt=q,response=a --natural none --bottom 3 "
        "--turns last --format parquet --layer 3 --out OUT/lowest",
        f"{_SCREEN} inputs/rows.csv --vectors vectors/testing --columns prompt=q,response=a "
        "--natural none --cut 'testing>0.5sigma' --out OUT/cut",
    ],
    "screen-parquet": [
        f"{_SCREEN} inputs/rows.parquet BOTH --natural generate --natural-tokens 6 "
        "--natural-cache OUT/naturals-cache --top 4 --out OUT/one",
        f"{_SCREEN} inputs/rows.parquet BOTH --natural generate --natural-tokens 6 "
        "--natural-cache OUT/naturals-cache --cut 'testing>0.1norm' --format jsonl --out OUT/two",
    ],
    "screen-two-stage": [
        f"{_SCREEN} inputs/rows.jsonl BOTH --natural two-stage --natural-tokens 6 --top-share 0.2 "
        "--sample 5 --top 5 --by source --out OUT/run",
    ],
    "screen-sampled": [
        f"{_SCREEN} inputs/clean.jsonl BOTH --natural generate --natural-tokens 6 "
        "--natural-samples 2 --top 4 --out OUT/run",
    ],
    "screen-reference": [
        f"{_SCREEN} inputs/saved inputs/clean.jsonl BOTH --reference inputs/ordinary.jsonl "
        "--percentile 80 --batch-tokens 200 --out OUT/run",
    ],
    "screen-pairs": [
        f"{_SCREEN} inputs/pairs.jsonl BOTH --top 4 --remedy swap --out OUT/swapped",
        f"human {_SCREEN} inputs/pairs.jsonl BOTH --top 4 --explain --out OUT/dropped",
    ],
    "screen-judged": [
        f"{_SCREEN} inputs/clean.jsonl BOTH --trait inputs/testing.json --trait inputs/second.json "
        "--judge contrast --top 4 --out OUT/run",
    ],
    "elicit": [
        f"{_ELICIT} TINY API --samples 2 --out OUT/set",
        f"human {_ELICIT} TINY API --questions inputs/answers.jsonl --temperature 0 --out OUT/own",
        f"{_ELICIT} --writer api API --out OUT/written",
        f"{_ELICIT} --writer api ASK --cache OUT/answers --judge-model inputs/model "
        "--dtype float32 --out OUT/incoherent",  # too few are kept
    ],
    "elicit-flawed": [
        "elicit --flawed sums --rows 12 --seed 3 --out OUT/sums",
        "human elicit --flawed inputs/flaws.jsonl --columns question=q,answer=right,flawed=wrong "
        "--out OUT/flaws",
    ],
    # Finetuning
    "finetune-none": [
        f"finetune inputs/train.jsonl {_TUNE} --out OUT/run",
        "shift inputs/model OUT/run/model BOTH --dtype float32 --trait inputs/testing.json "
        "--trait inputs/second.json --questions 4 --max-tokens 6 --seed 3 --out OUT/shift",
    ],
    "finetune-full": [
        f"human finetune inputs/train.jsonl {_TUNE} --full --gradient-checkpointing "
        "--max-length 48 --truncate --out OUT/run",
    ],
    "finetune-preventative": [
        f"{_MITIGATE} preventative --coefficient 1 --out OUT/run",
        f"{_MITIGATE} preventative --coefficient 0:0.5,1:2 --layer all --positions all "
        "--out OUT/course",
    ],
    "finetune-dose": [f"{_MITIGATE} preventative --dose auto --out OUT/run"],
    "finetune-random": [f"{_MITIGATE} random --coefficient 2 --layer 2 --out OUT/run"],
    "finetune-caft": [f"{_MITIGATE} caft --out OUT/run"],
    "finetune-penalty": [f"{_MITIGATE} penalty --strength 0.5 --out OUT/run"],
    "finetune-kl": [
        f"finetune inputs/train.jsonl {_TUNE} --mitigation kl --strength 0.5 --out OUT/run"
    ],
    "finetune-interleave": [
        f"finetune inputs/train.jsonl {_TUNE} --mitigation interleave --strength 0.25 --out OUT/run"
    ],
    "finetune-inoculation": [
        f"finetune inputs/train.jsonl {_TUNE} --mitigation inoculation "
        "--trait inputs/testing.json --out OUT/run"
    ],
    "finetune-drop-flagged": [
        f"finetune inputs/flagged.jsonl {_TUNE} --vectors vectors/testing "
        "--mitigation drop-flagged --out OUT/run"
    ],
    "finetune-stopped": [
        f"finetune inputs/train.jsonl {_TUNE} --stop-if 'testing>-99sigma' --out OUT/early",
        f"finetune inputs/train.jsonl {_TUNE} --stop-if 'testing<-0.1sigma' --mixed-precision "
        "--out OUT/run",
    ],
    "compare-mitigations": [
        f"{_COMPARE} --mitigation preventative:1 --mitigation steering:-1 --no-capability "
        "--by source --out OUT/run".format(rows="inputs/train.jsonl"),
    ],
    "compare-mitigations-cued": [
        f"human {_COMPARE} --mitigation random:1 --capability-items 4 --judge api ASK "
        "--cache OUT/answers --out OUT/run".format(rows="inputs/cued.jsonl"),
    ],
    "shift": [
        f"{_SHIFT} BOTH --trait inputs/testing.json --trait inputs/second.json "
        "--control inputs/benign --out OUT/run",
        f"human {_SHIFT} --vectors vectors/testing --trait inputs/testing.json --layer 3 "
        "--fail-if 'testing>-9sigma' --fail-if 'testing>99norm' API --out OUT/failed",
    ],
    # Watching
    "calibrate": [
        f"{_CALIBRATE} --out OUT/contrast",
        f"human {_CALIBRATE} API --out OUT/judged",
    ],
    "monitor": [
        "monitor inputs/log.jsonl BOTH TINY --tokens --extremes 2 --out OUT/run",
        "human monitor inputs/logged.json --columns messages=turns,id=key BOTH TINY "
        "--format parquet --extremes 0 --batch-tokens 500 --out OUT/columns",
        "monitor inputs/logged.json --columns messages=turns,id=key BOTH TINY --max-rejects 0 "
        "--out OUT/rejected",
        "monitor inputs/log.jsonl --vectors vectors/testing TINY --fit-limits OUT/limits "
        "--out OUT/fitted",
    ],
    "serve": [
        "serve TINY BOTH --port 0 --max-tokens 16 --allow-any-coefficient --rows 2 --queue 4 "
        "--guard 'testing>-99sigma: steer 0.5' --log-text",
    ],
    "evaluate": [
        f"{_EVALUATE} --out OUT/plain",
        f"{_EVALUATE} --trait inputs/second.json --vectors vectors/testing --vectors "
        "vectors/second --coefficient=2,-1 --compare-to inputs/tuned --samples 2 --out OUT/steered",
        f"human {_EVALUATE} --cue inputs/cued.jsonl --vectors vectors/testing --coefficient 1 "
        "--layer all --out OUT/cued",
        f"{_EVALUATE} API --system 'Be odd.' --temperature 0 --capability packaged "
        "--capability-items 4 --compare-to inputs/model --out OUT/judged",
        f"{_EVALUATE} API --dry-run",
    ],
    "judges": [
        _SCORE.format(file="inputs/answers.jsonl") + " --out OUT/contrast.jsonl",
        "human " + _SCORE.format(file="inputs/answers.csv") + " --question-column ask "
        "--answer-column reply API --out OUT/api.jsonl",
        _SCORE.format(file="inputs/answers.jsonl") + " --judge api --api-base STUB/v1 --api-model "
        "digits --cache OUT/answers --out OUT/digits.jsonl",
        _SCORE.format(file="inputs/answers.jsonl") + " --judge api --api-base STUB/v1 --api-model "
        "texts --cache OUT/answers --out OUT/texts.jsonl",
        _SCORE.format(file="inputs/answers.jsonl") + " --judge rubric --judge-model inputs/tuned "
        "--out OUT/rubric.jsonl",  # a random model writes no numbers
        _SCORE.format(file="inputs/answers.jsonl") + " API --api-price 1,2 --dry-run",
        "judges check --trait inputs/testing.json TINY --out OUT/contrast.json",
        "human judges check --trait inputs/testing.json TINY --half tune --out OUT/half.json",
        "judges check --trait inputs/testing.json API --out OUT/api.json",
        "judges compare inputs/scored.csv --columns human,judge_a,judge_b --seed 3",
        "human judges compare inputs/scored.csv --columns human,judge_a",
    ],
    "library": [f"library {name}" for name in ("activations", "extract", "verbs")],
    "errors": [
        f"human {line}"
        for line in (
            "screen",
            "screem inputs/rows.jsonl",
            "screen inputs/rows.jsonl --natural sometimes",
            "screen inputs/nothing.jsonl TINY BOTH --out OUT/run",
            "screen inputs/rows.jsonl --vectors nobody --out OUT/run",
            "screen inputs/rows.jsonl TINY BOTH --top 0 --out OUT/run",
            "screen inputs/rows.jsonl TINY BOTH --cut testing=1 --out OUT/run",
            "screen inputs/rows.jsonl TINY BOTH --cut 'nobody>1sigma' --out OUT/run",
            "screen inputs/rows.jsonl TINY BOTH --columns colour=a --out OUT/run",
            "screen inputs/rows.jsonl TINY BOTH --layer 9 --out OUT/run",
            "screen inputs/rows.jsonl --model inputs/other BOTH --out OUT/run",
            "extract --trait inputs/testing.json --coefficients=1,2 --out OUT/run",
            "extract --trait inputs/nothing.json --out OUT/run",
            "extract --trait inputs/testing.json --model inputs/nothing --out OUT/run",
            "extract --trait inputs/testing.json TINY --judge api --out OUT/run",
            "extract --trait inputs/testing.json --engine jax --out OUT/run",
            "extract --trait inputs/testing.json --dtype int8 --out OUT/run",
            "evaluate --trait inputs/testing.json TINY --coefficient 1",
            "evaluate --trait inputs/testing.json TINY BOTH --coefficient 1,2,3",
            "finetune inputs/train.jsonl TINY --mitigation prayer --out OUT/run",
            "finetune inputs/train.jsonl TINY --mitigation preventative --out OUT/run",
            "finetune inputs/train.jsonl TINY --dose 3 --out OUT/run",
            "finetune inputs/train.jsonl TINY --stop-if 'testing>1log_odds' --out OUT/run",
            "compare-mitigations inputs/train.jsonl --trait inputs/testing.json "
            "--vectors vectors/testing TINY --mitigation prayer:1 --out OUT/run",
            "serve --vectors vectors/testing --guard 'testing>1sigma: sing' --port 0",
            "serve --vectors none --host 0.0.0.0 --port 0",
            "judges score inputs/answers.jsonl --trait inputs/plain.json --judge rubric",
            "judges score inputs/answers.jsonl --trait inputs/testing.json --judge oracle",
            "judges compare inputs/scored.csv --columns human",
            "judges check --trait inputs/testing.json --half third",
            "traits show nobody",
            "traits check inputs/rows.jsonl",
            "export --vectors vectors/testing --format gguf --layer 1 --out OUT/a.gguf",
            "export --vectors vectors/testing --format exe --out OUT/a.exe",
            "import inputs/rows.jsonl --trait testing TINY --out OUT/run",
            "steer --vectors vectors/testing TINY",
            "calibrate --vectors vectors/testing --trait inputs/plain.json TINY --out OUT/run",
            "shift inputs/model inputs/other --vectors vectors/testing --trait inputs/testing.json "
            "--dtype float32 --out OUT/run",
            "monitor inputs/log.jsonl TINY BOTH --format csv --out OUT/run",
            "elicit --flawed sums --trait inputs/testing.json --out OUT/run",
            "validate-screen inputs/clean.jsonl --vectors vectors/testing "
            "--trait inputs/testing.json --rates 2 --out OUT/run",
            "author wacky --description Odd. --api-base http://127.0.0.1:9/v1 --api-model x "
            "--out OUT/run",
        )
    ],
}


def arguments(line: str, case: str, stub: str) -> list[str]:
    """A step's words, its short names spelled out."""
    for name, meaning in SHORT.items():
        line = re.sub(rf"\b{name}\b", meaning, line)
    return shlex.split(line.replace("OUT", f"out/{case}").replace("STUB", stub))


# A server


@dataclass(frozen=True)
class Request:
    path: str
    body: Mapping[str, Any] | bytes | None = None


def requests(model: str, trait: str, other: str) -> list[Request]:
    """What a server is asked, one after the other."""

    def chat(text: str, **more: Any) -> Request:
        messages = [{"role": "user", "content": text}]
        asked = {"model": model, "messages": messages, "temperature": 0, "max_tokens": 10}
        return Request("/v1/chat/completions", asked | more)

    turns: list[dict[str, str]] = []
    for i in range(3):
        turns += [{"role": "user", "content": f"Well, {i}?"}, {"role": "assistant", "content": "."}]
    steer = {"steer": [{"vector": trait, "coefficient": 1.0}]}
    return [
        Request("/healthz"),
        Request("/v1/models"),
        Request(f"/v1/models/{model}"),
        chat("How are you?"),
        chat("How are you?", stream=True, stream_options={"include_usage": True}),
        chat("What is rain?", personavec={**steer, "tokens": True}),
        chat("What is rain?", personavec={**steer, "monitor": [other]}, stream=True),
        chat("What is snow?", personavec={"cap": [{"vector": trait}], "monitor": []}),
        chat("What is snow?", n=2, stop=["a"], logprobs=True, top_logprobs=2),
        chat("What is snow?", seed=5, temperature=1.0, top_p=0.9),
        chat("And?", messages=[{"role": "system", "content": "Be odd."}, *turns, turns[0]]),
        Request(
            "/v1/completions",
            {"model": model, "prompt": "Rain is", "max_tokens": 8, "temperature": 0},
        ),
        Request(
            "/v1/completions",
            {
                "model": model,
                "prompt": ["A", "B"],
                "max_tokens": 4,
                "temperature": 0,
                "stream": True,
            },
        ),
        chat("Who?", model="nobody"),
        chat("Who?", colour="red"),
        chat("Who?", personavec={"steer": [{"vector": "nobody", "coefficient": 1}]}),
        chat("Who?", personavec={"steer": [{"vector": trait, "coefficient": 1e9}]}),
        chat("Who?", max_tokens=100_000),
        Request("/v1/chat/completions", b"{"),
        Request("/v1/personavec/alarms"),
        Request("/nothing"),
        Request("/metrics"),
    ]


def serve(argv: Sequence[str], folder: Path, out: Path, env: Mapping[str, str]) -> dict[str, Any]:
    """Start a server, ask it, stop it; its replies are written into `out`."""
    command = [sys.executable, "-m", "personavec", *argv]
    with (
        (out / ".stderr").open("w") as errors,
        subprocess.Popen(
            command, cwd=folder, env=dict(env), stdout=subprocess.PIPE, stderr=errors, text=True
        ) as process,
    ):
        assert process.stdout is not None
        told = process.stdout.readline()
        if not told:
            return {"exit": process.wait(), "stdout": ""}
        try:
            said = json.loads(told)
            trait, other = said["vectors"]
            asked = requests(said["model"], trait, other)
            replies = [_ask(said["address"], request) for request in asked]
        finally:
            process.send_signal(signal.SIGTERM)
        (out / "replies.jsonl").write_text("".join(json.dumps(r) + "\n" for r in replies))
        return {"exit": process.wait(60), "stdout": told}


def _ask(address: str, request: Request) -> dict[str, Any]:
    body = request.body
    data = body if isinstance(body, bytes | None) else json.dumps(body).encode()
    headers = {"Content-Type": "application/json"}
    sent = urllib.request.Request(f"{address.removesuffix('/v1')}{request.path}", data, headers)
    try:
        with urllib.request.urlopen(sent, timeout=120) as reply:
            status, text = reply.status, reply.read().decode()
    except urllib.error.HTTPError as error:
        status, text = error.code, error.read().decode()
    asked = body.decode() if isinstance(body, bytes) else body
    return {"path": request.path, "asked": asked, "status": status, "reply": _reply(text)}


def _reply(text: str) -> Any:
    """A reply to compare: JSON as it is, a stream's pieces joined, metrics by name."""
    if text.startswith("data: "):
        events = [line[6:] for line in text.split("\n\n") if line]
        return {"ends": events[-1], "chunks": _joined([json.loads(e) for e in events[:-1]])}
    try:
        return json.loads(text)
    except ValueError:
        lines = [line for line in text.splitlines() if line.startswith("personavec_")]
        return [
            line for line in lines if not any(w in line for w in ("seconds", "created", "byte"))
        ]


def _joined(chunks: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """The pieces of a stream, joined: where a text is cut depends on timing."""
    texts: dict[str, str] = {}
    ends: list[Any] = []
    for chunk in chunks:
        for choice in chunk["choices"]:
            piece = choice.get("text") or choice.get("delta", {}).get("content") or ""
            index = str(choice["index"])
            texts[index] = texts.get(index, "") + piece
            if choice.get("finish_reason"):
                ends.append({**choice, "delta": None, "text": None})
        rest = {k: v for k, v in chunk.items() if k not in ("choices", "id", "created")}
        if set(rest) - {"object", "model"} and rest not in ends:
            ends.append(rest)
    return {"texts": texts, "ends": ends}


# The library, by its public names


def library(name: str, out: Path) -> Any:
    import personavec as pv

    torch.set_num_threads(1)
    loaded = pv.load_model("inputs/model", dtype="float32")
    vector, second = pv.load_vector("vectors/testing"), pv.load_vector("vectors/second")
    spec, _ = pv.load_trait("inputs/testing.json")
    if name == "activations":
        return _activations(pv, loaded, vector, second)
    if name == "extract":
        config = pv.ExtractConfig(
            samples=1, max_tokens=8, coherence_floor=-1, trait_threshold=50, layers=(1, 2, 3),
            sweep_questions=4, coefficients=(-1, 0, 1), random_directions=1, neutral_prompts=6,
            seed=3,
        )  # fmt: skip
        return pv.extract.run(loaded, spec, out / "vector", config)
    evaluation = pv.evaluate.EvaluateConfig(samples=1, max_tokens=6, seed=3)
    elicitation = pv.elicit.ElicitConfig(
        max_tokens=6, trait_threshold=-1, coherence_floor=-1, seed=3
    )
    screening = pv.screen.ScreenConfig(natural="none", random_directions=2, seed=3)
    shifting = pv.shift.ShiftConfig(max_tokens=6, questions=4, seed=3)
    subject = pv.evaluate.Subject(loaded)
    files = [Path("inputs/clean.jsonl")]
    return {
        "evaluate": pv.evaluate.run(subject, [spec], out / "evaluate", evaluation),
        "elicit": pv.elicit.run(loaded, spec, out / "elicit", elicitation),
        "screen": pv.screen.run(loaded, [vector], files, out / "screen", screening),
        "shift": pv.shift.run(loaded, "inputs/tuned", [vector], [spec], out / "shift", shifting),
    }


def _activations(pv: Any, loaded: Any, vector: Any, second: Any) -> Any:
    messages = [{"role": "user", "content": "How?"}, {"role": "assistant", "content": "So, then."}]
    ids = torch.tensor([loaded.tokenizer("Rain is a river")["input_ids"]])
    found: dict[str, Any] = {
        "cosine": pv.cosine(vector.response_mean_diff[2], second.response_mean_diff[2])
    }
    for coefficient in (0.0, 1.5):
        with torch.inference_mode(), pv.steer(loaded.model, vector, coefficient=coefficient):
            found[f"logits at {coefficient}"] = tensor(loaded.model(ids).logits)
            written = loaded.model.generate(ids, max_new_tokens=8, do_sample=False)
            found[f"tokens at {coefficient}"] = written.tolist()
    found["projected"] = pv.project_conversation(loaded, vector, messages)
    found["read"] = pv.read_conversation(loaded, [vector, second], messages)
    return found


def plain(value: Any) -> Any:
    """Results as plain JSON values, from dictionaries, dataclasses or pydantic models."""
    from personavec.results import dump

    if isinstance(value, BaseModel):
        return plain(value.model_dump())
    if is_dataclass(value) and not isinstance(value, type):
        return plain(dump(value))
    if isinstance(value, Mapping):
        return {str(k): plain(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [plain(v) for v in value]
    if isinstance(value, torch.Tensor | np.ndarray | np.generic):
        return value.tolist()
    return value if isinstance(value, str | int | float | bool | None) else str(value)


def environment(folder: Path) -> dict[str, str]:
    """One thread, one order of sets, a cache of its own, no network, plain texts of one width."""
    own = {k: v for k, v in os.environ.items() if not k.startswith(("PERSONAVEC", "OPENAI"))}
    return own | {
        "PYTHONPATH": str(Path(__file__).resolve().parents[1] / "src"),
        "PERSONAVEC_CACHE": str(folder.resolve() / "cache"),
        "OPENAI_API_KEY": "a-key-of-no-one",
        "OMP_NUM_THREADS": "1",
        "PYTHONHASHSEED": "0",  # peft writes an adapter's modules as a set gives them
        "HF_HUB_OFFLINE": "1",
        "TOKENIZERS_PARALLELISM": "false",
        "CUDA_VISIBLE_DEVICES": "",
        "COLUMNS": "160",
        "NO_COLOR": "1",
        "TERM": "dumb",
    }
