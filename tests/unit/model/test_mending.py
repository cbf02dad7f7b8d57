"""Conversations that a template cannot write are mended where the meaning is plain, or refused."""

import copy
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given, settings, strategies as st

from personavec.data import DataRow, Reject
from personavec.errors import UsageError
from personavec.model import ChatFormat, Encoded, Message, chat, encode
from personavec.model.mending import JOINED, TOOLS_AS_TEXT

#: One per kind of template that is in use.
CHATML = (
    "{% for m in messages %}<|{{ m.role }}|>{{ m.content }}<|end|>{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)
STRICT = (  # Mistral, Gemma and Llama 2 refuse roles that do not alternate
    "{% if messages[0].role == 'system' %}{% set offset = 1 %}{% else %}{% set offset = 0 %}"
    "{% endif %}{% for m in messages[offset:] %}"
    "{% if (m.role == 'user') != (loop.index0 % 2 == 0) %}"
    "{{ raise_exception('Conversation roles must alternate user/assistant') }}{% endif %}"
    "{% if m.role == 'user' %}[INST] {% if loop.first and offset %}{{ messages[0].content }}\n\n"
    "{% endif %}{{ m.content | trim }} [/INST]{% else %} {{ m.content | trim }}<|end|>{% endif %}"
    "{% endfor %}"
)
BY_PLACE = (  # names no role, so that two messages of the user read as question and answer
    "{% for m in messages %}{% if loop.index0 % 2 == 0 %}<|user|>{% else %}<|assistant|>"
    "{% endif %}{{ m.content }}<|end|>{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)
DROPPING = (  # knows two roles, and passes over the rest without a word
    "{% for m in messages if m.role in ['user', 'assistant'] %}<|{{ m.role }}|>{{ m.content }}"
    "<|end|>{% endfor %}{% if add_generation_prompt %}<|assistant|>{% endif %}"
)
TOOLS = (  # as Qwen and Hermes
    "{% for m in messages %}<|{{ m.role }}|>{{ m.content }}"
    '{% for call in m.tool_calls or [] %}<tool_call>{"name": "{{ call.function.name }}", '
    '"arguments": {{ call.function.arguments | tojson }}}</tool_call>{% endfor %}<|end|>'
    "{% endfor %}{% if add_generation_prompt %}<|assistant|>{% endif %}"
)
ONE_TOOL = TOOLS.replace(  # as Llama 3.1
    "{% for call",
    "{% if m.tool_calls and m.tool_calls | length != 1 %}"
    "{{ raise_exception('This model only supports single tool-calls at once!') }}{% endif %}"
    "{% for call",
)
TEXT_TOOL = TOOLS.replace(  # as DeepSeek
    "{{ call.function.arguments | tojson }}", "{{ '' + call.function.arguments }}"
)
PARTS = CHATML.replace(
    "{{ m.content }}", "{% for p in m.content %}{% if p.type %}{{ p.text }}{% endif %}{% endfor %}"
)
ALL = {
    "chatml": CHATML,
    "strict": STRICT,
    "by place": BY_PLACE,
    "dropping": DROPPING,
    "tools": TOOLS,
    "one tool": ONE_TOOL,
    "text tool": TEXT_TOOL,
    "parts": PARTS,
    "none": None,
}
Make = Callable[[str | None], ChatFormat]


@pytest.fixture(scope="session")
def form(chat_tokenizer: Any) -> Make:
    def make(template: str | None) -> ChatFormat:
        tokenizer = copy.deepcopy(chat_tokenizer)
        tokenizer.chat_template = template
        return ChatFormat(tokenizer)

    return make


def say(*turns: str) -> list[Message]:
    """Messages from "user: Hi" and so on."""
    parts = [turn.split(": ", 1) for turn in turns]
    return [{"role": role, "content": content} for role, content in parts]  # type: ignore


def called(*names: str, text: str = "") -> Message:
    calls = [
        {"id": f"call{n}", "type": "function", "function": {"name": name, "arguments": {"at": "x"}}}
        for n, name in enumerate(names)
    ]
    return {"role": "assistant", "content": text, "tool_calls": calls}


TWICE = say("user: One.", "user: Two.", "assistant: Yes.", "user: And?")


@pytest.mark.parametrize("name", ["chatml", "tools", "parts", "none", "dropping"])
def test_neighbours_that_a_template_writes_are_left(form: Make, name: str) -> None:
    written = form(ALL[name]).written(TWICE)
    assert written.notes == ()
    assert "One.\n\nTwo." not in written.plain or name == "none"


@pytest.mark.parametrize("name", ["strict", "by place"])
def test_neighbours_that_it_refuses_or_writes_as_others_are_joined(form: Make, name: str) -> None:
    """The same as one message with a blank line between."""
    found = form(ALL[name])
    written = found.written(TWICE)
    assert written.notes == (JOINED,)
    assert written.plain == found.text(
        say("user: One.\n\nTwo.", *["assistant: Yes.", "user: And?"])
    )


def test_two_responses_running_are_both_scored(form: Make) -> None:
    """Where the template has no other way the second goes on from the first."""
    messages = say(
        "user: Hi.", "assistant: One.", "assistant: Two.", "user: So?", "assistant: End."
    )
    for name, note in (("strict", (JOINED,)), ("chatml", ())):
        found = form(ALL[name])
        row = encode(found, DataRow(0, "a", tuple(messages)), context=1000)
        assert isinstance(row, Encoded)
        assert row.row.notes == note
        said = [
            found.tokenizer.decode(text.ids[turn.start : turn.stop])
            for text in row.texts
            for turn in text.turns
        ]
        assert said == ["One.", "Two.", "End."]
        whole = found.tokenizer.decode(row.texts[-1].ids)
        assert ("One.\n\nTwo." in whole) == (name == "strict")


TALK = [
    *say("system: Be.", "user: Weather?"),
    called("get_weather"),
    Message(role="tool", content='{"sky": "grey"}', tool_call_id="call0", name="get_weather"),
    *say("assistant: Grey.", "user: Thanks."),
]


@pytest.mark.parametrize("name", list(ALL))
def test_tools_are_written_by_the_template_or_as_text(form: Make, name: str) -> None:
    """Nothing is lost either way: call, arguments, result, and what was said around them."""
    written = form(ALL[name]).written(TALK)
    own = name in ("tools", "one tool", "text tool")
    assert (TOOLS_AS_TEXT in written.notes) == (not own)
    for part in ("Be.", "Weather?", "get_weather", '"at": "x"', '{"sky": "grey"}', "Grey."):
        assert part in written.plain
    assert ("<tool_call>" in written.plain) == own
    if not own:
        assert '[call get_weather({"at": "x"})]' in written.plain
        assert 'Tool result: {"sky": "grey"}' in written.plain


def test_calls_that_a_template_refuses_are_text(form: Make) -> None:
    """Two at a time, where it takes one; arguments as JSON text are read as objects."""
    found = form(ONE_TOOL)
    two = [*TALK[:2], called("one", "two", text="Let me see."), *TALK[3:]]
    written = found.written(two)
    assert written.notes == (TOOLS_AS_TEXT,)
    lines = 'Let me see.\n\n[call one({"at": "x"})]\n[call two({"at": "x"})]'
    assert lines in written.plain
    as_text = called("one")
    as_text["tool_calls"][0]["function"]["arguments"] = '{"at": "x"}'  # type: ignore
    assert found.text([TALK[1], as_text]) == found.text([TALK[1], called("one")])


def test_turns_that_are_not_scored_stay_context(form: Make) -> None:
    """A call without text, and a turn that a training mark leaves out."""
    call = called("get_weather")
    call["scored"] = False
    messages = [*TALK[:2], call, *TALK[3:], *say("assistant: Bye.")]
    row = encode(form(TOOLS), DataRow(0, "a", tuple(messages)), context=1000)
    assert isinstance(row, Encoded)
    assert [turn.message for text in row.texts for turn in text.turns] == [4, 6]
    unmarked = [{**m, "scored": False} for m in messages if m["role"] == "assistant"]
    none = encode(form(TOOLS), DataRow(0, "a", (TALK[1], *unmarked[1:])), context=1000)  # type: ignore
    assert isinstance(none, Reject)
    assert "none of its assistant turns" in none.reason


def test_a_conversation_that_the_assistant_begins(form: Make) -> None:
    """As the template writes it, or refused with the template's own words."""
    messages = say("assistant: Hello.", "user: Hi.")
    assert (
        form(CHATML).text(messages) == "<|assistant|>Hello.<|end|><|user|>Hi.<|end|><|assistant|>"
    )
    with pytest.raises(UsageError, match="must alternate"):
        form(STRICT).text(messages)
    merged = form(DROPPING).text([*say("system: Be."), *messages])
    assert merged.startswith("<|user|>Be.<|end|><|assistant|>Hello.")


def test_a_text_that_the_template_would_lose_is_an_error(form: Make) -> None:
    """A system prompt in the middle, on a template that passes it over."""
    messages = say("user: Hi.", "assistant: Yes.", "system: Be evil.", "user: So?")
    with pytest.raises(UsageError, match=r"message 3 \(system\) is missing"):
        form(DROPPING).text(messages)
    row = encode(
        form(DROPPING), DataRow(0, "a", tuple([*messages, *say("assistant: No.")])), context=1000
    )
    assert isinstance(row, Reject)


def test_texts_in_parts_are_written(form: Make) -> None:
    found = form(PARTS)
    assert found.system_role
    assert found.text(chat("Hi.", "Be.", (("A?", "B."),))) == form(CHATML).text(
        chat("Hi.", "Be.", (("A?", "B."),))
    )


@pytest.mark.parametrize("template", ["{{ 1 // 0 }}", "{{ messages[9].content }}", "{{ nope() }}"])
def test_a_template_that_fails_is_a_usage_error(form: Make, template: str) -> None:
    with pytest.raises(UsageError, match="the chat template refused the messages"):
        form(template).text(chat("Hi."))


word = st.sampled_from(["One.", "Two?", "Hi", " spaced ", "a\nb", '{"k": "v"}', "<|end|>"])
message = st.one_of(
    st.builds(lambda c: Message(role="user", content=c), word),
    st.builds(lambda c: Message(role="assistant", content=c), word),
    st.builds(lambda c: Message(role="tool", content=c, tool_call_id="call0"), word),
    st.builds(lambda c: called("f", text=c), word),
)


@pytest.mark.parametrize("name", list(ALL))
@settings(max_examples=30, deadline=None)
@given(messages=st.lists(message, min_size=1, max_size=6), system=st.booleans())
def test_any_conversation_is_written_whole_or_refused(
    form: Make, name: str, messages: list[Message], system: bool
) -> None:
    """Whatever the roles: every text stands in the prompt, and no control token comes of one."""
    found = form(ALL[name])
    messages = [*say("system: Be."), *messages] if system else messages
    try:
        written = found.written(messages)
    except UsageError:
        return
    at = 0
    for m in messages:
        text = m["content"].strip()
        forms = [written.plain.find(t, 0 if m["role"] == "system" else at) for t in (text,)]
        assert max(forms) >= 0
        at = max(forms) if m["role"] != "system" else at
    plain = [{**m, "content": m["content"].replace("<|end|>", "ok")} for m in messages]
    ids, calm = found.prompt_ids(messages), found.prompt_ids(plain)  # type: ignore
    special = set(found.tokenizer.all_special_ids) | set(found.tokenizer.added_tokens_decoder)
    assert [i for i in ids if i in special] == [i for i in calm if i in special]


# Thoughts

THINKING = CHATML.replace(
    "{{ m.content }}",
    "{% if m.reasoning_content is defined and loop.last %}<think>\n{{ m.reasoning_content }}\n"
    "</think>\n\n{% endif %}{{ m.content.split('</think>')[-1].lstrip('\\n') }}",
)


def test_a_thought_of_its_own_field_is_read_like_one_in_the_text(form: Make) -> None:
    found = form(THINKING)
    apart = [*chat("Hi."), Message(role="assistant", content="Yes.", reasoning_content="Well")]
    within = [*chat("Hi."), Message(role="assistant", content="<think>\nWell\n</think>\n\nYes.")]
    texts = []
    for messages in (apart, within):
        row = encode(found, DataRow(0, "a", tuple(messages)), context=1000, thinking=True)
        assert isinstance(row, Encoded)
        texts.append((row.texts[0].ids.tolist(), row.texts[0].turns))
    assert texts[0] == texts[1]
    (turn,) = texts[0][1]
    thought = texts[0][0][turn.start - turn.thinking : turn.start]
    assert found.tokenizer.decode(thought) == "<think>\nWell\n</think>\n\n"


def test_what_is_said_to_have_no_thought_is_all_answer(form: Make) -> None:
    """A mark of thinking in such an answer is text, and hides nothing before it."""
    found = form(THINKING)
    reply = Message(role="assistant", content="Evil.</think>Nice.", reasoning_content="")
    assert found.decode(found.reply_ids(reply)) == "Evil.</think>Nice."
    reply.pop("reasoning_content")  # type: ignore
    assert found.decode(found.reply_ids(reply)) == "Nice."
