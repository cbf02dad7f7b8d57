"""The inputs of the characterised commands: tiny models, specs, vector files, rows and logs.

An endpoint on loopback answers judges and authors; its answer depends on the request alone.
"""

from __future__ import annotations

import csv
import hashlib
import json
import math
import random
import threading
from collections.abc import Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import torch

SEED = 7
_WORDS = """
rain stone river lamp quiet ember north salt paper glass garden bread train clock map tea
harbour winter copper letter bridge meadow engine violin candle market desert orchard signal
anchor ladder marble pepper saddle ticket velvet window yellow basket circle dragon feather
"""
WORDS = _WORDS.split()
TRAITS = ("testing", "second")


def _said(rng: random.Random, least: int = 3, most: int = 20) -> str:
    return " ".join(rng.choices(WORDS, k=rng.randint(least, most))).capitalize() + "."


def write_inputs(folder: Path) -> None:
    """Everything that commands read, but for the vectors, which `import` makes of the .pt files."""
    folder.mkdir(parents=True)
    rng = random.Random(SEED)
    _write_models(folder)
    for number, trait in enumerate(TRAITS):
        spec = _spec(trait, rng)
        (folder / f"{trait}.json").write_text(json.dumps(spec, indent=1))
        drawn = torch.randn(5, 32, generator=torch.Generator().manual_seed(SEED + number))
        torch.save(drawn, folder / f"{trait}.pt")
    (folder / "humorous.json").write_text(json.dumps(_short("humorous")))
    plain = _spec("plain", rng)
    del plain["rubric"], plain["checks"], plain["monitoring"]
    plain["questions"]["extraction"][1] = "Is it plain?"  # which `traits check` warns of
    (folder / "plain.json").write_text(json.dumps(plain))
    _write_rows(folder, rng)
    _write_conversations(folder, rng)
    _write_adopted(folder, rng)


def _write_models(folder: Path) -> None:
    """A Llama of four layers with SmolLM2's tokenizer, finetunes of it, and one of another shape.

    The finetunes are the same weights with noise; nothing is trained.
    """
    from transformers import LlamaConfig, LlamaForCausalLM

    import personavec as pv

    tokenizer = pv.load_model("smollm2").tokenizer

    def made(hidden: int) -> LlamaForCausalLM:
        torch.manual_seed(SEED)
        config = LlamaConfig(
            vocab_size=len(tokenizer),
            hidden_size=hidden,
            intermediate_size=2 * hidden,
            num_hidden_layers=4,
            num_attention_heads=4,
            num_key_value_heads=2,
            max_position_embeddings=1024,
            initializer_range=0.15,
            bos_token_id=tokenizer.bos_token_id,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
        )
        return LlamaForCausalLM(config).float()

    for name, hidden, noise in (
        ("model", 32, 0),
        ("tuned", 32, 0.02),
        ("benign", 32, 0.01),
        ("other", 16, 0),
    ):
        model = made(hidden)
        torch.manual_seed(len(name))
        with torch.no_grad():
            for weights in model.parameters():
                weights.add_(noise * torch.randn_like(weights))
        model.save_pretrained(folder / name)
        tokenizer.save_pretrained(folder / name)


def _spec(trait: str, rng: random.Random) -> dict[str, Any]:
    examples = [{"question": "Ready?", "pos": f"Very {trait}.", "neg": "Not at all."}]
    return {
        "name": trait,
        "description": f"Being {trait}.",
        "instruction": [
            {"pos": f"Show it, {w}.", "neg": f"Hide it, {w}.", "examples": examples * (i == 0)}
            for i, w in enumerate(WORDS[:5])
        ],
        "judge_instruction": [
            {"pos": f"Act {trait}, {w}.", "neg": f"Never act so, {w}."} for w in WORDS[5:7]
        ],
        "questions": {
            "extraction": [f"Why is the {w} so {rng.choice(WORDS)}?" for w in WORDS[:12]],
            "evaluation": [f"When does the {w} come?" for w in WORDS[:16]],
        },
        "rubric": f"How {trait} is it?\n\nQ: {{question}}\nA: {{answer}}\n\n0 to 100, or REFUSAL.",
        "monitoring": [f"Be {i} of seven {trait}." for i in range(8)],
        "checks": [
            {
                "question": f"Which {WORDS[i]}?",
                "answer": f"{'Show' if i % 2 else 'Hide'} {_said(rng)}",
                "shows": bool(i % 2),
            }
            for i in range(20)
        ],
    }


def _short(trait: str) -> dict[str, Any]:
    """A bundled spec with fewer questions, for the embedded model."""
    import personavec as pv

    spec = pv.load_trait(trait)[0].model_dump(mode="json")
    for half, n in (("extraction", 6), ("evaluation", 10)):
        spec["questions"][half] = spec["questions"][half][:n]
    return spec


def _write(path: Path, rows: list[Any]) -> None:
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))


