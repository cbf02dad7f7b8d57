"""A row of data on a screen's page: its question, its response, and what it is compared with."""

from __future__ import annotations

from markupsafe import Markup

from personavec.report import Content, element, signed
from personavec.screen.results import RankedRow
from personavec.wording import plural

_LONGEST_QUESTION, _LONGEST_RESPONSE = 1500, 3000
#: Characters of a question in the line that unfolds the row.
_TITLE = 100


def row_panel(row: RankedRow, *, open_: bool) -> Markup:
    """The row behind a line that unfolds it."""
    question = next(
        (m["content"] for m in reversed(row.messages) if m["role"] == "user"), "(no question)"
    )
    others = (("natural response", row.natural), ("rejected", row.rejected))
    where = ", ".join(str(value) for value in row.groups.values() if value is not None)
    value = "not measured" if row.value is None else signed(row.value)
    return element(
        "details",
        element("summary", f"{value}  {_clipped(question, _TITLE)}"),
        element("p", " · ".join(filter(None, (row.dataset, where, row.id))), class_="scores"),
        element("p", _clipped(question, _LONGEST_QUESTION), class_="response", dir="auto")
        if len(question) > _TITLE
        else None,
        element(
            "div",
            _answer("response", _scores(row), _marked(row), "below"),
            *(
                _answer(title, None, _clipped(text, _LONGEST_RESPONSE), "")
                for title, text in others
                if text is not None
            ),
            class_="answers",
        ),
        class_="transcript",
        open=open_,
    )


def _scores(row: RankedRow) -> list[str]:
    return [
        "not measured" if row.value is None else signed(row.value),
        f", {plural(row.n_tokens, 'token')}",
        "" if row.log_odds is None else f", log-odds {signed(row.log_odds)}",
        ", flagged" if row.flagged else "",
    ]


def _marked(row: RankedRow) -> Content:
    """The response with the spans that project highest marked, if it was explained."""
    if not row.pieces:
        return _clipped(row.messages[-1]["content"], _LONGEST_RESPONSE)
    return [
        element("mark", piece.text, title=signed(piece.projection))
        if piece.span
        else _clipped(piece.text, _LONGEST_QUESTION)
        for piece in row.pieces
    ]


def _answer(title: str, scores: Content, text: Content, side: str) -> Markup:
    return element(
        "div",
        element("h3", title),
        element("p", scores, class_="scores") if scores else None,
        element("p", text, class_="response", dir="auto"),
        class_=f"answer {side}".strip(),
    )


def _clipped(text: str, limit: int) -> str:
    return text if len(text) <= limit else text[:limit] + " …"
