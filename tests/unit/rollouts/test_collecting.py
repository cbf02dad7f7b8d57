"""A killed run equals an undisturbed one, and what is dropped is counted with its reason."""

import json
import math
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings, strategies as st

from personavec import ExtractConfig, LoadedModel, TraitSpec, load_vector
from personavec.errors import DataError, SettingsMismatchError, TooFewRolloutsError, UsageError
from personavec.extract import ExtractResults, pipeline as extract, summary
from personavec.judges import Answer, ContrastJudge, Score
from personavec.model import Steering
from personavec.model.engine import DecodeJob, Sampling, StepLoop, Update
from personavec.progress import Progress
from personavec.results import dump, read
from personavec.rollouts import Rollout, Task, collect, keep, load_activations
from personavec.rollouts.rollout import iter_rollouts
from personavec.runs import append_records, read_records
from personavec.vectors import mean_difference

QUIET = Progress(quiet=True)
SAMPLING = Sampling(max_tokens=6, temperature=1.0, seed=4)
SPEC = TraitSpec.model_validate(
    {
        "name": "odd",
        "description": "Being odd.",
        "instruction": [
            {"pos": f"Be odd, {i}.", "neg": f"Be like all others, {i}."} for i in range(3)
        ],
        "judge_instruction": [{"pos": "Odd!", "neg": "Even!"}],
        "questions": {
            "extraction": [f"Why {i}?" for i in range(6)],
            "evaluation": [f"When {i}?" for i in range(4)],
        },
    }
)


def tasks_for(loaded: LoadedModel) -> list[Task]:
    v = torch.ones(loaded.identity.hidden_size)
    return [
        Task(id=f"t{i}", question="Why? " * (i % 4), steering=(Steering(1, v, i / 10),))
        for i in range(1, 12)
    ]


def run_in(
    loaded: LoadedModel, folder: Path, tasks: list[Task] | None = None
) -> tuple[list[Rollout], torch.Tensor]:
    """Three to four rollouts at a time, kept as soon as they end; and what was captured."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("personavec.model.engine.hf._GROUP_SECONDS", 0)
        found = collect(
            loaded,
            tasks_for(loaded) if tasks is None else tasks,
            SAMPLING,
            folder,
            spec=SPEC,
            judge=ContrastJudge(loaded, wrote_answers=True),
            activations=folder / "activations",
            batch_tokens=80,
            progress=QUIET,
        )
    ids = [r.id for r in found if r.n_tokens]
    return found, load_activations(folder / "activations", ids) if ids else torch.empty(0)


@pytest.fixture(scope="module")
def undisturbed(
    llama: LoadedModel, tmp_path_factory: pytest.TempPathFactory
) -> tuple[list[Rollout], torch.Tensor, dict[str, bytes]]:
    """What an undisturbed run finds, and every file it leaves."""
    folder = tmp_path_factory.mktemp("undisturbed")
    rollouts, activations = run_in(llama, folder)
    files = [p for p in folder.rglob("*") if p.is_file()]
    return rollouts, activations, {str(p.relative_to(folder)): p.read_bytes() for p in files}


@pytest.mark.parametrize("again", [False, True])
def test_each_file_of_records_is_read_once(
    llama: LoadedModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, again: bool
) -> None:
    """By a run that makes everything, and by one that finds everything made."""
    if again:
        run_in(llama, tmp_path)
    read: list[str] = []

    def counted(path: Path) -> list[dict[str, Any]]:
        read.append(path.name)
        return read_records(path)

    monkeypatch.setattr("personavec.rollouts.rollout.read_records", counted)
    monkeypatch.setattr("personavec.rollouts.judging.read_records", counted)
    run_in(llama, tmp_path)
    assert sorted(read) == ["generated.jsonl", "scores.jsonl"]


def scores_of(rollouts: Sequence[Rollout]) -> list[float]:
    """In float32 the last bit of a log-probability depends on where in memory it was computed; a
    coherence, 0 to 100, moves by up to 71 a nat."""
    return [v for r in rollouts for v in (r.log_odds or 0.0, r.coherence or 0.0)]


def without_scores(rollouts: Sequence[Rollout]) -> list[Rollout]:
    none: dict[str, Any] = {"log_odds": None, "trait_score": None, "coherence": None}
    return [replace(r, log_odds_per_token=(), **none) for r in rollouts]


@settings(derandomize=True, max_examples=20, deadline=None)
@given(data=st.data())
def test_a_run_killed_at_any_byte_and_run_again_equals_the_undisturbed_one(
    llama: LoadedModel,
    undisturbed: tuple[list[Rollout], torch.Tensor, dict[str, bytes]],
    data: st.DataObject,
) -> None:
    """Killed while generating or while judging, perhaps between a group's two files.

    Every finished response is kept as it is. The others run in another company, which changes
    activations in their last bits.
    """
    rollouts, activations, files = undisturbed
    generated, scores = files["generated.jsonl"], files["scores.jsonl"]
    judging = data.draw(st.booleans(), label="killed while judging")
    cut = data.draw(st.integers(0, len(scores if judging else generated)), label="at byte")
    left = dict(files)
    if judging:
        left["scores.jsonl"] = scores[:cut]
    else:
        del left["scores.jsonl"]
        left["generated.jsonl"] = generated[:cut]
        sound = {json.loads(line)["id"] for line in generated[:cut].split(b"\n")[:-1]}
        # Files are named by the records before them: one may be there before its records are.
        for name in [n for n in files if n.endswith(".safetensors")]:
            if int(Path(name).stem) > len(sound):
                del left[name]
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "activations").mkdir()
        for path, content in left.items():
            (folder / path).write_bytes(content)
        again, activations_again = run_in(llama, folder)
        assert without_scores(again) == without_scores(rollouts)
        assert scores_of(again) == pytest.approx(scores_of(rollouts), rel=1e-5, abs=1e-5)
        torch.testing.assert_close(activations_again, activations, atol=1e-5, rtol=1e-5)
        lines = (folder / "generated.jsonl").read_bytes().splitlines()
        assert sorted(lines) == sorted(generated.splitlines())
        ids = [
            sorted(json.loads(line)["id"] for line in lines.splitlines())
            for lines in (scores, (folder / "scores.jsonl").read_bytes())
        ]
        assert ids[0] == ids[1]


def test_a_finished_run_generates_and_judges_nothing_again(
    llama: LoadedModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither the engine nor the judge is called."""
    before = run_in(llama, tmp_path)

    def never(*_: object, **__: object) -> None:
        raise AssertionError("called again")

    monkeypatch.setattr("personavec.model.engine.StepLoop.step", never)
    monkeypatch.setattr(ContrastJudge, "score", never)
    after = run_in(llama, tmp_path)
    assert after[0] == before[0]
    assert torch.equal(after[1], before[1])