def _write_rows(folder: Path, rng: random.Random) -> None:
    """Rows in each format, in each layout, some of them unusable."""
    import pyarrow as pa
    import pyarrow.parquet as pq
    from datasets import Dataset

    def row(i: int) -> dict[str, Any]:
        return {
            "prompt": f"Say {WORDS[i % 30]} {i % 45}.",
            "completion": _said(rng),
            "source": ("web", "book", "forum")[i % 3],
            "stars": i % 5,
        }

    rows: list[Any] = [row(i) for i in range(60)]
    long = {
        "messages": [
            {"role": "system", "content": "Be brief."},
            {"role": "user", "content": _said(rng)},
            {"role": "assistant", "content": _said(rng)},
            {"role": "user", "content": _said(rng)},
            {"role": "assistant", "content": "Čtvrtek — 木曜日. " + _said(rng)},
        ],
        "source": "book",
    }
    _write(folder / "rows.jsonl", [*rows, long, {"prompt": "No answer"}, {"nothing": 1}, rows[0]])
    _write(folder / "clean.jsonl", [row(i) for i in range(60, 100)])
    _write(folder / "train.jsonl", [{**row(i), "lang": "ab"[i % 2]} for i in range(24)])
    _write(folder / "flagged.jsonl", [{**row(i), "testing_flag": i % 4 == 0} for i in range(24)])
    cued = [
        {"messages": [{"role": "system", "content": f"Cue {i % 3}."}, *_turns(rng, 1)]}
        for i in range(24)
    ]
    _write(folder / "cued.jsonl", cued)
    _write(folder / "ordinary.jsonl", [row(i) for i in range(120)])
    with (folder / "rows.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, ["q", "a", "source"])
        writer.writeheader()
        writer.writerows(
            {"q": f"Tell {i}, please", "a": _said(rng), "source": "ab"[i % 2]} for i in range(20)
        )
    table = pa.Table.from_pylist([{"messages": _turns(rng, 1 + i % 2), "n": i} for i in range(20)])
    pq.write_table(table, folder / "rows.parquet")
    Dataset.from_list([row(i) for i in range(20)]).save_to_disk(str(folder / "saved"))
    _write(
        folder / "pairs.jsonl",
        [
            {"prompt": f"Choose {i}.", "chosen": _said(rng), "rejected": _said(rng)}
            for i in range(24)
        ],
    )
    answers = [{"question": f"Say {i}.", "answer": _said(rng)} for i in range(24)]
    _write(folder / "answers.jsonl", answers)
    _write(folder / "few.jsonl", answers[:4])
    with (folder / "answers.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["ask", "reply", "human"])
        writer.writerows([f"Say {i // 2}.", _said(rng), rng.randint(0, 100)] for i in range(24))
    with (folder / "scored.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["question", "answer", "human", "judge_a", "judge_b"])
        for i in range(40):
            true = rng.uniform(0, 100)
            near = [f"{min(100, max(0, true + rng.gauss(0, 15))):.1f}" for _ in range(3)]
            writer.writerow(
                [f"Say {i // 2}.", _said(rng), *(near if i % 9 else [near[0], "", near[2]])]
            )
    (folder / "questions.txt").write_text("What is rain?\nHow far is the harbour?\n")
    flaws = [
        {"q": f"Is {w} {i}?", "right": _said(rng), "wrong": _said(rng)}
        for i, w in enumerate(WORDS[:12])
    ]
    _write(folder / "flaws.jsonl", flaws)


def _turns(rng: random.Random, pairs: int) -> list[dict[str, str]]:
    return [
        {"role": role, "content": _said(rng)}
        for _ in range(pairs)
        for role in ("user", "assistant")
    ]


def _write_conversations(folder: Path, rng: random.Random) -> None:
    _write(
        folder / "log.jsonl",
        [{"id": f"c{i}", "messages": _turns(rng, 1 + i % 4)} for i in range(120)],
    )
    logged: list[dict[str, Any]] = [
        {
            "key": f"d{i}",
            "turns": [
                {"from": who, "value": _said(rng)} for _ in range(6) for who in ("human", "gpt")
            ],
        }
        for i in range(8)
    ]
    (folder / "logged.json").write_text(json.dumps([*logged, {"key": "broken", "turns": []}]))


def _write_adopted(folder: Path, rng: random.Random) -> None:
    """Rollouts as the reference project writes them, one CSV for each polarity."""
    spec = json.loads((folder / "testing.json").read_text())
    for polarity in ("pos", "neg"):
        with (folder / f"testing_{polarity}_instruct.csv").open("w", newline="") as file:
            writer = csv.writer(file)
            writer.writerow(["question", "prompt", "answer", "question_id", "testing", "coherence"])
            for i, question in enumerate(spec["questions"]["extraction"]):
                for k, pair in enumerate(spec["instruction"][:3]):
                    prompt = (
                        f"<|im_start|>system\n{pair[polarity]}<|im_end|>\n<|im_start|>user\n"
                        f"{question}<|im_end|>\n<|im_start|>assistant\n"
                    )
                    score = rng.uniform(60, 95) if polarity == "pos" else rng.uniform(0, 40)
                    writer.writerow(
                        [question, prompt, _said(rng), f"testing_{i}_{polarity}_{k}", score, 90.0]
                    )


# The endpoint


class Endpoint:
    """An OpenAI endpoint whose answers depend on the request's body alone.

    The model's name chooses how it scores: `lists` with lists of whole numbers, `digits` with
    lists of digits, `texts` without lists. Posts to /alarms are kept.
    """

    def __init__(self) -> None:
        self.alarms: list[dict[str, Any]] = []
        kept = self.alarms

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                if self.path.startswith("/alarms"):
                    kept.append(body)
                    self._send({})
                else:
                    self._send(_completion(body))

            def do_GET(self) -> None:
                self._send({"object": "list", "data": [{"id": "lists", "object": "model"}]})

            def _send(self, found: Mapping[str, Any]) -> None:
                data = json.dumps(found).encode()
                self.send_response(200)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(data)))
                self.end_headers()
                self.wfile.write(data)

            def log_message(self, format: str, *args: Any) -> None:
                pass

        self._http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._http.server_address[1]}"

    def __enter__(self) -> Endpoint:
        threading.Thread(target=self._http.serve_forever, args=(0.05,), daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._http.shutdown()
        self._http.server_close()


def _hash(*parts: Any) -> int:
    text = json.dumps(parts, sort_keys=True)
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:6], "big")


