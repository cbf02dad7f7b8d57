"""Read JSON files; a damaged file raises a DataError with the remedy."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar, cast

from personavec.errors import DataError
from personavec.plain import parse_json

if TYPE_CHECKING:
    from pydantic import ValidationError


_T = TypeVar("_T")


def read_as(path: Path, kind: Callable[..., _T], remedy: str) -> _T:
    """The JSON value in a file, validated as `kind`. Raises DataError with the remedy."""
    from pydantic import TypeAdapter, ValidationError

    value = read_json(path, remedy)
    try:
        adapter: TypeAdapter[_T] = TypeAdapter(cast("Any", kind))
        return adapter.validate_python(value)
    except ValidationError as error:
        raise DataError(f"{path} is damaged ({why_invalid(error)}); {remedy}") from error


def why_invalid(error: ValidationError) -> str:
    """The first error of a validation with its location, in a few words."""
    first = error.errors(include_url=False, include_context=False, include_input=False)[0]
    place = ".".join(str(part) for part in first["loc"])
    why = first["msg"].removeprefix("Value error, ")
    return f"{place}: {why}" if place else why


def read_json(path: Path, remedy: str) -> Any:
    """The JSON value in a file. Raises DataError with the remedy if it holds none."""
    try:
        return parse_json(path.read_bytes())
    except (OSError, ValueError) as error:
        raise DataError(f"{path} is damaged ({error}); {remedy}") from error
