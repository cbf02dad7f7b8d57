"""A row of data on a screen's page: its question, its response, and what it is compared with."""

from __future__ import annotations

from markupsafe import Markup

from personavec.report import Answer, Content, Side, answers, clipped, element, signed
from personavec.screen.results import RankedRow
from personavec.screen.shown import Shown
from personavec.wording import plural

_LONGEST_QUESTION, _LONGEST_RESPONSE = 1500, 3000
#: Characters of a question, and of a response, in the line that unfolds the row.
_TITLE = 60


def row_question(row: RankedRow) -> str:
    """What the row's last response answers."""
    asked = (m["content"] for m in reversed(row.messages) if m["role"] == "user")
    return next(asked, "(no question)")


def row_answers(row: RankedRow, found: Shown) -> list[Answer]:
    """The row's response, and what it is compared with."""
    others = (("natural response", row.natural), ("rejected", row.rejected))
    return [
        Answer("response", _marked(row, found.unit), _scores(row, found), row_side(row, found)),
        *(
            Answer(title, clipped(text, _LONGEST_RESPONSE))
            for title, text in others
            if text is not None
        ),
    ]


def row_side(row: RankedRow, found: Shown) -> Side:
    """Where training on the row would push."""
    if not found.zero or not row.value:
        return ""
    return "toward" if row.value > 0 else "away"


def row_panel(row: RankedRow, found: Shown, *, open_: bool) -> Markup:
    """The row behind a line that unfolds it."""
    question = row_question(row)
    groups = (f"{name} {value}" for name, value in row.groups.items() if value is not None)
    where = (f"row {row.index + 1} of {row.dataset}", *groups, f"id {row.id}")
    return element(
        "details",
        element("summary", f"{found.row_value(row)}  {_title(row)}"),
        element("p", " · ".join(where), class_="scores"),
        element("p", clipped(question, _LONGEST_QUESTION), class_="response", dir="auto")
        if len(question) > _TITLE
        else None,
        answers(row_answers(row, found)),
        class_="transcript",
        open=open_,
        data_flagged=row.flagged,
    )


def _title(row: RankedRow) -> str:
    """How the question and the response begin."""
    response = " ".join(str(row.messages[-1]["content"]).split())
    return f"{clipped(row_question(row), _TITLE)} → {clipped(response, _TITLE)}"


def _scores(row: RankedRow, found: Shown) -> list[str]:
    return [
        found.row_value(row),
        f", {plural(row.n_tokens, 'token')}",
        "" if row.log_odds is None else f", log-odds {signed(row.log_odds)}",
        ", flagged" if row.flagged else "",
    ]


def _marked(row: RankedRow, unit: str) -> Content:
    """The response with the spans that project highest marked, if it was explained."""
    if not row.pieces:
        return clipped(row.messages[-1]["content"], _LONGEST_RESPONSE)
    return [
        element("mark", piece.text, title=f"{signed(piece.projection)} {unit}")
        if piece.span
        else clipped(piece.text, _LONGEST_QUESTION)
        for piece in row.pieces
    ]
