"""A conversation's tokens: one text, or one for each turn."""

from collections.abc import Callable

from talk_rows import TALK, talk_row

from personavec import LoadedModel
from personavec.data import Reject, parse_row
from personavec.model import encode


def test_a_row_of_many_turns_is_one_text(llama: LoadedModel) -> None:
    row = encode(llama.chat, parse_row(talk_row(0, *TALK)), context=llama.context)
    assert not isinstance(row, Reject)
    [text] = row.texts
    messages = [{"role": role, "content": content} for role, content in TALK]
    for turn in text.turns:
        prompt = llama.chat.prompt_ids(messages[: turn.message])
        assert text.ids[: turn.start].tolist() == prompt
        response = llama.chat.response_ids(messages[turn.message]["content"])
        assert text.ids[turn.start : turn.stop].tolist() == response
        assert turn.prompt_last == turn.start - 1


def test_a_template_that_rewrites_earlier_turns_gets_a_text_for_each(
    fresh: Callable[..., LoadedModel],
) -> None:
    loaded = fresh()
    loaded.chat.template = str(loaded.chat.template).replace(
        "{{ message['content'] }}", "{{ message['content'] | trim('.') }}"
    )
    row = encode(loaded.chat, parse_row(talk_row(0, *TALK)), context=loaded.context)
    assert not isinstance(row, Reject)
    assert [len(text.turns) for text in row.texts] == [1, 1]
