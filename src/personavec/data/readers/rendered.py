"""Rows with one text in which the turns are written."""

from __future__ import annotations

from personavec.data.fields import Fields
from personavec.data.readers.beside import add_system
from personavec.data.readers.found import Found, found_in
from personavec.data.texts import read_text


def rendered_text(fields: Fields) -> Found | None:
    """One text in which a chat template or an author has written the turns."""
    names = ("text", "input", "content", "prompt", "sample", "formatted_text", "formatted_chat")
    for name in names:
        value = fields.get(name)
        found = read_text(value) if isinstance(value, str) else None
        if found is not None:
            fields.use(name)
            conversation = found[1]
            add_system(fields, conversation)
            conversation.note(f"read from text as {found[0]} writes it")
            return found_in(conversation)
    return None
