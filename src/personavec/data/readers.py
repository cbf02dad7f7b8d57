"""The table of readers: a function for each way in which columns hold a conversation.

A reader takes a row's fields and returns what it found, or None where the row is not of its form;
it raises Unusable where the row is, and cannot be used. docs/data.md lists the readers.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from personavec.data.fields import Fields, Unusable, decoded, escaped, given, left_out, medium
from personavec.data.message_lists import (
    IN_TURN,
    THOUGHT,
    Said,
    is_list_of_calls,
    is_list_of_messages,
    is_message,
    is_setting,
    plain_text,
    read_messages,
)
from personavec.data.messages import Message, role_of
from personavec.data.texts import read_text, without_end

#: Columns that hold a conversation, or the messages before a response in another column.
MESSAGES = (
    *("messages", "conversations", "conversation", "contents", "chat_messages", "dialogue"),
    *("dialog", "dialogs", "dialogues", "chat", "chats", "turns", "data", "thread", "trajectory"),
    *("input_messages", "transcript", "message_list", "items", "traj"),
)
#: Of these, the ones that hold nothing else,
_SURELY = ("messages", "conversations", "contents")
#: and those that may lie beside a prompt and its response, and are not what was said then.
_PERHAPS = MESSAGES[MESSAGES.index("dialogue") :]
#: Columns of a prompt and of a response, most telling names first: every prompt with every
#: response, the pairs that belong together before all others.
TOGETHER = (
    ("prompt", "completion"),
    ("prompt", "response"),
    ("question", "attempt"),
    ("question", "solution"),
    ("question", "answer"),
    ("instruction", "output"),
    ("instruction", "response"),
    ("problem", "solution"),
    ("input", "output"),
    ("input", "target"),
    ("inputs", "outputs"),
    ("inputs", "targets"),
    ("request", "response"),
    ("user", "assistant"),
    ("human", "assistant"),
    ("human", "bot"),
    ("input_text", "output_text"),
    ("message", "text"),
    ("q", "a"),
)
PROMPTS = (
    *("prompt", "question", "instruction", "query", "problem", "input", "inputs", "request"),
    *("user_prompt", "user_message", "user_input", "user", "human", "body", "request_body"),
    *("requestBody", "params", "message", "input_text", "text_input", "inputText"),
    "inputBodyJson",
)
RESPONSES = (
    *("completion", "response", "answer", "output", "outputs", "target", "targets", "reply"),
    *("generated_text", "generation", "generated_solution", "model_output", "model_response"),
    *("model_answer", "assistant_response", "assistant_message", "bot_response", "ai_response"),
    *("assistant", "bot", "result", "results", "response_body", "responseBody"),
    *("output_messages", "choices", "candidates", "message", "output_text", "outputBodyJson"),
    *("solution", "attempt", "sampled", "content"),
)
#: A text in these is a response only beside `prompt`; a request or response may be in them too.
_ALSO_NO_ANSWER = ("message", "content")
SYSTEM = (
    *("system", "system_prompt", "system_message", "systemPrompt", "systemMessage"),
    *("system_instruction", "system_instructions", "systemInstruction", "meta_instruction"),
    *("instructions", "preamble", "developer", "developer_message", "sys_prompt", "system_msg"),
    "preprompt",
)
HISTORY = ("history", "chat_history", "conversation_history", "dialogue_history", "past")
#: Columns of text that belongs to the prompt, after it.
MORE = {"instruction": ("input", "context"), "*": ("context",)}
THOUGHTS = (
    *("reasoning_content", "reasoning", "thinking", "thought", "thoughts", "think", "cot"),
    *("chain_of_thought", "complex_cot", "reasoning_trace", "think_content", "model_reasoning"),
    *("thinking_trajectory", "thinking_trajectories"),
)
#: Columns of a preference pair: the better response and the other one.
SIDES = (
    ("chosen", "rejected"),
    ("preferred_output", "non_preferred_output"),
    ("chosen_response", "rejected_response"),
    ("response_chosen", "response_rejected"),
    ("preferred", "non_preferred"),
    ("preferred", "dispreferred"),
    ("accepted", "rejected"),
    ("chosen", "reject"),
    ("better_response", "worse_response"),
    ("response_j", "response_k"),
    ("messages", "rejected_messages"),
)
PAIR_PROMPTS = (
    *("prompt", "question", "instruction", "query", "problem", "input", "conversations"),
    *("conversation", "messages", "context", "history", "user_prompt", "body", "trajectory"),
)
#: Two responses of which another column says which is better.
TWO = (
    ("response_0", "response_1"),
    ("response_a", "response_b"),
    ("response_1", "response_2"),
    ("response1", "response2"),
    ("output_1", "output_2"),
    ("output_a", "output_b"),
    ("answer_0", "answer_1"),
    ("answer_a", "answer_b"),
    ("completion_a", "completion_b"),
    ("conversation_a", "conversation_b"),
    ("messages_a", "messages_b"),
    ("human_ref_A", "human_ref_B"),
)
#: Columns with several responses to one prompt.
_SEVERAL = ("completions", "answers", "responses", "candidates", "generations", "resps", "samples")

#: Columns of a single message: its speaker and what is said.
_SPEAKER = ("role", "is_user", "speaker", "sender", "user", "username", "from")
_SPOKEN = ("content", "text", "message", "mes", "utterance")

#: Columns that may hold a whole row.
_WRAPPING = (
    *("data", "payload", "record", "row", "event", "log", "entry", "item", "sample", "example"),
    *("meta", "span", "run", "trace", "properties", "json", "_source", "detail", "value"),
)

SEVERAL_CHOICES = "of several choices the first was read"
TREE = "of several replies in a tree the first was read"
UNDESIRED = "label false: an undesired response"


@dataclass
class Found:
    """A conversation, as a reader found it."""

    messages: list[Message]
    rejected: list[Message] | None = None
    sides: tuple[str, str] | None = None
    """The columns that hold a pair's responses alone, the better one first."""
    notes: list[str] = field(default_factory=list)


