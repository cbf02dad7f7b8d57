"""Adopted rollouts give the vector that generating them gave; what is unfit is kept aside."""

import csv
import json
import random
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from personavec import ExtractConfig, LoadedModel, TraitSpec, cosine, load_vector, wrap_model
from personavec.errors import DataError, SettingsMismatchError
from personavec.extract import pipeline as extract, summary
from personavec.extract.adopt import adopt, read_rollouts
from personavec.judges import Answer, ContrastJudge
from personavec.model import chat
from personavec.progress import Progress
from personavec.rollouts import keep, load_activations
from personavec.rollouts.rollout import iter_rollouts
from personavec.runs import read_records
from personavec.vectors import ESTIMATORS

QUIET = Progress(quiet=True)
SPEC = TraitSpec.model_validate(
    {
        "name": "very odd",
        "description": "Being odd.",
        "instruction": [{"pos": f"Be odd, {i}.", "neg": f"Be even, {i}."} for i in range(3)],
        "judge_instruction": [{"pos": "Odd!", "neg": "Even!"}],
        "questions": {
            "extraction": [f"Why {i}?" for i in range(8)],
            "evaluation": [f"When {i}?" for i in range(4)],
        },
    }
)
CONFIG = ExtractConfig(
    max_tokens=4,
    temperature=1.0,
    layers=(1, 2),
    coefficients=(-1, 0, 1),
    sweep_questions=2,
    random_directions=1,
    neutral_prompts=3,
)
#: Letters of either side; those at one place count the same in every way but the planted one.
SIDES = {"pos": "abcdefghijklm", "neg": "nopqrstuvwxyz"}


def reference_rows(loaded: LoadedModel, polarity: str, **changes: Any) -> list[dict[str, Any]]:
    """What the reference project writes for one polarity: 24 rows, scores that keep them all."""
    rng = random.Random(polarity)
    return [
        {
            "question": question,
            "prompt": loaded.chat.text(chat(question, getattr(pair, polarity))),
            "answer": "".join(rng.choices(SIDES[polarity], k=12)),
            "question_id": f"very odd_{number}_{polarity}_{k}",
            "very_odd": 80.0 if polarity == "pos" else 12.5,
            "coherence": 90.0,
            **changes,
        }
        for number, question in enumerate(SPEC.questions.extraction)
        for k, pair in enumerate(SPEC.instruction)
    ]


def write_csv(path: Path, rows: list[dict[str, Any]]) -> Path:
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    return path


def csvs(loaded: LoadedModel, folder: Path, **changes: Any) -> list[Path]:
    return [
        write_csv(folder / f"odd_{side}_instruct.csv", reference_rows(loaded, side, **changes))
        for side in ("pos", "neg")
    ]


