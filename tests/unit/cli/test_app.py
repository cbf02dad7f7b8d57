"""Options from a file: `--config FILE`."""

from pathlib import Path
from typing import Any

import pytest

from personavec.cli import app
from personavec.cli.main import main
from personavec.errors import UsageError

TOML = """
trait = "evil"
samples = 3
coefficients = [-2, 0, 2]
include-thinking = true
judge = "rubric"
"""
YAML = """
trait: evil
samples: 3
coefficients: [-2, 0, 2]
include-thinking: true
judge: rubric
"""


def parsed(*arguments: str) -> dict[str, Any]:
    """The configs that `extract` is called with, by the name of their class."""
    words = ["extract", *arguments]
    _, bound, _ = app.build(words).parse_args(words, exit_on_error=False, print_error=False)
    return {type(value).__name__: value for value in bound.arguments.values()}


def refused(folder: Path, text: str, name: str = "options.toml") -> str:
    (folder / name).write_text(text, encoding="utf-8")
    with pytest.raises(UsageError) as caught:
        app.run(["extract", "--config", str(folder / name)])
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize(("name", "text"), [("a.toml", TOML), ("a.yaml", YAML), ("a.yml", YAML)])
def test_a_file_gives_options(tmp_path: Path, name: str, text: str) -> None:
    (tmp_path / name).write_text(text, encoding="utf-8")
    found = parsed("--config", str(tmp_path / name))
    assert found["TraitOptions"].trait == "evil"
    assert found["JudgeOptions"].judge == "rubric"
    config = found["ExtractConfig"]
    assert (config.samples, config.include_thinking) == (3, True)
    assert config.coefficients == (-2, 0, 2)


def test_the_command_line_goes_before_the_file(tmp_path: Path) -> None:
    (tmp_path / "a.toml").write_text(TOML, encoding="utf-8")
    found = parsed("--samples", "5", "--config", str(tmp_path / "a.toml"))
    assert found["ExtractConfig"].samples == 5
    assert found["TraitOptions"].trait == "evil"


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ('trait = "evil"\nsample = 3\n', "unknown option sample. Did you mean --samples?"),
        ('trait = "evil"\nsamples = 1.5\n', "give a whole number"),
        ('trait = "evil"\nsamples = "many"\n', "give a number"),
        ('trait = "evil"\njudge = "mine"\n', "contrast, rubric or api"),
        ('trait = "nowhere"\ndebug = true\n', "give --debug on the command line"),
        ("trait = \n", "options.toml"),
        ("samples = 3\n", "--trait is missing"),
    ],
)
def test_what_is_wrong_in_a_file_is_named(tmp_path: Path, text: str, why: str) -> None:
    assert why in refused(tmp_path, text)


def test_a_file_is_toml_or_yaml(tmp_path: Path) -> None:
    assert "give a .toml or a .yaml file" in refused(tmp_path, "{}", "options.json")
    with pytest.raises(UsageError, match="does not exist"):
        app.run(["extract", "--config", str(tmp_path / "missing.toml")])


@pytest.mark.parametrize("command", app.COMMANDS)
def test_an_option_that_may_be_repeated_says_what_it_takes(
    command: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        main([*command.split(), "--help"])
    assert "STR..." not in capsys.readouterr().out