class RowReader(NamedTuple):
    name: str
    read: Callable[[Fields], Found | None]


def _said(said: Said) -> Found:
    return Found(said.messages, notes=said.notes)


# --- Values of columns


def _user(content: Any) -> Said:
    return read_messages([{"role": "user", "content": content}], "prompt")


def _assistant(content: Any) -> Said:
    return read_messages([{"role": "assistant", "content": content}], "response")


def _is_parts(value: Sequence[Any]) -> bool:
    """A message's content alone, as a list of its parts?"""
    first = value[0] if value else None
    if not isinstance(first, Mapping) or "message" in first:
        return False
    return "text" in first or "type" in first


#: Where a request's messages are, in an object.
_ASKED = (
    *("messages", "contents", "conversation", "conversations", "input", "inputs", "prompt"),
    *("body", "request", "requestBody", "inputBodyJson", "params", "kwargs", "question", "query"),
    *("message", "inputText", "text", "user_input", "user", "content", "raw"),
)
#: Where a response is, in an object.
_ANSWERED = (
    *("choices", "candidates", "generations", "results", "message", "messages", "output"),
    *("outputs", "content", "text", "generated_text", "outputText", "output_text", "completion"),
    *("response", "body", "result", "answer", "outputBodyJson", "value"),
)
_CHOICES = ("choices", "candidates", "generations", "results", "outputs")


def asked(value: Any, depth: int = 0) -> Said | None:
    """The messages of a request: a text, a list of messages, or an object that holds either."""
    value = _object(value, ("messages", "contents"))
    if isinstance(value, str):
        found = read_text(value, prompt=True)
        return found[1] if found else _user(value)
    if depth > 6 or not given(value):
        return None
    if isinstance(value, (list, tuple)):
        if is_list_of_messages(value):
            return read_messages(value, "messages")
        if _is_parts(value):
            return _user(value)
        inner = value[0] if len(value) == 1 else None
        return asked(inner, depth + 1) if isinstance(inner, (list, tuple, Mapping)) else None
    if not isinstance(value, Mapping):
        return None
    if role_of(value.get("role")) or is_list_of_messages(value):
        return read_messages(value, "messages")
    fields = Fields(value)
    for name in _ASKED:
        if given(fields.get(name)) and (said := asked(fields.get(name), depth + 1)):
            fields.use(name)
            add_history(fields, said)
            add_system(fields, said)
            _tell_fields(value, fields.used, said)
            return said
    return None


def answered(value: Any, depth: int = 0) -> Said | None:
    """The messages of a response: a text, messages, or an object that holds either."""
    value = _object(value, (*_CHOICES, "role"))
    if isinstance(value, str):
        return _assistant(value)
    if depth > 8 or not given(value):
        return None
    if isinstance(value, (list, tuple)):
        if is_message(value[0]):
            return read_messages(value, "response")
        return _assistant(value) if _is_parts(value) else _chosen(value, depth)
    if not isinstance(value, Mapping):
        return None
    if is_message(value):
        return read_messages(value, "response")
    for name in _ANSWERED:
        inner = value.get(name)
        if given(inner) and (said := _answered_in(name, inner, depth + 1)):
            _tell_fields(value, {name}, said)
            return said
    return None


