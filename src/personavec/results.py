"""What every verb's results share: estimates, their file, and the versions they depend on.

A verb's results are a frozen dataclass whose first field is its format number:

    @dataclass(frozen=True, kw_only=True)
    class ExtractResults:
        format: int = 1
        trait: str
        ...

A change of a field's name or meaning raises the number; `read` refuses files of another one. Files
that earlier versions wrote without a number are of format 1.
"""

from __future__ import annotations

import dataclasses
import json
import math
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any, SupportsFloat, TypeAlias, TypeVar, cast

from personavec.errors import DataError
from personavec.runs import atomic_write, read_as, read_json

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

    from personavec.stats import Interval

#: A result as JSON has it, by field.
Dump: TypeAlias = dict[str, Any]
R = TypeVar("R")
#: Marks a field that the file lacks where it is None: `field(default=None, metadata=OPTIONAL)`.
OPTIONAL = {"optional": True}


@dataclasses.dataclass(frozen=True)
class Estimate:
    """A figure with its 95% interval, in its own unit; None where it could not be measured."""

    value: float | None = None
    low: float | None = None
    high: float | None = None

    @classmethod
    def of(cls, interval: Interval | None) -> Estimate:
        """From an interval; None stands for a figure that was not measured."""
        if interval is None:
            return cls()
        return cls(*(finite(end) for end in (interval.value, interval.low, interval.high)))


def finite(value: SupportsFloat | None) -> float | None:
    """The value; None where it is missing, NaN or infinite."""
    return None if value is None or not math.isfinite(value) else float(value)


def versions() -> dict[str, str]:
    """Versions of the packages that a result depends on."""
    return {name: metadata.version(name) for name in ("personavec", "torch", "transformers")}


def dump(result: DataclassInstance) -> Dump:
    """The fields as JSON has them: paths as text, null for every number that is not finite.

    A field marked `OPTIONAL` that is None is left out.
    """
    return {
        field.name: _plain(value)
        for field in dataclasses.fields(result)
        if (value := getattr(result, field.name)) is not None or "optional" not in field.metadata
    }


def write(path: Path, result: DataclassInstance) -> None:
    """Write results as JSON, aside and renamed. Raises StorageError."""
    atomic_write(path, json.dumps(dump(result), ensure_ascii=False, indent=1) + "\n")


def read(kind: type[R], path: Path, remedy: str = "write it again with the same command") -> R:
    """The results in a file that `write` wrote.

    Raises DataError, with the remedy, for a missing or damaged file, and for another format than
    `kind` has.
    """
    found = read_json(path, remedy)
    expected = next(f.default for f in dataclasses.fields(cast("Any", kind)) if f.name == "format")
    if not isinstance(found, dict):
        raise DataError(f"{path} is damaged (it is no JSON object); {remedy}")
    # A file of before the numbers has the fields of format 1.
    number = found.get("format", 1)
    if number != expected:
        raise DataError(
            f"{path} has format {number}; this version reads format {expected}; {remedy}"
        )
    return read_as(path, kind, remedy)


def without_nan(value: Any) -> Any:
    """`value` with null for every number that is not finite, since JSON has no NaN."""
    if isinstance(value, dict):
        return {key: without_nan(inner) for key, inner in value.items()}
    if isinstance(value, (list, tuple)):
        return [without_nan(inner) for inner in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _plain(value: Any) -> Any:
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return dump(value)
    if isinstance(value, dict):
        return {key: _plain(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(inner) for inner in value]
    if isinstance(value, Path):
        return str(value)
    return without_nan(value)
