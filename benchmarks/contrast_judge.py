"""How much faster than the plain way does the contrast judge score, with the same scores?

200 responses as an extraction has them: 20 questions, ten responses each under the ten eliciting
prompts, judged in groups as rollouts are. The plain way: full logits, one judge pair and one
polarity at a time, unsorted batches of 16. Texts are those of the bundled checks' tune halves;
only the time matters here. One more way, `spared`: as if the judging model had written them, so
that generation gave their log-probabilities under their own prompts. The ways take turns,
`--repeats` times. Scores in bfloat16 depend on the other texts of a batch, so two more figures
stand beside the difference: that of the plain way from itself in batches of 7, and the difference
in float32.

    python benchmarks/contrast_judge.py [--trait optimistic] [--questions 20] [--repeats 3]
        [--dtype DTYPE] [--json FILE]
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from machine import Work, described, measured, reading
from torch import Tensor

import personavec as pv
from personavec.judges import Answer, ContrastJudge, Score, known_answers
from personavec.judges.coherence_model import bundled_model
from personavec.judges.coherence_readings import NOTHING, as_reading, model_norms
from personavec.judges.contrast import JUDGED_TOKENS, judge_pairs
from personavec.model import EarlierTurns, chat, padded
from personavec.traits import TraitSpec, bundled_traits

BATCH, OTHER_BATCH = 16, 7


def workload(spec: TraitSpec, questions: int) -> list[Answer]:
    specs = [pv.load_trait(name)[0] for name in bundled_traits()]
    texts = [answer.response for s in specs for answer in known_answers.answers(s, "tune")]
    systems = [
        (k, text) for k, pair in enumerate(spec.instruction) for text in (pair.pos, pair.neg)
    ]
    return [
        Answer(question, texts[(i * len(systems) + j) % len(texts)], system, pair)
        for i, question in enumerate(spec.questions.extraction[:questions])
        for j, (pair, system) in enumerate(systems)
    ]


def ours(judge: ContrastJudge, spec: TraitSpec, answers: list[Answer]) -> list[Score]:
    return [
        score
        for start in range(0, len(answers), judge.group)
        for score in judge.score(spec, answers[start : start + judge.group])
    ]


@torch.inference_mode()
def plain_logprobs(
    loaded: pv.LoadedModel, prompts: list[list[int]], responses: list[list[int]], size: int
) -> list[Tensor]:
    found: list[Tensor] = []
    for start in range(0, len(prompts), size):
        some = list(zip(prompts, responses, strict=True))[start : start + size]
        ids, mask, _ = padded([p + r for p, r in some], pad_id=0, side="right", device="cpu")
        logprobs = loaded.model(input_ids=ids, attention_mask=mask).logits.float().log_softmax(-1)
        for row, (p, r) in zip(logprobs, some, strict=True):
            predicting = row[len(p) - 1 : len(p) + len(r) - 1]
            found.append(predicting.gather(-1, torch.tensor(r)[:, None])[:, 0])
    return found


def plain(
    loaded: pv.LoadedModel, spec: TraitSpec, answers: list[Answer], size: int = BATCH
) -> list[Tensor]:
    """Log-odds per token and, as the judge does, coherence from the response's own prompt."""
    responses = [loaded.chat.response_ids(a.response)[:JUDGED_TOKENS] for a in answers]

    def under(system: str, examples: EarlierTurns) -> list[Tensor]:
        prompts = [
            loaded.chat.answer_prompt_ids(chat(a.question, system, examples)) for a in answers
        ]
        return plain_logprobs(loaded, prompts, responses, size)

    own = [loaded.chat.answer_prompt_ids(chat(a.question, a.system)) for a in answers]
    nothing = [loaded.chat.answer_prompt_ids(chat(NOTHING)) for _ in answers]
    both = [plain_logprobs(loaded, prompts, responses, size) for prompts in (own, nothing)]
    for ids, logprobs, alone in zip(responses, *both, strict=True):
        bundled_model().coherence(as_reading(tuple(ids), logprobs, alone), model_norms(loaded))
    pairs = judge_pairs(spec, None)
    totals = [torch.zeros(len(r)) for r in responses]
    for pair in pairs:
        pos = under(pair.pos, pair.turns("pos"))
        neg = under(pair.neg, pair.turns("neg"))
        totals = [t + (p - n) / len(pairs) for t, p, n in zip(totals, pos, neg, strict=True)]
    return totals


def least_work(loaded: pv.LoadedModel, spec: TraitSpec, answers: list[Answer]) -> Work:
    """Every judge prompt of a question once, and every response under each and under its own."""
    responses = [len(loaded.chat.response_ids(a.response)[:JUDGED_TOKENS]) for a in answers]
    prompts = [loaded.chat.answer_prompt_ids(chat(a.question, a.system)) for a in answers]
    pairs = judge_pairs(spec, None)
    prompts += [
        loaded.chat.answer_prompt_ids(chat(question, system, examples))
        for question in {a.question for a in answers}
        for pair in pairs
        for system, examples in ((pair.pos, pair.turns("pos")), (pair.neg, pair.turns("neg")))
    ]
    continued = responses * (2 * len(pairs) + 1)
    return reading(loaded, [*map(len, prompts), *continued], logits=sum(continued))