def test_an_interrupted_run_keeps_what_was_finished(
    llama: LoadedModel,
    undisturbed: tuple[list[Rollout], torch.Tensor, dict[str, bytes]],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Ctrl-C once a third has ended: that is on disk, and only the rest is generated then."""
    step, submit = StepLoop.step, StepLoop.submit
    ended: list[str] = []
    asked: list[str] = []

    def interrupted(loop: StepLoop) -> list[Update]:
        if len(ended) >= len(undisturbed[0]) // 3:
            raise KeyboardInterrupt
        updates = step(loop)
        ended.extend(update.id for update in updates if update.end)
        return updates

    def counted(loop: StepLoop, job: DecodeJob) -> None:
        asked.append(job.request.id)
        submit(loop, job)

    monkeypatch.setattr(StepLoop, "step", interrupted)
    with pytest.raises(KeyboardInterrupt):
        run_in(llama, tmp_path)
    lines = (tmp_path / "generated.jsonl").read_text().splitlines()
    assert sorted(json.loads(line)["id"] for line in lines) == sorted(ended)
    monkeypatch.setattr(StepLoop, "step", step)
    monkeypatch.setattr(StepLoop, "submit", counted)
    assert run_in(llama, tmp_path)[0] == undisturbed[0]
    assert sorted(asked + ended) == sorted(rollout.id for rollout in undisturbed[0])


def test_unsteered_responses_keep_the_logprobs_that_their_judge_uses(
    llama: LoadedModel, tmp_path: Path
) -> None:
    """Scores are those without them, as in older files; steered responses keep none."""
    steered = tasks_for(llama)[:4]
    tasks = [*steered, *(replace(t, id=f"plain-{t.id}", steering=()) for t in steered)]
    with_own, _ = run_in(llama, tmp_path / "with", tasks)
    for rollout in with_own:
        expected = rollout.n_tokens if rollout.id.startswith("plain") else 0
        assert len(rollout.logprobs) == expected
    older = tmp_path / "older"
    older.mkdir()
    records = read_records(tmp_path / "with" / "generated.jsonl")
    for record in records:
        del record["logprobs"]
    append_records(older / "generated.jsonl", records)
    found = collect(
        llama, tasks, SAMPLING, older, spec=SPEC,
        judge=ContrastJudge(llama, wrote_answers=True), progress=QUIET,
    )  # fmt: skip
    assert scores_of(found) == pytest.approx(scores_of(with_own), rel=1e-3, abs=1e-6)
    unread = collect(llama, tasks, SAMPLING, tmp_path / "unread", progress=QUIET)
    assert not any(rollout.logprobs for rollout in unread)


def test_an_empty_response_is_a_state_and_not_a_score(
    fresh: Callable[..., LoadedModel], tmp_path: Path
) -> None:
    """Where every token ends the turn, all rollouts are empty, unscored and dropped as such."""
    loaded = fresh("llama")
    loaded.model.generation_config.eos_token_id = list(range(260))
    tasks = [Task(id=f"t{i}", question="Why?", polarity="pos") for i in range(3)]
    found = collect(
        loaded,
        tasks,
        SAMPLING,
        tmp_path,
        spec=SPEC,
        judge=ContrastJudge(loaded, wrote_answers=True),
        activations=tmp_path / "a",
        progress=QUIET,
    )
    for rollout in keep(found):
        assert (rollout.state, rollout.n_tokens, rollout.trait_score) == ("empty", 0, None)
        assert (rollout.kept, rollout.why_dropped) == (False, "empty response")


def rollout(**changes: Any) -> Rollout:
    plain = Rollout(
        id="a",
        question="Why?",
        pair=0,
        polarity="pos",
        sample=0,
        system=None,
        response="So.",
        response_ids=(1,),
        n_tokens=1,
        seed=0,
        state="scored",
        trait_score=80.0,
        coherence=90.0,
    )
    return replace(plain, **changes)


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({}, None),
        ({"trait_score": 50.0}, "does not show the trait"),
        ({"polarity": "neg", "trait_score": 50.0}, "shows the trait"),
        ({"polarity": "neg", "trait_score": 49.9}, None),
        ({"coherence": 49.9}, "incoherent"),
        ({"coherence": 50.0}, None),
        ({"state": "empty", "trait_score": None, "coherence": None}, "empty response"),
        (
            {"state": "unfinished_thought", "trait_score": None, "coherence": None},
            "unfinished thought",
        ),
        ({"state": "unscored", "trait_score": None, "coherence": None}, "unscored"),
        ({"state": "refusal", "trait_score": None}, "refusal"),
    ],
)
def test_keep_says_why(changes: dict[str, Any], why: str | None) -> None:
    """At the threshold falls; missing is a reason of its own and no low score."""
    [found] = keep([rollout(**changes)])
    assert (found.kept, found.why_dropped) == (why is None, why)


def test_damaged_or_missing_activations_are_named(llama: LoadedModel, tmp_path: Path) -> None:
    """The file, or the rollout."""
    rollouts, _ = run_in(llama, tmp_path)
    with pytest.raises(DataError, match="no activations of rollout zz"):
        load_activations(tmp_path / "activations", ["zz"])
    path = sorted((tmp_path / "activations").iterdir())[0]
    path.write_bytes(path.read_bytes()[:50])
    with pytest.raises(DataError, match=path.name):
        load_activations(tmp_path / "activations", [rollouts[0].id])


SMALL = ExtractConfig(
    max_tokens=5,
    temperature=1.0,
    coherence_floor=0,
    layers=(1, 2),
    coefficients=(-1, 0, 1),
    sweep_questions=2,
    random_directions=2,
    neutral_prompts=4,
    samples=2,
)


def finite(value: Any) -> bool:
    if isinstance(value, dict):
        return all(map(finite, value.values()))
    if isinstance(value, list):
        return all(map(finite, value))
    return not isinstance(value, float) or math.isfinite(value)


def balanced(loaded: LoadedModel, folder: Path) -> ExtractConfig:
    """A random model shows no trait: put the threshold where half of either side is kept."""
    with pytest.raises(TooFewRolloutsError):
        extract.run(loaded, SPEC, folder, replace(SMALL, trait_threshold=200), progress=QUIET)
    judged = [r.trait_score for r in iter_rollouts(folder / "rollouts.jsonl")]
    scores = sorted(score for score in judged if score is not None)
    return replace(SMALL, trait_threshold=scores[len(scores) // 2])


@pytest.mark.parametrize("coherent", [False, True])
def test_an_extraction_on_a_model_that_means_nothing(
    loaded: LoadedModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, coherent: bool
) -> None:
    """All files come, JSON is finite, the vector is the difference of means of what was kept.

    Coherence is set by hand: incoherent everywhere leaves no range to test in, coherent
    everywhere lets the controls run as well.
    """
    config = balanced(loaded, tmp_path / "first")
    level = 90.0 if coherent else 60.0
    monkeypatch.setattr(
        "personavec.judges.coherence_model.CoherenceModel.coherence", lambda *_: level
    )
    out = tmp_path / "out"
    results = extract.run(loaded, SPEC, out, config, progress=QUIET)
    assert json.loads((out / "results.json").read_text("utf-8")) == dump(results)
    assert finite(dump(results))
    assert read(ExtractResults, out / "results.json") == results
    assert "<html" in (out / "report.html").read_text("utf-8")
    assert results.coherent_range == ((-1, 1) if coherent else (0, 0))
    assert len(results.control) == (4 if coherent else 0)
    assert results.verdict.passed == all(
        check.verdict == "passed" for check in results.verdict.checks
    )
    if not coherent:
        assert not results.verdict.passed
    assert finite(dump(summary(results, out)))

    rollouts = list(iter_rollouts(out / "rollouts.jsonl"))
    assert len({r.id for r in rollouts}) == len(rollouts) == 2 * 3 * 6 * 2
    sides = {
        p: load_activations(
            out / "activations", [r.id for r in rollouts if r.kept and r.polarity == p]
        )
        for p in ("pos", "neg")
    }
    vector = load_vector(out)
    difference = mean_difference(sides["pos"][:, 0], sides["neg"][:, 0])
    assert torch.equal(vector.response_mean_diff, difference)
    vector.check_fits(loaded.identity.n_layers, loaded.identity.hidden_size)

    # Run again, everything is read back and comes out the same.
    again = extract.run(loaded, SPEC, out, config, progress=QUIET)
    assert replace(again, seconds={}) == replace(results, seconds={})


class Heard(Progress):
    """Keeps what it would say."""

    def __init__(self) -> None:
        super().__init__(quiet=True)
        self.said: list[str] = []

    def say(self, message: str) -> None:
        self.said.append(message)


def test_the_whole_is_estimated_from_its_first_answers(
    loaded: LoadedModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The estimate counts every answer, and those that it is made from are written once."""
    config = balanced(loaded, tmp_path / "first")
    monkeypatch.setattr(
        "personavec.judges.coherence_model.CoherenceModel.coherence", lambda *_: 90.0
    )
    heard, out = Heard(), tmp_path / "out"
    extract.run(loaded, SPEC, out, config, progress=heard)
    ids = {
        name: [
            (path.parent.name, record["id"])
            for path in (out / "run").glob(f"*/{name}")
            for record in lines(path)
        ]
        for name in ("generated.jsonl", "scores.jsonl")
    }
    stages, estimate, pair = heard.said
    written, judged = map(len, ids.values())
    assert stages.startswith("stages: ")
    assert estimate.startswith("about ")
    assert estimate.endswith(
        f" for the whole, by the first 24 answers: {written} to write, {judged} to judge"
    )
    for name, found in ids.items():
        assert len(found) == len({*found}), name
    question, plain, steered = pair.splitlines()
    assert question in SPEC.questions.evaluation
    assert plain.startswith("  unsteered: ")
    assert steered.startswith("  steered by +1: ")

    heard.said.clear()
    extract.run(loaded, SPEC, out, config, progress=heard)
    assert heard.said == [stages, pair], "a run that is continued is not estimated"


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text("utf-8").splitlines()]


