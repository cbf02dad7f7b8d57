"""Lists of messages, in every form in which they are published or logged, as `Message`s.

Knows roles, contents and their parts, thoughts, tool calls and training marks. Knows nothing of a
row's columns.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from personavec.data.fields import DEEPEST, Unusable, decoded, given, left_out, medium, shown
from personavec.data.messages import CALLERS, Message, Role, role_of, snake
from personavec.data.thoughts import part_thought, unwrapped

THOUGHT = "a thought was left out of the answer"
EMPTY_THOUGHT = "an empty thought was left out of the answer"
IN_TURN = "texts without roles were read as the user's and the assistant's in turn"
WRAPPER = "a wrapper such as <answer> was taken off the answer"
MASKED = "a response is not scored, since its training mark '{}' leaves it out"
NOT_CHOSEN = "responses that were not chosen were left out"
UNFINISHED = "a response that ends inside its thought is not scored"

_ROLE_KEYS = ("role", "from", "author", "sender", "speaker", "message.role")
_CONTENT_KEYS = ("content", "value", "text", "parts", "message", "utterance", "message.content")
_CONTENT_KEYS = (*_CONTENT_KEYS, "system_prompt")  # of a system message
_THOUGHT_KEYS = ("reasoning_content", "reasoning", "thinking", "thought", "thoughts", "think")
_CALL_KEYS = ("tool_calls", "toolCalls", "function_call", "functionCall", "message.tool_calls")
#: Training marks: a message is left out where one of these says no,
_TRAINED = (
    *("weight", "loss", "train", "training", "trainable", "train_on", "loss_weight", "label"),
    "scored",  # as `Message` has it
)
#: or where one of these says yes.
_MASKED = ("masked", "mask")
#: Marks of parts of a message, which are not read.
_PARTLY = ("train_detail", "training_detail", "loss_mask")
_SETTINGS = {"on", "off", "yes", "no", "true", "false", "none", "low", "medium", "high"}
_NO, _YES = {"false", "no", "off", "0", "0.0"}, {"true", "yes", "on", "1", "1.0"}
#: Fields of messages that are read, or are known to say nothing of what was said.
_KNOWN = {
    *_ROLE_KEYS,
    *_CONTENT_KEYS,
    *_THOUGHT_KEYS,
    *_CALL_KEYS,
    *_TRAINED,
    *_MASKED,
    *("refusal", "tool_call_id", "name", "if_chosen"),
}
#: Two sides of one exchange in an object: (asked, answered).
EXCHANGES = (
    ("human", "assistant"),
    ("user", "assistant"),
    ("human", "moss"),
    ("human", "gpt"),
    ("human", "ai"),
    ("human", "bot"),
    ("user", "bot"),
    ("user", "model"),
    ("prompt", "response"),
    ("prompt", "completion"),
    ("question", "answer"),
    ("query", "response"),
    ("instruction", "output"),
    ("instruction", "response"),
    ("input", "output"),
)
_TEXT_PARTS = {"text", "output_text", "input_text", "refusal", "summary_text", "markdown"}
_THOUGHT_PARTS = {"thinking", "reasoning", "reasoning_text", "reasoning_content", "thoughts"}
_CALL_PARTS = {"tool_use", "tool_call", "function_call", "server_tool_use", "tool_call_request"}
_REPLY_PARTS = {
    *("tool_result", "tool_call_response", "function_response", "function_call_output"),
    *("tool_response", "web_search_tool_result", "code_execution_tool_result"),
}
_MEDIA_PARTS = {
    "image": "an image",
    "audio": "audio",
    "video": "a video",
    "file": "a file",
    "document": "a document",
    "inline_data": "media",
    "media": "media",
}


@dataclass
class Said:
    """Messages as they were read, and what is to be told of the reading."""

    messages: list[Message] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    thought: str | None = None
    """A thought whose answer has not come yet."""
    rendered: bool = False
    """Was it read from text that a template had written?"""

    def note(self, text: str) -> None:
        if text not in self.notes:
            self.notes.append(text)


def is_list_of_messages(value: Any) -> bool:
    """Do its first items look like messages?"""
    value = transposed(decoded(value))
    return (
        isinstance(value, (list, tuple))
        and bool(value)
        and isinstance(value[0], Mapping)
        and (is_message(value[0]) or _exchange(value[0]) is not None)
    )


def is_message(value: Any) -> bool:
    """Is it an object that says who speaks?"""
    return isinstance(value, Mapping) and _role_key(_inner(value)) is not None


def transposed(value: Any) -> Any:
    """An object of equally long lists (`{"role": [...], "content": [...]}`) as a list of objects.

    `datasets` keeps a list of objects so.
    """
    if not isinstance(value, Mapping) or not value:
        return value
    lists = [inner for inner in value.values() if isinstance(inner, (list, tuple))]
    if len(lists) != len(value) or len({len(inner) for inner in lists}) != 1:
        return value
    if not any(str(key) in _ROLE_KEYS for key in value):
        return value
    return [dict(zip(value, items, strict=True)) for items in zip(*value.values(), strict=True)]


def plain_text(value: Any) -> str | None:
    """The text of a system prompt: a text, parts of one, or a message; None for anything else."""
    parts = _Parts(1, "system")
    try:
        parts.add(value)
    except Unusable:
        return None
    return parts.text() if parts.said else None


def read_messages(value: Any, name: str) -> Said:
    """The messages in a column or field of this name. Raises Unusable."""
    value = transposed(decoded(value))
    if isinstance(value, Mapping):
        value = [value]
    if isinstance(value, Sequence) and not isinstance(value, (str, bytes)):
        pairs = [_pair_of_texts(item) for item in value]
        if value and all(pairs):
            value = [message for pair in pairs if pair for message in pair]
    if (
        not isinstance(value, Sequence)
        or isinstance(value, (str, bytes))
        or not all(isinstance(message, Mapping) for message in value)
    ):
        raise Unusable(f"column '{name}' holds no list of messages")
    said = Said()
    for place, message in enumerate(value, start=1):
        _read_message(said, _inner(message), place)
    if said.thought is not None:
        _add_thought_alone(said)
    return said


def _pair_of_texts(item: Any) -> list[dict[str, Any]] | None:
    """`["What?", "That."]`, or an object with both sides of an exchange, as two messages."""
    if isinstance(item, (list, tuple)):
        if len(item) == 2 and all(isinstance(text, str) for text in item):
            return [{"role": "user", "content": item[0]}, {"role": "assistant", "content": item[1]}]
        return None
    return _exchange(item) if isinstance(item, Mapping) else None


def _exchange(item: Mapping[str, Any]) -> list[dict[str, Any]] | None:
    if _role_key(item) is not None:
        return None
    keys = {str(key).lower(): key for key in item}
    for asked, answered in EXCHANGES:
        if asked in keys and answered in keys:
            break
    else:
        return None
    rest = {key: value for key, value in item.items() if str(key).lower() not in (asked, answered)}
    made = []
    for name in ("system", "system_prompt"):
        if given(rest.get(name)):
            made.append({"role": "system", "content": rest.pop(name)})
    question = item[keys[asked]]
    if asked == "instruction" and isinstance(question, str) and isinstance(rest.get("input"), str):
        more = rest.pop("input")
        question = f"{question}\n\n{more}" if more else question
    if given(question) or asked != "input":  # only a system prompt may stand before an output
        made.append({"role": "user", "content": question})
    return [*made, {**rest, "role": "assistant", "content": item[keys[answered]]}]


def _role_key(message: Mapping[str, Any]) -> str | None:
    for key in _ROLE_KEYS:
        if given(message.get(key)):
            return key
    kind = message.get("type")
    return "type" if role_of(kind) or _is_item(kind) else None


def _is_item(kind: Any) -> bool:
    """An item of OpenAI's Responses that has no role."""
    return isinstance(kind, str) and (
        kind in ("function_call_output", "reasoning") or kind.endswith("_call")
    )


