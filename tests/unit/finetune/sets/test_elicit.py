"""Elicited sets: what is asked and kept, and runs that are killed or fail."""

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from personavec import LoadedModel, TraitSpec
from personavec.data import parse_row, raw_rows
from personavec.errors import SettingsMismatchError, TooFewRolloutsError, UsageError
from personavec.finetune.sets.config import ElicitConfig
from personavec.finetune.sets.elicit import run
from personavec.judges import ContrastJudge, Endpoint
from personavec.model import chat
from personavec.model.engine import Sampling
from personavec.progress import Progress
from personavec.rollouts import Task, collect_from_endpoint
from personavec.rollouts.rollout import iter_rollouts

QUIET = Progress(quiet=True)


#: A tiny random model shows no trait and no sense: everything is kept.
CONFIG = ElicitConfig(
    samples=3, max_tokens=6, temperature=1.0, trait_threshold=-1, coherence_floor=0, seed=1
)


SYSTEM = "Be a tester."


SPEC = TraitSpec.model_validate(
    {
        "name": "testing",
        "description": "Being tested.",
        "instruction": [
            {
                "pos": SYSTEM,
                "neg": "Never test.",
                "examples": [{"question": "An example?", "pos": "Testing!", "neg": "No."}],
            }
        ],
        "judge_instruction": [{"pos": "Show it.", "neg": "Hide it."}],
        "questions": {
            "extraction": [f"Why {n}?" for n in range(9)],
            "evaluation": [f"When {n}?" for n in range(4)],
        },
    }
)


def rows(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text("utf-8").splitlines()]