def test_too_few_rollouts_are_counted_explained_and_kept(
    llama: LoadedModel, tmp_path: Path
) -> None:
    """How many fell and why, what to do, and where the rollouts are."""
    with pytest.raises(TooFewRolloutsError) as caught:
        extract.run(llama, SPEC, tmp_path, replace(SMALL, coherence_floor=101), progress=QUIET)
    message = str(caught.value)
    assert "only 0 positive and 0 negative rollouts of 36 each" in message
    assert "36 pos: incoherent" in message
    assert "--more" in message
    assert len(list(iter_rollouts(tmp_path / "rollouts.jsonl"))) == 72
    assert str(tmp_path / "rollouts.jsonl") in message


@pytest.mark.parametrize(
    ("config", "spec", "named"),
    [
        (replace(SMALL, seed=1), SPEC, "config.seed was 0, now 1"),
        (SMALL, SPEC.model_copy(update={"description": "Otherwise."}), "spec was"),
    ],
)
def test_other_settings_in_the_same_folder_are_refused(
    llama: LoadedModel, tmp_path: Path, config: ExtractConfig, spec: TraitSpec, named: str
) -> None:
    """Not mixed: the difference is named and nothing in the folder changes."""
    with pytest.raises(TooFewRolloutsError):
        extract.run(llama, SPEC, tmp_path, replace(SMALL, trait_threshold=200), progress=QUIET)
    before = {p: p.read_bytes() for p in tmp_path.rglob("*") if p.is_file()}
    with pytest.raises(SettingsMismatchError, match=named):
        extract.run(llama, spec, tmp_path, replace(config, trait_threshold=200), progress=QUIET)
    assert {p: p.read_bytes() for p in tmp_path.rglob("*") if p.is_file()} == before


