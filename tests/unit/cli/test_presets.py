"""`--preset`: the sizes that it stands for, and what goes before it."""

from __future__ import annotations

from dataclasses import MISSING, asdict, fields
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from personavec.cli import app
from personavec.errors import SettingsMismatchError, UsageError
from personavec.evaluate import config as evaluate
from personavec.evaluate.answers import questions_of
from personavec.extract import config as extract
from personavec.extract.pipeline import questions_to_judge, split_questions, used_part
from personavec.monitor import config as monitor
from personavec.presets import BySize, choose_sizes
from personavec.runs import claim
from personavec.traits import bundled_traits, load_trait

CONFIGS = {
    "extract": (extract.ExtractConfig, extract.SIZES),
    "evaluate": (evaluate.EvaluateConfig, evaluate.SIZES),
    "calibrate": (monitor.CalibrateConfig, monitor.SIZES),
}
TRAIT = {"extract": ("--trait", "evil"), "evaluate": ("--trait", "evil"), "calibrate": ()}


def config_of(command: str, *arguments: str) -> Any:
    """The config that a command line makes."""
    words = [command, *TRAIT[command], *arguments]
    _, bound, _ = app.build(words).parse_args(words, exit_on_error=False, print_error=False)
    found = {type(value): value for value in bound.arguments.values()}
    return found.get(kind := CONFIGS[command][0]) or kind()


@pytest.mark.parametrize("command", CONFIGS)
@pytest.mark.parametrize("preset", ["quick", "standard", "thorough"])
def test_a_preset_means_the_same_on_the_command_line_and_in_python(
    command: str, preset: Any
) -> None:
    kind, sizes = CONFIGS[command]
    found = config_of(command, "--preset", preset)
    assert found == kind(preset=preset)
    for name, rows in sizes.items():
        expected = rows.of(preset)
        assert getattr(found, name) == expected
    assert not any(isinstance(getattr(found, field.name), BySize) for field in fields(kind))


@pytest.mark.parametrize("command", CONFIGS)
def test_a_table_holds_all_fields_that_a_preset_sets(command: str) -> None:
    kind, sizes = CONFIGS[command]
    for field in fields(kind):
        if field.name in sizes:
            assert field.default is sizes[field.name]
        else:
            assert field.default is MISSING or not isinstance(field.default, BySize)
    assert sizes.keys() <= {field.name for field in fields(kind)}
    assert config_of(command) == kind() == kind(preset="standard")


def test_what_is_given_goes_before_the_preset(tmp_path: Path) -> None:
    """The file that --config names does, and the command line before both."""
    file = tmp_path / "options.toml"
    file.write_text('preset = "quick"\nsamples = 3\npairs = 2\n', encoding="utf-8")
    found = config_of("extract", "--config", str(file), "--pairs", "4")
    assert (found.preset, found.samples, found.pairs) == ("quick", 3, 4)
    assert found.questions == extract.SIZES["questions"].of("quick")
    assert config_of("extract", "--preset", "thorough", "--config", str(file)).preset == "thorough"


def test_a_preset_that_there_is_not() -> None:
    with pytest.raises(UsageError, match="preset 'fast': use quick, standard, thorough"):
        choose_sizes(SimpleNamespace(preset="fast"))
    with pytest.raises(UsageError, match="--preset fast: use quick, standard or thorough"):
        app.run(["extract", "--trait", "evil", "--preset", "fast"])


def test_another_preset_does_not_continue_a_run(tmp_path: Path) -> None:
    claim(tmp_path, {"config": asdict(extract.ExtractConfig(preset="quick"))})
    with pytest.raises(SettingsMismatchError, match='preset was "quick", now "standard"'):
        claim(tmp_path, {"config": asdict(extract.ExtractConfig())})
    claim(tmp_path, {"config": asdict(extract.ExtractConfig(preset="quick"))})


def test_quick_passes_no_easier() -> None:
    """As many random directions as `standard`, ten questions, and doses that `standard` has."""
    quick, standard = extract.ExtractConfig(preset="quick"), extract.ExtractConfig()
    assert quick.random_directions == standard.random_directions == 5
    assert {*quick.coefficients} < {*standard.coefficients}
    sides = [
        sorted(map(abs, filter(lambda c: c * sign > 0, quick.coefficients))) for sign in (1, -1)
    ]
    assert sides[0] == sides[1]
    assert {1, -1} < {*quick.coefficients}, "the doses next to 0 are those of `standard`"
    for name in bundled_traits():
        spec = load_trait(name)[0]
        selecting, testing = split_questions(spec, quick)
        _, all_that_test = split_questions(spec, standard)
        assert len(testing) >= 10
        assert {*testing} <= {*all_that_test}
        assert not {*selecting} & {*testing}
        assert len(questions_of(spec, evaluate.EvaluateConfig(preset="quick"))) >= 6


def test_the_part_of_a_spec_that_quick_uses() -> None:
    spec = load_trait("evil")[0]
    quick = extract.ExtractConfig(preset="quick")
    used = used_part(spec, quick)
    assert used.instruction == spec.instruction[:3]
    assert used.judge_instruction == spec.judge_instruction[:2]
    assert used.questions.extraction == spec.questions.extraction
    assert len(used.questions.evaluation) == 8 + 10
    assert len(questions_to_judge(spec, quick)) == 2 * 3 * 20
    assert used_part(spec, extract.ExtractConfig()) == spec


def test_fewer_questions_than_a_preset_asks_for_are_all_asked() -> None:
    spec = load_trait("evil")[0]
    few = spec.at_most(evaluation=spec.questions.evaluation[:4])
    asked = questions_of(few, evaluate.EvaluateConfig(preset="quick"))
    assert asked == few.questions.evaluation
    with pytest.raises(UsageError, match="5 questions: trait 'evil' has 4"):
        questions_of(few, evaluate.EvaluateConfig(questions=5))
