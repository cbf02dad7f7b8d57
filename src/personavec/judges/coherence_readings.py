"""A model's readings of responses, and the norms of its own neutral ones, which are kept."""

from __future__ import annotations

import contextlib
import hashlib
import json
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from personavec.errors import ModelError, TooFewRolloutsError
from personavec.judges.coherence_features import NAMES, Reading, Typical
from personavec.judges.coherence_model import Norms, norms
from personavec.model import Beginnings, LoadedModel, ScoringJob, chat, token_logprobs
from personavec.model.engine import Request, Sampling, TransformersEngine
from personavec.runs import atomic_write, cache_folder
from personavec.traits import BUNDLED, neutral_prompts

#: A question that says nothing about its answer.
NOTHING = "."
#: Of how many neutral responses, and of how many tokens each, the norms are.
N_NEUTRAL, NEUTRAL_TOKENS = 72, 64
_FORMAT = 1
_BATCH_TOKENS = 12288


@dataclass(frozen=True)
class Unread:
    """Token ids of a prompt and of the response after it.

    `ended` says that the response is known to have ended by itself, not at a length limit.
    """

    prompt: tuple[int, ...]
    ids: tuple[int, ...]
    ended: bool = False


def alone_job(loaded: LoadedModel, unread: Unread) -> ScoringJob:
    """The second reading: after `NOTHING`, with the end of the turn where the response has one."""
    turn_end = loaded.chat.turn_end
    end = () if turn_end is None or not unread.ended else (turn_end,)
    return tuple(loaded.chat.answer_prompt_ids(chat(NOTHING))), (*unread.ids, *end)


def as_reading(ids: tuple[int, ...], own: Tensor, alone: Tensor) -> Reading:
    """From log-probabilities [token] of both readings; the second may have the end as well."""
    end = float(alone[len(ids)]) if len(alone) > len(ids) else None
    values = own.double().numpy(), alone[: len(ids)].double().numpy()
    return Reading(ids, *values, end)


def read_both_ways(
    loaded: LoadedModel,
    unread: Sequence[Unread],
    *,
    batch_tokens: int = _BATCH_TOKENS,
    beginnings: Beginnings | None = None,
) -> list[Reading]:
    """The readings of responses that are not empty. Raises UsageError for one too long."""
    jobs: list[ScoringJob] = [(each.prompt, each.ids) for each in unread]
    jobs += [alone_job(loaded, each) for each in unread]
    found = token_logprobs(loaded, jobs, batch_tokens=batch_tokens, beginnings=beginnings)
    pairs = zip(found[: len(unread)], found[len(unread) :], strict=True)
    return [as_reading(each.ids, *pair) for each, pair in zip(unread, pairs, strict=True)]


def neutral_readings(loaded: LoadedModel) -> list[Reading]:
    """The model's readings of its own greedy answers to the neutral prompts.

    Raises TooFewRolloutsError if fewer than two are not empty.
    """
    prompts = [tuple(loaded.chat.prompt_ids(chat(q))) for q in neutral_prompts()[:N_NEUTRAL]]
    requests = [Request(str(i), prompt) for i, prompt in enumerate(prompts)]
    sampling = Sampling(max_tokens=NEUTRAL_TOKENS, temperature=0)
    engine = TransformersEngine(loaded, _BATCH_TOKENS)
    answers = {g.id: g for group in engine.generate(requests, sampling) for g in group}
    unread = [
        Unread(prompt, answer.response_ids, answer.finished)
        for i, prompt in enumerate(prompts)
        if (answer := answers[str(i)]).response_ids
    ]
    if len(unread) < 2:
        raise TooFewRolloutsError(
            f"{loaded.identity.name} answered {len(unread)} of {len(prompts)} neutral prompts; "
            "coherence is measured against at least two"
        )
    return read_both_ways(loaded, unread)


def model_norms(loaded: LoadedModel) -> Norms:
    """The model's norms: bundled or kept ones, else new ones, which are kept by content.

    Raises TooFewRolloutsError, and ModelError if its activations overflow.
    """
    bundled = Path(str(BUNDLED)) / "coherence_norms.json"
    # The embedded model's precision hardly matters.
    found = _stored(bundled, loaded, ("dtype", "weights")) or _stored(_kept(loaded), loaded)
    if found is not None:
        return found
    new = norms(neutral_readings(loaded))
    if not all(map(math.isfinite, new.mean.values())):
        raise ModelError(f"the numbers of {loaded.identity.name} overflow; load it in bfloat16")
    # Without a writable cache, the next judge reads the neutral answers again.
    with contextlib.suppress(OSError):
        atomic_write(_kept(loaded), json.dumps(as_record(loaded, new)))
    return new


def as_record(loaded: LoadedModel, found: Norms) -> dict[str, Any]:
    """Norms as JSON, with the model and prompts that they depend on."""
    return {
        "format": _FORMAT,
        "prompts": _prompts_hash(),
        "model": loaded.identity.as_dict(),
        "norms": asdict(found),
    }


def _stored(path: Path, loaded: LoadedModel, except_for: Sequence[str] = ()) -> Norms | None:
    """The norms in a file; None if it is missing, damaged, or depends on anything else."""
    try:
        record = json.loads(path.read_text("utf-8"))
        there = {k: v for k, v in record["model"].items() if k not in except_for}
        here = json.loads(json.dumps(loaded.identity.as_dict(), default=str))
        if (record["format"], record["prompts"]) != (_FORMAT, _prompts_hash()):
            return None
        if there != {k: v for k, v in here.items() if k not in except_for}:
            return None
        parts = record["norms"]
        if not set(parts["mean"]) == set(parts["spread"]) == set(NAMES):
            return None
        return Norms(Typical(**parts["usual"]), parts["mean"], parts["spread"])
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None


def _prompts_hash() -> str:
    return _hash("\n".join([NOTHING, str(NEUTRAL_TOKENS), *neutral_prompts()[:N_NEUTRAL]]))


def _kept(loaded: LoadedModel) -> Path:
    record = json.dumps(loaded.identity.as_dict(), default=str)
    return cache_folder() / "coherence" / f"{_hash(record + _prompts_hash())}.json"


def _hash(text: str) -> str:
    return hashlib.blake2b(text.encode(), digest_size=8).hexdigest()
