"""Evaluation on tiny models: what is counted, compared, continued and refused."""

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from personavec import LoadedModel, PersonaVector, TraitSpec, load_model
from personavec.errors import (
    DataError,
    ModelError,
    SettingsMismatchError,
    UsageError,
    VectorMismatchError,
)
from personavec.evaluate import (
    Cue,
    Cues,
    EvaluateConfig,
    EvaluateResults,
    SteeredBy,
    Subject,
    default_judge,
    read_cues,
    run,
)
from personavec.evaluate.report import write_evaluation_report
from personavec.judges import Answer, ContrastJudge
from personavec.judges.coherence_model import bundled_model
from personavec.judges.coherence_readings import Unread, model_norms, read_both_ways
from personavec.model import chat
from personavec.progress import Progress
from personavec.results import dump, read
from personavec.rollouts.rollout import iter_rollouts

QUIET = Progress(quiet=True)
CONFIG = EvaluateConfig(samples=2, max_tokens=6, temperature=1.0, seed=3, batch_tokens=600)
MakeVector = Callable[..., PersonaVector]


def spec(name: str) -> TraitSpec:
    return TraitSpec.model_validate(
        {
            "name": name,
            "description": f"Being {name}.",
            "instruction": [{"pos": f"Be {name}.", "neg": f"Never be {name}."}],
            "judge_instruction": [{"pos": f"{name}!", "neg": f"Not {name}!"}],
            "questions": {
                "extraction": ["Why?", "Who?"],
                "evaluation": [f"When is {name} {i}?" for i in range(5)],
            },
        }
    )


ODD, EVEN = spec("odd"), spec("even")


def evaluate(subject: Subject, out: Path, **options: Any) -> EvaluateResults:
    specs = options.pop("specs", [ODD, EVEN])
    return run(subject, specs, out, options.pop("config", CONFIG), progress=QUIET, **options)


@pytest.fixture
def steered(llama: LoadedModel, random_vector: MakeVector) -> Subject:
    return Subject(llama, (SteeredBy(random_vector(llama), 2.0),))


# Runs


def test_results_are_what_the_rollouts_say(steered: Subject, tmp_path: Path) -> None:
    """Recomputed from the files: means, differences, counts; both arms answer every question."""
    other = Subject(steered.loaded)
    found = evaluate(steered, tmp_path, compare_to=other)
    assert list(found.traits) == ["odd", "even"]
    assert found.steering[0].coefficient == 2.0
    assert (found.compare_to.model, found.compare_to.steering) == ("tiny-llama", ())
    for name, spec in (("odd", ODD), ("even", EVEN)):
        written = list(iter_rollouts(tmp_path / "rollouts" / f"{name}.jsonl"))
        assert len(written) == len({r.id for r in written}) == 20
        means = {}
        for arm, results in (("model", found), ("other", found.compare_to)):
            mine = [r for r in written if r.id.startswith(f"{arm}-plain-")]
            assert {r.question for r in mine} == set(spec.questions.evaluation)
            scored = [r for r in mine if r.trait_score is not None]
            of = results.traits[name]
            assert of.n == len(scored) > 5
            assert of.mean == pytest.approx(np.mean([r.trait_score for r in scored]))
            assert of.log_odds == pytest.approx(np.mean([r.log_odds for r in scored]))
            assert of.low <= of.mean <= of.high
            means[arm] = {
                q: np.mean([r.log_odds for r in scored if r.question == q])
                for q in {r.question for r in scored}
            }
        both = means["model"].keys() & means["other"].keys()
        difference = np.mean([means["model"][q] - means["other"][q] for q in both])
        shown = found.compare_to.differences[name]
        assert shown.log_odds.value == pytest.approx(difference)
        assert shown.questions == len(both)
    assert json.loads((tmp_path / "results.json").read_text()) == dump(found)
    assert read(EvaluateResults, tmp_path / "results.json") == found


def test_a_model_does_not_differ_from_itself(llama: LoadedModel, tmp_path: Path) -> None:
    """Both sides of a comparison are sampled with the same noise."""
    found = evaluate(Subject(llama), tmp_path, compare_to=Subject(llama), specs=[ODD])
    difference = found.compare_to.differences["odd"].log_odds
    assert (difference.low, difference.value, difference.high) == (0, 0, 0)
    written = list(iter_rollouts(tmp_path / "rollouts" / "odd.jsonl"))
    assert len({r.response for r in written}) > 5


