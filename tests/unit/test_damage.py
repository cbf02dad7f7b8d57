"""A run's folder that lost or damaged a file: made good by the next call, or told in one line.

Every verb is run to its end and killed half-way; then each of its files is deleted, emptied, cut
off, overwritten and replaced by a sound one of another kind, and the verb is called again.
"""

import contextlib
import itertools
import json
import math
import os
import random
import shutil
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from killed_runs import TIMES, content, unlike
from safetensors.torch import load_file, save
from verb_jobs import JOBS, Given, spec, write_model, write_rows

import personavec as pv
from personavec.author import AuthorConfig, Sizes
from personavec.data import parts
from personavec.errors import PersonavecError
from personavec.evaluate import EvaluateConfig, shift, steer
from personavec.finetune import TrainingConfig
from personavec.finetune.sets import elicit
from personavec.judges import Endpoint
from personavec.monitor import MonitorConfig, calibrate, log as monitor_log
from personavec.screen import FlagRule, pipeline as screen
from personavec.studies import compare_mitigations
from personavec.studies.validate_screen import pipeline as validate_screen

SLOW = ("extract", "validate-screen", "finetune", "compare-mitigations")
#: What a finished run needs no more.
WORK = ("checkpoint-", "draft-", "natural", "probes.json")
#: What no two runs share.
OTHER_IN_EACH = (*TIMES, "notes", "training_args.bin")


@pytest.fixture(scope="module")
def given(tmp_path_factory: pytest.TempPathFactory) -> Given:
    folder = tmp_path_factory.mktemp("inputs")
    write_model(folder)
    (folder / "spec.json").write_text(json.dumps(spec(4, 4)))
    (folder / "wide.json").write_text(json.dumps(spec(4, 16)))
    rng = random.Random(0)

    def said() -> str:
        return " ".join(rng.choices(("rain", "stone", "river", "lamp"), k=rng.randint(2, 6)))

    rows = [{"prompt": f"Say {i}.", "completion": said()} for i in range(24)]
    write_rows(folder / "train.jsonl", rows)
    many = [{"prompt": f"Tell {i}.", "completion": said()} for i in range(80)]
    write_rows(folder / "many.jsonl", many)
    write_rows(folder / "rows.jsonl", [*rows[:7], {"prompt": "Say", "completion": ""}, *rows[7:]])
    answers = [{"question": f"Say {i}.", "answer": said()} for i in range(12)]
    write_rows(folder / "answers.jsonl", answers)
    turns = [{"role": role, "content": said()} for _ in range(12) for role in ("user", "assistant")]
    logs = [{"messages": turns[i : i + 4]} for i in range(0, len(turns), 4)]
    write_rows(folder / "log.jsonl", [*logs[:2], {"messages": []}, *logs[2:]])
    return Given.read(folder, device="cpu")


def _training(epochs: float) -> TrainingConfig:
    return TrainingConfig(
        rank=2, alpha=4, batch=4, accumulation=1, epochs=epochs, checkpoint_every=2, seed=0
    )


