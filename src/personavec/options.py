"""How a config's fields become options; beside `cli/main`, the one module that knows cyclopts.

A config is a frozen dataclass marked with `@options()`. Each field is an option of its name, its
docstring is the help. A panel gathers options under a title, by default that of the config.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Sequence
from typing import Annotated, Any, Literal

from cyclopts import Group, Parameter, Token

from personavec.errors import UsageError


def panel(title: str, order: int = 1) -> Parameter:
    """Where options are shown: `top: Annotated[int, LINE]`, with LINE such a panel.

    Panels of one order are shown as they are defined; a verb's own are of order 1.
    """
    return Parameter(group=Group.create_ordered(title, sort_key=order))


#: A field that is set in Python alone.
NO_OPTION = Parameter(parse=False)

#: The options that matter, about six; shared groups come after the verb's own panels.
MAIN = panel("Options", 0)
MODEL = panel("Model and engine", 2)
JUDGE = panel("Judge", 3)
ENDPOINT = panel("Endpoint", 3)
GENERAL = panel("General", 4)


def options(shown: Parameter = MAIN) -> Parameter:
    """The mark of a config: its fields are options without a prefix, in this panel."""
    return Parameter.combine(shown, Parameter(name="*"))


def between(least: float, most: float = math.inf) -> Parameter:
    """The range of a number."""

    def check(_: Any, value: Any) -> None:
        if value is not None and not least <= value <= most:
            wanted = f"at least {least:g}" if most == math.inf else f"{least:g} to {most:g}"
            raise UsageError(f"give a number of {wanted}")

    return Parameter(validator=check)


def parsed(
    read: Callable[[str], Any], metavar: str, *, many: bool = False, **more: Any
) -> Parameter:
    """An option whose text is read by `read`; a ValueError that it raises is the user's error.

    `many`: the option may be repeated, `read` returns the values in one text.
    """

    def convert(_: Any, tokens: Sequence[Token]) -> Any:
        texts = [token.value for token in tokens]
        return tuple(v for text in texts for v in read(text)) if many else read(texts[-1])

    given = {"n_tokens": 1, "accepts_keys": False, "json_dict": False, "metavar": metavar, **more}
    return Parameter(converter=convert, **given)


def _names(text: str) -> list[str]:
    return [name.strip() for name in text.split(",") if name.strip()]


def _numbers(kind: type[int] | type[float]) -> Callable[[str], list[Any]]:
    def read(text: str) -> list[Any]:
        try:
            found = [float(part) for part in _names(text)]
        except ValueError:
            raise UsageError(f"{text}: give numbers separated by commas") from None
        if not all(map(math.isfinite, found)):
            raise UsageError(f"{text}: a number is not finite")
        if kind is int and not all(number.is_integer() for number in found):
            raise UsageError(f"{text}: give whole numbers separated by commas")
        return [kind(number) for number in found]

    return read


# A list may begin with a minus, as in `--coefficient -1,0,1`.
Numbers = Annotated[
    tuple[float, ...], parsed(_numbers(float), "N,…", many=True, allow_leading_hyphen=True)
]
Integers = Annotated[
    tuple[int, ...], parsed(_numbers(int), "N,…", many=True, allow_leading_hyphen=True)
]


def _layer(text: str) -> int | Literal["all"]:
    if text == "all":
        return text
    try:
        return int(text)
    except ValueError:
        raise UsageError(f"{text}: give a number, or 'all'") from None


LayerOrAll = Annotated[int | Literal["all"] | None, parsed(_layer, "LAYER|all", show_choices=False)]
Names = Annotated[tuple[str, ...], parsed(_names, "NAME,…", many=True)]
Specs = Annotated[tuple[str, ...], Parameter(metavar="SPEC")]
KeyValues = Annotated[tuple[str, ...], Parameter(metavar="KEY=VALUE")]
Count = Annotated[int, between(1)]


def key_values(pairs: Sequence[str], option: str) -> dict[str, Any]:
    """KEY=VALUE options as a mapping; a VALUE that is JSON is read as JSON, any other is text.

    Raises UsageError.
    """
    found: dict[str, Any] = {}
    for pair in pairs:
        key, equals, value = pair.partition("=")
        if not key or not equals:
            raise UsageError(f"{option} {pair}: give KEY=VALUE")
        if key in found:
            raise UsageError(f"{option} {key} is given twice")
        try:
            found[key] = json.loads(value)
        except json.JSONDecodeError:
            found[key] = value
    return found