def _answered_in(name: str, value: Any, depth: int = 0) -> Said | None:
    """The response in a column or field of this name, which may be one for several choices."""
    value = decoded(value) if name in _CHOICES else value
    choices = name in _CHOICES and isinstance(value, (list, tuple)) and bool(value)
    return _chosen(value, depth) if choices and not is_message(value[0]) else answered(value, depth)


def _chosen(choices: Sequence[Any], depth: int) -> Said | None:
    """The first of several responses."""
    if len(choices) > 1 and all(isinstance(text, str) for text in choices):
        raise Unusable(
            "a response of several texts: join them where they are its pieces, or make a row of "
            "each"
        )
    said = answered(choices[0], depth + 1)
    if said and len(choices) > 1:
        said.note(SEVERAL_CHOICES)
    return said


def _object(value: Any, names: tuple[str, ...]) -> Any:
    """What an API sent, out of its JSON text; any other text in JSON is what was said."""
    inner = decoded(value)
    if is_list_of_messages(inner) or (
        isinstance(inner, Mapping) and any(name in inner for name in names)
    ):
        return inner
    return value


def _tell_fields(value: Mapping[str, Any], used: set[str], said: Said) -> None:
    for name in left_out(value, used, texts_of(said.messages)):
        said.note(f"field '{name}' of a request or response was left out")


def texts_of(messages: Sequence[Message]) -> set[str]:
    """What a conversation says."""
    texts = {message["content"].strip() for message in messages}
    texts |= {message.get("reasoning_content", "").strip() for message in messages}
    return texts - {""}


def joined(before: Said, reply: Said) -> Said:
    """Prompt and response as one conversation; a response may repeat the prompt."""
    if before.rendered and reply.messages:
        first = reply.messages[0]
        first["content"] = without_end(first["content"])
    n = len(before.messages)
    repeated = len(reply.messages) > n and same(reply.messages[:n], before.messages)
    messages = reply.messages if repeated else [*before.messages, *reply.messages]
    return Said(messages, list(dict.fromkeys([*before.notes, *reply.notes])))


def same(a: Sequence[Message], b: Sequence[Message]) -> bool:
    """Do two lists of messages say the same?"""
    return len(a) == len(b) and all(
        x["role"] == y["role"]
        and x["content"].strip() == y["content"].strip()
        and x.get("tool_calls") == y.get("tool_calls")
        for x, y in zip(a, b, strict=True)
    )


# --- What stands beside


def add_system(fields: Fields, *sides: Said) -> None:
    """Put the system prompt of its column first; one among the messages wins, if they differ."""
    for name in SYSTEM:
        value = fields.get(name)
        if fields.is_used(name) or not given(value):
            continue
        text = plain_text(value)
        if text is None or not text.strip():
            continue
        text = text.removeprefix("SYSTEM: ")
        for said in sides:
            first = said.messages[0] if said.messages else None
            if first is None or first["role"] != "system":
                said.messages.insert(0, {"role": "system", "content": text})
                fields.use(name)
            elif first["content"].strip() == text.strip():
                fields.use(name)


def add_history(fields: Fields, said: Said) -> None:
    """Put earlier turns before the prompt."""
    for name in HISTORY:
        value = decoded(fields.get(name))
        if fields.is_used(name) or not given(value):
            continue
        try:
            before = _turns(value, name)
        except Unusable:
            continue
        if before is not None:
            said.messages[:0] = before.messages
            said.notes[:0] = before.notes
            fields.use(name)
            return


def _turns(value: Any, name: str) -> Said | None:
    """Turns in any of the forms that columns have, None where it is none of them."""
    if isinstance(value, str):
        found = read_text(value)
        return found[1] if found else None
    if isinstance(value, Mapping) and not is_list_of_messages(value):
        turns = list(value.values())
        if turns and all(isinstance(turn, Mapping) for turn in turns):  # MOSS
            return _turns(turns, name)
        fields = Fields(value)
        inner = fields.first("messages", "turns", "conversation")
        said = _turns(decoded(fields.get(inner)), name) if inner else None
        if inner and said and said.messages:
            fields.use(inner)
            add_system(fields, said)
            for left in left_out(value, fields.used, texts_of(said.messages)):
                said.note(f"field '{left}' of '{name}' was left out")
        return said
    if isinstance(value, (list, tuple)) and value and all(isinstance(v, str) for v in value):
        if name not in ("data", "conversations", *HISTORY) or (name in HISTORY and len(value) % 2):
            raise Unusable(f"column '{name}' holds texts without roles")
        value = [
            {"role": ("user", "assistant")[i % 2], "content": text} for i, text in enumerate(value)
        ]
        said = read_messages(value, name)
        said.note(IN_TURN)
        return said
    return read_messages(value, name)