#: Every job with a config that makes it short.
CONFIGS: dict[str, Any] = {
    "extract": pv.ExtractConfig(
        samples=2, max_tokens=4, coherence_floor=-1, sweep_questions=2,
        coefficients=(-1, 0, 1), random_directions=1, neutral_prompts=3, batch_tokens=4000,
    ),
    "evaluate": EvaluateConfig(samples=2, max_tokens=4, batch_tokens=400),
    "calibrate": calibrate.CalibrateConfig(
        fit_questions=3, test_questions=2, shots=(0, 2), example_questions=2, neutral_prompts=3,
        max_tokens=4, batch_tokens=400,
    ),
    "monitor": MonitorConfig(),
    "screen": screen.ScreenConfig(
        natural="last-prompt", rule=FlagRule(top=5), random_directions=1
    ),
    "screen with naturals": screen.ScreenConfig(
        natural="two-stage", natural_tokens=2, top_share=0.2, sample=4, rule=FlagRule(top=5),
        random_directions=1, subsets=3,
    ),
    "validate-screen": validate_screen.ValidateScreenConfig(
        rates=(0.1,), clean_rows=40, max_tokens=4, trait_threshold=-1, coherence_floor=-1
    ),
    "elicit": elicit.ElicitConfig(
        samples=1, max_tokens=4, temperature=1.0, trait_threshold=-1, coherence_floor=-1
    ),
    "finetune": pv.FinetuneConfig(training=_training(1), drift_every=2),
    "compare-mitigations": compare_mitigations.CompareConfig(
        arms=compare_mitigations.parse_arms(["random:1"]), seeds=(0,), training=_training(0.5),
        held_out=0.25, questions=2, max_tokens=3, capability=False, texts=2,
    ),
    "shift": shift.ShiftConfig(max_tokens=4, batch_tokens=400),
    "judges score": None,
    "steer": steer.SteerConfig(coefficients=(0.0, 1.0), max_tokens=3),
    "author": AuthorConfig(sizes=Sizes(pairs=2, judge_pairs=1, examples=0, questions=4)),
}  # fmt: skip


def _draft() -> dict[str, Any]:
    """An author's answer, made of a bundled spec."""
    spec = pv.load_trait("humorous")[0]
    pairs = [{"pos": pair.pos, "neg": pair.neg} for pair in spec.instruction[:2]]
    judging = [{"pos": pair.pos, "neg": pair.neg} for pair in spec.judge_instruction[:1]]
    return {
        "instruction": pairs,
        "judge_instruction": judging,
        "questions": [*spec.questions.extraction[:2], *spec.questions.evaluation[:2]],
        "rubric": "Rate the attempt to amuse. 0 is plain, 100 comedy throughout.",
        "monitoring": list(spec.monitoring),
    }


def _odd(path: Path) -> bytes:
    """A sound file of the same format that holds something else."""
    if path.suffix == ".parquet":
        sink = pa.BufferOutputStream()
        pq.write_table(pa.table({"odd": [1]}), sink)
        return sink.getvalue().to_pybytes()
    if path.suffix == ".safetensors":
        return save({"odd": torch.zeros(2)})
    if path.suffix == ".jsonl":
        return b'{"odd": 1}\n{"odd": 2}\n'
    return b'{"odd": 1}\n'


def _of_other_types(path: Path) -> bytes:
    """The same names, whose values are of another type or shape."""
    if path.suffix == ".parquet":
        table = pq.read_table(path)
        odd = pa.table({name: ["odd"] * len(table) for name in table.column_names})
        sink = pa.BufferOutputStream()
        pq.write_table(odd.replace_schema_metadata(table.schema.metadata), sink)
        return sink.getvalue().to_pybytes()
    if path.suffix == ".safetensors":
        return save({name: torch.zeros(2) for name in load_file(path)})
    if path.suffix not in (".json", ".jsonl"):
        return b"odd"
    records = content(path) if path.suffix == ".jsonl" else [content(path)]
    odd = [
        {name: [{"odd": None}] for name in record} for record in records if isinstance(record, dict)
    ]
    return b"".join(json.dumps(record).encode() + b"\n" for record in odd)


