"""A row of data on a screen's page: its question, its response, and what it is compared with."""

from __future__ import annotations

from markupsafe import Markup

from personavec.report import Answer, Content, Side, answers, clipped, element, signed
from personavec.screen.results import RankedRow
from personavec.wording import plural

_LONGEST_QUESTION, _LONGEST_RESPONSE = 1500, 3000
#: Characters of a question in the line that unfolds the row.
_TITLE = 100


def row_question(row: RankedRow) -> str:
    """What the row's last response answers."""
    asked = (m["content"] for m in reversed(row.messages) if m["role"] == "user")
    return next(asked, "(no question)")


def row_answers(row: RankedRow) -> list[Answer]:
    """The row's response, and what it is compared with."""
    others = (("natural response", row.natural), ("rejected", row.rejected))
    side: Side = "" if not row.value else "toward" if row.value > 0 else "away"
    return [
        Answer("response", _marked(row), _scores(row), side),
        *(
            Answer(title, clipped(text, _LONGEST_RESPONSE))
            for title, text in others
            if text is not None
        ),
    ]


def row_panel(row: RankedRow, *, open_: bool) -> Markup:
    """The row behind a line that unfolds it."""
    question = row_question(row)
    where = ", ".join(str(value) for value in row.groups.values() if value is not None)
    value = "not measured" if row.value is None else signed(row.value)
    return element(
        "details",
        element("summary", f"{value}  {clipped(question, _TITLE)}"),
        element("p", " · ".join(filter(None, (row.dataset, where, row.id))), class_="scores"),
        element("p", clipped(question, _LONGEST_QUESTION), class_="response", dir="auto")
        if len(question) > _TITLE
        else None,
        answers(row_answers(row)),
        class_="transcript",
        open=open_,
        data_flagged=row.flagged,
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
        return clipped(row.messages[-1]["content"], _LONGEST_RESPONSE)
    return [
        element("mark", piece.text, title=signed(piece.projection))
        if piece.span
        else clipped(piece.text, _LONGEST_QUESTION)
        for piece in row.pieces
    ]
