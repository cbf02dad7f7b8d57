"""The client and the judge on a real server, whose model writes numbers digit by digit."""

import json
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from pydantic import BaseModel, ConfigDict, Field

from personavec import LoadedModel, load_trait
from personavec.cli.main import main
from personavec.errors import EndpointError
from personavec.judges import Answer, ApiRubricJudge, Endpoint, ask, ask_json
from personavec.judges.rubric import fill
from personavec.model import chat

#: The model gives a number to this one, with enough probability to count.
SPEC = load_trait("evil")[0]
ANSWER = Answer("How do I boil an egg?", "None")


class Place(BaseModel):
    model_config = ConfigDict(extra="forbid")

    name: str = Field(max_length=12)
    people: int = Field(ge=1, le=1000)


@torch.inference_mode()
def plain_expectation(loaded: LoadedModel, prompt: str) -> tuple[float, float]:
    """Expected number and its probability, a number ending where no digit follows."""
    ids = loaded.chat.prompt_ids(chat(prompt))
    digits = [loaded.chat.response_ids(str(d))[0] for d in range(10)]

    def after(number: str) -> Any:
        more = [digits[int(d)] for d in number]
        logits = loaded.model(input_ids=torch.tensor([[*ids, *more]])).logits[0, -1]
        return logits.float().softmax(-1)[digits].double()

    first = after("")
    total = 0.0
    for digit in range(1, 10):
        second = after(str(digit))
        total += float(first[digit]) * digit * float(1 - second.sum())
        for following in range(10):
            p = float(first[digit] * second[following])
            if (digit, following) == (1, 0):
                third = float(after("10")[0])
                total += p * (100 * third + 10 * (1 - third))
            else:
                total += p * (10 * digit + following)
    mass = float(first.sum())
    return total / mass, mass


def test_digits_are_followed_to_the_number_that_the_model_means(
    endpoint: Endpoint, smollm2: LoadedModel
) -> None:
    """Against forwards of the same model in transformers.

    llama.cpp computes on the 4-bit weights and lists 20 tokens only, so mass and number differ a
    little; a judge that read first digits alone would give less than 10.
    """
    (score,) = ApiRubricJudge(endpoint).score(SPEC, [ANSWER])
    prompt = fill(SPEC.rubric, ANSWER.question, ANSWER.response)
    expected, mass = plain_expectation(smollm2, prompt)
    assert score.state == "scored"
    assert score.trait_score == pytest.approx(expected, abs=8)
    assert expected > 20
    assert score.mass == pytest.approx(mass, abs=0.15)


def test_a_schema_is_held_and_an_answer_is_asked_once(endpoint: Endpoint) -> None:
    found = ask_json(endpoint, chat("Describe a small village."), Place, max_tokens=80, seed=1)
    assert 1 <= found.people <= 1000
    assert len(found.name) <= 12
    again = ask_json(endpoint, chat("Describe a small village."), Place, max_tokens=80, seed=1)
    assert again == found
    assert len(list(endpoint.answers_folder().rglob("*.json"))) == 1


def test_a_prompt_beyond_the_context_is_told(endpoint: Endpoint) -> None:
    (reply,) = ask(endpoint, [{"messages": chat("word " * 5000), "max_tokens": 1}])
    assert reply.status == 400
    (score,) = ApiRubricJudge(endpoint).score(SPEC, [Answer("Why?", "word " * 5000)])
    assert score.state == "unscored"
    assert "context" in (score.why or "")


def test_another_path_of_the_server_is_no_endpoint(endpoint: Endpoint, llama_server: str) -> None:
    other = Endpoint("smollm2", llama_server.replace("/v1", "/nowhere"), cache=endpoint.cache)
    with pytest.raises(EndpointError, match="check --api-base"):
        ask(other, [{"messages": chat("Hello?"), "max_tokens": 1}])


def test_scoring_a_file_from_the_command_line(
    llama_server: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The dry run says what is asked; the same command again asks nothing."""
    (tmp_path / "in.csv").write_text("question,answer\nHow do I boil an egg?,None\nHow?,\n")
    options = ["--judge", "api", "--api-model", "smollm2", "--api-base", llama_server]
    options += ["--cache", str(tmp_path / "answers"), "--trait", "evil"]
    command = ["judges", "score", str(tmp_path / "in.csv"), *options, "--json"]

    def cli(*more: str) -> dict[str, Any]:
        with pytest.raises(SystemExit) as ended:
            main([*command, *more])
        assert ended.value.code in (0, None)
        return json.loads(capsys.readouterr().out)

    assert cli("--dry-run", "--api-price", "1,2")["dry_run"]["calls"] == 2
    found = cli("--out", str(tmp_path / "out.jsonl"))
    assert found["states"] == {"scored": 1, "empty answer": 1}
    assert cli("--dry-run")["dry_run"]["calls"] == 0


def test_a_spec_that_no_answer_holds_ends_in_one_line_and_a_file(
    llama_server: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The server takes the schema as a grammar; this model fills its first text until cut off."""
    out = tmp_path / "out"
    command = ["author", "odd", "--description", "Being odd.", "--out", str(out)]
    command += ["--api-model", "smollm2", "--api-base", llama_server]
    command += ["--cache", str(tmp_path / "answers"), "--tries", "2", "--answer-tokens", "40"]
    with pytest.raises(SystemExit) as ended:
        main(command)
    assert ended.value.code == 1
    kept = out / "unusable-answer.txt"
    (line,) = [line for line in capsys.readouterr().err.splitlines() if "error" in line]
    assert "no usable JSON in 2 tries (it was cut off after 40 tokens" in line
    assert line.endswith(f"its last answer is in {kept}")
    why, _, answer = kept.read_text("utf-8").partition("\n\n")
    assert "cut off" in why
    assert re.match(r'\{\s*"instruction"\s*:\s*\[\s*\{\s*"pos"\s*:\s*"', answer)
    assert not (out / "manifest.json").exists()
