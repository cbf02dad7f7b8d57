"""Fields of rows and messages: looked up by any capitals, and which of them do not matter."""

from __future__ import annotations

import ast
import json
import math
import re
from collections.abc import Collection, Iterator, Mapping
from typing import Any

from personavec.data.messages import role_of, snake

#: Deeper values are not looked into.
DEEPEST = 40

#: Fields about a conversation that say nothing of what was said: these names,
_ABOUT = frozenset(
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
#: and names that end or begin so.
_ABOUT_ENDS = re.compile(
    r"_(id|ids|uuid|idx|index|key|hash|url|urls|uri|path|file|at|time|date|timestamp|score|scores|"
    r"rating|ratings|reward|rank|count|counts|len|length|tokens|model|models|name|names|type|types|"
    r"source|sources|lang|language|version|category|categories|tag|tags|label|labels|flag|"
    r"embedding|embeddings|config|configs|params|parameters|metadata|meta|info|license|status|"
    r"quality|difficulty|usage|cost|prob|probs|logprobs)$"
)
_ABOUT_BEGINS = re.compile(r"(is|has|num|lang|score|embedding|openai_moderation|detoxify)_")
#: Offers of tools: they matter where the model's template writes them, which it does not here.
_OFFERS = ("tools", "functions", "tool_definitions", "available_tools")
#: Fields that hold something other than text, which a model of text cannot read.
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
    """A row's fields by any capitals, or by the names that they are mapped to.

    Remembers which were read.
    """

    def __init__(
        self, row: Mapping[str, Any], mapped: Mapping[str, str] | None = None, depth: int = 0
    ):
        self.row = row
        self.depth = depth
        """How many other rows it lies in."""
        self.used: set[str] = set()
        self.reasons: list[str] = []
        """Why fields that could have held the conversation do not."""
        self._mapped = mapped or {}
        self._names: dict[str, str] = {}
        for name in row:
            self._names.setdefault(str(name).lower(), name)

    def is_mapped(self, name: str) -> bool:
        return name in self._mapped

    def name(self, name: str) -> str | None:
        """The field's own name, if the row has it."""
        if name in self._mapped:
            own = self._mapped[name]
            return own if own in self.row else None
        own = name if name in self.row else self._names.get(name.lower())
        return None if own in self._mapped.values() else own

    def own(self, name: str) -> str:
        """The field's own name as a reason shows it."""
        return escaped(self.name(name) or self._mapped.get(name, name))

    def has(self, name: str) -> bool:
        return self.name(name) is not None

    def get(self, name: str) -> Any:
        """Its value, None where there is none; the field counts as not read."""
        own = self.name(name)
        return None if own is None else self.row[own]

    def is_used(self, name: str) -> bool:
        return self.name(name) in self.used

    def use(self, name: str) -> None:
        own = self.name(name)
        if own is not None:
            self.used.add(own)

    def first(self, *names: str) -> str | None:
        """The first of the names under which something is given."""
        return next((name for name in names if given(self.get(name))), None)


def given(value: Any) -> bool:
    """Does a field say anything? None, NaN and what is empty do not."""
    if isinstance(value, float):
        return not math.isnan(value)
    return value is not None and not (isinstance(value, (str, list, tuple, dict)) and not value)


def does_not_matter(name: str) -> bool:
    """Is a field of this name about the conversation, and no part of it?"""
    plain = snake(name)
    return bool(plain in _ABOUT or _ABOUT_ENDS.search(plain) or _ABOUT_BEGINS.match(plain))


def medium(name: str) -> str | None:
    """What a field of this name holds where that is not text: "an image"."""
    return _MEDIA.get(snake(name))


def left_out(
    row: Mapping[str, Any], used: Collection[str], texts: Collection[str]
) -> Iterator[str]:
    """Fields that were not read and may matter.

    Numbers do not, nor what is empty, nor fields that are known to be about the conversation,
    nor those that only repeat what `texts`, the conversation, says.
    """
    for name, value in row.items():
        if name in used or not given(value) or isinstance(value, (bool, int, float)):
            continue
        if does_not_matter(str(name)):
            continue
        if snake(str(name)) in _OFFERS:
            if given(decoded(value)):
                yield escaped(name)
        elif any(not _repeats(leaf, texts) for leaf in _leaves(value)):
            yield escaped(name)


def _leaves(value: Any, depth: int = 0) -> Iterator[str]:
    """The texts somewhere in a value that may matter."""
    if isinstance(value, str):
        yield value
    elif depth > DEEPEST:
        yield "…"
    elif isinstance(value, Mapping):
        for key, inner in value.items():
            if not does_not_matter(str(key)):
                yield from _leaves(inner, depth + 1)
    elif isinstance(value, (list, tuple)):
        for inner in value:
            yield from _leaves(inner, depth + 1)


#: A shorter text within a message may be there by chance.
_TELLING = 20


def _repeats(leaf: str, texts: Collection[str]) -> bool:
    leaf = leaf.strip()
    if not leaf or leaf in texts or role_of(leaf) is not None:
        return True
    if len(leaf) >= _TELLING and any(leaf in text for text in texts):
        return True
    if leaf[0] in "[{" and (inner := decoded(leaf)) is not leaf:
        return all(_repeats(text, texts) for text in _leaves(inner))
    return bool(texts) and all(part in leaf for text in texts for part in text.split("\n\n"))


def decoded(value: Any) -> Any:
    """The list or object in the text of JSON or of Python, as CSV files hold it, or the value."""
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
    """A field's name as text that can be shown and written."""
    text = name if isinstance(name, str) else shown(name)
    text = text if text.isprintable() else repr(text)[1:-1]
    return text if len(text) <= 80 else f"{text[:79]}…"


def shown(value: Any) -> str:
    """A value as a reason quotes it: short, and text whatever it is."""
    if isinstance(value, (Mapping, list, tuple)):
        return "a list" if isinstance(value, (list, tuple)) else "an object"
    if isinstance(value, int) and value.bit_length() > 64:
        return "a long number"
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:59]}…"