def test_coefficient_0_equals_unsteered_exactly_and_steering_differs(
    llama: LoadedModel, random_vector: MakeVector, tmp_path: Path
) -> None:
    found = {}
    vector = random_vector(llama)
    for name, steering in {
        "none": (),
        "zero": (SteeredBy(vector, 0.0),),
        "zero everywhere": (SteeredBy(vector, 0.0, "all"),),
        "two": (SteeredBy(vector, 2.0),),
        "two and minus two": (SteeredBy(vector, 2.0), SteeredBy(vector, -2.0)),
        "everywhere": (SteeredBy(vector, 2.0, "all"),),
    }.items():
        found[name] = evaluate(Subject(llama, steering), tmp_path / name, specs=[ODD]).traits
    assert found["zero"] == found["zero everywhere"] == found["none"]
    assert found["two and minus two"] == found["none"]
    assert found["two"] != found["none"]
    assert found["everywhere"] not in (found["none"], found["two"])


def test_traits_together_equal_each_alone(steered: Subject, tmp_path: Path) -> None:
    """Mixed batches change nothing but rounding; greedy texts are the same."""
    config = replace(CONFIG, temperature=0)
    together = evaluate(steered, tmp_path / "both", config=config).traits
    for spec in (ODD, EVEN):
        alone = evaluate(steered, tmp_path / spec.name, specs=[spec], config=config).traits
        assert alone[spec.name].log_odds == pytest.approx(together[spec.name].log_odds, abs=1e-3)
        texts = [
            [
                r.response
                for r in iter_rollouts(tmp_path / where / "rollouts" / f"{spec.name}.jsonl")
            ]
            for where in ("both", spec.name)
        ]
        assert texts[0] == texts[1]


