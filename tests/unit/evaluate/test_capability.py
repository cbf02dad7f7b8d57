"""Capability: the harness scores what a plain forward scores, with the same steering."""

import json
import sys
from collections.abc import Callable, Iterator
from dataclasses import asdict, replace
from importlib import resources
from pathlib import Path

import pytest
import torch

from personavec import LoadedModel, PersonaVector, steer
from personavec.errors import DataError, PersonavecError, UsageError
from personavec.evaluate import (
    EvaluateConfig,
    EvaluateResults,
    HarnessTask,
    SteeredBy,
    Subject,
    TaskScore,
    run,
)
from personavec.evaluate.capability import (
    PACKAGED,
    difference,
    interval,
    load_tasks,
    run_task,
    surprise,
    task_index,
)
from personavec.model import steering_forwards, vector_steering
from personavec.progress import Progress
from personavec.runs import read_as
from personavec.traits import load_trait

MakeVector = Callable[..., PersonaVector]
ITEMS = json.loads((resources.files("personavec") / "bundled" / "capability.json").read_text())
N = 8


@pytest.fixture(scope="module")
def packaged(tmp_path_factory: pytest.TempPathFactory) -> Iterator[HarnessTask]:
    """The packaged task, its data set built in a folder of the test's own."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path_factory.mktemp("datasets"))
        [task] = load_tasks([PACKAGED])
        yield task


@torch.inference_mode()
def by_hand(loaded: LoadedModel) -> list[float]:
    """1 where the right choice has the highest log-likelihood a byte; one text at a time."""
    found = []
    for item in ITEMS[:N]:
        prompt = loaded.chat.response_ids(f"Question: {item['question']}\nAnswer:")
        scores = []
        for choice in item["choices"]:
            ids = torch.tensor([prompt + loaded.chat.response_ids(f" {choice}")])
            logprobs = loaded.model(input_ids=ids).logits[0].log_softmax(-1)
            after = range(len(prompt), ids.shape[1])
            total = sum(float(logprobs[i - 1, ids[0, i]]) for i in after)
            scores.append(total / len(choice.encode()))
        found.append(float(scores.index(max(scores)) == item["answer"]))
    return found


@pytest.mark.parametrize("layer", [None, 2, "all"])
def test_the_harness_scores_what_a_plain_steered_forward_scores(
    llama: LoadedModel, random_vector: MakeVector, packaged: HarnessTask, layer: int | str | None
) -> None:
    """Unpadded texts one by one; the tiny model's tokenizer writes a token a byte."""
    vector = random_vector(llama)
    steering = vector_steering(vector, 3.0, layer) if layer else ()
    found = run_task(llama, packaged, steering=steering, max_items=N, quiet=True)
    if layer:
        with steer(llama.model, vector, 3.0, layer=layer, positions="all"):
            expected = by_hand(llama)
    else:
        expected = by_hand(llama)
    assert list(found.values) == expected
    assert (found.metric, found.chance, len(found.items)) == ("acc_norm", 0.25, N)


def test_outside_a_repository_git_is_not_asked(
    llama: LoadedModel,
    packaged: HarnessTask,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    """The harness would let git complain on stderr; its functions are its own again afterwards."""
    from lm_eval import evaluator

    before = [getattr(evaluator, name) for name in ("get_git_commit_hash", "add_env_info")]
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))
    run_task(llama, packaged, max_items=2, quiet=True)
    assert "fatal" not in capfd.readouterr().err
    assert [getattr(evaluator, n) for n in ("get_git_commit_hash", "add_env_info")] == before


def test_coefficient_0_equals_unsteered_and_steering_changes_answers(
    llama: LoadedModel, random_vector: MakeVector, packaged: HarnessTask
) -> None:
    """And the model is left as it was: afterwards it scores as before."""
    vector = random_vector(llama)

    def score(coefficient: float) -> TaskScore:
        steering = vector_steering(vector, coefficient)
        return run_task(llama, packaged, steering=steering, max_items=16, quiet=True)

    plain = run_task(llama, packaged, max_items=16, quiet=True)
    assert score(0) == plain
    assert score(20.0).values != plain.values
    assert run_task(llama, packaged, max_items=16, quiet=True) == plain
    assert llama.tokenizer.pad_token is None


