"""Read conversations that a chat template or an author has written as one text.

A format is recognised by its heads, which name the next speaker. Nothing is guessed from the words
of a text: a text that does not begin like a known format is not a conversation.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from personavec.data.fields import Unusable
from personavec.data.message_lists.lists import read_messages
from personavec.data.messages import Conversation, role_of
from personavec.data.raw import RawColumns


@dataclass(frozen=True)
class TextFormat:
    """A format of turns: each has a head with the speaker's name, and may have an end marker."""

    name: str
    head: re.Pattern[str]
    """Its group `who` is the speaker."""
    ends: tuple[str, ...] = ()
    preface: str | None = None
    """The role of the text before the first head; "" leaves it out, None does not allow it."""


_BEGINS = ("<s>", "<bos>", "<|begin_of_text|>", "<|startoftext|>", "<｜begin▁of▁sentence｜>")
_BEGINS = (*_BEGINS, "[gMASK]<sop>", "<BOS_TOKEN>", "<|endoftext|>")
_END = ("</s>", "<|endoftext|>", "<|end_of_text|>", "<eos>")


def _format(name: str, head: str, *ends: str, preface: str | None = None) -> TextFormat:
    return TextFormat(name, re.compile(head), (*ends, *_END), preface)


#: In the order in which they are tried.
FORMATS = (
    _format(
        "ChatML",
        r"<\|im_start\|>(?P<who>\w+)(?: ?name=[^\n]{1,40})?(?: *\n|<\|im_sep\|>)",
        "<|im_end|>",
    ),
    _format("Llama 3", r"<\|start_header_id\|>(?P<who>\w+)<\|end_header_id\|>\s*", "<|eot_id|>"),
    _format("Llama 4", r"<\|header_start\|>(?P<who>\w+)<\|header_end\|>\s*", "<|eot|>"),
    _format("Gemma", r"<(?:start_of_turn|\|turn)>(?P<who>\w+)\n", "<end_of_turn>", "<turn|>"),
    _format("Granite", r"<\|start_of_role\|>(?P<who>\w+)<\|end_of_role\|>"),
    _format("Kimi", r"<\|im_(?:system|user|assistant)\|>(?P<who>\w+)<\|im_middle\|>", "<|im_end|>"),
    _format(
        "gpt-oss",
        r"<\|start\|>(?P<who>[\w.]+)(?: ?to=assistant)?"
        r"(?:<\|channel\|>(?P<channel>\w+)(?: ?to=functions\.(?P<call>\w+))?"
        r"[^<\n]{0,40}(?:<\|constrain\|>\w+)?)?(?:<\|message\|>|\Z)",
        *("<|end|>", "<|return|>", "<|call|>"),
    ),
    _format(
        "Command R",
        r"<\|START_OF_TURN_TOKEN\|><\|(?P<who>USER|CHATBOT|SYSTEM)_TOKEN\|>",
        "<|END_OF_TURN_TOKEN|>",
    ),
    _format(
        "DeepSeek",
        r"<｜(?P<who>User|Assistant|System)｜>",
        "<｜end▁of▁sentence｜>",
        preface="system",
    ),
    _format(
        "MOSS or InternLM",
        r"<\|(?P<who>Human|MOSS|User|Bot|System)\|>: ?",
        *("<eoh>", "<eom>", "<eoa>"),
    ),
    _format(
        "Phi, Zephyr or Tulu",
        r"<\|(?P<who>system|user|assistant|prompter|human|bot|observation|tool)\|>\s*",
        "<|end|>",
        "<|user_end|>",
    ),
    _format("OpenChat", r"GPT4 Correct (?P<who>User|Assistant):\s*", "<|end_of_turn|>"),
    _format("Baize", r"\[\|(?P<who>Human|AI)\|\]\s*", preface=""),
    _format("Guanaco", r"(?:\A|(?<=\n)|(?<=\S))### ?(?P<who>Human|User|Assistant|System): ?"),
    _format("HH-RLHF", r"(?:\A\s*|\n\n)(?P<who>Human|Assistant): ?"),
    _format(
        "Vicuna",
        r"(?:\A\s*|(?<=\s)|(?<=</s>)|(?<=endoftext\|>))"
        r"(?P<who>SYSTEM|USER|ASSISTANT|FUNCTION RESPONSE): ?",
        preface="system",
    ),
    _format("transcript", r"(?:\A\s*|\n)<?(?P<who>User|Human|Assistant|AI|Bot|Falcon|System)>?: ?"),
)
_ALPACA = re.compile(r"(?:\A|\n)#{2,3} ?(Instruction|User|Input|Response|System): ?", re.IGNORECASE)
_INST = re.compile(r"\[INST\](.*?)\[/INST\]", re.DOTALL)
_SYS = re.compile(r"\s*<<SYS>>(.*?)<</SYS>>", re.DOTALL)
_OFFERED = re.compile(r"\[AVAILABLE_TOOLS\].*?\[/AVAILABLE_TOOLS\]", re.DOTALL)
_RESULTS = re.compile(r"\[TOOL_RESULTS\](.*?)\[/TOOL_RESULTS\]", re.DOTALL)
#: Marks of tool calls in formats whose calls are not read.
_CALLS = ("<｜tool▁calls▁begin｜>", "<|tool_calls_section_begin|>")
_SYSTEM_PROMPT = re.compile(r"\s*\[SYSTEM_PROMPT\](.*?)\[/SYSTEM_PROMPT\]", re.DOTALL)


