"""The commands, each imported when it is called; help and errors in our form."""

from __future__ import annotations

import math
import sys
from collections.abc import Sequence
from copy import copy
from pathlib import Path
from typing import Any

from cyclopts import (
    App,
    ArgumentCollection,
    CoercionError,
    CycloptsError,
    MissingArgumentError,
    Parameter,
    UnknownOptionError,
    UnusedCliTokensError,
    ValidationError,
)
from cyclopts.config import Toml, Yaml
from cyclopts.help import DefaultFormatter, HelpPanel

from personavec import __version__
from personavec.errors import UsageError
from personavec.presets import BySize

#: Where every command is, and what the list of commands says of it, in the paper's order.
COMMANDS: dict[str, tuple[str, str]] = {
    "author": ("author:command", "Write a trait spec with a strong model, check it, try it."),
    "extract": ("extract:command", "Extract a trait's persona vector, and validate it."),
    "steer": ("steer:command", "Answer questions at several coefficients, side by side."),
    "evaluate": (
        "evaluate:command",
        "Measure traits of a model, and what it can still do.",
    ),
    "calibrate": ("calibrate:command", "Forecast a trait from the prompt's projection."),
    "monitor": ("monitor:command", "Read logged conversations along traits; raise drift alarms."),
    "screen": ("screen:command", "How far datasets would push a model along each trait."),
    "validate-screen": ("validate_screen:command", "Test what screening finds, on planted rows."),
    "elicit": ("elicit:command", "Write finetuning sets that induce a trait, for research."),
    "finetune": ("finetune:command", "Finetune with preventative steering or another mitigation."),
    "shift": ("shift:command", "What a finetune did to a model's traits."),
    "compare-mitigations": (
        "compare_mitigations:command",
        "Train and evaluate mitigations on the same rows.",
    ),
    "replicate": ("replicate:command", "The paper's nine statements on a model, with verdicts."),
    "serve": ("serve:command", "An OpenAI-compatible server that reads and steers traits."),
    "export": ("export:command", "Write a vector as another program's file."),
    "import": ("import_:command", "Make a vector of another project's file."),
    "traits list": ("traits:list_traits", "List the bundled traits."),
    "traits show": ("traits:show", "Show a spec."),
    "traits check": ("traits:check", "Say what is wrong with a spec."),
    "judges score": ("judges_score:command", "Score the answers in a file."),
    "judges check": ("judges_check:command", "Test a judge on answers whose verdict is known."),
    "judges compare": ("judges_compare:command", "Compare judges on the same answers."),
    "models list": ("models:list_models", "List the models that need no download."),
    "models show": ("models:show", "Load a model and describe it."),
    "doctor": ("doctor:command", "Show versions, device, caches, extras; for reports of faults."),
}
#: No option means more than this; larger numbers fail somewhere below.
_LARGEST = 2**53
FAMILIES = {
    "traits": "Trait specs: bundled ones and your own.",
    "judges": "Judges: score answers, and test those who do.",
    "models": "Models: the embedded one, and what one looks like.",
}


def build(arguments: Sequence[str] = ()) -> App:
    """The command line; imports the command that is called, and no other."""
    app = App(
        "personavec",
        help="Persona vectors: extract, validate and use directions of character traits.",
        version=__version__,
        help_flags="--help",
        help_format="plaintext",
        help_formatter=_Help(),
        config=(_from_file, _choose_defaults, _check_numbers),
        default_parameter=Parameter(
            allow_repeating=True,  # The last one counts.
            json_dict=False,  # A text that begins with a bracket is a text.
            json_list=False,
            negative_bool=(),
            negative_iterable=(),
            show_default=default_shown,
        ),
        result_action="return_value",
        suppress_keyboard_interrupt=False,
    )
    families = {name: App(name, help=text) for name, text in FAMILIES.items()}
    for order, (path, (place, text)) in enumerate(COMMANDS.items()):
        *family, name = path.split()
        within = families[family[0]] if family else app
        # The one that is called says of itself what its docstring says.
        shown = None if name in arguments else text
        within.command(f"personavec.cli.{place}", name=name, help=shown, sort_key=order)
    for order, family in enumerate(families.values(), len(COMMANDS)):
        family.sort_key = order
        app.command(family)
    app.register_install_completion_command(help="Install completion for this shell.")
    return app


def run(arguments: Sequence[str]) -> None:
    """Greet, or call the command that the arguments name.

    Raises UsageError, with one line, for arguments that make no call.
    """
    if not arguments:
        from personavec.doctor.greeting import greet

        greet()
        return
    try:
        build(arguments)(arguments, exit_on_error=False, print_error=False, verbose=False)
    except CycloptsError as error:
        raise UsageError(_line(error)) from error
    if " ".join(arguments) in FAMILIES:
        sys.exit(2)  # No command was named: the help that was shown says which there are.


