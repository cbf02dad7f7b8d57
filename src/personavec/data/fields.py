"""Fields of rows and messages: looked up in any case, and distinguished from metadata."""

from __future__ import annotations

import ast
import json
import math
import re
from collections.abc import Collection, Iterator, Mapping
from typing import Any

from personavec.data.messages import role_of, snake

#: Values that are nested more deeply are not read.
DEEPEST = 40

#: Names of metadata: fields about a conversation that are not part of it.
_METADATA = frozenset(
    (
        *("id", "ids", "uuid", "guid", "idx", "index", "key", "hash", "url", "uri", "link"),
        *("links", "path", "file", "filename", "fingerprint", "system_fingerprint", "signature"),
        *("source", "sources", "dataset", "datasets", "origin", "split", "subset", "subsets"),
        *("config", "version", "license", "licence", "schema_version", "conversation_hash"),
        *("category", "categories", "topic", "topics", "tag", "tags", "domain", "subject"),
        *("task", "tasks", "kind", "type", "class", "group", "cluster", "difficulty", "level"),
        *("grade", "quality", "language", "languages", "lang", "langs", "locale", "country"),
        *("region", "state", "timestamp", "time", "date", "created", "updated", "year"),
        *(
            "create_time",
            "update_time",
            "model",
            "models",
            "model_a",
            "model_b",
            "engine",
            "provider",
            "author",
        ),
        *("authors", "name", "names", "email", "header", "ip", "hashed_ip", "user_agent"),
        *("session", "label", "labels", "score", "scores", "rating", "ratings", "reward"),
        *("rewards", "rank", "ranks", "vote", "votes", "winner", "judge", "evaluator"),
        *("better_response_id", "safer_response_id", "helpfulness", "correctness"),
        *("coherence", "complexity", "verbosity", "toxicity", "moderation", "redacted"),
        *("openai_moderation", "detoxify_moderation"),
        *("metadata", "meta", "info", "extra", "extras", "annotation", "annotations"),
        *("status", "object", "usage", "usage_metadata", "finish_reason", "stop_reason", "stop"),
        *("logprobs", "cost", "latency", "duration", "temperature", "seed", "sampling_params"),
        *("generation_config", "parameters", "service_tier", "method", "endpoint"),
        *("cache_control", "end_turn", "recipient", "channel", "reasoning_details"),
        *("response_metadata", "additional_kwargs"),
    )
)
#: Ends and beginnings of names of metadata.
_METADATA_ENDS = re.compile(
    r"_(id|ids|uuid|idx|index|key|hash|url|urls|uri|path|file|at|time|date|timestamp|score|scores|"
    r"rating|ratings|reward|rank|count|counts|len|length|tokens|model|models|name|names|type|types|"
    r"source|sources|lang|language|version|category|categories|tag|tags|label|labels|flag|"
    r"embedding|embeddings|config|configs|params|parameters|metadata|meta|info|license|status|"
    r"quality|difficulty|usage|cost|prob|probs|logprobs)$"
)
_METADATA_BEGINS = re.compile(r"(is|has|num|lang|score|embedding|openai_moderation|detoxify)_")
#: Tool definitions. Chat templates can write them, but this package does not.
_TOOL_DEFINITIONS = ("tools", "functions", "tool_definitions", "available_tools")
#: Fields that hold something other than text.
_MEDIA = {
    "image": "an image",
    "images": "an image",
    "audio": "audio",
    "audios": "audio",
    "video": "a video",
    "videos": "a video",
}


class Unusable(ValueError):
    """Why a row cannot be used."""