def _add_thoughts(fields: Fields, said: Said) -> None:
    last = said.messages[-1] if said.messages else None
    if last is None or last["role"] != "assistant" or "reasoning_content" in last:
        return
    for name in THOUGHTS:
        thought = fields.get(name)
        if isinstance(thought, (list, tuple)) and len(thought) == 1:
            thought = thought[0]
        if fields.is_used(name) or not isinstance(thought, str) or is_setting(thought):
            continue
        if thought.strip():
            last["reasoning_content"] = thought.strip()
            said.note(THOUGHT)
            fields.use(name)
            return


def _prompt(fields: Fields, name: str) -> Said:
    """The prompt in a column, with what belongs to it beside it."""
    value = fields.get(name)
    fields.use(name)
    if isinstance(value, str):
        said = asked(value) or _user(value)
        last = said.messages[-1]
        for more in MORE.get(name, MORE["*"]):
            text = None if fields.is_used(more) else _text_beside(fields, more)
            if text is not None and last["role"] == "user" and len(said.messages) == 1:
                last["content"] += f"\n\n{text}"
                fields.use(more)
    else:
        said = asked(value) if given(value) else None
        if said is None:
            raise Unusable(f"no text in column '{fields.own(name)}'")
    add_history(fields, said)
    add_system(fields, said)
    return said


def _text_beside(fields: Fields, name: str) -> str | None:
    value = fields.get(name)
    if isinstance(value, (list, tuple)) and all(isinstance(v, str) for v in value):
        value = "\n\n".join(value)
    return value if isinstance(value, str) and value.strip() else None


def _reply(fields: Fields, name: str) -> Said:
    value = fields.get(name)
    fields.use(name)
    said = _answered_in(name, value) if isinstance(value, str) or given(value) else None
    if said is None:
        raise Unusable(f"no text in column '{fields.own(name)}'")
    return said


# --- Readers


def preference_pair(fields: Fields) -> Found | None:
    """`chosen` and `rejected`, with a prompt column or with lists that share their beginning."""
    for chosen, rejected in SIDES:
        if fields.has(chosen) and fields.has(rejected):
            return _pair(fields, chosen, rejected)
    return None


def _pair(fields: Fields, chosen: str, rejected: str) -> Found:
    sides = [_side(fields, name) for name in (chosen, rejected)]
    whole = [any(m["role"] == "user" for m in side.messages) for side in sides]
    name = fields.first(*PAIR_PROMPTS)
    if not all(whole):
        if name is None:
            raise Unusable(
                f"'{fields.own(chosen)}' and '{fields.own(rejected)}' answer no prompt: name its "
                "column with --columns prompt=COLUMN"
            )
        before = _prompt(fields, name)
        sides = [
            side if is_whole else joined(before, side)
            for side, is_whole in zip(sides, whole, strict=True)
        ]
    add_system(fields, *(s for s, is_whole in zip(sides, whole, strict=True) if is_whole))
    return _both(fields, sides, chosen, rejected)


def _both(fields: Fields, sides: Sequence[Said], chosen: str, rejected: str) -> Found:
    return Found(
        sides[0].messages,
        sides[1].messages,
        (fields.name(chosen) or chosen, fields.name(rejected) or rejected),
        list(dict.fromkeys([*sides[0].notes, *sides[1].notes])),
    )


def _side(fields: Fields, name: str) -> Said:
    """A pair's side: the response alone, or the whole conversation."""
    value = fields.get(name)
    fields.use(name)
    if isinstance(value, str):
        own = fields.first(*PAIR_PROMPTS)
        prompt = fields.get(own) if own else None
        repeated = isinstance(prompt, str) and value.lstrip().startswith(prompt.strip())
        transcript = read_text(value) if repeated or not isinstance(prompt, str) else None
        if transcript is not None:
            if own and repeated:
                fields.use(own)
            return transcript[1]
    said = answered(value) if isinstance(value, str) or given(value) else None
    if said is None:
        raise Unusable(f"no text in column '{fields.own(name)}'")
    return said


