"""Decodes a long JSON file value by value, holding one value in memory."""

from __future__ import annotations

import codecs
import json
import re
from collections.abc import Iterator
from io import BufferedIOBase
from typing import Any

from personavec.data.files.opening import CHUNK
from personavec.data.raw import BadRow, RawColumns
from personavec.plain import TooDeepError, is_deep, whole_number

#: A longer item of a JSON list, in characters, is treated as a syntax error.
LONGEST_ITEM = 1 << 26
WHITE_SPACE = " \t\r\n"
#: Whole strings and brackets, which decide where a value ends.
_BRACKETS = re.compile(r'"(?:[^"\\]|\\.)*"|[\[\]{}]', re.DOTALL)


class JsonScanner:
    """Decodes the values of a JSON file one by one."""

    def __init__(self, file: BufferedIOBase):
        self._file, self._buffer, self._at, self._ended = file, "", 0, False
        self._decode = codecs.getincrementaldecoder("utf-8-sig")().decode
        self._decoder = json.JSONDecoder(parse_int=whole_number)  # type: ignore[arg-type]

    def _more(self) -> None:
        chunk = self._file.read(CHUNK)
        self._ended = not chunk
        self._buffer = self._buffer[self._at :] + self._decode(chunk, final=self._ended)
        self._at = 0

    def peek(self, skipped: str = WHITE_SPACE) -> str:
        """The next character that is not in `skipped`; "" at the end of the file."""
        while True:
            while self._at < len(self._buffer) and self._buffer[self._at] in skipped:
                self._at += 1
            if self._at < len(self._buffer) or self._ended:
                return self._buffer[self._at : self._at + 1]
            self._more()

    def skip(self, character: str) -> None:
        """Go past this character, which must be the next one. Raises JSONDecodeError."""
        if self.peek() != character:
            raise json.JSONDecodeError(f"Expecting '{character}'", self._buffer, self._at)
        self._at += 1

    def items(self) -> Iterator[RawColumns | BadRow]:
        """The items of the list that begins here; an item that is no object is a `BadRow`."""
        self.skip("[")
        while self.peek(WHITE_SPACE + ",") != "]":
            value = self.value()
            yield value if isinstance(value, dict | BadRow) else BadRow("not a JSON object")
        self._at += 1

    def value(self) -> Any:
        """The value that begins here, or a `BadRow` if it is nested too deep."""
        self.peek()
        while True:
            try:
                value, end = self._decoder.raw_decode(self._buffer, self._at)
            except RecursionError:
                if (end := self._end()) is not None:
                    self._at = end
                    return BadRow(f"not JSON: {TooDeepError()}")
            except json.JSONDecodeError:
                # Cut off by the end of the chunk, or invalid.
                if self._ended or len(self._buffer) - self._at > LONGEST_ITEM:
                    raise
            else:
                # A number at the end of the chunk may continue in the next one.
                if end < len(self._buffer) or self._ended:
                    deep = is_deep(value, self._buffer[self._at : end])
                    self._at = end
                    return BadRow(f"not JSON: {TooDeepError()}") if deep else value
            if self._ended:
                raise json.JSONDecodeError("Nested too deep", self._buffer, self._at)
            self._more()

    def _end(self) -> int | None:
        """Where the value that begins here ends, found by its brackets alone."""
        depth = 0
        for found in _BRACKETS.finditer(self._buffer, self._at):
            depth += {"[": 1, "{": 1, "]": -1, "}": -1}.get(found[0], 0)
            if not depth:
                return found.end()
        return None
