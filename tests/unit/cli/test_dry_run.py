"""Dry runs: what would be asked of an endpoint is counted, and nothing is loaded or asked."""

import json

import pytest

from personavec.cli.main import main

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