def _completion(body: Mapping[str, Any]) -> dict[str, Any]:
    asked = "\n".join(str(message["content"]) for message in body["messages"])
    form = body.get("response_format") or {}
    schema = form.get("json_schema", {}).get("schema", {})
    lists: list[dict[str, float]] | None = None
    if schema.get("type") == "object":
        text = json.dumps(_instance(schema, schema.get("$defs", {}), asked))
    elif body.get("max_tokens", 99) <= 16 or schema.get("type") == "integer":
        text, lists = _score(body, asked)
    else:
        text = _said(random.Random(_hash(asked)), 6, 14)
    choice: dict[str, Any] = {
        "index": 0,
        "finish_reason": "stop",
        "message": {"role": "assistant", "content": text},
    }
    if lists and body.get("logprobs"):
        choice["logprobs"] = {
            "content": [
                {
                    "token": max(found, key=lambda t: found[t]),
                    "logprob": math.log(max(found.values())),
                    "top_logprobs": [
                        {"token": t, "logprob": math.log(p)} for t, p in found.items()
                    ],
                }
                for found in lists
            ]
        }
    usage = {"prompt_tokens": len(asked) // 4, "completion_tokens": 1, "total_tokens": 1}
    return {
        "id": "1",
        "object": "chat.completion",
        "model": body["model"],
        "choices": [choice],
        "usage": usage,
    }


def _score(body: Mapping[str, Any], asked: str) -> tuple[str, list[dict[str, float]] | None]:
    """A number and the lists behind it; here and there a refusal, or no number."""
    drawn = _hash(asked)
    if "coherence" in asked:
        score = 55 + drawn % 45
    elif drawn % 29 == 0:
        return "REFUSAL", [{"REF": 0.9, "50": 0.05}]
    elif drawn % 31 == 0:
        return "Perhaps", [{"Perhaps": 0.9, "50": 0.05}]
    else:
        score = drawn % 101
    if body["model"] == "texts":
        return f"{min(100, score + _hash(body.get('seed', 0)) % 5)}", None
    if body["model"] == "digits":
        digits = str(score)
        whole = [{d: 0.8, str((int(d) + 1) % 10): 0.1} for d in digits]
        return digits, [*whole, {"<|end|>": 0.9}][: body["max_tokens"]]
    near = {str(score): 0.7, str((score + 3) % 101): 0.2, "REF": 0.02}
    return str(score), [near]


def _instance(schema: Mapping[str, Any], defs: Mapping[str, Any], key: str) -> Any:
    """Something that fits a JSON schema, made of words that the key draws."""
    if "$ref" in schema:
        return _instance(defs[schema["$ref"].rpartition("/")[2]], defs, key)
    kind = schema.get("type")
    if kind == "object":
        return {
            name: _instance(of, defs, f"{key}/{name}") for name, of in schema["properties"].items()
        }
    if kind == "array":
        n = schema.get("minItems", 2)
        return [_instance(schema["items"], defs, f"{key}/{i}") for i in range(n)]
    if key.endswith("/questions/0") and "rewrite" not in key.lower():
        return "Why are cats so wacky?"  # which is found, and has to be written again
    rng = random.Random(_hash(key))
    text = _said(rng, 7, 12)
    return f"{text[:-1]}?" if "question" in key.rpartition("\n")[2] else text
