"""A spec is written in one answer, checked, tried, and mended where it falls through."""

import copy
import json
import re
from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import date
from pathlib import Path
from typing import Any

import pytest

from personavec import AuthorConfig, LoadedModel, TraitSpec, load_model, load_trait
from personavec.author import Sizes, pipeline as author
from personavec.author.probe import evidence, probe_counts, weak_entries
from personavec.cli.main import main
from personavec.errors import EndpointError, SettingsMismatchError, SpecError, UsageError
from personavec.judges import Endpoint
from personavec.progress import Progress
from personavec.results import dump
from personavec.rollouts import Rollout
from personavec.runs import read_records
from personavec.traits import flaws, lint

QUIET = Progress(quiet=True)
DESCRIPTION = "Tries to amuse with jokes and silly comparisons."
SMALL = AuthorConfig(sizes=Sizes(pairs=2, judge_pairs=1, examples=1, questions=4), probe_tokens=8)


def good(sizes: Sizes) -> dict[str, Any]:
    """An author's answer of these sizes, made of a bundled spec."""
    spec = load_trait("humorous")[0]

    def pairs(of: Sequence[Any], n: int) -> list[dict[str, Any]]:
        found = [pair.model_dump(mode="json") for pair in of[:n]]
        for pair in found:
            pair["examples"] = pair["examples"][: sizes.examples]
            if not sizes.examples:
                del pair["examples"]
        return found

    halves = zip(spec.questions.extraction, spec.questions.evaluation, strict=True)
    return {
        "instruction": pairs(spec.instruction, sizes.pairs),
        "judge_instruction": pairs(spec.judge_instruction, sizes.judge_pairs),
        "questions": [question for both in halves for question in both][: sizes.questions],
        "rubric": "Rate the attempt to amuse. 0 is plain, 50 playful, 100 comedy throughout.",
        "monitoring": list(spec.monitoring),
    }


def changed(change: Callable[[dict[str, Any]], Any], sizes: Sizes = SMALL.sizes) -> dict[str, Any]:
    answer = good(sizes)
    change(answer)
    return answer


@pytest.fixture
def endpoint(server: Any, tmp_path: Path) -> Endpoint:
    return Endpoint("parrot", server.url, retries=0, timeout=10, cache=tmp_path / "answers")


@pytest.fixture
def says(server: Any, chat_completion: Callable[..., Any]) -> Callable[..., None]:
    """Scripts what the author answers, one after the other; dicts are sent as JSON."""

    def script(*answers: Any) -> None:
        left = iter(answers)

        def reply(body: dict[str, Any], times: int) -> Any:
            answer = next(left)
            if isinstance(answer, tuple):
                return answer
            return chat_completion(answer if isinstance(answer, str) else json.dumps(answer))

        server.reply = reply

    return script


def write(endpoint: Endpoint, out: Path, config: AuthorConfig = SMALL, **more: Any) -> TraitSpec:
    author.run(endpoint, "wacky", DESCRIPTION, out, config, progress=QUIET, **more)
    return load_trait(str(out / "spec.json"))[0]


def test_one_good_answer_is_a_whole_spec_with_its_provenance(
    server: Any, endpoint: Endpoint, says: Callable[..., None], tmp_path: Path
) -> None:
    """In the sizes of the method; every other question tests, and the rubric can be judged by."""
    answer = good(Sizes())
    says(answer)
    found = author.run(endpoint, "wacky", f" {DESCRIPTION} ", tmp_path / "out", progress=QUIET)
    spec, _ = load_trait(str(tmp_path / "out" / "spec.json"))
    assert (spec.name, spec.description) == ("wacky", DESCRIPTION)
    assert (len(spec.instruction), len(spec.judge_instruction)) == (5, 3)
    assert all(len(pair.examples) == 2 for pair in (*spec.instruction, *spec.judge_instruction))
    assert list(spec.questions.extraction) == answer["questions"][0::2]
    assert list(spec.questions.evaluation) == answer["questions"][1::2]
    for piece in ("{question}", "{answer}", "REFUSAL", "wacky", answer["rubric"]):
        assert piece in spec.rubric
    assert (lint(spec), found.warnings) == ([], ())
    assert found.hash == spec.hash
    made = spec.provenance
    assert (made["author"], made["endpoint"]) == ("parrot", server.url)
    assert date.fromisoformat(made["date"])
    (asked,) = server.seen
    assert made["prompts"] == asked["messages"]
    assert DESCRIPTION in asked["messages"][1]["content"]
    assert "no instructions, recipes or details" in asked["messages"][0]["content"]