def _inner(message: Mapping[str, Any]) -> Mapping[str, Any]:
    """The message itself, out of what LangChain and others wrap around it."""
    if _role_key(message) not in (None, "type"):
        return message
    for key in ("kwargs", "data", "message"):
        inner = message.get(key)
        if not isinstance(inner, Mapping) or not inner:
            continue
        kind = message.get("type")
        place = message.get("id")
        if kind == "constructor" and isinstance(place, (list, tuple)) and place:
            kind = str(place[-1]).removesuffix("Chunk").removesuffix("Message")
        known = {} if _role_key(inner) not in (None, "type") else {"role": kind}
        return {**inner, **known} if role_of(known.get("role", "user")) else message
    return message


def _read_message(said: Said, message: Mapping[str, Any], place: int) -> None:
    kind = message.get("type")
    key = _role_key(message)
    if key == "type" and _is_item(kind):
        _read_item(said, message, place)
        return
    speaker = message[key] if key else None
    if isinstance(speaker, Mapping):
        speaker = speaker.get("role") or speaker.get("name")
    role = role_of(speaker)
    if role is None:
        if key is None:
            raise Unusable(f"message {place} has no role")
        raise Unusable(
            f"message {place} has the unknown role {shown(speaker)}; "
            "known are system, user, assistant, tool and their usual synonyms"
        )
    if message.get("if_chosen") is False:  # PRISM: another model's response to the same prompt
        said.note(NOT_CHOSEN)
        return
    _refuse_media(message, place)
    at = _after_replies(message.get("content")) if role == "assistant" else 0
    if at:
        _read_message(said, {**message, "content": message["content"][:at]}, place)
        message = {**message, "content": message["content"][at:]}
    parts = _Parts(place, role)
    parts.add(_content(message, key))
    if not parts.calls and _is_reply(parts.text()) and role == "user":
        role = "tool"  # as Qwen's template writes it
    if role == "assistant":
        _read_assistant(said, message, parts, snake(str(speaker)) in CALLERS)
    elif role == "tool":
        _flush(said, parts.replies)
        _add_reply(said, message, parts.text() if parts.said else _json(_content(message, key)))
    else:
        if role == "user" and not (parts.said or parts.replies or parts.calls):
            raise Unusable(f"message {place} ({role}) has no text")
        _flush(said, parts.replies)
        if parts.said:
            said.messages.append({"role": role, "content": parts.text()})
    texts = {parts.text().strip(), *(thought.strip() for thought in parts.thoughts)}
    left = [*left_out(message, _KNOWN, texts)]
    left += [name for name in _PARTLY if given(message.get(name)) and name not in left]
    for name in left:
        said.note(f"field '{name}' of a message was left out")