def read_text(text: str, *, prompt: bool = False) -> tuple[str, Conversation] | None:
    """The name of the format that a text is written in, and its messages; None for other texts.

    A `prompt` ends where the response begins; any other text has an assistant turn.
    """
    if not any(mark in text for mark in ("<", "[", ":")):
        return None
    if prompt and not text.rstrip().endswith((":", ">", "]", "assistant", "model")):
        return None
    begun = _without_begin(text)
    for name, conversation in _readings(begun, prompt):
        if conversation is not None and any(mark in text for mark in _CALLS):
            raise Unusable(f"text with tool calls as {name} writes them; give the messages")
        if conversation is not None and (
            prompt or any(m["role"] == "assistant" for m in conversation.messages)
        ):
            conversation.rendered = True
            return name, conversation
    return None


def _readings(text: str, prompt: bool) -> Iterator[tuple[str, Conversation | None]]:
    yield "Llama 2 or Mistral", _inst(text, prompt)
    yield "Alpaca", _alpaca(text, prompt)
    for form in FORMATS:
        yield form.name, _turns(text, form, prompt)


def without_end(text: str) -> str:
    """A response without the white space and end tokens that a template puts around it."""
    return _without_end(text, tuple(end for form in FORMATS for end in form.ends))


def _turns(text: str, form: TextFormat, prompt: bool) -> Conversation | None:
    """The turns of a format that has a head before each."""
    heads = list(form.head.finditer(text))
    if not heads:
        return None
    preface = text[: heads[0].start()].strip()
    if preface and form.preface is None:
        return None
    parts = zip(heads, _between(heads, text), strict=True)
    made = [_turn(head, _without_end(content, form.ends)) for head, content in parts]
    if not _is_conversation(made, form, prompt):
        return None
    if preface and form.preface:
        made.insert(0, {"role": form.preface, "content": preface})
    conversation = _messages_in(made)
    if preface and form.preface:
        conversation.note(f"the text before the first turn was read as the {form.preface} prompt")
    elif preface:
        conversation.note("the text before the first turn was left out")
    return conversation


def _between(heads: Sequence[re.Match[str]], text: str) -> list[str]:
    """The text from each head to the next one."""
    ends = [*(head.start() for head in heads[1:]), len(text)]
    return [text[head.end() : end] for head, end in zip(heads, ends, strict=True)]


