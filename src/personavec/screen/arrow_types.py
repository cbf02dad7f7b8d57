"""Arrow types for columns of any values, as Parquet files need them.

A column whose values have no common type is written as JSON texts, which its type None says.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from personavec.data import RawColumns, RawRow, files_of, is_saved_dataset
from personavec.plain import is_unicode, json_text, unicode_text

#: By column name; None for values that become JSON texts.
Types = dict[str, pa.DataType | None]
#: What Arrow raises for values that a type does not hold.
MISFITS = (pa.ArrowException, TypeError, ValueError, OverflowError)
#: Rows whose values are converted together.
BATCH = 512


class TypeFinder:
    """Finds a type for every column while rows are read."""

    def __init__(self) -> None:
        self._found: Types = {}
        self._batch: list[RawColumns] = []

    def add(self, raw: RawRow) -> None:
        """Take in one row; one that could not be read has no values."""
        if raw.error is None:
            self._batch.append(raw.columns)
        if len(self._batch) == BATCH:
            self._take()

    def types(self) -> Types:
        """The types that hold the values of all rows so far."""
        self._take()
        return self._found

    def _take(self) -> None:
        names = {name: None for row in self._batch for name in row}
        own = {name: _inferred([row.get(name) for row in self._batch]) for name in names}
        self._found = united_types(self._found, own)
        self._batch = []


def column_types(rows: Iterable[RawRow], source: str) -> Types:
    """The types of a dataset's columns: those of its Parquet files, or found in its `rows`."""
    if (own := stored_types(source)) is not None:
        return own
    finder = TypeFinder()
    for raw in rows:
        finder.add(raw)
    return finder.types()


def stored_types(source: str) -> Types | None:
    """The types of a dataset of Parquet files that all have the same schema; reads no rows."""
    path = Path(source)
    if not path.exists() or is_saved_dataset(path):
        return None
    files = files_of(path)
    if any(file.suffix.lower() != ".parquet" for file in files):
        return None
    schemas = [pq.read_schema(file).remove_metadata() for file in files]
    if any(schema != schemas[0] for schema in schemas):
        return None
    return {field.name: field.type for field in schemas[0]}


def united_types(a: Types, b: Types) -> Types:
    """The types that hold the values of both."""
    return a | {name: _unified(a[name], own) if name in a else own for name, own in b.items()}


def added_type(values: np.ndarray) -> pa.DataType:
    """The type of a column that a screen adds: a flag (True, False or None), or a number."""
    return pa.bool_() if values.dtype in (bool, object) else pa.float32()


def to_array(values: Sequence[Any], type_: pa.DataType | None) -> pa.Array:
    """The values as an array. Raises one of MISFITS where the type does not hold them."""
    if type_ is None:
        texts = [None if value is None else json_text(value) for value in values]
        return pa.array(texts, pa.string())
    return pa.array([_storable(value) for value in values], type_)


def storable_name(name: str) -> str:
    """The column's name with half surrogate pairs escaped, which Arrow cannot hold."""
    return name.encode(errors="backslashreplace").decode()


def is_storable(value: Any) -> bool:
    """Whether all texts in a value are Unicode, so that Arrow holds them as they are."""
    if isinstance(value, str):
        return is_unicode(value)
    if isinstance(value, dict):
        return all(map(is_storable, (*value, *value.values())))
    return all(map(is_storable, value)) if isinstance(value, list) else True


def _storable(value: Any) -> Any:
    """The value with texts that Arrow can hold."""
    if isinstance(value, str):
        return unicode_text(value)
    if isinstance(value, dict):
        return {storable_name(name): _storable(own) for name, own in value.items()}
    return [_storable(own) for own in value] if isinstance(value, list) else value


def _inferred(values: Sequence[Any]) -> pa.DataType | None:
    try:
        found = pa.array([_storable(value) for value in values]).type
    except MISFITS:
        return None
    return None if _has_empty_struct(found) else found


def _has_empty_struct(type_: pa.DataType) -> bool:
    """Parquet cannot hold a struct without fields."""
    if pa.types.is_struct(type_):
        return not type_.num_fields or any(_has_empty_struct(field.type) for field in type_)
    return pa.types.is_list(type_) and _has_empty_struct(type_.value_type)


def _unified(a: pa.DataType | None, b: pa.DataType | None) -> pa.DataType | None:
    if a is None or b is None:
        return None
    schemas = [pa.schema([("x", a)]), pa.schema([("x", b)])]
    try:
        return pa.unify_schemas(schemas, promote_options="permissive").field("x").type
    except pa.ArrowException:
        return None