def _content(message: Mapping[str, Any], role_key: str | None) -> Any:
    for key in _CONTENT_KEYS:
        if key != role_key and message.get(key) is not None:
            return message[key]
    refusal = message.get("refusal")
    return refusal if isinstance(refusal, str) else None


def _after_replies(content: Any) -> int:
    """Where an answer goes on after replies to its calls, which the provider ran; 0 if nowhere."""
    if not isinstance(content, (list, tuple)):
        return 0
    kinds = [part.get("type") if isinstance(part, Mapping) else None for part in content]
    replies = [kind in _REPLY_PARTS for kind in kinds]
    return next((i for i in range(1, len(replies)) if replies[i - 1] and not replies[i]), 0)


def _refuse_media(message: Mapping[str, Any], place: int) -> None:
    for name, value in message.items():
        held = "a file" if name == "files" else medium(str(name))
        if held and given(value):
            raise Unusable(f"message {place} holds {held}, and only text is read")


class _Parts:
    """The content of one message: its text, thoughts, calls, and replies to calls."""

    def __init__(self, place: int, role: Role):
        self.place, self.role = place, role
        self.texts: list[str] = []
        self.said = False
        self.thoughts: list[str] = []
        self.calls: list[dict[str, Any]] = []
        self.replies: list[Message] = []
        self.skipped: list[str] = []

    def text(self) -> str:
        return "".join(self.texts)

    def add(self, content: Any, depth: int = 0) -> None:
        if content is None:
            return
        if depth > DEEPEST:
            raise Unusable(f"message {self.place} is nested too deeply")
        if isinstance(content, str):
            self.texts.append(content)
            self.said = True
        elif isinstance(content, (list, tuple)):
            for part in content:
                self.add(part, depth + 1)
        elif isinstance(content, Mapping):
            self._add_part(content, depth)
        elif self.role != "tool":
            raise Unusable(f"message {self.place} ({self.role}) has no text")

    def _add_part(self, part: Mapping[str, Any], depth: int) -> None:
        kind = part.get("type") or part.get("content_type") or part.get("kind")
        kind = snake(kind) if isinstance(kind, str) else ""
        names = {snake(str(name)): name for name, value in part.items() if given(value)}
        if self.role == "tool" and not kind and set(names) != {"text"}:
            self.texts.append(_json(part))
            self.said = True
            return
        held = next((h for name in ((kind,) if kind else names) if (h := _held(name))), None)
        if held is not None:
            raise Unusable(f"message {self.place} holds {held}, and only text is read")
        for name in ("tool_use", "function_call"):  # Bedrock, Gemini
            if not kind and name in names and isinstance(part[names[name]], Mapping):
                self.calls.append(call(part[names[name]], self.place))
                return
        for name in ("tool_result", "function_response"):
            if not kind and name in names and isinstance(part[names[name]], Mapping):
                self._add_reply(part[names[name]], depth)
                return
        if kind in _CALL_PARTS:
            self.calls.append(call(part, self.place))
        elif kind in _REPLY_PARTS:
            self._add_reply(part, depth)
        elif kind in _THOUGHT_PARTS or part.get("thought") is True or "reasoning_content" in names:
            self.thoughts.append(_thought_text(part))
        elif kind in ("redacted_thinking", "step_start"):
            pass
        elif kind in _TEXT_PARTS or not kind or kind in ("message", "multimodal_text", "code"):
            found = next(
                (n for n in ("text", "content", "parts", "value", "refusal") if n in names), None
            )
            if found is not None:
                self.add(part[names[found]], depth + 1)
            elif kind in _TEXT_PARTS:
                self.add(part.get("text", ""), depth + 1)
            elif self.role == "tool":
                self.texts.append(_json(part))
                self.said = True
            else:
                raise Unusable(f"message {self.place} ({self.role}) holds a part without text")
        elif self.role == "tool":
            self.texts.append(_json(part))
            self.said = True
        else:
            raise Unusable(
                f"message {self.place} ({self.role}) holds a part of the unknown type {shown(kind)}"
            )

    def _add_reply(self, part: Mapping[str, Any], depth: int) -> None:
        inner = _Parts(self.place, "tool")
        content = next(
            (part[k] for k in ("content", "response", "output", "result", "text") if k in part),
            None,
        )
        if isinstance(content, Mapping):
            inner.texts.append(_json(content))
        else:
            inner.add(content, depth + 1)
        self.replies.append(_reply(part, inner.text()))


