"""Planting, and one whole validation on a tiny random model, killed and continued."""

import json
import re
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest
from generating import generate
from sklearn.metrics import roc_auc_score

from personavec import LoadedModel, PersonaVector, TraitSpec
from personavec.cli.main import main
from personavec.errors import DataError, SettingsMismatchError, UsageError
from personavec.model import chat
from personavec.model.engine import Request, Sampling
from personavec.monitor import project_conversation
from personavec.progress import Progress
from personavec.results import dump, read
from personavec.rollouts import Naturals
from personavec.runs import read_records
from personavec.stats import resampled
from personavec.studies.validate_screen import (
    ValidateScreenConfig,
    ValidateScreenResults,
    run,
    summary,
)
from personavec.studies.validate_screen.planting import (
    MIN_CLEAN,
    draw,
    planting_tasks,
    written_rows,
)
from personavec.studies.validate_screen.terminal import show
from personavec.traits import bundled_traits, load_trait
from personavec.vectors import projections

TOKENS = 6


def write_rows(path: Path, n: int = 60, **more: Any) -> Path:
    """Two answers to each of n prompts, one short and one long."""
    rows = [
        {"prompt": f"Say {i}.", "completion": text, **more}
        for i in range(n)
        for text in (f"{i}", f"{i} and so on")
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def make_spec() -> TraitSpec:
    """Twenty questions on either side, three pairs: 60 elicited responses of each half."""
    return TraitSpec.model_validate(
        {
            "name": "odd",
            "description": "Being odd.",
            "instruction": [{"pos": f"Be {w}.", "neg": f"Not {w}."} for w in ("a", "b", "c")],
            "judge_instruction": [{"pos": "Odd!", "neg": "Even!"}],
            "questions": {
                "extraction": [f"Why {i}?" for i in range(20)],
                "evaluation": [f"Who {i}?" for i in range(20)],
            },
            "checks": [
                {"question": f"How {i}?", "answer": f"{shows} {i}", "shows": shows}
                for i in range(10)
                for shows in (True, False)
            ]
            + [{"question": "Why 0?", "answer": "This question made the vector.", "shows": True}],
        }
    )


#: Whatever a random model writes and exceeds its own answers is planted: no score is below 0.
CONFIG = ValidateScreenConfig(
    rates=(0.1,), clean_rows=24, max_tokens=TOKENS, trait_threshold=-1, coherence_floor=-1
)


@pytest.fixture
def validate(
    llama: LoadedModel, random_vector: Callable[..., PersonaVector], tmp_path: Path
) -> Callable[..., ValidateScreenResults]:
    """Runs the study on a file of rows, in the folder `out`."""
    data = write_rows(tmp_path / "data.jsonl")
    vector = random_vector(llama, layer=2, trait="odd")

    def call(config: ValidateScreenConfig = CONFIG) -> ValidateScreenResults:
        return run(
            llama,
            [vector],
            [make_spec()],
            data,
            tmp_path / "out",
            config,
            progress=Progress(quiet=True),
        )

    return call


def test_the_whole_time_is_estimated_by_the_first_answers(
    llama: LoadedModel,
    random_vector: Callable[..., PersonaVector],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """It counts all that is written and judged; a run that goes on says nothing."""
    given = llama, [random_vector(llama, layer=2, trait="odd")], [make_spec()]
    data, out = write_rows(tmp_path / "data.jsonl"), tmp_path / "out"
    run(*given, data, out, CONFIG, progress=Progress())
    said = capsys.readouterr().err
    (found,) = re.findall(r"by the first 24 answers: (\d+) to write, (\d+) to judge", said)
    responses = [*out.glob("run/traits/odd/*/generated.jsonl")]
    n = sum(len(list(read_records(path))) for path in responses)
    scored = [*read_records(out / "run" / "clean.jsonl")]
    scored += read_records(out / "run" / "traits" / "odd" / "scores.jsonl")
    prompts = {record["question"] for record in scored}
    judged = n + sum(record["kind"] not in ("elicited", "neutral") for record in scored)
    assert found == (str(n + len(prompts) * (1 + CONFIG.natural_samples)), str(judged))
    (out / "results.json").unlink()
    run(*given, data, out, CONFIG, progress=Progress())
    assert "for the whole" not in capsys.readouterr().err


# Planting


def test_rows_are_drawn_once_cut_and_no_prompt_is_on_both_sides(
    llama: LoadedModel, tmp_path: Path
) -> None:
    data = write_rows(tmp_path / "data.jsonl")
    with data.open("a") as file:
        file.write("{not json\n")
    drawn = draw(data, 40, chat_format=llama.chat, max_tokens=TOKENS)
    sides = [{row.question for row in side} for side in (drawn.test, drawn.training)]
    assert not sides[0] & sides[1]
    assert len({row.id for row in (*drawn.test, *drawn.training)}) == 80
    assert drawn.rejected == 1
    # The tokenizer has one token a byte.
    assert max(len(row.response) for row in drawn.test) == TOKENS
    assert drawn == draw(data, 40, chat_format=llama.chat, max_tokens=TOKENS)
    other = draw(data, 40, chat_format=llama.chat, max_tokens=TOKENS, seed=1)
    assert other.test != drawn.test


def test_data_that_cannot_be_planted_into_is_refused(llama: LoadedModel, tmp_path: Path) -> None:
    few = write_rows(tmp_path / "few.jsonl", n=4)
    with pytest.raises(DataError, match=f"at least {MIN_CLEAN} of each"):
        draw(few, 40, chat_format=llama.chat, max_tokens=TOKENS)
    pairs = write_rows(tmp_path / "pairs.jsonl", chosen="Yes.", rejected="No.")
    with pytest.raises(UsageError, match="preference pairs"):
        draw(pairs, 40, chat_format=llama.chat, max_tokens=TOKENS)


@pytest.mark.parametrize("trait", bundled_traits())
def test_planted_rows_answer_other_questions_than_made_the_vector(trait: str) -> None:
    spec, _ = load_trait(trait)
    asked = {task.question for task in planting_tasks(spec, spec.questions.evaluation)}
    written = written_rows(spec)
    made = set(spec.questions.extraction)
    assert not made & (asked | {row.question for row in written})
    kinds = [row.kind for row in written]
    assert kinds.count("written") == kinds.count("written clean") >= 20


def test_resamples_draw_whole_clusters() -> None:
    weights = resampled(["a", "b", "a", "c"], n=50)
    assert weights.shape == (50, 4)
    assert (weights[:, 0] == weights[:, 2]).all()
    assert set(weights[:, [0, 1, 3]].sum(1)) == {3}


# The study


def test_figures_are_those_of_the_rows_on_disk(
    validate: Callable[..., ValidateScreenResults],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    results = validate()
    show(results)
    printed = capsys.readouterr().out
    for said in ("rows elicited", "rows written", "contrast judge", "strong −"):
        assert said in printed
    folder = tmp_path / "out" / "run"
    own = read_records(folder / "traits" / "odd" / "scores.jsonl")
    clean = read_records(folder / "clean.jsonl")
    kinds = [row["kind"] for row in own]
    assert kinds.count("written") == kinds.count("written clean") == 10
    for style, planted, same in (
        ("elicited", "elicited", "neutral"),
        ("written", "written", "written clean"),
    ):
        style_found = results.styles[style]
        assert style_found is not None
        found = style_found.traits["odd"]
        rows = [r for r in own if r["kind"] in (planted, same) and r["reason"] is None] + clean
        labels = [row["kind"] == planted for row in rows]
        assert found.planted == sum(labels)
        for method in ("judge", "none", "last_prompt", "generate", "averaged"):
            scores = [row["scores"]["odd"][method] for row in rows]
            estimate = found.methods[method]["auc"]
            assert estimate.value == pytest.approx(roc_auc_score(labels, scores))
            assert estimate.value is not None
            assert estimate.low is not None
            assert estimate.high is not None
            assert estimate.low <= estimate.value <= estimate.high
    found_order = results.order["odd"]
    assert found_order is not None
    order = found_order.bands
    assert order["normal"].n == kinds.count("neutral")
    third = results.traits["odd"].kept // 3
    assert order["mild"].n == order["strong"].n == third
    page = (tmp_path / "out" / "report.html").read_text()
    assert "rows written by people" in page
    assert summary(results)["report"] == str(tmp_path / "out" / "report.html")
    assert json.loads((tmp_path / "out" / "results.json").read_text()) == dump(results)
    assert dump(read(ValidateScreenResults, tmp_path / "out" / "results.json")) == dump(results)


def test_scores_are_projections_of_the_response_without_what_elicited_it(
    validate: Callable[..., ValidateScreenResults],
    llama: LoadedModel,
    random_vector: Callable[..., PersonaVector],
    tmp_path: Path,
) -> None:
    """By another route: the conversation read anew, and its greedy response generated anew."""
    validate()
    vector = random_vector(llama, layer=2, trait="odd")
    scores = read_records(tmp_path / "out" / "run" / "traits" / "odd" / "scores.jsonl")
    row = next(r for r in scores if r["kind"] == "elicited" and r["reason"] is None)
    question = chat(row["question"])
    messages = [*question, {"role": "assistant", "content": row["response"]}]
    [reading] = project_conversation(llama, vector, messages)
    prompt = tuple(llama.chat.prompt_ids(question))
    [[natural]] = generate(llama, [Request("n", prompt)], Sampling(TOKENS, 0.0), capture=True)
    assert natural.activations is not None
    greedy = float(projections(natural.activations[0, 2][None], vector.direction())[0])
    found = row["scores"]["odd"]
    assert found["none"] == pytest.approx(reading.response_mean, abs=1e-4)
    assert found["generate"] == pytest.approx(found["none"] - greedy, abs=1e-4)
    several = Naturals(
        llama, tmp_path / "several", max_tokens=TOKENS, samples=CONFIG.natural_samples
    )
    [mean] = several.means([prompt], [2]).values()
    assert mean is not None
    averaged = float(projections(mean, vector.direction())[0])
    assert found["averaged"] == pytest.approx(found["none"] - averaged, abs=1e-4)


def test_a_killed_run_continues_to_the_same_results(
    validate: Callable[..., ValidateScreenResults], tmp_path: Path
) -> None:
    undisturbed = validate()
    folder = tmp_path / "out"
    clean = folder / "run" / "clean.jsonl"
    whole = clean.read_bytes()
    clean.write_bytes(whole[: len(whole) // 2])  # amid a line, as a kill leaves it
    (folder / "run" / "traits" / "odd" / "scores.jsonl").unlink()
    (folder / "results.json").unlink()
    continued = validate()
    for style in ("elicited", "written"):
        now, then = continued.styles[style], undisturbed.styles[style]
        assert now is not None
        assert then is not None
        for method, own in now.methods.items():
            before = then.methods[method]
            for name, estimate in own.items():
                # Other batches: results may differ by rounding.
                expected = pytest.approx(asdict(before[name]), abs=0.02)
                assert asdict(estimate) == expected, (style, method, name)
    assert len(clean.read_bytes().splitlines()) == CONFIG.clean_rows
    with pytest.raises(SettingsMismatchError, match="rates"):
        validate(replace(CONFIG, rates=(0.3,)))


def test_traits_whose_responses_do_not_show_them_are_named(
    validate: Callable[..., ValidateScreenResults],
) -> None:
    with pytest.raises(DataError, match="odd: only 0 of 60 elicited responses"):
        validate(replace(CONFIG, trait_threshold=100))


@pytest.mark.parametrize(
    ("arguments", "said"),
    [(["--rates", "0,1"], "between 0 and 1"), (["--vectors", "nosuch"], "no persona vector")],
)
def test_wrong_options_are_said_before_a_model_is_loaded(
    arguments: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["validate-screen", "data.jsonl", *arguments])
    assert ended.value.code == 2
    assert said in capsys.readouterr().err