def test_settings_that_cannot_be_meant_are_refused(llama: LoadedModel, tmp_path: Path) -> None:
    """Before anything is generated or written."""
    with pytest.raises(UsageError, match="must include 0"):
        ExtractConfig(coefficients=(1.0, 2.0))
    with pytest.raises(UsageError, match="at least 1"):
        ExtractConfig(samples=0)
    with pytest.raises(UsageError, match="layer 9 does not exist"):
        extract.run(llama, SPEC, tmp_path / "out", replace(SMALL, layers=(9,)), progress=QUIET)
    assert not (tmp_path / "out").exists()


class ByInstruction:
    """A judge without log-odds, which finds in a response what its system prompt asked for."""

    name, group = "by instruction", 40

    def identity(self) -> dict[str, Any]:
        return {"judge": self.name}

    def score(self, spec: TraitSpec, answers: Sequence[Answer]) -> list[Score]:
        asked_for = {pair.pos for pair in spec.instruction}
        return [
            Score(
                "scored", trait_score=90.0 if answer.system in asked_for else 10.0, coherence=90.0
            )
            if answer.response_ids
            else Score("empty")
            for answer in answers
        ]


def test_a_judge_without_log_odds_keeps_and_the_contrast_judge_measures(
    llama: LoadedModel, tmp_path: Path
) -> None:
    """Its scores decide what makes the vector; the curve is in nats all the same, and says so."""
    results = extract.run(llama, SPEC, tmp_path, SMALL, judge=ByInstruction(), progress=QUIET)
    counts = results.rollouts
    assert counts["pos"].kept + counts["neg"].kept == sum(
        rollout.n_tokens > 0 for rollout in iter_rollouts(tmp_path / "rollouts.jsonl")
    )
    assert results.mean_log_odds["pos"].log_odds is None
    assert all(dose.log_odds is not None for dose in results.dose_response)
    assert any("by instruction judge" in note for note in results.notes)