def _held(name: str) -> str | None:
    """What a part of this type or name holds where that is not text."""
    begun = name.removeprefix("input_")
    return next((held for start, held in _MEDIA_PARTS.items() if begun.startswith(start)), None)


def _read_assistant(said: Said, message: Mapping[str, Any], parts: _Parts, is_call: bool) -> None:
    place = parts.place
    text = parts.text()
    thoughts = [*parts.thoughts]
    if said.thought is not None:
        thoughts.insert(0, said.thought)
        said.thought = None
    if message.get("channel") == "analysis":  # gpt-oss: a thought in a message of its own
        said.thought = "\n\n".join([*thoughts, text])
        return
    for key in _THOUGHT_KEYS:
        if given(message.get(key)) and not is_setting(message[key]):
            thought = _thought_text(message[key])
            if thought and thought not in thoughts:
                thoughts.append(thought)
    calls = list(parts.calls)
    if is_call:
        calls += calls_in(text, place)
        text = ""
    for key in _CALL_KEYS:
        if given(message.get(key)):
            calls += calls_in(message[key], place)
    if calls and given(message.get("function_call")) and given(message.get("tool_calls")):
        calls = calls_in(message["tool_calls"], place)
    if not (parts.said or calls or parts.replies or thoughts):
        raise Unusable(f"message {place} (assistant) has no text")
    inner, answer = part_thought(text)
    made: Message = {"role": "assistant", "content": ""}
    if inner is not None and inner.strip() not in {t.strip() for t in thoughts}:
        thoughts.append(inner)
    if inner is not None and not inner:
        said.note(EMPTY_THOUGHT)
    if answer is not None and (inner is not None or thoughts):
        plain = unwrapped(answer)
        if plain != answer:
            said.note(WRAPPER)
        answer = plain
    if thoughts:
        made["reasoning_content"] = "\n\n".join(thought for thought in thoughts if thought)
        if made["reasoning_content"]:
            said.note(THOUGHT)
    if answer is None:
        made["scored"] = False
        said.note(UNFINISHED)
        said.messages.append(made)
        return
    if not calls:
        answer, written = _written_calls(answer, place)
        calls += written
    made["content"] = answer
    if calls:
        made["tool_calls"] = calls
        if not answer.strip():
            made["content"] = ""
            made["scored"] = False
    if mark := training_mark(message):
        made["scored"] = False
        said.note(MASKED.format(mark))
    said.messages.append(made)
    _flush(said, parts.replies)


