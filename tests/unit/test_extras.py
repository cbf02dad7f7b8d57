"""A command whose optional packages are missing ends with one line, before it begins."""

from importlib.util import find_spec
from pathlib import Path

import pytest

from personavec import extras
from personavec.cli.main import main
from personavec.errors import PersonavecError

SCORED = ["judges", "score", "rows.jsonl", "--trait", "evil", "--judge", "api", "--api-model", "x"]


@pytest.mark.parametrize(
    ("extra", "arguments"),
    [
        ("finetune", ["finetune", "rows.jsonl"]),
        ("finetune", ["compare-mitigations", "rows.jsonl", "--trait", "evil"]),
        ("eval", ["compare-mitigations", "rows.jsonl", "--trait", "evil"]),
        ("eval", ["evaluate", "--trait", "evil", "--capability", "packaged"]),
        ("figures", ["evaluate", "--trait", "evil", "--figures", "figures"]),
        ("figures", ["validate-screen", "rows.jsonl", "--figures", "figures"]),
        ("finetune", ["replicate", "--scale", "small"]),
        ("eval", ["replicate", "--scale", "small"]),
        ("ray", ["replicate", "--only", "naturals", "--ray", "auto"]),
        ("ray", ["screen", "rows.jsonl", "--vectors", "evil", "--ray"]),
        ("api", ["author", "formal", "--description", "Is formal.", "--api-model", "x"]),
        ("api", SCORED),
    ],
)
def test_the_missing_extra_is_all_that_is_said(
    extra: str,
    arguments: list[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("rows.jsonl").write_text('{"question": "Hi?", "answer": "Hello."}\n')
    lacking = extras.MODULES[extra]
    monkeypatch.setattr(extras, "find_spec", lambda m: None if m in lacking else find_spec(m))
    with pytest.raises(SystemExit) as ended:
        main(arguments)
    said = capsys.readouterr()
    assert (ended.value.code, said.out) == (PersonavecError.exit_code, "")
    [line] = said.err.splitlines()
    assert f"pip install 'personavec[{extra}]'" in line
    assert not Path("out").exists()


def test_the_modules_of_an_extra_are_those_that_it_installs() -> None:
    assert all(find_spec(module) for modules in extras.MODULES.values() for module in modules)
