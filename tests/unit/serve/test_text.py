"""Text of a stream: what is sent adds up to the text before the first stop, however it is cut."""

from hypothesis import given, strategies as st
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from personavec.serve.text import TextStream, Vocabulary


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


@given(text=st.text(st.sampled_from("abcé€🙂 \n"), max_size=30))
def test_each_token_begins_where_its_character_does(
    chat_tokenizer: PreTrainedTokenizerFast, text: str
) -> None:
    stream = TextStream(lambda ids: chat_tokenizer.decode(list(ids)))
    starts = []
    for id in chat_tokenizer(text)["input_ids"]:
        stream.push(id)
        starts.append(stream.start)
    assert starts == [place for place, c in enumerate(text) for _ in c.encode()]


def test_a_token_after_bytes_that_are_no_character_begins_after_them(
    chat_tokenizer: PreTrainedTokenizerFast,
) -> None:
    euro, a = chat_tokenizer("€")["input_ids"], chat_tokenizer("a")["input_ids"][0]
    stream = TextStream(lambda ids: chat_tokenizer.decode(list(ids)))
    starts = []
    for id in (a, euro[0], euro[1], a, euro[0], a):
        stream.push(id)
        starts.append(stream.start)
    stream.flush()
    assert stream.text == "a\ufffda\ufffda"
    assert starts == [0, 1, 1, 2, 3, 4]


@given(text=st.text(st.sampled_from("abcé€🙂 \n"), max_size=30))
def test_tokens_bytes_add_up_to_the_text(
    chat_tokenizer: PreTrainedTokenizerFast, text: str
) -> None:
    vocabulary = Vocabulary(chat_tokenizer)
    ids = chat_tokenizer(text)["input_ids"]
    assert b"".join(map(vocabulary.bytes, ids)) == text.encode()


def test_tokens_of_a_vocabulary_of_words_and_single_bytes() -> None:
    """As Llama 2 has it: a leading space is the token's, and a byte stands for itself."""
    pieces = ["<unk>", *(f"<0x{byte:02X}>" for byte in range(256)), "▁", "a", "▁a", "<0x", "</s>"]
    made = Tokenizer(
        models.BPE({p: i for i, p in enumerate(pieces)}, [("▁", "a")], byte_fallback=True)
    )
    made.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first")
    made.decoder = decoders.Sequence(
        [
            decoders.Replace("▁", " "),
            decoders.ByteFallback(),
            decoders.Fuse(),
            decoders.Strip(" ", 1, 0),
        ]
    )
    made.add_special_tokens([AddedToken("</s>", special=True)])
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=made, eos_token="</s>")
    vocabulary = Vocabulary(tokenizer)
    of = {piece: tokenizer.convert_tokens_to_ids(piece) for piece in pieces}
    assert vocabulary.bytes(of["▁a"]) == b" a"
    assert vocabulary.bytes(of["a"]) == b"a"
    assert vocabulary.bytes(of["<0xE2>"]) == b"\xe2"
    assert vocabulary.spelled(of["<0xE2>"]) == "bytes:\\xe2"
    assert vocabulary.text(of["<0xE2>"]) == "\ufffd"
    assert vocabulary.spelled(of["</s>"]) == "</s>"
    assert vocabulary.longest == 6