def is_setting(value: Any) -> bool:
    """Does a field such as `reasoning` only say whether, or how much, there was to be one?"""
    if isinstance(value, str):
        return value.strip().lower() in _SETTINGS
    return isinstance(value, (bool, int, float))


def training_mark(message: Mapping[str, Any]) -> str | None:
    """The mark by which a message is left out of training, if it has one."""
    for name in _TRAINED:
        value = message.get(name)
        if name == "label" and not isinstance(value, bool):
            continue
        if value is not None and _says(value, _NO):
            return name
    for name in _MASKED:
        value = message.get(name)
        if value is not None and _says(value, _YES):
            return name
    return None


def _says(value: Any, words: set[str]) -> bool:
    if isinstance(value, bool):
        return str(value).lower() in words
    if isinstance(value, (int, float)):
        return value == (0 if words is _NO else 1)
    return isinstance(value, str) and value.strip().lower() in words


def _read_item(said: Said, item: Mapping[str, Any], place: int) -> None:
    """An item of OpenAI's Responses that is no message."""
    kind = item["type"]
    if kind == "reasoning":
        texts = [_thought_text(item.get(key)) for key in ("summary", "content", "text")]
        thought = "\n\n".join(text for text in texts if text)
        if thought:
            said.thought = "\n\n".join([said.thought, thought] if said.thought else [thought])
    elif kind == "function_call_output":
        _add_reply(said, item, _json(item.get("output")))
    elif kind == "function_call":
        made: Message = {"role": "assistant", "content": "", "scored": False}
        made["tool_calls"] = [call(item, place)]
        if said.thought:
            made["reasoning_content"], said.thought = said.thought, None
            said.note(THOUGHT)
        said.messages.append(made)
    else:
        said.note(f"items of type {shown(kind)} were left out")


def _add_thought_alone(said: Said) -> None:
    """A thought after which nothing was said."""
    said.messages.append(
        {
            "role": "assistant",
            "content": "",
            "reasoning_content": said.thought or "",
            "scored": False,
        }
    )
    said.note(UNFINISHED)


def _thought_text(value: Any, depth: int = 0) -> str:
    if isinstance(value, str) or depth > DEEPEST:
        return value if isinstance(value, str) else ""
    if isinstance(value, (list, tuple)):
        return "\n\n".join(text for item in value if (text := _thought_text(item, depth + 1)))
    if isinstance(value, Mapping):
        keys = ("thinking", "reasoning", "text", "content", "summary", "thoughts")
        more = ("reasoningContent", "reasoning_content", "reasoningText", "reasoning_text")
        texts = [_thought_text(value[key], depth + 1) for key in (*keys, *more) if key in value]
        return "\n\n".join(text for text in texts if text)
    return ""


def calls_in(value: Any, place: int) -> list[dict[str, Any]]:
    """Tool calls in a list, an object, or either as JSON text."""
    value = decoded(value)
    if isinstance(value, Mapping):
        value = [value]
    if isinstance(value, str) and value.strip():
        value = [{"name": "", "arguments": value}]
    if not isinstance(value, (list, tuple)):
        raise Unusable(f"message {place} has tool calls that cannot be read")
    return [call(decoded(item), place) for item in value]


def call(value: Any, place: int) -> dict[str, Any]:
    """One tool call in the form of OpenAI's API, its arguments an object."""
    if not isinstance(value, Mapping):
        raise Unusable(f"message {place} has tool calls that cannot be read")
    if isinstance(value.get("tool_call"), Mapping):  # OpenInference
        value = value["tool_call"]
    function = value.get("function")
    inner = function if isinstance(function, Mapping) else value
    name = inner.get("name")
    if name is None and isinstance(function, str):
        name = function
    arguments = next(
        (inner[key] for key in ("arguments", "input", "args", "parameters") if key in inner), {}
    )
    arguments = decoded(arguments)
    if not isinstance(arguments, Mapping):
        arguments = {"input": arguments} if given(arguments) else {}
    made: dict[str, Any] = {
        "type": "function",
        "function": {"name": name if isinstance(name, str) else "", "arguments": plain(arguments)},
    }
    for key in ("call_id", "id", "toolUseId"):
        if isinstance(value.get(key), str):
            return {"id": value[key], **made}
    return made