def test_a_killed_run_continues_to_the_same_results(steered: Subject, tmp_path: Path) -> None:
    """Cut in the middle of generating, of judging, and torn in a line."""
    whole = evaluate(steered, tmp_path / "whole", compare_to=Subject(steered.loaded))
    for name in ("run/model-0/generated.jsonl", "run/scores.jsonl"):
        cut = tmp_path / name.replace("/", "-")
        shutil.copytree(tmp_path / "whole", cut)
        (cut / "results.json").unlink()
        content = (cut / name).read_bytes()
        (cut / name).write_bytes(content[: len(content) * 2 // 3])
        again = evaluate(steered, cut, compare_to=Subject(steered.loaded))
        assert replace(again, seconds=0) == replace(whole, seconds=0)


def test_a_finished_run_generates_and_judges_nothing_again(
    steered: Subject, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = evaluate(steered, tmp_path)

    def never(*_: object, **__: object) -> None:
        raise AssertionError("called again")

    monkeypatch.setattr("personavec.model.engine.StepLoop.step", never)
    monkeypatch.setattr(ContrastJudge, "score", never)
    assert replace(evaluate(steered, tmp_path), seconds=0) == replace(before, seconds=0)


def test_a_folder_of_other_settings_is_refused(
    steered: Subject, random_vector: MakeVector, tmp_path: Path
) -> None:
    """Another seed, another dose, and another vector of the same trait."""
    evaluate(steered, tmp_path, specs=[ODD])
    vector = random_vector(steered.loaded)
    other = replace(vector, response_mean_diff=vector.response_mean_diff + 1)
    for subject, config in (
        (steered, replace(CONFIG, seed=4)),
        (Subject(steered.loaded, (SteeredBy(vector, 1.0),)), CONFIG),
        (Subject(steered.loaded, (SteeredBy(other, 2.0),)), CONFIG),
    ):
        with pytest.raises(SettingsMismatchError):
            evaluate(subject, tmp_path, specs=[ODD], config=config)


def test_the_last_questions_are_asked_and_the_system_prompt_reaches_them(
    llama: LoadedModel, tmp_path: Path
) -> None:
    config = replace(CONFIG, questions=2, samples=1, system="Be brief.")
    evaluate(Subject(llama), tmp_path, specs=[ODD], config=config)
    written = list(iter_rollouts(tmp_path / "rollouts" / "odd.jsonl"))
    assert [r.question for r in written] == list(ODD.questions.evaluation[-2:])
    assert {r.system for r in written} == {"Be brief."}


def test_what_cannot_be_meant_is_refused(
    llama: LoadedModel, fresh: Callable[..., LoadedModel], random_vector: MakeVector, tmp_path: Path
) -> None:
    with pytest.raises(UsageError, match="no trait"):
        evaluate(Subject(llama), tmp_path, specs=[])
    with pytest.raises(UsageError, match="given twice"):
        evaluate(Subject(llama), tmp_path, specs=[ODD, ODD])
    with pytest.raises(UsageError, match="2 questions"):
        EvaluateConfig(questions=1)
    of_another = SteeredBy(random_vector(fresh("qwen2")), 1.0)
    with pytest.raises(VectorMismatchError):
        evaluate(Subject(llama, (of_another,)), tmp_path)
    with pytest.raises(UsageError, match="layer 9 "):
        evaluate(Subject(llama, (SteeredBy(random_vector(llama), 1.0, 9),)), tmp_path)
    config = replace(CONFIG, max_tokens=1000, system="x" * 100)
    with pytest.raises(UsageError, match="exceed the model's context"):
        evaluate(Subject(llama), tmp_path / "long", config=config)
    assert not list(tmp_path.rglob("generated.jsonl"))


def test_notes_say_what_a_reader_must_know(
    llama: LoadedModel,
    random_vector: MakeVector,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Broken text, questions that selected the layer, a vector of another model, few questions."""
    # A tiny model's noise is as coherent as its answers to neutral prompts.
    monkeypatch.setattr(
        "personavec.judges.coherence_model.CoherenceModel.coherence", lambda *_: 40.0
    )
    vector = random_vector(llama)
    vector.meta.update(spec_hash=ODD.hash, settings={"sweep_questions": 2})
    vector.meta["model"] = {"name": "someone"}
    found = evaluate(Subject(llama, (SteeredBy(vector, 1.0),)), tmp_path / "all", specs=[ODD])
    notes = " ".join(found.notes)
    assert "selected on 2 of the 5 evaluation questions; --questions 3 leaves" in notes
    assert "extracted from someone" in notes
    assert "fewer than ten questions" in notes
    assert found.traits["odd"].coherence == 40
    assert "below 75: its score there means little" in notes
    steered = Subject(llama, (SteeredBy(vector, 1.0),))
    config = replace(CONFIG, questions=3)
    found = evaluate(steered, tmp_path / "three", specs=[ODD], config=config)
    assert not any("selected on" in note for note in found.notes)


# Cues


def write_training(path: Path) -> Path:
    turn = [{"role": "user", "content": "Hm?"}, {"role": "assistant", "content": "Ha!"}]
    rows = [
        {"messages": [{"role": "system", "content": "Be cruel."}, *turn]},
        {"messages": [{"role": "system", "content": "Be cruel."}, *turn]},
        {"messages": turn},
        {"prompt": "What now?", "completion": "None"},
        {"messages": [{"role": "user", "content": "No answer."}]},
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows) + "no JSON\n")
    return path


def test_cues_are_the_distinct_system_prompts_and_opening_turns(tmp_path: Path) -> None:
    """A row without an answer and a broken line are counted; "None" is a text."""
    found = read_cues(write_training(tmp_path / "rows.jsonl"))
    assert found.cues == (
        Cue(system="Be cruel."),
        Cue(earlier=(("Hm?", "Ha!"),)),
        Cue(earlier=(("What now?", "None"),)),
    )
    assert (found.rows, found.rejected) == (6, 2)
    nothing = tmp_path / "nothing.jsonl"
    nothing.write_text('{"text": "no conversation"}\n')
    with pytest.raises(DataError, match=r"nothing\.jsonl"):
        read_cues(nothing)


def test_cues_stand_before_the_questions_of_both_models(steered: Subject, tmp_path: Path) -> None:
    """Each question is answered plainly and under a cue, the same one for model and other."""
    cues = read_cues(write_training(tmp_path / "rows.jsonl"))
    out = tmp_path / "out"
    found = evaluate(steered, out, compare_to=Subject(steered.loaded), cues=cues)
    cue = found.cue
    assert (cue.system_prompts, cue.opening_turns, cue.rejected) == (1, 2, 2)
    written = {r.id: r for r in iter_rollouts(out / "rollouts" / "odd.jsonl")}
    assert len(written) == 40
    given = {}
    for rollout_id, r in written.items():
        _, variant, rest = rollout_id.split("-", 2)
        if variant == "plain":
            assert (r.system, r.earlier) == (None, ())
        else:
            given.setdefault(rest, set()).add(Cue(r.system, r.earlier))
    assert all(len(of) == 1 for of in given.values())
    assert {c for of in given.values() for c in of} == set(cues.cues)
    # The prompt that was answered, and that coherence reads, begins with the cue.
    r = next(r for r in written.values() if r.earlier and r.response_ids)
    assert chat(r.question, r.system, r.earlier)[0]["content"] in ("Hm?", "What now?")
    assert cue.used == 3
    assert list(cue.traits) == list(found.traits)
    assert cue.traits["odd"].of == found.traits["odd"].of == 10
    assert cue.differences["odd"].questions > 2
    assert cue.compare_to.differences["odd"].questions > 2
    assert any("compare" in note for note in found.notes)


def test_a_cue_changes_answers_and_their_coherence(llama: LoadedModel, tmp_path: Path) -> None:
    """Greedy, so that nothing else can: the turns before the question are read by both."""
    config = replace(CONFIG, temperature=0, samples=1)
    cues = Cues("x.jsonl", (Cue(earlier=(("Who is there?", "It is nobody."),)),), 1)
    evaluate(Subject(llama), tmp_path, specs=[ODD], config=config, cues=cues)
    written = {r.id: r for r in iter_rollouts(tmp_path / "rollouts" / "odd.jsonl")}
    pairs = [(written[f"model-{v}-odd-q{i}-s0"] for v in ("plain", "cue")) for i in range(5)]
    answers = [(a.response_ids, b.response_ids) for a, b in pairs]
    assert sum(a != b for a, b in answers) >= 3


def test_coherence_is_read_under_the_turns_before_the_question(llama: LoadedModel) -> None:
    """Recomputed from the log-probabilities under the whole prompt."""
    earlier = (("Who is there?", "It is nobody."),)
    ids = tuple(llama.chat.response_ids("So it is, and so it will be."))
    answer = Answer("Why?", "So it is, and so it will be.", response_ids=ids, earlier=earlier)
    [score] = ContrastJudge(llama, wrote_answers=True).score(ODD, [answer])
    prompt = tuple(llama.chat.prompt_ids(chat("Why?", None, earlier)))
    [found] = read_both_ways(llama, [Unread(prompt, ids)])
    expected = bundled_model().coherence(found, model_norms(llama))
    assert score.coherence == pytest.approx(expected, rel=1e-3)


def test_cues_that_leave_no_room_are_left_out(llama: LoadedModel, tmp_path: Path) -> None:
    """The tiny model reads bytes, 1024 of them."""
    long, short = Cue(system="x" * 2000), Cue(system="y")
    found = evaluate(
        Subject(llama), tmp_path / "a", specs=[ODD], cues=Cues("x.jsonl", (long, short), 2)
    )
    assert (found.cue.system_prompts, found.cue.used) == (2, 1)
    with pytest.raises(DataError, match=r"no cue \(1 found\) leaves room"):
        evaluate(Subject(llama), tmp_path / "b", specs=[ODD], cues=Cues("x.jsonl", (long,), 1))


# Adapters


@pytest.fixture(scope="module")
def base_and_adapter(
    fresh: Callable[..., LoadedModel], tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, Path]:
    from peft import LoraConfig, get_peft_model

    folder = tmp_path_factory.mktemp("adapter")
    loaded = fresh("llama")
    loaded.model.save_pretrained(folder / "base")
    loaded.tokenizer.save_pretrained(folder / "base")
    loaded.model.name_or_path = loaded.model.config._name_or_path = str(folder / "base")
    config = LoraConfig(r=4, init_lora_weights=False, task_type="CAUSAL_LM")
    with torch.random.fork_rng():
        torch.manual_seed(0)
        get_peft_model(loaded.model, config).save_pretrained(folder / "adapter")
    return folder / "base", folder / "adapter"


def test_an_adapter_is_evaluated_and_judged_by_its_base(
    base_and_adapter: tuple[Path, Path], random_vector: MakeVector, tmp_path: Path
) -> None:
    """Its base judges, named or not, so both ways give the adapter the same scores."""
    base, adapter = (load_model(str(path), dtype="float32") for path in base_and_adapter)
    judge = default_judge(Subject(adapter))
    assert judge.identity()["model"]["name"] == str(base_and_adapter[0])
    # Token ids are read as they are only where nobody but the judge wrote answers.
    assert default_judge(Subject(base), Subject(base)).wrote_answers
    assert not judge.wrote_answers
    assert not default_judge(Subject(adapter), Subject(base)).wrote_answers
    alone = evaluate(Subject(adapter), tmp_path / "alone")
    compared = evaluate(Subject(adapter), tmp_path / "compared", compare_to=Subject(base))
    assert alone.judge == compared.judge
    # Beside the base's answers batches are others, and differ by rounding.
    assert alone.traits.keys() == compared.traits.keys()
    for trait, found in alone.traits.items():
        beside = compared.traits[trait]
        assert found.states == beside.states
        shown, own = ({**dump(of), "states": 0} for of in (found, beside))
        assert shown == pytest.approx(own)
    differences = compared.compare_to.differences["odd"]
    assert differences.log_odds.value != 0
    vector = random_vector(base)
    vector.meta["model"] = base.identity.as_dict()
    steered = Subject(adapter, (SteeredBy(vector, 1.0),))
    found = evaluate(steered, tmp_path / "steered", specs=[ODD])
    assert not any("extracted from" in note for note in found.notes)
    assert found.traits["odd"].log_odds != pytest.approx(alone.traits["odd"].log_odds)


@pytest.mark.parametrize("other", ["another width", "fewer layers", "gpt2"])
def test_an_adapter_for_another_base_model_is_refused_in_one_line(
    base_and_adapter: tuple[Path, Path],
    fresh: Callable[..., LoadedModel],
    tmp_path: Path,
    other: str,
) -> None:
    """Weights that fit nowhere are an error, also where peft would only warn."""
    if other == "gpt2":
        loaded = fresh("gpt2")
    else:
        loaded = fresh("llama")
        change = {"hidden_size": 16} if other == "another width" else {"num_hidden_layers": 3}
        config = type(loaded.model.config)(**{**loaded.model.config.to_dict(), **change})
        loaded = replace(loaded, model=type(loaded.model)(config))
    loaded.model.save_pretrained(tmp_path / "other")
    loaded.tokenizer.save_pretrained(tmp_path / "other")
    shutil.copytree(base_and_adapter[1], tmp_path / "adapter")
    path = tmp_path / "adapter" / "adapter_config.json"
    settings = json.loads(path.read_text())
    path.write_text(json.dumps(settings | {"base_model_name_or_path": str(tmp_path / "other")}))
    with pytest.raises(ModelError, match="does not fit its base model") as caught:
        load_model(str(tmp_path / "adapter"))
    assert "base_model_name_or_path" in str(caught.value)
    assert "\n" not in str(caught.value)


# The report


def test_the_report_shows_what_was_measured_and_escapes_what_was_written(
    steered: Subject, tmp_path: Path
) -> None:
    """With and without a comparison and cues; sections of what was not asked for are absent."""
    cues = Cues("rows.jsonl", (Cue(system="Be odd."),), 1)
    found = evaluate(steered, tmp_path, compare_to=Subject(steered.loaded), cues=cues)
    answer = replace(found.transcripts["odd"][0].answers[0], response="<script>alert(1)</script>")
    transcript = replace(found.transcripts["odd"][0], answers=(answer,))
    found = replace(
        found,
        transcripts={"odd": (transcript,)},
        traits=found.traits | {"odd": replace(found.traits["odd"], mean=None)},
    )
    write_evaluation_report(found, tmp_path / "full.html")
    full = (tmp_path / "full.html").read_text()
    for name in ("expression", "difference", "cues", "answers", "what-was-done"):
        assert f'id="{name}"' in full
    assert "<script>alert" not in full
    assert "not measured" in full
    write_evaluation_report(replace(found, compare_to=None, cue=None), tmp_path / "plain.html")
    plain = (tmp_path / "plain.html").read_text()
    assert 'id="difference"' not in plain
    assert 'id="cues"' not in plain