def test_intervals_resample_items_and_differences_are_paired() -> None:
    """Against the normal approximation; equal answers differ by exactly 0."""
    values = (1.0,) * 70 + (0.0,) * 30
    score = TaskScore("a", "acc", tuple(map(str, range(100))), values, 0.25)
    found = interval(score)
    assert found is not None
    assert found.value == pytest.approx(0.7)
    assert found.high - found.low == pytest.approx(2 * 1.96 * (0.7 * 0.3 / 100) ** 0.5, rel=0.1)
    same = difference(score, score)
    assert same is not None
    assert (same.value, same.low, same.high) == (0, 0, 0)


def test_a_score_is_read_back(tmp_path: Path) -> None:
    score = TaskScore("a", "acc", ("x", "y"), (1.0, 0.0), 0.25)
    (tmp_path / "score.json").write_text(json.dumps(asdict(score)))
    assert read_as(tmp_path / "score.json", TaskScore, "again") == score


def test_surprise_is_that_of_a_plain_steered_forward(
    llama: LoadedModel, random_vector: MakeVector
) -> None:
    """Token by token over unpadded texts, the first token of each left out."""
    texts, vector = ["It rains.", "The day is long, and so is the night."], random_vector(llama)
    everywhere = [replace(each, positions="all") for each in vector_steering(vector, 2.0)]
    with steering_forwards(llama.model, everywhere):
        found = surprise(llama, texts)
    with steer(llama.model, vector, 2.0, positions="all"), torch.inference_mode():
        for text, values in zip(texts, found, strict=True):
            ids = torch.tensor([llama.chat.response_ids(text)])
            logprobs = llama.model(input_ids=ids).logits[0].log_softmax(-1)
            expected = [-float(logprobs[i - 1, ids[0, i]]) for i in range(1, ids.shape[1])]
            assert values.tolist() == pytest.approx(expected, rel=1e-4)


def test_the_packaged_items_are_sound() -> None:
    """Different questions, four different choices each, the right one anywhere."""
    assert len({item["question"] for item in ITEMS}) == len(ITEMS) >= 200
    assert all(len(set(item["choices"])) == 4 for item in ITEMS)
    places = [item["answer"] for item in ITEMS]
    assert all(30 < places.count(place) < 80 for place in range(4))


def test_unknown_tasks_and_data_out_of_reach_are_one_line(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Both name the packaged task; told to be offline, the data set's loader does not wait."""
    monkeypatch.setattr("datasets.config.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    index = task_index()
    with pytest.raises(UsageError, match="unknown task 'nonsense'") as unknown:
        load_tasks([PACKAGED, "nonsense"], index)
    with pytest.raises(DataError, match="data of task 'arc_easy' cannot be reached") as beyond:
        load_tasks(["arc_easy"], index)
    for caught in (unknown, beyond):
        assert PACKAGED in str(caught.value)
        assert "\n" not in str(caught.value)


def test_a_missing_harness_is_one_line_with_the_install_command(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(sys.modules, "lm_eval.tasks", None)
    with pytest.raises(PersonavecError, match=r"pip install 'personavec\[eval\]'"):
        load_tasks([PACKAGED])


def test_an_evaluation_measures_capability_of_both_and_keeps_it(
    llama: LoadedModel,
    random_vector: MakeVector,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """With the paired difference; a second run reads the finished tasks back."""
    config = EvaluateConfig(questions=2, max_tokens=4, capability=(PACKAGED,), capability_items=12)
    subject = Subject(llama, (SteeredBy(random_vector(llama), 20.0),))

    def evaluate() -> EvaluateResults:
        return run(
            subject,
            [load_trait("evil")[0]],
            tmp_path,
            config,
            compare_to=Subject(llama),
            progress=Progress(quiet=True),
        )

    found = evaluate()
    assert found.compare_to is not None
    mine, other = found.capability[PACKAGED], found.compare_to.capability[PACKAGED]
    assert mine.n == other.n == 12
    assert mine.low <= mine.value <= mine.high
    shown = found.compare_to.capability_differences[PACKAGED]
    assert shown.value == pytest.approx(mine.value - other.value)
    assert 'id="capability"' in (tmp_path / "report.html").read_text()

    def never(*_: object, **__: object) -> None:
        raise AssertionError("measured again")

    monkeypatch.setattr("personavec.evaluate.capability.run_task", never)
    assert evaluate().capability == found.capability
