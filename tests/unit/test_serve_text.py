"""Text of a stream: what is sent adds up to the text before the first stop, however it is cut."""

from hypothesis import given
from hypothesis import strategies as st
from transformers import PreTrainedTokenizerFast

from personavec.serve.text import TextStream


@given(
    text=st.text(st.sampled_from("abcé€🙂 "), max_size=30),
    stops=st.lists(st.text(st.sampled_from("abé🙂"), min_size=1, max_size=3), max_size=3),
)
def test_streamed_text_is_the_text_before_the_first_stop(
    chat_tokenizer: PreTrainedTokenizerFast, text: str, stops: list[str]
) -> None:
    """One token a byte, so most characters span several tokens."""
    stream = TextStream(lambda ids: chat_tokenizer.decode(list(ids)), stops)
    ids = chat_tokenizer(text)["input_ids"]
    sent = []
    for id in ids:
        sent.append(stream.push(id))
        assert "\ufffd" not in sent[-1]
        if stream.stopped:
            break
    sent.append(stream.flush())
    cuts = [text.find(stop) for stop in stops if stop in text]
    if cuts and stream.stopped:
        assert "".join(sent) == text[: len(stream.text)]
        assert not any(stop in stream.text for stop in stops)
        assert any(text[len(stream.text) :].startswith(stop) for stop in stops)
    else:
        assert not cuts
        assert "".join(sent) == text
    assert "".join(sent) == stream.text


def test_tokens_beyond_the_stop_are_not_kept(chat_tokenizer: PreTrainedTokenizerFast) -> None:
    stream = TextStream(lambda ids: chat_tokenizer.decode(list(ids)), ["END"])
    for id in chat_tokenizer("one END two")["input_ids"]:
        stream.push(id)
    assert (stream.text, stream.kept, stream.stopped) == ("one ", 4, True)


def test_an_unfinished_character_is_sent_at_the_end(
    chat_tokenizer: PreTrainedTokenizerFast,
) -> None:
    stream = TextStream(lambda ids: chat_tokenizer.decode(list(ids)))
    [first, *_] = chat_tokenizer("é")["input_ids"]
    assert stream.push(first) == ""
    assert stream.flush() == "\ufffd"
