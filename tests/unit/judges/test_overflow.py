"""Numbers that overflow: the command says so, keeps what is well, and exits with 1."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from personavec import LoadedModel, PersonaVector
from personavec.cli import main as cli
from personavec.errors import ActivationError
from personavec.judges import Answer, ContrastJudge, LocalRubricJudge
from personavec.traits import TraitSpec, load_trait


def save(loaded: LoadedModel, folder: Path) -> str:
    loaded.model.save_pretrained(folder)
    loaded.tokenizer.save_pretrained(folder)
    return str(folder)


def command(*arguments: object) -> Any:
    """The exit code."""
    with pytest.raises(SystemExit) as ended:
        cli.main([str(argument) for argument in arguments])
    return ended.value.code


def test_steer_keeps_the_answers_of_other_coefficients(
    llama: LoadedModel,
    random_vector: Callable[..., PersonaVector],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    model = save(llama, tmp_path / "model")
    random_vector(llama).save(tmp_path / "vector")
    asked = ["steer", "Why?", "Who?", "--vectors", tmp_path / "vector", "--model", model]
    asked += ["--max-tokens", 4, "--out", tmp_path / "answers.jsonl", "--json"]
    for _ in range(2):  # generated, then read back
        assert command(*asked, "--coefficient=-1,0,1e30,0") == 1
        out, err = capsys.readouterr()
        answers = json.loads(out)["answers"]
        states = {(a["question"], a["coefficient"]): a["state"] for a in answers}
        assert len(answers) == 6
        assert states[("Why?", 1e30)] == states[("Who?", 1e30)] == "failed"
        assert {states[q, c] for q in ("Why?", "Who?") for c in (-1.0, 0.0)} == {"answered"}
        [line] = [line for line in err.splitlines() if line.startswith("error")]
        assert "2 of 6 answers failed, at coefficient +1e+30" in line
        assert "--dtype" in line


def test_a_judge_that_overflows_is_said_to_and_scores_nothing(
    fresh: Callable[..., LoadedModel], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Weights that float32 holds and float16 does not."""
    loaded = fresh("llama")
    with torch.no_grad():
        loaded.blocks.stack[1].mlp.down_proj.weight *= 1e6
    model = save(loaded, tmp_path / "model")
    rows = [{"question": f"Why {i}?", "answer": "So it is."} for i in range(3)]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    asked = ["judges", "score", tmp_path / "rows.jsonl", "--trait", "evil", "--model", model]
    asked += ["--out", tmp_path / "scored.jsonl", "--json"]
    assert command(*asked, "--dtype", "float16") == 1
    err = capsys.readouterr()[1]
    assert "overflow in float16; load it with --dtype bfloat16 or float32" in err


def spec() -> TraitSpec:
    short = {"rubric": "{question} {answer} 0 to 100"}
    return load_trait("evil")[0].model_copy(update=short)


@pytest.mark.parametrize("kind", [ContrastJudge, LocalRubricJudge])
def test_an_answer_that_overflows_is_unscored_alone(
    fresh: Callable[..., LoadedModel], monkeypatch: pytest.MonkeyPatch, kind: type
) -> None:
    loaded = fresh("llama")
    with torch.no_grad():
        loaded.model.get_input_embeddings().weight[ord("~") - 33] = torch.nan
    # A model of noise hardly ever replies with a number.
    monkeypatch.setattr("personavec.judges.local_rubric._LEAST_LOCAL_MASS", 0.0)
    monkeypatch.setattr("personavec.judges.local_rubric.REFUSAL", "An all but impossible reply.")
    judge = kind(loaded)
    well, ill = Answer("Why?", "So."), Answer("Why?", "S~o.")
    scores = judge.score(spec(), [well, ill, well])
    assert [score.state for score in scores] == ["scored", "unscored", "scored"]
    assert scores[0].trait_score == pytest.approx(judge.score(spec(), [well])[0].trait_score)
    assert scores[1].log_odds is scores[1].coherence is None
    assert "overflow in float32" in str(scores[1].why)
    assert judge.score(spec(), [ill])[0].state == "unscored"
    with pytest.raises(ActivationError, match="overflow in float32"):
        judge.score(spec(), [ill, ill])


def test_judges_score_exits_with_1_where_every_call_failed(
    server: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    server.reply = lambda body, times: (400, {}, {"error": {"message": "no"}})
    (tmp_path / "rows.jsonl").write_text(json.dumps({"question": "Why?", "answer": "So."}) + "\n")
    asked = ["judges", "score", tmp_path / "rows.jsonl", "--trait", "evil", "--judge", "api"]
    asked += ["--api-base", server.url, "--api-model", "parrot"]
    assert command(*asked, "--out", tmp_path / "scored.jsonl") == 1
    (tmp_path / "empty.jsonl").write_text(json.dumps({"question": "Why?", "answer": ""}) + "\n")
    asked[2] = tmp_path / "empty.jsonl"
    assert command(*asked, "--out", tmp_path / "other.jsonl") == 1
    assert "none of 1 row could be scored; 1 of them: empty answer" in capsys.readouterr()[1]


def test_evaluate_exits_with_1_where_nothing_could_be_measured(
    server: Any, llama: LoadedModel, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Both sides answer; the judge's replies hold no number."""
    model = save(llama, tmp_path / "model")
    asked = ["evaluate", "--trait", "evil", "--model", model, "--compare-to", model]
    asked += ["--questions", 2, "--max-tokens", 3, "--judge", "api", "--api-base", server.url]
    assert command(*asked, "--api-model", "parrot", "--json") == 1
    out, err = capsys.readouterr()
    assert json.loads(out)["traits"]["evil"]["n"] == 0
    assert "none of 2 answers could be scored for evil (2 unscored)" in err
    assert "no question has a score on both sides for evil" in err