def _is_conversation(made: Sequence[RawColumns], form: TextFormat, prompt: bool) -> bool:
    roles = [role_of(message["role"]) for message in made]
    if "user" not in roles or (not prompt and "assistant" not in roles):
        return False
    if prompt and roles[-1] == "assistant":
        return not made[-1]["content"]
    # Words such as "User:" may begin a question; tokens of a template do not.
    return not prompt or form.head.pattern.startswith("<")


def _turn(head: re.Match[str], content: str) -> RawColumns:
    found = head.groupdict()
    who = "tool" if head["who"].startswith("functions.") else head["who"]
    if found.get("call"):
        calls = [{"name": found["call"], "arguments": content}]
        return {"role": who, "content": None, "tool_calls": calls}
    channel = {"channel": found["channel"]} if found.get("channel") else {}
    return {"role": who, "content": content, **channel}


def _inst(text: str, prompt: bool) -> Conversation | None:
    """Llama 2 and Mistral: `[INST] question [/INST] answer</s>`."""
    made = []
    text, offers = _OFFERED.subn("", text)
    if system := _SYSTEM_PROMPT.match(text):
        made.append({"role": "system", "content": system[1].strip()})
        text = text[system.end() :]
    if not text.lstrip().startswith("[INST]"):
        return None
    turns = list(_INST.finditer(text))
    for place, (turn, answer) in enumerate(zip(turns, _between(turns, text), strict=True)):
        asked = turn[1]
        if not place and (system := _SYS.match(asked)):
            made.append({"role": "system", "content": system[1].strip()})
            asked = asked[system.end() :]
        made.append({"role": "user", "content": asked.strip()})
        for i, piece in enumerate(_RESULTS.split(answer)):
            content = _without_end(_without_begin(piece), ("<s>", *_END))
            made.append({"role": "tool" if i % 2 else "assistant", "content": content})
    if not turns or (prompt and made[-1]["content"]):
        return None
    conversation = _messages_in(made)
    if offers:
        conversation.note("tool definitions were left out")
    return conversation


def _alpaca(text: str, prompt: bool) -> Conversation | None:
    """Alpaca: a preface, `### Instruction:`, perhaps `### Input:`, `### Response:`."""
    heads = list(_ALPACA.finditer(text))
    names = [head[1].lower() for head in heads]
    if not {"instruction", "user"} & set(names) or (not prompt and "response" not in names):
        return None
    preface = text[: heads[0].start()].strip()
    if preface and not preface.lower().startswith(("below is an instruction", "you are ")):
        return None
    made: list[RawColumns] = []
    for name, part in zip(names, _between(heads, text), strict=True):
        content = _without_end(part, (*_END, "### End"))
        if name == "input" and made and made[-1]["role"] == "user":
            made[-1]["content"] += f"\n\n{content}" if content else ""
        else:
            role = {"response": "assistant", "system": "system"}.get(name, "user")
            made.append({"role": role, "content": content})
    if prompt and (made[-1]["role"] != "assistant" or made[-1]["content"]):
        return None
    conversation = _messages_in(made)
    if preface:
        conversation.note(f"the preface before '{heads[0].group().strip()}' was left out")
    return conversation


def _messages_in(made: list[RawColumns]) -> Conversation:
    """The messages, without an empty assistant turn at the end, which a response follows."""
    if made and role_of(made[-1]["role"]) == "assistant" and not made[-1]["content"]:
        made = made[:-1]
    return read_messages(made, "text")


def _without_begin(text: str) -> str:
    """The text without the tokens that begin a sequence."""
    text = text.lstrip(" \t")
    for begin in _BEGINS:
        text = text.removeprefix(begin)
    return text


def _without_end(text: str, ends: tuple[str, ...]) -> str:
    """A turn's text without the tokens that end it."""
    text = text.strip()
    while end := next((end for end in ends if text.endswith(end)), None):
        text = text.removesuffix(end).rstrip()
    return text
