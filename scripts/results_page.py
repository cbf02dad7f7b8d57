"""Sections of docs/results.md: find one, put a new one in its place, hash its figures."""

from __future__ import annotations

import hashlib
import re

from personavec.errors import DataError


def section(page: str, title: str) -> str | None:
    """The section of that heading, with its subsections; None where the page has none."""
    found = _place(page, title)
    return None if found is None else page[found[0] : found[1]]


def with_section(page: str, new: str) -> str:
    """The page with `new` in place of its section of the same heading. Raises DataError."""
    title = new.splitlines()[0].lstrip("# ")
    found = _place(page, title)
    if found is None:
        raise DataError(f"docs/results.md has no section '{title}': write its heading there first")
    before, after = page[: found[0]], page[found[1] :]
    return before + new.rstrip("\n") + ("\n\n" + after if after else "\n")


def figures_hash(text: str) -> str:
    """A hash of a section's tables; its sentences can be edited without a run."""
    tables = [line for line in text.splitlines() if line.startswith("|")]
    return hashlib.blake2b("\n".join(tables).encode(), digest_size=8).hexdigest()


def _place(page: str, title: str) -> tuple[int, int] | None:
    """Where a section begins and ends: at the next heading that is not below its own."""
    start = re.search(rf"^(#+) {re.escape(title)}$", page, re.MULTILINE)
    if start is None:
        return None
    end = re.compile(rf"^#{{1,{len(start[1])}}} ", re.MULTILINE).search(page, start.end())
    return start.start(), len(page) if end is None else end.start()