DAMAGES: dict[str, Callable[[Path], bytes | None]] = {
    "deleted": lambda path: None,
    "empty": lambda path: b"",
    "cut off": lambda path: path.read_bytes()[: path.stat().st_size // 2],
    "other bytes": lambda path: random.Random(1).randbytes(path.stat().st_size),
    "of another shape": _odd,
    "of other types": _of_other_types,
    "a list": lambda path: b"[1]\n" * 2,
}


#: A manifest has tests of its own; a page is drawn anew. Of a checkpoint, others stand for these.
TOLD_ELSEWHERE = (
    *("manifest.json", "report.html", "README.md", "chat_template.jinja", "tokenizer.json"),
    *("tokenizer_config.json", "adapter_config.json", "rng_state.pth", "scheduler.pt"),
    *("training_args.bin", "trainer_state.json"),
)


@contextlib.contextmanager
def killed_at(monkeypatch: pytest.MonkeyPatch, write: float) -> Iterator[list[int]]:
    """Kills as soon as so many files or groups of records are on disk; counts them."""
    count, sync = [0], os.fsync

    def counted(handle: int) -> None:
        count[0] += 1
        if count[0] > write:
            raise KeyboardInterrupt
        sync(handle)

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", counted)
        yield count


def files_of(folder: Path) -> list[Path]:
    paths = (path.relative_to(folder) for path in folder.rglob("*") if path.is_file())
    return sorted(path for path in paths if path.name != ".lock")


def is_work(path: Path) -> bool:
    return any(part.startswith(WORK) for part in path.parts)


def differences(whole: Path, found: Path) -> list[str]:
    names = [{n for n in files_of(folder) if not is_work(n)} for folder in (whole, found)]
    told = [f"{name} missing" for name in sorted(names[0] - names[1])]
    for name in sorted(names[0] & names[1]):
        try:
            at = unlike(content(whole / name), content(found / name), ignored=OTHER_IN_EACH)
        except Exception as error:
            at = f": {type(error).__name__}"
        if at:
            told.append(f"{name}{at}"[:200])
    return told


@pytest.fixture(autouse=True)
def small_windows(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parts, "WINDOW", 8)
    monkeypatch.setattr(monitor_log, "WINDOW", 4)


def outcome(job: Callable[[Path], None], out: Path, whole: Path) -> str:
    """What is wrong with a call on a damaged folder, or nothing."""
    try:
        job(out)
    except PersonavecError as error:
        return "" if "\n" not in str(error) and len(str(error)) < 600 else f"long: {error}"
    except Exception as error:
        return f"{type(error).__name__}: {error}"
    return "; ".join(differences(whole, out))


@pytest.mark.parametrize("share", [1.0, 0.5], ids=["finished", "killed"])
@pytest.mark.parametrize("verb", CONFIGS)
def test_a_lost_or_damaged_file_is_made_good_or_told_in_one_line(
    given: Given,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    server: Any,
    chat_completion: Callable[..., Any],
    verb: str,
    share: float,
) -> None:
    """Of `monitor` every damage to every file; of slow verbs one a file, in turn; else two."""
    if verb == "author":
        endpoint = Endpoint("parrot", server.url, retries=0, timeout=10, cache=None)
        given = replace(given, endpoint=endpoint)
        answer = json.dumps(_draft())
        server.reply = lambda body, times: chat_completion(answer)
    job = partial(JOBS[verb], given, CONFIGS[verb])
    out, whole, begun = tmp_path / "out", tmp_path / "whole", tmp_path / "begun"
    with killed_at(monkeypatch, math.inf) as writes:
        job(out)
    out.rename(whole)
    if share == 1:
        begun = whole
    else:
        with killed_at(monkeypatch, share * writes[0]), pytest.raises(KeyboardInterrupt):
            job(out)
        out.rename(begun)
    every = itertools.cycle(DAMAGES)
    others = itertools.cycle([name for name in DAMAGES if name != "deleted"])
    wrong = []
    for name in files_of(begun):
        if name.name in TOLD_ELSEWHERE or "finetune" in name.parts:
            continue
        if share == 1 and is_work(name):
            continue
        damages = ("deleted", next(others))
        if verb in SLOW:
            damages = (next(every),)
        for damage in DAMAGES if verb == "monitor" else damages:
            shutil.rmtree(out, ignore_errors=True)
            shutil.copytree(begun, out)
            found = DAMAGES[damage](out / name)
            (out / name).unlink() if found is None else (out / name).write_bytes(found)
            if told := outcome(job, out, whole):
                wrong.append(f"{name}, {damage}: {told}"[:300])
    assert not wrong, "\n".join(wrong)