def rejected_response(fields: Fields) -> Found | None:
    """`messages` that end with the better response, `rejected_response` with the other one."""
    if not given(fields.get("rejected_response")) or not given(fields.get("messages")):
        return None
    said = read_messages(fields.get("messages"), "messages")
    fields.use("messages")
    add_system(fields, said)
    if not said.messages or said.messages[-1]["role"] != "assistant":
        raise Unusable("'messages' beside 'rejected_response' must end with the better response")
    other = _reply(fields, "rejected_response")
    before = Said(said.messages[:-1])
    return Found(
        said.messages,
        joined(before, other).messages,
        notes=list(dict.fromkeys([*said.notes, *other.notes])),
    )


def two_responses(fields: Fields) -> Found | None:
    """Two responses and a column that says which is better."""
    for first, second in TWO:
        if fields.has(first) and fields.has(second):
            better = _better(fields, first, second)
            names = (first, second) if better == 0 else (second, first)
            return _pair_of_lists(fields, *names) or _pair(fields, *names)
    return None


def _pair_of_lists(fields: Fields, chosen: str, rejected: str) -> Found | None:
    """Prompts and responses of several turns as JSON lists of texts, as LMSYS published them."""
    lists = [decoded(fields.get(name)) for name in ("prompt", chosen, rejected)]
    if not all(isinstance(texts, list) and texts for texts in lists):
        return None
    if len({len(texts) for texts in lists}) > 1 or not all(
        isinstance(text, str) for texts in lists for text in texts
    ):
        return None
    sides = []
    for answers in lists[1:]:
        turns = [list(turn) for turn in zip(lists[0], answers, strict=True)]
        sides.append(read_messages(turns, "prompt"))
    for name in ("prompt", chosen, rejected):
        fields.use(name)
    add_system(fields, *sides)
    return _both(fields, sides, chosen, rejected)


def _better(fields: Fields, first: str, second: str) -> int:
    """Which of two columns is the better. Raises Unusable for a tie, or if nothing says so."""
    ends = [name.lower()[-1] for name in (first, second)]
    for name in ("winner_model_a", "winner_model_b"):
        if fields.get(name) == 1:
            return int(name.endswith("b"))
    if fields.get("winner_tie") == 1:
        raise Unusable("a tie: neither of the two responses is the better")
    strength = fields.first("overall_preference", "preference_strength")
    overall = fields.get(strength) if strength else None
    if strength and isinstance(overall, (int, float)) and overall:
        fields.use(strength)
        return int(overall > 0)
    if first == "human_ref_A" and fields.get("labels") in (0, 1):
        fields.use("labels")
        return 1 - int(fields.get("labels"))
    for name in ("better_response_id", "winner", "preference", "preferred", "better", "choice"):
        value = fields.get(name)
        if value in (0, 1, 2) and not isinstance(value, bool):
            value = str(int(value))
        if not isinstance(value, str):
            continue
        said = value.strip().lower()
        fields.use(name)
        for place, own in enumerate((first, second)):
            if said in (
                own.lower(),
                ends[place],
                f"model_{ends[place]}",
                f"response_{ends[place]}",
            ):
                return place
        if "tie" in said or "both" in said:
            raise Unusable("a tie: neither of the two responses is the better")
    if overall == 0:
        raise Unusable("a tie: neither of the two responses is the better")
    raise Unusable(
        f"two responses, and no column says which is the better; choose with --columns "
        f"chosen={fields.own(first)},rejected={fields.own(second)}"
    )


def messages(fields: Fields) -> Found | None:
    """A list of messages, alone or followed by a response in another column."""
    for name in ("messages",) if fields.is_mapped("messages") else MESSAGES:
        if name in _PERHAPS and fields.has(name) and _is_beside(fields):
            continue
        value = decoded(fields.get(name))
        if not given(value) or isinstance(value, (bool, int, float)):
            continue
        sure = name in _SURELY
        try:
            said = _turns(value, name)
        except Unusable as error:
            if sure or is_list_of_messages(value):
                raise
            fields.reasons.append(str(error))
            continue
        if said is None or not said.messages:
            if sure:
                raise Unusable(f"column '{fields.own(name)}' holds no list of messages")
            continue
        fields.use(name)
        if said.messages[-1]["role"] in ("user", "tool"):
            said = _with_reply(fields, said)
        add_system(fields, said)
        _add_thoughts(fields, said)
        return _said(said)
    if fields.is_mapped("messages"):
        raise Unusable(f"no messages in column '{fields.own('messages')}'")
    return None


def _is_beside(fields: Fields) -> bool:
    """Do texts of a prompt and its response stand in columns of their own?"""
    pair = _prompt_with_response(fields)
    return pair is not None and all(isinstance(fields.get(name), str) for name in pair)