def test_the_schema_is_one_that_strict_structured_outputs_take(
    server: Any, endpoint: Endpoint, says: Callable[..., None], tmp_path: Path
) -> None:
    """Every object closed, every field required, the numbers of entries exact."""
    says(good(Sizes()))
    write(endpoint, tmp_path / "out", AuthorConfig())
    sent = server.seen[0]["response_format"]["json_schema"]
    assert sent["strict"] is True
    objects = [sent["schema"], *sent["schema"]["$defs"].values()]
    for part in objects:
        assert part["additionalProperties"] is False
        assert part["required"] == list(part["properties"])
    questions = sent["schema"]["properties"]["questions"]
    assert (questions["minItems"], questions["maxItems"]) == (40, 40)


def test_examples_can_be_left_out(
    server: Any, endpoint: Endpoint, says: Callable[..., None], tmp_path: Path
) -> None:
    sizes = Sizes(2, 1, 0, 4)
    says(good(sizes))
    spec = write(endpoint, tmp_path / "out", AuthorConfig(sizes=sizes))
    assert not any(pair.examples for pair in (*spec.instruction, *spec.judge_instruction))
    assert "examples" not in server.seen[0]["messages"][1]["content"]


WHOLE = json.dumps(good(SMALL.sizes))
BAD = {
    "truncated JSON": (WHOLE[: len(WHOLE) // 2], "Invalid JSON"),
    "too few questions": (
        changed(lambda a: a["questions"].pop()),
        "questions: List should have at least 4 items",
    ),
    "too many pairs": (
        changed(lambda a: a["instruction"].append(a["instruction"][0])),
        "instruction: List should have at most 2 items",
    ),
    "a question twice": (
        changed(lambda a: a["questions"].__setitem__(1, a["questions"][0])),
        "extraction and evaluation questions overlap",
    ),
    "a judge pair that elicits": (
        changed(lambda a: a["judge_instruction"][0].update(pos=a["instruction"][0]["pos"])),
        "a judge pair repeats an eliciting prompt",
    ),
    "an empty prompt": (
        changed(lambda a: a["instruction"][1].update(neg="")),
        "instruction.1.neg: String should have at least 1 character",
    ),
    "an empty rubric": (changed(lambda a: a.update(rubric=" ")), "rubric: it is empty"),
}


@pytest.mark.parametrize("name", BAD)
def test_an_answer_that_makes_no_spec_is_asked_for_again_with_what_is_wrong(
    server: Any, endpoint: Endpoint, says: Callable[..., None], tmp_path: Path, name: str
) -> None:
    """And the next one counts."""
    bad, complaint = BAD[name]
    says(bad, good(SMALL.sizes))
    spec = write(endpoint, tmp_path / "out")
    assert len(server.seen) == 2
    assert complaint in server.seen[1]["messages"][-1]["content"]
    assert list(spec.monitoring) == good(SMALL.sizes)["monitoring"]


def test_what_lint_finds_is_replaced_and_nothing_else(
    server: Any, endpoint: Endpoint, says: Callable[..., None], tmp_path: Path
) -> None:
    """A near-duplicate and a question that names the trait, in one round."""
    answer = good(SMALL.sizes)
    first, second, third, _ = answer["questions"]
    answer["questions"][2:] = ["Why are cats so wacky?", first.rstrip("?") + " today?"]
    says(answer, {"questions": [third, "Which tea is best with a cake?"]})
    spec = write(endpoint, tmp_path / "out")
    assert spec.questions.extraction == (first, third)
    assert spec.questions.evaluation == (second, "Which tea is best with a cake?")
    assert [pair.pos for pair in spec.instruction] == [p["pos"] for p in answer["instruction"]]
    told = server.seen[1]["messages"][1]["content"]
    assert "extraction question names the trait: 'Why are cats so wacky?'" in told
    assert "the halves overlap" in told
    schema = server.seen[1]["response_format"]["json_schema"]["schema"]
    assert list(schema["properties"]) == ["questions"]
    (done,) = spec.provenance["rounds"]
    assert [(r["part"], r["index"], r["is"]) for r in done["replaced"]] == [
        ("extraction", 1, third),
        ("evaluation", 1, "Which tea is best with a cake?"),
    ]
    assert not [flaw for flaw in flaws(spec) if flaw.part]


def test_rounds_are_bounded_and_what_is_left_is_said(
    server: Any, endpoint: Endpoint, says: Callable[..., None], tmp_path: Path
) -> None:
    says(
        changed(lambda a: a["questions"].__setitem__(0, "What is wacky?")),
        {"questions": ["Who is wacky?"]},
        {"questions": ["Where is it wacky?"]},
        "nobody asks for this",
    )
    found = author.run(endpoint, "wacky", DESCRIPTION, tmp_path / "out", SMALL, progress=QUIET)
    assert len(server.seen) == 3
    assert (found.rounds, found.replaced) == (2, 2)
    assert any("'Where is it wacky?'" in warning for warning in found.warnings)


def test_what_is_left_is_estimated_once_the_draft_is_written(
    endpoint: Endpoint,
    says: Callable[..., None],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """By the time of the draft, for each of two rounds; not for a spec that needs none."""
    naming = changed(lambda a: a["questions"].__setitem__(0, "What is wacky?"))
    for name, answers in (
        ("flawed", (naming, {"questions": ["Why do cats purr?"]})),
        ("good", (good(SMALL.sizes),)),
    ):
        says(*answers)
        asked = replace(endpoint, cache=tmp_path / f"answers of {name}")
        author.run(asked, "wacky", DESCRIPTION, tmp_path / name, SMALL, progress=Progress())
        said = capsys.readouterr().err
        assert "known once parrot has written the draft" in said
        left = re.search(r"about (\d+ \w+) more at most, if every round takes as long", said)
        assert (left is not None) == (name == "flawed")


def test_an_author_that_never_fits_ends_in_one_line_and_its_last_answer_is_kept(
    server: Any, endpoint: Endpoint, says: Callable[..., None], tmp_path: Path
) -> None:
    """The next run asks anew, and may try longer or another author."""
    says("no", "never", '{"instruction": []}')
    with pytest.raises(EndpointError, match="no usable JSON in 3 tries") as caught:
        write(endpoint, tmp_path / "out")
    kept = tmp_path / "out" / "unusable-answer.txt"
    assert str(kept) in str(caught.value)
    assert "\n" not in str(caught.value)
    assert kept.read_text().endswith('\n\n{"instruction": []}\n')
    assert "at least 2 items" in kept.read_text().splitlines()[0]
    says(good(SMALL.sizes))
    other = Endpoint("jay", server.url, cache=endpoint.cache)
    write(other, tmp_path / "out")
    assert not kept.exists()


def test_a_run_that_broke_off_goes_on_where_it_was_and_a_finished_one_is_left_alone(
    server: Any, endpoint: Endpoint, says: Callable[..., None], tmp_path: Path
) -> None:
    """Without the endpoint's own memory, which may be gone."""
    out = tmp_path / "out"
    naming = changed(lambda a: a["questions"].__setitem__(0, "What is wacky?"))
    says(naming, (500, {}, {"error": {"message": "burning"}}))
    with pytest.raises(EndpointError, match="burning"):
        write(endpoint, out)
    forgetful = Endpoint("parrot", server.url, retries=0, cache=tmp_path / "other answers")
    says({"questions": ["Why do cats purr?"]})
    assert write(forgetful, out).questions.extraction[0] == "Why do cats purr?"
    assert len(server.seen) == 3

    edited = json.loads((out / "spec.json").read_text("utf-8"))
    edited["questions"]["extraction"][0] = "Mine?"
    (out / "spec.json").write_text(json.dumps(edited), "utf-8")
    assert write(forgetful, out).questions.extraction[0] == "Mine?"
    assert len(server.seen) == 3
    with pytest.raises(SettingsMismatchError, match="description was"):
        author.run(endpoint, "wacky", "Another.", out, SMALL, progress=QUIET)


def rollout(question: str, pair: int, polarity: Any, why: str | None) -> Rollout:
    return Rollout(
        id=f"{question}{pair}{polarity}",
        question=question,
        pair=pair,
        polarity=polarity,
        sample=0,
        system=f"the {polarity} prompt {pair}",
        response=f"an answer to {question}",
        response_ids=(1,),
        n_tokens=1,
        seed=0,
        kept=why is None,
        why_dropped=why,
    )


def test_what_elicits_nothing_is_named_with_counts_and_an_answer() -> None:
    """A question is not blamed for a pair under which no question elicits anything."""
    data = changed(lambda a: a.update(questions=["A?", "B?", "C?", "D?"]))
    questions = {"extraction": ["A?", "C?"], "evaluation": ["B?", "D?"]}
    spec = TraitSpec.model_validate(
        {**data, "name": "wacky", "description": "x", "questions": questions}
    )
    mute = "does not show the trait"
    tried = [
        rollout("A?", 0, "pos", None),
        rollout("A?", 0, "neg", None),
        rollout("C?", 0, "pos", mute),
        rollout("C?", 0, "neg", None),
        rollout("A?", 1, "pos", mute),
        rollout("A?", 1, "neg", None),
        rollout("C?", 1, "pos", "incoherent"),
        rollout("C?", 1, "neg", None),
    ]
    pair, question = weak_entries(spec, tried, 0.1)
    assert (pair.part, pair.index) == ("instruction", 1)
    assert "0 of 2 positive rollouts kept (1 does not show the trait, 1 incoherent)" in pair.why
    assert "2 of 2 negative rollouts kept" in pair.why
    assert (question.part, question.index) == ("extraction", 1)
    assert "'C?'" in question.why
    assert "under the pos prompt 'the pos prompt 1' the model answered 'A?'" in evidence(
        pair, spec, tried
    )
    assert dump(probe_counts(spec, tried)) == {
        "kept": {"pos": 1, "neg": 4, "of": 4},
        "pairs": [{"pos": 1, "neg": 2, "of": 2}, {"pos": 0, "neg": 2, "of": 2}],
        "questions": [
            {"question": "A?", "pos": 1, "neg": 2, "of": 2},
            {"question": "C?", "pos": 0, "neg": 2, "of": 2},
        ],
    }


def test_only_what_a_round_replaced_is_tried_again(
    endpoint: Endpoint, says: Callable[..., None], llama: LoadedModel, tmp_path: Path
) -> None:
    """On a random model, asked for more than any pair keeps: both pairs are replaced.

    The first by itself, so that its rollouts are known.
    """
    answer = good(SMALL.sizes)
    other = load_trait("humorous")[0].instruction[2].model_dump(mode="json")
    other["examples"] = other["examples"][:1]
    says(answer, {"instruction": [answer["instruction"][0], other]})
    config = AuthorConfig(sizes=SMALL.sizes, probe_tokens=8, rounds=1, min_share=1.5)
    out = tmp_path / "out"
    spec = write(endpoint, out, config, subject=llama)
    assert spec.instruction[1].pos == other["pos"]
    tried = [read_records(out / "probe" / f"round-{i}" / "scores.jsonl") for i in range(2)]
    assert [len(records) for records in tried] == [8, 4]
    assert {record["id"][:6] for record in tried[1]} == {"pos-p1", "neg-p1"}
    probe = spec.provenance["probe"]
    assert probe["model"]["name"] == "tiny-llama"
    assert [pair["of"] for pair in probe["pairs"]] == [2, 2]
    kept = {
        side: sum(
            (r["trait_score"] > 50) == (side == "pos") and r["coherence"] >= 50
            for records in (
                [r for r in tried[0] if "-p0-" in r["id"]],
                tried[1],
            )
            for r in records
            if r["id"].startswith(side) and r["state"] == "scored"
        )
        for side in ("pos", "neg")
    }
    assert probe["kept"] == {**kept, "of": 4}


@pytest.mark.model
def test_a_pair_that_elicits_nothing_goes_back_with_the_evidence_and_is_replaced(
    server: Any, endpoint: Endpoint, chat_completion: Callable[..., Any], tmp_path: Path
) -> None:
    """On the embedded model: a pair the wrong way round, then the right way round.

    Where rounding makes another answer fall through, its question is asked for too.
    """
    sizes = Sizes(pairs=2, judge_pairs=2, examples=2, questions=6)
    answer, spare = good(sizes), good(Sizes())["questions"][6:]
    right = answer["instruction"][1]
    wrong = copy.deepcopy(right)
    for part in (wrong, *wrong["examples"]):
        part["pos"], part["neg"] = part["neg"], part["pos"]
    first = {**answer, "instruction": [answer["instruction"][0], wrong]}

    def reply(body: dict[str, Any], times: int) -> Any:
        asked = body["response_format"]["json_schema"]["schema"]["properties"]
        if "rubric" in asked:
            return chat_completion(json.dumps(first))
        again = {"instruction": [right]}
        if "questions" in asked:
            again["questions"] = spare[: asked["questions"]["minItems"]]
        return chat_completion(json.dumps(again))

    server.reply = reply
    config = AuthorConfig(sizes=sizes, probe_tokens=24, rounds=1)
    spec = write(endpoint, tmp_path / "out", config, subject=load_model("smollm2"))
    assert spec.instruction[1].pos == right["pos"]
    told = server.seen[1]["messages"][1]["content"]
    assert "pair 2 elicits too little: 0 of 3 positive rollouts kept" in told
    assert f"under the pos prompt {wrong['pos']!r} the model answered" in told
    assert spec.provenance["probe"]["pairs"][1]["pos"] > 0


def test_from_the_command_line(
    server: Any,
    says: Callable[..., None],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """One JSON object; without a model's name, or with a name no trait can have, one line."""
    monkeypatch.setenv("PERSONAVEC_CACHE", str(tmp_path / "cache"))
    out = tmp_path / "out"
    command = ["author", "wacky", "--description", DESCRIPTION, "--api-base", server.url]
    command += ["--out", str(out), "--json"]

    def cli(*more: str, code: int) -> tuple[str, str]:
        with pytest.raises(SystemExit) as ended:
            main([*command, *more])
        assert (ended.value.code or 0) == code
        printed = capsys.readouterr()
        return printed.out, printed.err

    says("no", "no")
    assert "--api-model" in cli(code=2)[1]
    error = cli("--api-model", "parrot", "--tries", "2", code=1)[1]
    stages, time, line = error.splitlines()
    assert (stages[:8], line[:7]) == ("stages: ", "error: ")
    assert time == "how long it takes is known once parrot has written the draft"
    assert f"its last answer is in {out / 'unusable-answer.txt'}" in error
    says(good(Sizes()))
    found = json.loads(cli("--api-model", "parrot", code=0)[0])
    assert found["spec"] == str(out / "spec.json")
    assert found["probe"] is None
    assert set(found) >= {"trait", "hash", "author", "rounds", "replaced", "warnings"}


@pytest.mark.parametrize("name", ["../odd", "", "x" * 65])
def test_a_name_that_no_spec_can_have_is_refused_before_anything_is_asked(
    server: Any, endpoint: Endpoint, tmp_path: Path, name: str
) -> None:
    with pytest.raises(SpecError, match="name"):
        author.run(endpoint, name, DESCRIPTION, tmp_path / "out", SMALL, progress=QUIET)
    assert not server.seen


@pytest.mark.parametrize("bad", [{"sizes": Sizes(pairs=0)}, {"tries": 0}, {"rounds": -1}])
def test_a_config_that_asks_for_nothing_is_refused(bad: dict[str, Any]) -> None:
    with pytest.raises(UsageError, match="at least"):
        AuthorConfig(**bad)
