"""What a replication would take: the budget of `small`, and what a dry run prints."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from small_study import write_chats, write_dialogues

from personavec.cli.main import main
from personavec.errors import UsageError
from personavec.presets import choose_sizes
from personavec.studies.replicate import Inputs, Rate, ReplicateConfig, ReplicateInputs, Sources
from personavec.studies.replicate.dry_run import planned
from personavec.studies.replicate.stages import STAGES
from personavec.studies.replicate.stages.extraction import extract_config
from personavec.studies.replicate.study import read_inputs
from personavec.studies.replicate.work import (
    JUDGE_PROMPT,
    TRAINING,
    Work,
    answered,
    judged,
    trained,
)

#: Token-forwards of a 135M model.
BUDGET = 7_000_000


@pytest.fixture
def data(tmp_path: Path) -> ReplicateInputs:
    """All three sources are given; plans count on the most that is read of them."""
    maths = tmp_path / "maths.jsonl"
    maths.write_text("{}\n")
    return ReplicateInputs(
        maths=str(maths),
        chats=str(write_chats(tmp_path / "chats.jsonl")),
        dialogues=str(write_dialogues(tmp_path / "dialogues.jsonl")),
    )


def forwards(config: ReplicateConfig, data: ReplicateInputs) -> int:
    given = read_inputs(config, data)
    return planned(STAGES, given, Rate(generated=1.0, read=1.0), None).forwards


def test_small_keeps_its_budget(data: ReplicateInputs) -> None:
    """And spends it: what is left would make intervals narrower."""
    assert 0.9 * BUDGET < forwards(ReplicateConfig(), data) <= BUDGET


def test_medium_has_about_five_times_as_much(data: ReplicateInputs) -> None:
    assert 4 * BUDGET < forwards(ReplicateConfig(scale="medium"), data) <= 6 * BUDGET


def test_paper_has_the_sizes_of_the_paper(data: ReplicateInputs) -> None:
    config = ReplicateConfig(scale="paper")
    assert (config.rollouts, config.real_rows, config.rank) == (10, 500, 32)
    assert forwards(config, data) > 100 * BUDGET


def test_more_answers_at_each_dose_cost_more_and_are_the_presets_where_none_are_given(
    data: ReplicateInputs,
) -> None:
    assert forwards(ReplicateConfig(dose_answers=3), data) > 1.1 * forwards(ReplicateConfig(), data)
    for preset, usual in (("quick", 1), ("standard", 2)):
        config = ReplicateConfig(extraction_preset=preset)
        assert extract_config(config).validation_samples == usual
    assert extract_config(ReplicateConfig(dose_answers=3)).validation_samples == 3


def test_what_is_given_goes_before_the_scale() -> None:
    config = ReplicateConfig(scale="paper", set_rows=7)
    assert (config.set_rows, config.real_rows) == (7, 500)
    with pytest.raises(UsageError, match="scale 'huge': use small, medium, paper"):
        choose_sizes(SimpleNamespace(scale="huge"), "scale")
    config = ReplicateConfig(traits=("evil", "humorous"))
    assert config.elicited == config.mitigated == ("evil",)
    assert ReplicateConfig(traits=("humorous",)).real_traits == ("humorous",)
    with pytest.raises(UsageError, match="--mitigation magic"):
        ReplicateConfig(arms=("magic",))
    with pytest.raises(UsageError, match="brave, which is not among the traits"):
        ReplicateConfig(mitigated=("brave",))


def test_tokens_are_counted_by_what_reads_them() -> None:
    assert answered(3, 10, prompt=5) == Work(generated=30, read=15)
    # Both sides of two pairs, the answer's own prompt, and the answer alone.
    assert judged(1, 10, 2).read == 6 * (10 + JUDGE_PROMPT)
    assert judged(3, 10, 2, own=2).read == (3 * 6 - 2) * (10 + JUDGE_PROMPT)
    assert judged(1, 64, 1) == judged(1, 600, 1)
    assert trained(10, 70, 1.5).forwards == TRAINING * 1500
    assert (Work(1, 2, 3) + Work(4, 5, 6)) * 2 == Work(10, 14, 18)


def test_time_and_bill_follow_the_rate(data: ReplicateInputs) -> None:
    given = read_inputs(ReplicateConfig(), data)
    plan = planned(STAGES, given, Rate(generated=100.0, read=1000.0), 3.0)
    generated = sum(own.generated for own in plan.stages)
    rest = sum(own.read + TRAINING * own.trained for own in plan.stages)
    assert plan.seconds == pytest.approx(generated / 100 + rest / 1000)
    assert plan.price == pytest.approx(3 * plan.seconds / 3600)


def test_data_that_are_not_given_are_not_planned_for() -> None:
    given = Inputs(ReplicateConfig(), read_inputs(ReplicateConfig(), ReplicateInputs()).specs)
    plan = planned(STAGES, given, Rate(generated=1.0, read=1.0), None)
    real = next(own for own in plan.stages if own.name == "real")
    assert (real.forwards, real.seconds) == (0, 0.0)
    assert "--chats" in str(real.why_not)
    assert Sources().identity("chats") is None


def printed(capsys: pytest.CaptureFixture[str], *arguments: str) -> dict[str, Any]:
    with pytest.raises(SystemExit) as ended:
        main(["replicate", "--dry-run", "--json", *arguments])
    assert not ended.value.code
    return json.loads(capsys.readouterr().out)


def test_a_dry_run_loads_no_model_where_a_rate_is_given(
    capsys: pytest.CaptureFixture[str],
) -> None:
    found = printed(
        capsys,
        *("--model", "no/such-model", "--scale", "paper", "--rate", "20000"),
        *("--price-per-hour", "2", "--only", "rows", "--skip", "sets"),
    )
    assert [own["name"] for own in found["stages"]] == ["extraction", "rows"]
    assert found["rate"] == {"generated": 20000.0, "read": 20000.0}
    assert found["price"] > 0


def test_sizes_come_from_a_file(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    file = tmp_path / "sizes.toml"
    file.write_text('scale = "paper"\nset_rows = 4\nelicited = ["evil"]\n', encoding="utf-8")
    cut = printed(capsys, "--rate", "1", "--only", "finetunes", "--config", str(file))
    whole = printed(capsys, "--rate", "1", "--only", "finetunes", "--scale", "paper")
    assert cut["scale"] == "paper"
    assert 0 < cut["forwards"] < whole["forwards"] / 100


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--only", "everything"], "--only everything: use naturals"),
        (["--rate", "3"], "are for --dry-run"),
    ],
)
def test_what_makes_no_sense_is_refused(
    arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["replicate", *arguments])
    assert ended.value.code == 2
    assert message in capsys.readouterr().err
