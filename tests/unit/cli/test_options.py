"""What the shared options make of what is typed."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from personavec import LoadedModel, load_trait, load_vector
from personavec.cli import options
from personavec.cli.main import main
from personavec.errors import UsageError
from personavec.vectors import check_layer


def test_values_that_are_json_are_read_as_json_and_others_as_text() -> None:
    given = [
        *("device_map=auto", "low_cpu_mem_usage=true", "a=3", "b=x=y", "c="),
        'quantization_config={"load_in_4bit": true}',
    ]
    assert options.key_values(given, "--model-arg") == {
        **{"device_map": "auto", "low_cpu_mem_usage": True, "a": 3, "b": "x=y", "c": ""},
        "quantization_config": {"load_in_4bit": True},
    }
    assert options.key_values(None, "--model-arg") == {}


@pytest.mark.parametrize(
    ("given", "named"),
    [
        (["device_map"], "--model-arg device_map: give KEY=VALUE"),
        (["=auto"], "--model-arg =auto: give KEY=VALUE"),
        (["a=1", "a=2"], "--model-arg a is given twice"),
    ],
)
def test_what_is_no_key_and_value_is_bad_usage(given: list[str], named: str) -> None:
    with pytest.raises(UsageError, match=named):
        options.key_values(given, "--model-arg")


API = ["--judge", "api", "--api-model", "parrot", "--api-base", "http://127.0.0.1:9/v1"]
PRICES = ["--api-price", "1000000,10"]


# An evil spec has 5 pairs with two sides, 20 questions in each half, and two rubrics an answer.
@pytest.mark.parametrize(
    ("arguments", "calls"),
    [
        (["extract", "--trait", "evil", *API], 5 * 2 * 20 * 2),
        (["extract", "--trait", "evil", "--samples", "3", *API], 3 * 5 * 2 * 20 * 2),
        (["evaluate", "--trait", "evil", "--trait", "humorous", "--questions", "4", *API], 16),
        (["evaluate", "--trait", "evil", "--questions", "4", "--compare-to", "x", *API], 16),
        (["author", "formal", "--description", "Is stiff.", "--rounds", "1", *API[2:]], 2),
    ],
)
def test_a_dry_run_counts_calls_and_loads_and_asks_nothing(
    capsys: pytest.CaptureFixture[str], arguments: list[str], calls: int
) -> None:
    # There is no such model, and nobody answers at that address.
    with pytest.raises(SystemExit) as ended:
        main([*arguments, "--model", "no/such", "--dry-run", *PRICES, "--json"])
    assert ended.value.code == 0
    found = json.loads(capsys.readouterr().out)["dry_run"]
    assert (found["calls"], found["cached"]) == (calls, 0)
    assert found["cost"] == pytest.approx(found["prompt_tokens"] + found["answer_tokens"] / 1e5)
    assert found["prompt_tokens"] > 100 * calls


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["extract", "--trait", "evil"], "--judge contrast calls no endpoint"),
        (["evaluate", "--trait", "evil"], "--judge contrast calls no endpoint"),
        (["extract", "--trait", "evil", "--rollouts", "x.jsonl", *API], "leave --rollouts out"),
        (["author", "formal", "--description", "Is stiff.", *API[2:], "--api-price", "1"], "two"),
    ],
)
def test_a_dry_run_that_cannot_count_is_bad_usage(
    capsys: pytest.CaptureFixture[str], arguments: list[str], said: str
) -> None:
    with pytest.raises(SystemExit) as ended:
        main([*arguments, "--dry-run"])
    assert ended.value.code == 2
    assert said in capsys.readouterr().err


def test_layers_and_positions_are_read_alike_by_all_commands() -> None:
    assert [options.layers(text) for text in (None, "all", "12")] == [None, "all", 12]
    for wrong in ("some", "1.5", ""):
        with pytest.raises(UsageError, match="number, or 'all'"):
            options.layers(wrong)
    with pytest.raises(UsageError, match="layers 1 to 30"):
        check_layer(options.layers("-1"), [load_vector("evil")])
    assert options.positions_of_training("all") == "all"
    with pytest.raises(UsageError, match="response or all"):
        options.positions_of_training("prompt")


def test_specs_are_bundled_or_given(tmp_path: Path, llama: LoadedModel, random_vector: Any) -> None:
    evil, own = (replace(random_vector(llama, layer=2), trait=t) for t in ("evil", "formal"))
    with pytest.raises(UsageError, match="'formal' is not bundled: give its spec file"):
        options.specs_of([evil, own], None)
    path = tmp_path / "formal.json"
    path.write_text(load_trait("evil")[0].model_copy(update={"name": "formal"}).model_dump_json())
    assert [spec.name for spec in options.specs_of([evil, own], [str(path)])] == ["evil", "formal"]