class Fields:
    """A row's fields, looked up in any case or by the names in `mapped`.

    `used` holds the fields that a reader has used.
    """

    def __init__(
        self, row: Mapping[str, Any], mapped: Mapping[str, str] | None = None, depth: int = 0
    ):
        self.row = row
        self.depth = depth
        """The number of rows in which this one is nested."""
        self.used: set[str] = set()
        self.reasons: list[str] = []
        """Why columns that could hold the conversation do not."""
        self._mapped = mapped or {}
        self._names: dict[str, str] = {}
        for name in row:
            self._names.setdefault(str(name).lower(), name)

    def is_mapped(self, name: str) -> bool:
        return name in self._mapped

    def name(self, name: str) -> str | None:
        """The field's name in the row, if the row has it."""
        if name in self._mapped:
            own = self._mapped[name]
            return own if own in self.row else None
        own = name if name in self.row else self._names.get(name.lower())
        return None if own in self._mapped.values() else own

    def own(self, name: str) -> str:
        """The field's name in the row, for an error message."""
        return escaped(self.name(name) or self._mapped.get(name, name))

    def has(self, name: str) -> bool:
        return self.name(name) is not None

    def get(self, name: str) -> Any:
        """Its value or None; the field is not marked as used."""
        own = self.name(name)
        return None if own is None else self.row[own]

    def is_used(self, name: str) -> bool:
        return self.name(name) in self.used

    def use(self, name: str) -> None:
        own = self.name(name)
        if own is not None:
            self.used.add(own)

    def first(self, *names: str) -> str | None:
        """The first of the names that has a value."""
        return next((name for name in names if given(self.get(name))), None)


def given(value: Any) -> bool:
    """Whether there is a value: None, NaN and empty values are not."""
    if isinstance(value, float):
        return not math.isnan(value)
    return value is not None and not (isinstance(value, (str, list, tuple, dict)) and not value)


def is_metadata(name: str) -> bool:
    """Whether a field with this name is metadata."""
    plain = snake(name)
    return bool(plain in _METADATA or _METADATA_ENDS.search(plain) or _METADATA_BEGINS.match(plain))


def medium(name: str) -> str | None:
    """What a field with this name holds if it is not text, such as "an image"."""
    return _MEDIA.get(snake(name))


def left_out(
    row: Mapping[str, Any], used: Collection[str], texts: Collection[str]
) -> Iterator[str]:
    """Fields that were not used and may matter.

    Numbers, empty values, metadata, and fields that only repeat `texts`, the conversation, do not
    matter.
    """
    for name, value in row.items():
        if name in used or not given(value) or isinstance(value, (bool, int, float)):
            continue
        if is_metadata(str(name)):
            continue
        if snake(str(name)) in _TOOL_DEFINITIONS:
            if given(decoded(value)):
                yield escaped(name)
        elif any(not _repeats(leaf, texts) for leaf in _leaves(value)):
            yield escaped(name)


def _leaves(value: Any, depth: int = 0) -> Iterator[str]:
    """The texts at any depth of a value, without metadata."""
    if isinstance(value, str):
        yield value
    elif depth > DEEPEST:
        yield "…"
    elif isinstance(value, Mapping):
        for key, inner in value.items():
            if not is_metadata(str(key)):
                yield from _leaves(inner, depth + 1)
    elif isinstance(value, (list, tuple)):
        for inner in value:
            yield from _leaves(inner, depth + 1)


#: A text with fewer characters than this may occur in a message by chance.
_DISTINCTIVE = 20


def _repeats(leaf: str, texts: Collection[str]) -> bool:
    leaf = leaf.strip()
    if not leaf or leaf in texts or role_of(leaf) is not None:
        return True
    if len(leaf) >= _DISTINCTIVE and any(leaf in text for text in texts):
        return True
    if leaf[0] in "[{" and (inner := decoded(leaf)) is not leaf:
        return all(_repeats(text, texts) for text in _leaves(inner))
    return bool(texts) and all(part in leaf for text in texts for part in text.split("\n\n"))


def decoded(value: Any) -> Any:
    """The list or object in a JSON or Python text, as in CSV files; any other value unchanged."""
    if isinstance(value, str) and value.lstrip()[:1] in ("[", "{"):
        try:
            return json.loads(value)
        except (ValueError, RecursionError):
            pass
        if value.lstrip().startswith(("[{'", "{'")):
            try:
                return ast.literal_eval(value.strip())
            except (ValueError, SyntaxError, RecursionError, MemoryError):
                pass
    return value


def escaped(name: Any) -> str:
    """A field's name as printable text of at most 80 characters."""
    text = name if isinstance(name, str) else shown(name)
    text = text if text.isprintable() else repr(text)[1:-1]
    return text if len(text) <= 80 else f"{text[:79]}…"


def shown(value: Any) -> str:
    """A value as error messages quote it, in at most 60 characters."""
    if isinstance(value, (Mapping, list, tuple)):
        return "a list" if isinstance(value, (list, tuple)) else "an object"
    if isinstance(value, int) and value.bit_length() > 64:
        return "a long number"
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:59]}…"