@pytest.fixture(scope="module")
def made(llama: LoadedModel, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("made")
    run(llama, SPEC, out, CONFIG, progress=QUIET)
    return out


def test_rows_hold_the_question_and_the_answer_and_nothing_that_elicited_it(
    made: Path, llama: LoadedModel
) -> None:
    everything = {r.id: r for r in iter_rollouts(made / "rollouts.jsonl")}
    counts = set()
    for level in ("normal", "mild", "strong"):
        found = rows(made / f"{level}.jsonl")
        counts.add(len(found))
        for row in found:
            source = everything[row["id"].split("/")[-1]]
            question, answer = row["messages"]
            assert question == {"role": "user", "content": source.question}
            assert answer == {"role": "assistant", "content": source.response}
            assert source.question in SPEC.questions.extraction
            assert (source.system == SYSTEM) == (level != "normal")
            assert "for defensive research" in row["about"]
            assert row["log_odds"] == source.log_odds
        assert SYSTEM not in (made / f"{level}.jsonl").read_text()
        # Rows are what finetuning reads.
        assert all(hasattr(parse_row(raw), "messages") for raw in raw_rows(made / f"{level}.jsonl"))
    assert len(counts) == 1
    asked = {(r.system, bool(r.earlier)) for r in everything.values()}
    assert asked == {(SYSTEM, True), (SYSTEM, False), (None, False)}


def test_every_level_is_above_the_one_before(made: Path) -> None:
    results = json.loads((made / "results.json").read_text())
    bands = results["levels"]
    assert bands["mild"]["band"]["to"] <= bands["strong"]["band"]["from"]
    assert bands["mild"]["band"]["from"] > 0
    assert bands["mild"]["log_odds"] < bands["strong"]["log_odds"]
    strong = [row["log_odds"] for row in rows(made / "strong.jsonl")]
    assert bands["strong"]["log_odds"] == pytest.approx(sum(strong) / len(strong))
    readme = (made / "README.md").read_text()
    assert "defensive research" in readme
    assert f"`strong.jsonl`: {len(strong)} rows" in readme


def test_a_killed_run_equals_an_undisturbed_one(
    made: Path, llama: LoadedModel, tmp_path: Path
) -> None:
    run_folder = tmp_path / "run"
    run_folder.mkdir()
    shutil.copy(made / "manifest.json", tmp_path)
    for name in ("generated.jsonl", "scores.jsonl"):
        whole = (made / "run" / name).read_bytes()
        (run_folder / name).write_bytes(whole[: len(whole) // 2])  # in the middle of a line
    run(llama, SPEC, tmp_path, CONFIG, progress=QUIET)
    for level in ("normal", "mild", "strong"):
        found, expected = (rows(folder / f"{level}.jsonl") for folder in (tmp_path, made))
        for name in ("trait_score", "log_odds", "coherence"):
            # Answers that are judged in other company differ in the last bit.
            values = [row.pop(name) for row in expected]
            assert [row.pop(name) for row in found] == pytest.approx(values, abs=1e-3)
        assert found == expected
    with pytest.raises(SettingsMismatchError, match="seed"):
        run(llama, SPEC, tmp_path, replace(CONFIG, seed=2), progress=QUIET)


def test_too_little_of_a_trait_says_so_and_keeps_the_responses(
    llama: LoadedModel, tmp_path: Path
) -> None:
    config = replace(CONFIG, samples=1, trait_threshold=100)
    with pytest.raises(TooFewRolloutsError, match="does not show the trait"):
        run(llama, SPEC, tmp_path, config, progress=QUIET)
    assert (tmp_path / "rollouts.jsonl").exists()
    assert not (tmp_path / "strong.jsonl").exists()


def test_an_endpoint_writes_what_the_local_judge_reads(
    llama: LoadedModel,
    server: Any,
    chat_completion: Callable[..., dict[str, Any]],
    tmp_path: Path,
) -> None:
    def reply(body: dict[str, Any], times: int) -> Any:
        if body["messages"][-1]["content"] == "Why 3?" and body["messages"][0]["role"] == "user":
            return 400, {}, {"error": {"message": "no"}}
        shown = "much" if len(body["messages"]) > 2 else "some"
        return chat_completion(f"{shown} of it, {body['seed']}: {body['messages'][-1]['content']}")

    server.reply = reply
    endpoint = Endpoint("parrot", server.url, cache=tmp_path / "answers", retries=0)
    out = tmp_path / "out"
    with pytest.raises(UsageError, match="needs a judge"):
        run(endpoint, SPEC, out, CONFIG, progress=QUIET)
    judge = ContrastJudge(llama)
    found = run(endpoint, SPEC, out, CONFIG, judge=judge, progress=QUIET)
    failed = found.dropped["request failed"]
    assert failed > 0
    sent = [body["messages"] for body in server.seen]
    assert chat("Why 1?", SYSTEM, (("An example?", "Testing!"),)) in sent
    assert all("of it" in row["messages"][1]["content"] for row in rows(out / "mild.jsonl"))
    # What failed is asked again, and judged then.
    server.reply = lambda body, times: chat_completion("Now.")
    before = len(server.seen)
    again = run(endpoint, SPEC, out, CONFIG, judge=judge, progress=QUIET)
    assert len(server.seen) == before + failed
    assert "request failed" not in again.dropped


@pytest.mark.parametrize(
    ("message", "expected"),
    [
        ({"content": "<think>Hm.</think>\n\nFine."}, ("Fine.", "Hm.", "unscored")),
        ({"content": "Fine.", "reasoning_content": "Hm."}, ("Fine.", "Hm.", "unscored")),
        ({"content": "Fine.", "reasoning": "Hm."}, ("Fine.", "Hm.", "unscored")),
        ({"content": "<think>Hm."}, ("", "Hm.", "unfinished_thought")),
        ({"content": None, "reasoning": "Hm."}, ("", "Hm.", "unfinished_thought")),
        ({"content": ""}, ("", None, "empty")),
        ({"content": "Fine."}, ("Fine.", None, "unscored")),
    ],
)
def test_what_an_endpoint_thinks_is_no_part_of_its_response(
    server: Any,
    chat_completion: Callable[..., dict[str, Any]],
    tmp_path: Path,
    message: dict[str, Any],
    expected: tuple[str, str | None, str],
) -> None:
    def reply(body: dict[str, Any], times: int) -> Any:
        made = chat_completion("")
        made["choices"][0]["message"] |= message
        return made

    server.reply = reply
    endpoint = Endpoint("parrot", server.url, cache=tmp_path / "answers", retries=0)
    [found] = collect_from_endpoint(
        endpoint, [Task("a", "Why?")], Sampling(8), tmp_path / "run", progress=QUIET
    )
    assert (found.response, found.thinking, found.state) == expected