def is_list_of_calls(value: Any) -> bool:
    """Is it a list of objects with a name and arguments, or the text of one?"""
    value = decoded(value)
    return isinstance(value, (list, tuple)) and all(
        isinstance(item, Mapping) and "name" in item and "arguments" in item for item in value
    )


#: Marks after which an answer only calls: Glaive, Llama 3.1, Mistral.
_CALLED = ("<functioncall>", "<|python_tag|>", "[TOOL_CALLS]")
_NAMED = re.compile(r"\s*([\w.-]+)\[ARGS\](.*)", re.DOTALL)
_FUNCTION = re.compile(r"<function=([\w.-]+)>(.*?)</function>", re.DOTALL)
_PARAMETER = re.compile(r"<parameter=([^>\n]+)>\n?(.*?)\n?</parameter>", re.DOTALL)
_KEYED = re.compile(r"([\w.-]+)\s*((?:<arg_key>.*?</arg_value>\s*)*)", re.DOTALL)
_KEY = re.compile(r"<arg_key>(.*?)</arg_key>\s*<arg_value>(.*?)</arg_value>", re.DOTALL)


def _written_call(text: str) -> Mapping[str, Any] | None:
    """A call as an answer's text holds it: in JSON, or as Qwen3-Coder and GLM write it."""
    value = decoded(text)
    if isinstance(value, Mapping) and "name" in value:
        return value
    if found := _FUNCTION.fullmatch(text):
        arguments = decoded(found[2].strip())
        if isinstance(arguments, str):
            arguments = dict(_PARAMETER.findall(arguments))
        return {"name": found[1], "arguments": arguments}
    if found := _KEYED.fullmatch(text):
        return {"name": found[1], "arguments": dict(_KEY.findall(found[2]))}
    return None


def _written_calls(text: str, place: int) -> tuple[str, list[dict[str, Any]]]:
    """An answer without the calls that are written in its text, and the calls."""
    for mark in _CALLED:
        if text.lstrip().startswith(mark):
            called = text.strip().removeprefix(mark).removesuffix("<|eom_id|>").strip()
            if named := _NAMED.fullmatch(called):
                return "", [call({"name": named[1], "arguments": named[2]}, place)]
            return "", calls_in(called, place)
    if found := _FUNCTION.fullmatch(text.strip()):  # Llama 3.1
        return "", [call(_written_call(found.group()), place)]
    opens, closes = "<tool_call>", "</tool_call>"
    before, found, rest = text.partition(opens)
    if not found or not text.rstrip().endswith(closes):
        return text, []
    calls = []
    for piece in (found + rest).split(opens)[1:]:
        inner, closed, after = piece.partition(closes)
        value = _written_call(inner.strip())
        if not closed or after.strip() or value is None:
            return text, []
        calls.append(call(value, place))
    return before.rstrip(), calls


def _flush(said: Said, replies: Iterable[Message]) -> None:
    said.messages.extend(replies)


def _add_reply(said: Said, message: Mapping[str, Any], text: str) -> None:
    said.messages.append(_reply(message, text))


def _is_reply(text: str) -> bool:
    text = text.strip()
    return text.startswith("<tool_response>") and text.endswith("</tool_response>")


def _reply(part: Mapping[str, Any], text: str) -> Message:
    inner = text.strip()
    if _is_reply(inner):
        text = inner[len("<tool_response>") : -len("</tool_response>")].strip()
    made: Message = {"role": "tool", "content": text}
    for key in ("tool_call_id", "tool_use_id", "toolUseId", "call_id"):
        if isinstance(part.get(key), str):
            made["tool_call_id"] = part[key]
            break
    if isinstance(part.get("name"), str):
        made["name"] = part["name"]
    return made


def _json(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, str):
        return value
    return json.dumps(plain(value), ensure_ascii=False)


def plain(value: Any, depth: int = 0) -> Any:
    """A value as JSON can write it. Raises Unusable where it cannot be."""
    if depth > DEEPEST:
        raise Unusable("a tool call or reply is nested too deeply")
    if isinstance(value, Mapping):
        return {str(key): plain(inner, depth + 1) for key, inner in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(inner, depth + 1) for inner in value]
    if isinstance(value, int) and value.bit_length() > 10_000:
        raise Unusable("a tool call or reply holds a number too long to write")
    if value is None or isinstance(value, (str, bool, int, float)):
        return value
    return str(value)