def _line(error: CycloptsError) -> str:
    """What was wrong, where, and the remedy."""
    name = error.argument.name if error.argument is not None else ""
    unknown = [text for text in error.unused_tokens or () if text.startswith("-")]
    match error:
        case MissingArgumentError() if error.keyword:
            return f"{name} needs a value"
        case MissingArgumentError() if unknown:
            return f"unknown option {unknown[0]}"
        case MissingArgumentError():
            return f"{name} is missing"
        case UnusedCliTokensError():
            return f"one argument too many: {' '.join(error.unused_tokens or ())}"
        case ValidationError() if error.argument is not None:
            return f"{name} {error.argument.tokens[-1].value}: {error.exception_message}"
        case CoercionError() if error.token and error.argument and error.argument.get_choices():
            *others, last = error.argument.get_choices() or ("",)
            return (
                f"{name} {error.token.value}: use {', '.join(others)}{' or ' * bool(others)}{last}"
            )
        case CoercionError() if error.msg is not None and error.__cause__ is not None:
            why = str(error.__cause__)
            return why if why.startswith(name) else f"{name} {why}"
    return str(error)


def _from_file(app: App, commands: tuple[str, ...], arguments: ArgumentCollection) -> None:
    """Take options that were not given from the file that --config names."""
    given = arguments.get("--config", None)
    if given is None or not given.tokens:
        return
    path = Path(given.tokens[-1].value)
    kind = {".toml": Toml, ".yaml": Yaml, ".yml": Yaml}.get(path.suffix)
    if kind is None:
        raise UsageError(f"--config {path}: give a .toml or a .yaml file")
    if not path.is_file():
        raise UsageError(f"--config {path} does not exist")
    try:
        kind(path, use_commands_as_keys=False, source=str(path))(app, commands, arguments)
    except CycloptsError as error:
        error.verbose = False
        raise UsageError(f"--config {path}: {_wrong_in_file(error, str(path))}") from error
    debug = arguments.get("--debug", None)
    if debug is not None and any(token.source == str(path) for token in debug.tokens):
        # Library messages are silenced before the file is read.
        raise UsageError(f"--config {path}: give --debug on the command line")


def _wrong_in_file(error: CycloptsError, path: str) -> str:
    """The library's message, without the file's name."""
    if isinstance(error, UnknownOptionError):
        hint = str(error).rpartition(f" from {path}.")[2]
        return f"unknown option {(error.token.keyword or '').strip('[]')}.{hint}".rstrip(".")
    return str(error.__cause__ or error)


def _choose_defaults(app: App, commands: tuple[str, ...], arguments: ArgumentCollection) -> None:
    """Show the library one default for each size, which it checks against the field's type."""
    for argument in arguments:
        if isinstance(sizes := argument.field_info.default, BySize):
            given = arguments.get(f"--{sizes.chosen_by}", None)
            name = given.tokens[-1].value if given is not None and given.tokens else sizes.usual
            argument.field_info = copy(argument.field_info)
            argument.field_info.default = sizes.of(name)


def _check_numbers(app: App, commands: tuple[str, ...], arguments: ArgumentCollection) -> None:
    """Refuse what the library would let through: 1.5 for a whole number, infinity, 1e300."""
    for argument in arguments:
        kind = argument.resolved_hint
        for token in argument.tokens if kind in (int, float) else ():
            where = "" if token.source == "cli" else f" in {token.source}"
            try:
                number = float(token.value)
            except ValueError:
                raise UsageError(f"{argument.name} {token.value}{where}: give a number") from None
            option = f"{argument.name} {number:g}{where}"
            if not abs(number) <= _LARGEST:
                wanted = "a smaller number" if math.isfinite(number) else "a finite number"
                raise UsageError(f"{option}: give {wanted}")
            if kind is int and not number.is_integer():
                raise UsageError(f"{option}: give a whole number")


def default_shown(value: Any) -> Any:
    """What help shows as a default; nothing where there is nothing to see."""
    if isinstance(value, BySize):
        value = value.of(value.usual)
    if isinstance(value, tuple):
        return ",".join(f"{v:g}" if isinstance(v, float) else str(v) for v in value) or None
    return value if isinstance(value, str | int | float | Path) and value is not False else None


class _Help(DefaultFormatter):
    """The library's help, with the docstrings' line breaks taken as spaces."""

    def __call__(self, console: Any, options: Any, panel: HelpPanel) -> None:
        for entry in panel.entries:
            _flow(entry.description)
        super().__call__(console, options, panel)

    def render_description(self, console: Any, options: Any, description: Any) -> None:
        _flow(description)
        super().render_description(console, options, description)


def _flow(shown: Any) -> None:
    """Make one line of each paragraph of a text of the library's."""
    from rich.text import Text

    text = getattr(shown, "primary_renderable", None)
    if isinstance(text, Text):
        paragraphs = [" ".join(part.split()) for part in text.plain.split("\n\n")]
        shown.primary_renderable = Text("\n\n".join(paragraphs), end=text.end)
