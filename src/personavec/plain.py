"""Values as strict JSON can hold them, and JSON as people's files have it.

Written: no NaN, no types that JSON lacks, valid UTF-8. Read: a byte order mark is left out, and
what cannot be parsed is a ValueError, whatever is wrong with it. Knows nothing of rows.
"""

from __future__ import annotations

import base64
import datetime
import json
import math
from collections.abc import Iterable, Mapping, Sequence, Set
from typing import Any

import numpy as np

#: Deeper nesting is refused: no data need it, and Python's own limit is not far.
DEPTH = 100
#: Longer whole numbers stay texts: Python refuses to convert them.
_DIGITS = 4300


def plain(value: Any) -> Any:
    """The value as JSON can hold it.

    NaN and infinities become None, bytes base64, times ISO 8601, and any other type its text.
    """
    if value is None or isinstance(value, str | bool):
        return value
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, int):
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {key if isinstance(key, str) else str(key): plain(v) for key, v in value.items()}
    if isinstance(value, bytes | bytearray | memoryview):
        return base64.b64encode(value).decode()
    if isinstance(value, np.ndarray):
        return plain(value.tolist())
    if isinstance(value, Sequence | Set):
        return [plain(item) for item in value]
    if isinstance(value, datetime.date | datetime.time):
        return value.isoformat()
    return str(value)


def json_text(value: Any, **options: Any) -> str:
    """Readable, strict JSON of any value that a dataset holds; lone surrogates are escaped."""
    text = json.dumps(plain(value), ensure_ascii=False, allow_nan=False, **options)
    # They occur only inside JSON strings, where Python's escape is JSON's.
    return text if is_unicode(text) else text.encode(errors="backslashreplace").decode()


def parse_data(text: str | bytes) -> Any:
    """What a JSON text of a dataset holds. Raises ValueError, for what is nested too deep as well.

    A byte order mark is left out, lone surrogates are kept. Whole numbers of more digits
    than Python converts stay texts.
    """
    text = text.decode() if isinstance(text, bytes) else text
    text = text.removeprefix("\ufeff")
    try:
        value = json.loads(text, parse_int=whole_number)
    except RecursionError:
        raise TooDeepError from None
    if is_deep(value, text):
        raise TooDeepError
    return value


def parse_json(text: str | bytes) -> Any:
    """What a JSON text of the package's own files holds. Raises ValueError, in a few words.

    Stricter than `parse_data`: a lone surrogate, which UTF-8 cannot hold, is refused.
    """
    value = parse_data(text)
    level = [value]
    while level:
        if not all(is_unicode(each) for each in level if isinstance(each, str)):
            raise ValueError("a lone surrogate, which is no character")
        level = [inner for outer in level for inner in _inside(outer)]
    return value


def _inside(value: Any) -> Iterable[Any]:
    if isinstance(value, dict):
        return (*value, *value.values())
    return value if isinstance(value, list) else ()


class TooDeepError(ValueError):
    """JSON that is nested too deep."""

    def __init__(self) -> None:
        super().__init__(f"it is nested more than {DEPTH} deep")


def whole_number(digits: str) -> int | str:
    """A whole number of JSON."""
    return int(digits) if len(digits) <= _DIGITS else digits


def is_deep(value: Any, text: str) -> bool:
    """Is what `text` holds nested deeper than can be worked with?"""
    if text.count("[") + text.count("{") <= DEPTH:
        return False
    level = [value]
    for _ in range(DEPTH):
        inside = (outer.values() if isinstance(outer, dict) else outer for outer in level)
        level = [each for own in inside for each in own if isinstance(each, dict | list)]
    return bool(level)


def is_unicode(text: str) -> bool:
    """Can UTF-8 hold the text? It cannot hold half of a surrogate pair, which JSON can write."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def unicode_text(text: str) -> str:
    """The text with a replacement character for each half of a surrogate pair."""
    # UTF-16 joins halves that stand together.
    return (
        text
        if is_unicode(text)
        else text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    )