def _with_reply(fields: Fields, said: Said) -> Said:
    """Messages that end with a prompt, and the response in a column beside them."""
    for name in RESPONSES:
        value = None if fields.is_used(name) else fields.get(name)
        if given(value) and (reply := _answered_in(name, value)) is not None:
            fields.use(name)
            return joined(said, reply)
    return said


def chatgpt_export(fields: Fields) -> Found | None:
    """`mapping`, a tree of messages of which `current_node` is the last one shown."""
    nodes = fields.get("mapping")
    if not isinstance(nodes, Mapping) or not all(isinstance(n, Mapping) for n in nodes.values()):
        return None
    at = fields.get("current_node")
    if not _hashable(at) or at not in nodes:
        parents = {node.get("parent") for node in nodes.values() if _hashable(node.get("parent"))}
        at = next((key for key in reversed(nodes) if key not in parents), None)
    path: list[Mapping[str, Any]] = []
    seen: set[Any] = set()
    while _hashable(at) and at in nodes and at not in seen:
        seen.add(at)
        path.append(nodes[at])
        at = nodes[at].get("parent")
    spoken = [_exported(node.get("message")) for node in reversed(path)]
    for name in ("mapping", "current_node", "title"):
        fields.use(name)
    return _said(read_messages([message for message in spoken if message], "mapping"))


def _hashable(value: Any) -> bool:
    return isinstance(value, (str, int))


def _exported(message: Any) -> dict[str, Any] | None:
    """A message of ChatGPT's export, None for one that was not shown and says nothing."""
    if not isinstance(message, Mapping):
        return None
    author, content = message.get("author"), message.get("content")
    role = author.get("role") if isinstance(author, Mapping) else author
    content = content if isinstance(content, Mapping) else {"parts": [content]}
    kind = content.get("content_type")
    if kind in ("user_editable_context", "model_editable_context", "reasoning_recap"):
        return None
    if kind == "thoughts":
        return {"type": "reasoning", "content": content.get("thoughts")}
    said = content.get("parts") or [content.get("text") or content.get("result") or ""]
    if isinstance(said, list) and not any(said):
        return None
    to = message.get("recipient")
    if role == "assistant" and isinstance(to, str) and to not in ("all", ""):
        return {"role": role, "content": None, "tool_calls": [{"name": to, "arguments": said}]}
    return {"role": role, "content": said}


def message_tree(fields: Fields) -> Found | None:
    """`prompt`, a message with `replies`, which have replies: the first of each is taken."""
    node = fields.get("prompt")
    if not isinstance(node, Mapping) or "replies" not in node:
        return None
    fields.use("prompt")
    spoken, several = [], False
    while isinstance(node, Mapping):
        spoken.append({key: node.get(key) for key in ("role", "text")})
        replies = node.get("replies")
        replies = replies if isinstance(replies, (list, tuple)) else ()
        replies = [reply for reply in replies if isinstance(reply, Mapping)]
        several |= len(replies) > 1
        node = min(replies, key=_rank, default=None)
    said = read_messages(spoken, "prompt")
    if several:
        said.note(TREE)
    return _said(said)


def _rank(reply: Mapping[str, Any]) -> float:
    rank = reply.get("rank")
    return rank if isinstance(rank, (int, float)) and not isinstance(rank, bool) else 1e9


#: Messages in the flat attributes of a span: `llm.input_messages.0.message.role`.
_FLAT = re.compile(
    r"(?:llm|gen_ai)\.(?P<side>prompts?|completions?|input_messages|output_messages)"
    r"\.(?P<place>\d{1,4})\.(?P<rest>.+)"
)
_SPAN_INPUT = ("gen_ai.input.messages", "llm.input_messages", "input.value", "gen_ai.prompt")
_SPAN_OUTPUT = (
    *("gen_ai.output.messages", "llm.output_messages", "output.value", "gen_ai.completion"),
)