def off(some: list[Tensor], others: list[Tensor]) -> dict[str, float]:
    """Mean and largest difference of the log-odds, in nats a token."""
    found = [abs(float(a.sum() - b.sum())) / len(b) for a, b in zip(some, others, strict=True)]
    return {"mean": sum(found) / len(found), "max": max(found)}


def tokens(scores: list[Score]) -> list[Tensor]:
    return [torch.tensor(score.log_odds_per_token) for score in scores]


def spared(loaded: pv.LoadedModel, answers: list[Answer]) -> list[Answer]:
    """The answers with log-probabilities, of which only the time that they spare matters."""
    ids = [tuple(loaded.chat.response_ids(a.response)) for a in answers]
    return [
        replace(a, response_ids=own, logprobs=(-1.0,) * len(own))
        for a, own in zip(answers, ids, strict=True)
    ]


def timed(way: Callable[[], Any]) -> tuple[float, Any]:
    start = time.perf_counter()
    found = way()
    return time.perf_counter() - start, found


def figures(values: list[float]) -> dict[str, float]:
    return {"median": statistics.median(values), "low": min(values), "high": max(values)}


def turns(
    loaded: pv.LoadedModel, spec: TraitSpec, answers: list[Answer], repeats: int
) -> tuple[dict[str, list[float]], list[Score], list[Tensor]]:
    """Seconds of every way, and what the judge and the plain way find."""
    written = spared(loaded, answers)
    scores, per_token = list[Score](), list[Tensor]()
    seconds: dict[str, list[float]] = {"judge": [], "spared": [], "plain": []}
    for _ in range(repeats):
        # A judge of its own each time, which has kept no beginnings yet.
        judge, own = ContrastJudge(loaded), ContrastJudge(loaded, wrote_answers=True)
        took, scores = timed(lambda judge=judge: ours(judge, spec, answers))
        seconds["judge"].append(took)
        seconds["spared"].append(timed(lambda own=own: ours(own, spec, written))[0])
        took, per_token = timed(lambda: plain(loaded, spec, answers))
        seconds["plain"].append(took)
    return seconds, scores, per_token


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--trait", default="optimistic")
    parser.add_argument("--questions", type=int, default=20)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--dtype")
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    loaded = pv.load_model("smollm2", **({"dtype": arguments.dtype} if arguments.dtype else {}))
    spec = pv.load_trait(arguments.trait)[0]
    answers = workload(spec, arguments.questions)
    ContrastJudge(loaded).score(spec, answers[:2])  # warm up
    seconds, scores, per_token = turns(loaded, spec, answers, arguments.repeats)
    ratios = {
        way: figures([p / s for p, s in zip(seconds["plain"], seconds[way], strict=True)])
        for way in ("judge", "spared")
    }
    limits = measured()
    work = least_work(loaded, spec, answers)
    few = answers[:20]
    exact = pv.load_model("smollm2", dtype="float32")
    record = {
        "trait": spec.name,
        "responses": len(answers),
        "dtype": loaded.identity.dtype,
        "seconds": seconds,
        "ratios": ratios,
        "nats_per_token_off": off(tokens(scores), per_token),
        "plain_off_itself": off(plain(loaded, spec, few, OTHER_BATCH), per_token[: len(few)]),
        "float32_off": off(tokens(ours(ContrastJudge(exact), spec, few)), plain(exact, spec, few)),
        "limits": limits.as_dict(),
        "share_of_limit": limits.share(work, statistics.median(seconds["judge"])),
        **described(),
    }
    show(record, few=len(few))
    if arguments.json:
        arguments.json.write_text(json.dumps(record, indent=1) + "\n")


def show(record: dict[str, Any], *, few: int) -> None:
    print("| way | s | plain / it | least | most |\n| --- | --- | --- | --- | --- |")
    for way, ratio in record["ratios"].items():
        median = statistics.median(record["seconds"][way])
        found = " | ".join(f"{ratio[figure]:.2f}" for figure in ("median", "low", "high"))
        print(f"| {way} | {median:.1f} | {found} |")
    print(f"| plain | {statistics.median(record['seconds']['plain']):.1f} | | | |")
    dtype, share = record["dtype"], record["share_of_limit"]
    print(f"{record['responses']} responses, {dtype}; {share:.0%} of the limit\n")
    print("| log-odds differ by, nats a token | mean | most |\n| --- | --- | --- |")
    for name, found in (
        (f"judge and plain, {dtype}", record["nats_per_token_off"]),
        (
            f"plain and plain in batches of {OTHER_BATCH}, {few} responses",
            record["plain_off_itself"],
        ),
        (f"judge and plain, float32, {few} responses", record["float32_off"]),
    ):
        print(f"| {name} | {found['mean']:.1e} | {found['max']:.1e} |")


if __name__ == "__main__":
    main()
