"""The command line accepts every command and option that the documentation shows."""

import re
import shlex
import tomllib
from collections.abc import Iterator
from functools import cache
from itertools import groupby
from pathlib import Path

import pytest
from cyclopts import CycloptsError, MissingArgumentError
from list_options import spellings

from personavec.cli.app import build
from personavec.errors import UsageError

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted(ROOT.glob("docs/*.md"))]
#: Options of other programs that the running text names without the program.
FOREIGN = {
    "--build-arg", "--coef", "--control-vector", "--control-vector-layer-range", "--gpus",
    "--no-cache-dir", "--no-deps", "--stop-timeout",
}  # fmt: skip
#: Options of every command, or of none.
GENERAL = {"--config", "--debug", "--help", "--install-completion", "--json", "--version"}

#: Languages of blocks that hold commands: `text` where they have placeholders.
SHELL = ("sh", "text")

_BLOCK = re.compile(r"^ *```(\w*)\n(.*?)^ *```", re.MULTILINE | re.DOTALL)
_COMMAND = re.compile(r"`((?:accelerate [^`]+-m )?personavec\s[^`]*)`")
#: A command without a block of its own, or with its output.
_PROMPTED = re.compile(r"^(?:\$ | {4})(personavec (?:.*\\\n)*.*)$", re.MULTILINE)
_OPTION = re.compile(r"`(--[a-z][\w-]*)(?=[`\s=,])")
_TABLE_ROW = re.compile(r"^\| (`--[^|]+) \|", re.MULTILINE)
_TABLE = re.compile(r"^\| option \|.*?(?:\n(?!\|)|\Z)", re.MULTILINE | re.DOTALL)
_CONTINUED = re.compile(r"\\\n\s*")
#: `pt|gguf` where a page says what can stand there; the bar of a pipe has spaces around it.
_CHOICES = re.compile(r"(?<=\w)(?:\|[\w-]+)+")
_SIGNS = "|&;<>"


def programs(shell: str) -> Iterator[list[str]]:
    """The words of each call of `personavec` and of what it is piped to, comments left out."""
    for line in _CONTINUED.sub(" ", shell).splitlines():
        if re.search(r"\bpersonavec\s", line):
            words = shlex.shlex(_CHOICES.sub("", line), posix=True, punctuation_chars=_SIGNS)
            words.commenters, words.whitespace_split = "#", True
            for divider, part in groupby(words, lambda word: set(word) <= set(_SIGNS)):
                if not divider:
                    yield list(part)


def arguments(words: list[str]) -> list[str] | None:
    """What follows `personavec`, where that is the program that is called."""
    start = words.index("personavec") if "personavec" in words else len(words)
    variables = all(re.fullmatch(r"\w+=.*", word) for word in words[:start])
    if start == len(words) or not (variables or words[start - 1] == "-m"):
        return None
    return [word for word in words[start + 1 :] if word != "…"]


def shown(text: str) -> Iterator[tuple[list[str], bool]]:
    """Every command line of a page, and whether it stands in the running text."""
    blocks = [block for language, block in _BLOCK.findall(text) if language in SHELL]
    blocks += _PROMPTED.findall(text)
    spans = [span.replace("\n", " ") for span in _COMMAND.findall(_BLOCK.sub("", text))]
    for shell, inline in [*((b, False) for b in blocks), *((s, True) for s in spans)]:
        for words in programs(shell):
            found = arguments(words)
            if found:
                yield found, inline


@cache
def options() -> dict[str, set[str]]:
    """The options of each command."""
    return {
        command: GENERAL | {name for record in records for name in _names(record)}
        for command, records in spellings().items()
    }


def _names(record: dict[str, list[str]]) -> list[str]:
    return [*record.get("spellings", ()), *record.get("negatives", ())]


def check(words: list[str], inline: bool) -> None:
    """Parse without calling. The running text may name a command without what it requires."""
    try:
        build(words).parse_args(words, exit_on_error=False, print_error=False)
    except MissingArgumentError as error:
        command = next((c for c in (" ".join(words[:2]), words[0]) if c in options()), None)
        given = {word.partition("=")[0] for word in words if word.startswith("--")}
        if not inline or command is None or given - options()[command]:
            raise error


@pytest.fixture
def _options_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The file of options that docs/commands.md shows, where its command looks for it."""
    monkeypatch.chdir(tmp_path)
    text = (ROOT / "docs" / "commands.md").read_text(encoding="utf-8")
    (toml,) = (block for language, block in _BLOCK.findall(text) if language == "toml")
    assert tomllib.loads(toml)
    Path("evil.toml").write_text(toml, encoding="utf-8")


@pytest.mark.usefixtures("_options_file")
@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_commands_that_a_page_shows_are_accepted(page: Path) -> None:
    for words, inline in shown(page.read_text(encoding="utf-8")):
        if words[0] == "COMMAND":
            continue
        try:
            check(words, inline)
        except (CycloptsError, UsageError) as error:
            pytest.fail(f"personavec {shlex.join(words)}: {error}")


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_blocks_of_commands_are_marked_as_such(page: Path) -> None:
    for language, block in _BLOCK.findall(page.read_text(encoding="utf-8")):
        for line in block.splitlines():
            first = line.removeprefix("personavec ").split()[:2]
            called = line.startswith("personavec ") and {*first[:1], " ".join(first)} & {*options()}
            assert language in SHELL or not called, line


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_options_that_a_page_names_exist(page: Path) -> None:
    """In a table of options they are those of the command that the page is about."""
    text = _BLOCK.sub("", page.read_text(encoding="utf-8"))
    known = set().union(*options().values())
    assert not set(_OPTION.findall(text)) - known - FOREIGN
    own = [names for command, names in options().items() if command.split()[0] == page.stem]
    for table in _TABLE.findall(text):
        named = {name for row in _TABLE_ROW.findall(table) for name in _OPTION.findall(row)}
        assert not named - (set().union(*own) if own else known)


@pytest.mark.parametrize(
    "shell",
    [
        "personavec screen rows.jsonl --vectors evil --no-such-option",
        "A=1 personavec screen rows.jsonl \\\n  --vectors evil --top many | head",
        "cat x | personavec judges scores answers.csv --trait evil",
        "accelerate launch -m personavec finetune rows.jsonl --mitigation prayer",
    ],
)
def test_a_wrong_command_is_noticed(shell: str) -> None:
    ((words, inline),) = shown(f"```sh\n{shell}\n```\n")
    with pytest.raises((CycloptsError, UsageError)):
        check(words, inline)