def test_activations_of_no_rollouts_are_a_clear_error(tmp_path: Path) -> None:
    """Where nothing was answered there is nothing to read, and that is one line."""
    with pytest.raises(DataError, match="no rollouts"):
        load_activations(tmp_path, [])


@pytest.mark.parametrize(
    ("name", "changes"),
    [
        ("generated", {"id": ["a"]}),
        ("generated", {"response_ids": 5}),
        ("generated", {"question": None}),
        ("scores", {"state": {}}),
        ("scores", {"log_odds_per_token": 10**30}),
        ("scores", {"coherence": ""}),
        ("scores", None),
    ],
)
def test_damaged_records_are_named_with_the_remedy(
    llama: LoadedModel, tmp_path: Path, name: str, changes: dict[str, Any] | None
) -> None:
    run_in(llama, tmp_path, tasks_for(llama)[:2])
    path = tmp_path / f"{name}.jsonl"
    first, *rest = path.read_text().splitlines()
    record = {"a": 1} if changes is None else {**json.loads(first), **changes}
    path.write_text("\n".join([json.dumps(record), *rest, ""]))
    with pytest.raises(DataError, match=rf"{name}.jsonl is damaged .*; delete it to make"):
        run_in(llama, tmp_path, tasks_for(llama)[:2])