def span(fields: Fields) -> Found | None:
    """A traced call of a model: attributes of OpenTelemetry (`gen_ai`) or OpenInference (`llm`)."""
    if not any(str(n).startswith(("attributes", "gen_ai.", "llm.")) for n in fields.row):
        return None
    found = {
        path: value
        for name, value in fields.row.items()
        for path, value in _attributes(name, value)
    }
    sides: dict[str, dict[int, Any]] = {"in": {}, "out": {}}
    for path, value in found.items():
        if match := _FLAT.fullmatch(path):
            side = "in" if match["side"].startswith(("prompt", "input")) else "out"
            message = sides[side].setdefault(int(match["place"]), {})
            _put(message, match["rest"].split("."), value)
    lists = {
        side: [_unflattened(message) for _, message in sorted(messages.items())]
        for side, messages in sides.items()
    }
    before = lists["in"] or next((found[n] for n in _SPAN_INPUT if given(found.get(n))), None)
    reply = lists["out"] or next((found[n] for n in _SPAN_OUTPUT if given(found.get(n))), None)
    if before is None or reply is None:
        return None
    said, more = asked(before), answered(reply)
    if said is None or more is None:
        return None
    for name in fields.row:
        if str(name).startswith(("attributes", "gen_ai.", "llm.", "input.", "output.")):
            fields.used.add(name)
    said = joined(said, more)
    system = Fields({"system": decoded(found.get("gen_ai.system_instructions"))})
    add_system(system, said)
    return _said(said)


def _attributes(name: Any, value: Any, depth: int = 0) -> Iterator[tuple[str, Any]]:
    """Attributes by their dotted names, however they are nested."""
    name = str(name)
    name = "" if name == "attributes" else name.removeprefix("attributes.")
    if isinstance(value, Mapping) and depth < 8:
        for key, inner in value.items():
            yield from _attributes(f"{name}.{key}" if name else key, inner, depth + 1)
        return
    if not name and isinstance(value, (list, tuple)):  # OTLP: [{"key": ..., "value": {...}}]
        for item in value:
            key, held = (
                (item.get("key"), item.get("value")) if isinstance(item, Mapping) else ("", 0)
            )
            if isinstance(key, str) and isinstance(held, Mapping):
                yield key, next(iter(held.values()), None)
        return
    yield name, value


def _put(into: dict[str, Any], path: list[str], value: Any) -> None:
    for step in path[:-1]:
        inner = into.get(step)
        into[step] = into = inner if isinstance(inner, dict) else {}
    into[path[-1]] = value


def _unflattened(value: Any) -> Any:
    """Objects whose keys are numbers, as lists."""
    if not isinstance(value, dict):
        return value
    if value and all(str(key).isdigit() for key in value):
        return [_unflattened(value[key]) for key in sorted(value, key=int)]
    return {key: _unflattened(inner) for key, inner in value.items()}


def prompt_and_response(fields: Fields) -> Found | None:
    """A prompt column and a response column: texts, messages, or an API's request and response."""
    for name in ("prompt", "response"):
        if fields.is_mapped(name) and not fields.has(name):
            raise Unusable(f"no text in column '{fields.own(name)}'")
    pair = _prompt_with_response(fields)
    if pair is None:
        return None
    prompt, response = pair
    fields.use(response)  # so that it is not taken for a part of the prompt
    before = _prompt(fields, prompt)
    said = joined(before, _reply(fields, response))
    _add_thoughts(fields, said)
    return _said(said)


def _prompt_with_response(fields: Fields) -> tuple[str, str] | None:
    """The columns of a prompt and its response: the first two that are there, and given if any."""
    mapped = fields.is_mapped("prompt") or fields.is_mapped("response")
    prompts = ("prompt",) if fields.is_mapped("prompt") else PROMPTS
    responses = ("response",) if fields.is_mapped("response") else RESPONSES
    asking = [name for name in prompts if fields.has(name)]
    answering = [name for name in responses if fields.has(name)]
    pairs = [] if mapped else [pair for pair in TOGETHER if all(map(fields.has, pair))]
    spoken = [name for name in _ALSO_NO_ANSWER if isinstance(decoded(fields.get(name)), str)]
    pairs += [
        (p, r) for p in asking for r in answering if p != r and (p == "prompt" or r not in spoken)
    ]
    both = (pair for pair in pairs if all(given(fields.get(name)) for name in pair))
    return next(both, pairs[0] if pairs else None)


def rendered_text(fields: Fields) -> Found | None:
    """One text in which a template or its author has written the turns."""
    names = ("text", "input", "content", "prompt", "sample", "formatted_text", "formatted_chat")
    for name in names:
        value = fields.get(name)
        found = read_text(value) if isinstance(value, str) else None
        if found is not None:
            fields.use(name)
            said = found[1]
            add_system(fields, said)
            said.note(f"read from text as {found[0]} writes it")
            return _said(said)
    return None


def history(fields: Fields) -> Found | None:
    """A whole conversation in a column of earlier turns, where no prompt stands beside it."""
    for name in HISTORY:
        value = decoded(fields.get(name))
        said = _turns(value, name) if given(value) and not isinstance(value, (int, float)) else None
        if said is not None and said.messages:
            fields.use(name)
            add_system(fields, said)
            return _said(said)
    return None