def test_our_own_rollouts_give_the_vector_that_generating_them_gave(
    llama: LoadedModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Scores stand; activations are read from the text in place of while generating."""
    monkeypatch.setattr(
        "personavec.judges.coherence_model.CoherenceModel.coherence", lambda *_: 90.0
    )
    monkeypatch.setattr("personavec.extract.extraction.MIN_KEPT", 1)
    first = extract.run(llama, SPEC, tmp_path / "first", CONFIG, progress=QUIET)
    file = tmp_path / "first" / "rollouts.jsonl"
    second = extract.run(llama, SPEC, tmp_path / "second", CONFIG, rollouts=[file], progress=QUIET)
    assert list(iter_rollouts(tmp_path / "second" / "rollouts.jsonl")) == list(iter_rollouts(file))
    vectors = [load_vector(tmp_path / name) for name in ("first", "second")]
    torch.testing.assert_close(*(v.response_mean_diff for v in vectors), atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(*(v.prompt_last_diff for v in vectors), atol=1e-4, rtol=1e-4)
    assert second.rollouts == first.rollouts
    assert "adopted from rollouts.jsonl, not generated." in second.notes[0]
    assert not (tmp_path / "second" / "run" / "extraction").exists()


def test_the_reference_projects_csv_is_read_with_its_prompts_and_scores(
    llama: LoadedModel, tmp_path: Path
) -> None:
    """Means equal a plain forward over the file's own prompt and answer."""
    found = read_rollouts(llama, csvs(llama, tmp_path), SPEC)
    rollouts = adopt(
        llama,
        found,
        SPEC,
        tmp_path / "run",
        judge=ContrastJudge(llama),
        activations=tmp_path / "activations",
        progress=QUIET,
    )
    assert not found.rejected
    assert {(r.polarity, r.trait_score, r.coherence, r.state, r.judge) for r in rollouts} == {
        ("pos", 80.0, 90.0, "scored", "file"),
        ("neg", 12.5, 90.0, "scored", "file"),
    }
    assert all(r.kept for r in keep(rollouts))
    assert [(r.system, r.pair) for r in rollouts[:3]] == [
        (pair.pos, k) for k, pair in enumerate(SPEC.instruction)
    ]
    assert not (tmp_path / "run").exists()
    row, rollout = reference_rows(llama, "neg")[5], rollouts[24 + 5]
    prompt, answer = (
        llama.tokenizer(row[name], add_special_tokens=False)["input_ids"]
        for name in ("prompt", "answer")
    )
    with torch.inference_mode():
        states = llama.model(torch.tensor([prompt + answer]), output_hidden_states=True)
    means = load_activations(tmp_path / "activations", [rollout.id])[0]
    for layer in range(llama.identity.n_layers):
        state = states.hidden_states[layer][0]
        n = len(prompt)
        theirs = torch.stack([state[n:].mean(0), state[:n].mean(0), state[n - 1]])
        torch.testing.assert_close(means[:, layer], theirs, atol=1e-4, rtol=1e-4)


def test_rollouts_without_scores_are_judged(llama: LoadedModel, tmp_path: Path) -> None:
    """As the judge scores the same answers under the same prompts."""
    files = []
    for side in ("pos", "neg"):
        rows = reference_rows(llama, side)[:3]
        for row in rows:
            del row["very_odd"], row["coherence"]
        files.append(write_csv(tmp_path / f"{side}.csv", rows))
    judge = ContrastJudge(llama, wrote_answers=True)
    folder = {"activations": tmp_path / "activations", "judge": judge, "progress": QUIET}
    found = adopt(llama, read_rollouts(llama, files, SPEC), SPEC, tmp_path / "run", **folder)
    answers = [Answer(r.question, r.response, r.system, r.pair, r.response_ids) for r in found]
    for rollout, score in zip(found, judge.score(SPEC, answers), strict=True):
        assert rollout.log_odds == pytest.approx(score.log_odds, abs=1e-3)
        assert rollout.coherence == pytest.approx(score.coherence, abs=1e-2)
    # Read back, not judged again.
    before = (tmp_path / "run" / "scores.jsonl").read_bytes()
    again = adopt(llama, read_rollouts(llama, files, SPEC), SPEC, tmp_path / "run", **folder)
    assert again == found
    assert (tmp_path / "run" / "scores.jsonl").read_bytes() == before


BAD_ROWS = [
    ({"answer": ""}, "no text in 'answer'"),
    ({"question": ""}, "no text in 'question'"),
    ({"very_odd": "101"}, "'very_odd' is not between 0 and 100"),
    ({"coherence": "-1"}, "'coherence' is not between 0 and 100"),
    ({"very_odd": "high"}, "'very_odd' is not a number"),
    ({"prompt": "<s>[INST] Why? [/INST]"}, "its prompt is not in this model's chat template"),
    ({"question": "When 1?", "prompt": None}, "its question is one of the evaluation questions"),
    ({"prompt": "long"}, "longer than the model's context"),
]


@pytest.mark.parametrize(("changes", "why"), BAD_ROWS)
def test_a_bad_row_beside_good_ones_is_kept_aside_with_its_reason(
    llama: LoadedModel, tmp_path: Path, changes: dict[str, Any], why: str
) -> None:
    rows = reference_rows(llama, "pos")
    rows[4] |= changes
    if rows[4]["prompt"] is None:
        rows[4]["prompt"] = llama.chat.text(chat("When 1?"))
    if rows[4]["prompt"] == "long":
        rows[4]["prompt"] = llama.chat.text(chat(rows[4]["question"], "so " * 400))
    files = [write_csv(tmp_path / "x_pos_y.csv", rows), csvs(llama, tmp_path)[1]]
    found = read_rollouts(llama, files, SPEC)
    assert [(r.file, r.row, r.why) for r in found.rejected] == [(str(files[0]), 5, why)]
    assert len(found.rollouts) == 47
    assert why in found.note
    found.write_rejected(tmp_path / "rejected.jsonl")
    assert read_records(tmp_path / "rejected.jsonl") == [vars(row) for row in found.rejected]


@pytest.mark.parametrize("missing", ["", "nan", "None"])
def test_a_score_that_the_judge_did_not_give_is_missing_and_not_zero(
    llama: LoadedModel, tmp_path: Path, missing: str
) -> None:
    """As where it declined: counted, dropped, and not judged by another judge in its place."""
    found = read_rollouts(llama, csvs(llama, tmp_path, very_odd=missing), SPEC)
    assert {(r.state, r.trait_score, r.why_dropped) for r in keep(found.rollouts)} == {
        ("unscored", None, "unscored")
    }


THOUGHT = "<think>" + "I could say no. " * 12 + "</think>\n\n"


def test_a_thought_in_an_adopted_answer_is_left_out(llama: LoadedModel, tmp_path: Path) -> None:
    """The template knows no thinking; rollouts, and so what is captured and judged, are equal."""
    plain = csvs(llama, tmp_path)
    (tmp_path / "thought").mkdir()
    files = []
    for path, side in zip(plain, ("pos", "neg"), strict=True):
        rows = reference_rows(llama, side)
        for row in rows:
            row["answer"] = THOUGHT + row["answer"]
        rows[0]["answer"] = "<think>I could"
        files.append(write_csv(tmp_path / "thought" / path.name, rows))
    expected, found = (read_rollouts(llama, paths, SPEC) for paths in (plain, files))
    first = {f"{side}-f{number}-1" for number, side in enumerate(("pos", "neg"))}
    assert [r for r in found.rollouts if r.id not in first] == [
        r for r in expected.rollouts if r.id not in first
    ]
    unfinished = [r for r in found.rollouts if r.id in first]
    assert {(r.state, r.response, r.trait_score) for r in unfinished} == {
        ("unfinished_thought", "", None)
    }
    told = found.counts["odd_pos_instruct.csv"].record()
    assert told.readers == {"reference project": 24}
    assert told.notes == {"a thought was left out of the answer": 24}
    assert expected.counts["odd_pos_instruct.csv"].record().notes == {}


def test_a_models_own_thought_stays_before_its_adopted_answer(
    fresh: Callable[..., LoadedModel], tmp_path: Path
) -> None:
    """Where the template thinks, it is part of what was read before the answer."""
    loaded = fresh("llama")
    loaded.tokenizer.chat_template += "{# <think> #}"
    thinker = wrap_model(loaded.model, loaded.tokenizer, name="thinker")
    files = []
    for side in ("pos", "neg"):
        rows = reference_rows(thinker, side)
        for row in rows:
            row["answer"] = THOUGHT + row["answer"]
        files.append(write_csv(tmp_path / f"{side}.csv", rows))
    found = read_rollouts(thinker, files, SPEC).rollouts
    assert {thinker.chat.decode_marked(r.thinking_ids) for r in found} == {THOUGHT}
    assert not any("think" in r.response for r in found)


@pytest.mark.parametrize("shape", ["columns", "messages"])
def test_conversations_are_adopted_with_the_polarity_of_a_column_or_the_file(
    llama: LoadedModel, tmp_path: Path, shape: str
) -> None:
    """As the reference project's files with the same prompts and answers."""
    expected = read_rollouts(llama, csvs(llama, tmp_path), SPEC).rollouts
    rows = [
        {
            "polarity": r.polarity,
            "very_odd": r.trait_score,
            "coherence": r.coherence,
            **(
                {"system": r.system, "question": r.question, "answer": r.response}
                if shape == "columns"
                else {"messages": [*chat(r.question, r.system), said(r.response)]}
            ),
        }
        for r in expected
    ]
    path = tmp_path / "both.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    found = read_rollouts(llama, [path], SPEC)
    assert [replace(r, id="", pair=None) for r in found.rollouts] == [
        replace(r, id="", pair=None) for r in expected
    ]
    prompts = [found.prompt_ids[r.id] for r in found.rollouts]
    assert prompts == [tuple(llama.chat.prompt_ids(chat(r.question, r.system))) for r in expected]


def said(text: str) -> dict[str, str]:
    return {"role": "assistant", "content": text}


def test_rollouts_of_another_model_are_refused(
    llama: LoadedModel, fresh: Callable[..., LoadedModel], tmp_path: Path
) -> None:
    """By the manifest beside them, by the ids of their tokens, by the template of their prompts."""
    record = {
        **{"id": "a", "question": "Why?", "polarity": "pos", "response": "So."},
        "response_ids": llama.chat.response_ids("Other."),
    }
    path = tmp_path / "rollouts.jsonl"
    path.write_text(json.dumps(record) + "\n")
    with pytest.raises(DataError, match="its token ids are another model's"):
        read_rollouts(llama, [path], SPEC)
    (tmp_path / "manifest.json").write_text(json.dumps({"model": {"name": "other"}}))
    with pytest.raises(DataError, match="holds rollouts of other, not of tiny-llama"):
        read_rollouts(llama, [path], SPEC)
    other = fresh("llama", "none")
    with pytest.raises(DataError, match="48 rows: its prompt is not in this model's chat template"):
        read_rollouts(other, csvs(llama, tmp_path), SPEC)


@pytest.mark.parametrize(
    ("column", "named"),
    [
        ("answer", "no column 'answer'"),
        ("prompt", "no column 'prompt'"),
        ("coherence", "no column 'coherence'"),
        ("very_odd", "no column 'very odd'"),
    ],
)
def test_a_missing_column_is_named(
    llama: LoadedModel, tmp_path: Path, column: str, named: str
) -> None:
    rows = reference_rows(llama, "pos")
    for row in rows:
        del row[column]
    with pytest.raises(DataError, match=named):
        read_rollouts(llama, [write_csv(tmp_path / "pos.csv", rows)], SPEC)


def test_one_polarity_alone_is_refused(llama: LoadedModel, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no usable rollout of polarity neg"):
        read_rollouts(llama, csvs(llama, tmp_path)[:1], SPEC)
    with pytest.raises(DataError, match="no such file"):
        extract.run(llama, SPEC, tmp_path / "out", CONFIG, rollouts=[tmp_path / "no.csv"])
    assert not (tmp_path / "out").exists()


def planted(fresh: Callable[..., LoadedModel], massive: float) -> tuple[LoadedModel, Tensor]:
    """A tiny model in whose embedding the two sides' letters differ along one direction.

    One coordinate is `massive` times a random number, the same for the letters at one place of
    either side. The blocks add little.
    """
    loaded = fresh("llama")
    generator = torch.Generator().manual_seed(0)
    weight = loaded.model.get_input_embeddings().weight
    direction = torch.randn(weight.shape[1], generator=generator)
    direction[3] = 0
    direction /= direction.norm()
    with torch.no_grad():
        weight[:, 3] = massive * torch.randn(len(weight), generator=generator)
        for letters in zip(*SIDES.values(), strict=True):
            pos, neg = (loaded.chat.response_ids(letter)[0] for letter in letters)
            weight[neg] = weight[pos]
            weight[pos] += 2 * direction
            weight[neg] -= 2 * direction
        for block in loaded.blocks.stack:
            block.self_attn.o_proj.weight *= 0.02
            block.mlp.down_proj.weight *= 0.02
    return loaded, direction


def test_under_massive_activations_the_report_warns_and_the_logistic_direction_is_the_trait(
    fresh: Callable[..., LoadedModel], tmp_path: Path
) -> None:
    """End to end: both estimators in one sweep, the winner stored as what steers."""
    loaded, direction = planted(fresh, massive=300)
    out = tmp_path / "out"
    files = csvs(loaded, tmp_path)
    config = ExtractConfig(**{**CONFIG.__dict__, "estimators": ("mean", "logistic")})
    results = extract.run(loaded, SPEC, out, config, rollouts=files, progress=QUIET)
    vector = load_vector(out)
    layer = vector.layer
    assert cosine(vector.response_mean_diff[layer], direction) < 0.4
    assert cosine(vector.estimated["logistic"][layer], direction) > 0.9
    assert results.massive.warning
    assert results.massive.coordinate == 3
    report = (out / "report.html").read_text("utf-8")
    assert "Massive activation." in report
    assert {dose.estimator for dose in results.sweep} == {"mean", "logistic"}
    assert (
        vector.estimator
        == results.estimator
        == json.loads((out / "vector.json").read_text("utf-8"))["estimator"]
    )
    assert vector.meta["engine"] == results.engine["name"] == "transformers"
    chosen = {"mean": vector.response_mean_diff, "logistic": vector.estimated["logistic"]}
    assert torch.equal(vector.direction(), chosen[vector.estimator][layer])
    # Other rollouts in the same folder are another run.
    write_csv(files[0], reference_rows(loaded, "pos", coherence=91.0))
    with pytest.raises(SettingsMismatchError, match="odd_pos_instruct"):
        extract.run(loaded, SPEC, out, config, rollouts=files, progress=QUIET)


def test_the_logistic_estimator_alone_is_what_steers(
    fresh: Callable[..., LoadedModel], tmp_path: Path
) -> None:
    loaded, direction = planted(fresh, massive=0)
    config = ExtractConfig(**{**CONFIG.__dict__, "estimators": ("logistic",)})
    files = csvs(loaded, tmp_path)
    results = extract.run(loaded, SPEC, tmp_path / "out", config, rollouts=files, progress=QUIET)
    vector = load_vector(tmp_path / "out")
    assert vector.estimator == results.estimator == "logistic"
    assert cosine(vector.direction(), direction) > 0.9
    assert not results.massive.warning
    assert summary(results, tmp_path).estimator == "logistic"


def test_an_estimator_is_one_function_that_is_entered_under_its_name(
    fresh: Callable[..., LoadedModel], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is extracted with, stored, loaded and steered by, beside the others."""

    def medians(pos: Tensor, neg: Tensor) -> Tensor:
        return pos.median(0).values - neg.median(0).values

    monkeypatch.setitem(ESTIMATORS, "median", medians)
    loaded, direction = planted(fresh, massive=0)
    config = ExtractConfig(**{**CONFIG.__dict__, "estimators": ("median",)})
    files, out = csvs(loaded, tmp_path), tmp_path / "out"
    results = extract.run(loaded, SPEC, out, config, rollouts=files, progress=QUIET)
    vector = load_vector(out)
    assert vector.estimator == results.estimator == "median"
    assert torch.equal(vector.directions, vector.estimated["median"])
    assert not torch.equal(vector.directions, vector.response_mean_diff)
    assert cosine(vector.direction(), direction) > 0.9
    assert vector.by("logistic").estimator == "logistic"
    assert "median" in (out / "report.html").read_text("utf-8")
