"""All readers in the order in which they are tried."""

from __future__ import annotations

from collections.abc import Mapping

from personavec.data.fields import Fields, Unusable, decoded, given, left_out, medium
from personavec.data.readers.columns import WRAPPING
from personavec.data.readers.exports import chatgpt_export, message_tree
from personavec.data.readers.found import Found, RowReader, texts_of
from personavec.data.readers.message_columns import history, messages
from personavec.data.readers.pairs import mapped_pair, preference_pair, rejected_response
from personavec.data.readers.prompts import prompt_and_response
from personavec.data.readers.rendered import rendered_text
from personavec.data.readers.spans import span
from personavec.data.readers.two_responses import two_responses


def wrapped_row(fields: Fields) -> Found | None:
    """A row inside one column, as an object or as its JSON text."""
    for name in WRAPPING:
        inner = decoded(fields.get(name))
        if not isinstance(inner, Mapping) or fields.depth > 3:
            continue
        own = Fields(inner, depth=fields.depth + 1)
        found = _first_found(own)
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


def _first_found(fields: Fields) -> Found | None:
    for reader in READERS:
        fields.used.clear()
        found = reader.read(fields)
        if found is not None:
            return found
    return None


#: The first reader that finds its columns decides.
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
    """The readers to try, given the columns that `--columns` names."""
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