def wrapped_row(fields: Fields) -> Found | None:
    """A row that lies in one column, as an object or as its JSON text."""
    for name in _WRAPPING:
        inner = decoded(fields.get(name))
        if not isinstance(inner, Mapping) or fields.depth > 3:
            continue
        own = Fields(inner, depth=fields.depth + 1)
        for reader in READERS:
            own.used.clear()
            found = reader.read(own)
            if found is None:
                continue
            fields.use(name)
            if media := [field for field in inner if medium(str(field)) and given(inner[field])]:
                raise Unusable(f"the row holds {medium(str(media[0]))}, and only text is read")
            texts = texts_of([*found.messages, *(found.rejected or ())])
            found.notes += [
                f"field '{field}' of '{fields.own(name)}' was left out"
                for field in left_out(inner, own.used, texts)
            ]
            found.sides = None
            return found
    return None


#: All readers, in the order in which they are tried; the first that finds its columns decides.
READERS = (
    RowReader("preference pair", preference_pair),
    RowReader("rejected response", rejected_response),
    RowReader("two responses", two_responses),
    RowReader("messages", messages),
    RowReader("ChatGPT export", chatgpt_export),
    RowReader("message tree", message_tree),
    RowReader("span", span),
    RowReader("prompt and response", prompt_and_response),
    RowReader("rendered text", rendered_text),
    RowReader("history", history),
    RowReader("wrapped row", wrapped_row),
)


def readers_for(fields: Fields) -> tuple[RowReader, ...]:
    """The readers that a mapping leaves to try."""
    if fields.is_mapped("chosen") or fields.is_mapped("rejected"):
        return (RowReader("preference pair", mapped_pair),)
    if fields.is_mapped("messages"):
        return (RowReader("messages", messages),)
    if fields.is_mapped("response"):
        return (RowReader("prompt and response", prompt_and_response),)
    if fields.is_mapped("prompt"):
        named = (preference_pair, two_responses, prompt_and_response)
        return tuple(reader for reader in READERS if reader.read in named)
    return READERS


def mapped_pair(fields: Fields) -> Found | None:
    """The pair in the columns that `--columns` names."""
    both = fields.has("chosen") and fields.has("rejected")
    return _pair(fields, "chosen", "rejected") if both else None


def why_none(fields: Fields) -> str:
    """Why no reader found a conversation in a row, and what to do."""
    names = [escaped(name) for name in fields.row]
    shown_names = ", ".join(names[:20]) + (", …" if len(names) > 20 else "")
    return f"no conversation in columns {shown_names or '(none)'}: {_cause(fields)}"


def _is_one_text(value: Any) -> bool:
    return isinstance(value, (list, tuple)) and len(value) == 1 and isinstance(value[0], str)


def _cause(fields: Fields) -> str:
    if fields.reasons:
        return fields.reasons[0]
    if empty := next((name for name in _SURELY if fields.has(name)), None):
        what = "holds no list of messages" if given(fields.get(empty)) else "is empty"
        return f"column '{fields.own(empty)}' {what}"
    if fields.has("custom_id") and (fields.has("response") or fields.has("result")):
        return (
            "a response without its request; join the two by custom_id, as columns "
            "'request' and 'response'"
        )
    if fields.has("parent_id") and fields.has("role"):
        return "one message of a tree; put the messages of a conversation into one row"
    if any(map(fields.has, _SPEAKER)) and any(map(fields.has, _SPOKEN)):
        return "a single message; put the messages of a conversation into one row"
    if fields.has("segments"):
        return "pieces of rendered text; give the messages themselves"
    several = fields.first(*_SEVERAL)
    if several is not None and is_list_of_calls(fields.get(several)):
        return f"no response: '{several}' only calls tools"
    if several is not None and not _is_one_text(decoded(fields.get(several))):
        return (
            f"several responses to one prompt in '{several}'; make a row of each, or a pair "
            "with 'chosen' and 'rejected'"
        )
    prompt, response = fields.first(*PROMPTS), fields.first(*RESPONSES)
    if prompt is not None and prompt != response:
        return f"a prompt in '{prompt}' without a response; name it with --columns response=COLUMN"
    if response is not None:
        return f"a response in '{response}' without a prompt; name it with --columns prompt=COLUMN"
    return (
        "name them with --columns messages=COLUMN, prompt=COLUMN,response=COLUMN "
        "or chosen=COLUMN,rejected=COLUMN"
    )
