"""One self-contained HTML file: escaping by construction, charts inlined, readable without script.

Knows nothing about traits or models. A plain `str` is text and gets escaped wherever it is put;
only markupsafe's `Markup`, which the functions here return, is markup.
"""

from __future__ import annotations

import base64
import hashlib
import html
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

from markupsafe import Markup, escape

from personavec.report import svg
from personavec.runs import atomic_write
from personavec.wording import decimal, estimated

if TYPE_CHECKING:
    from personavec.report.charts import Chart
    from personavec.results import Estimate

# Nothing may be fetched, whatever a model wrote, and no script runs but the page's own: the browser
# itself refuses.
_POLICY = (
    "default-src 'none'; script-src 'sha256-{}'; style-src 'unsafe-inline'; img-src data: blob:"
)
#: Pixels that a chart is drawn for: where it has room, and on a phone.
_WIDE, _NARROW = 680, 400
#: Columns from which a table stacks its cells on a phone, on a tablet, and everywhere.
_STACKS = {4: "stack", 8: "stack many", 12: "stack always"}


Content: TypeAlias = "str | Iterable[Content] | None"


def markup(content: Content) -> Markup:
    """Text escaped, `Markup` as it is, a sequence joined, None nothing."""
    if content is None:
        return Markup("")
    if isinstance(content, str):
        return escape(content)
    return Markup("").join(markup(part) for part in content)


def element(tag: str, *content: Content, **attributes: str | bool | None) -> Markup:
    """An element. Write `class_` for `class`, `data_x` for `data-x`, True for a bare attribute."""
    written = "".join(
        f" {name.rstrip('_').replace('_', '-')}" + ("" if value is True else f'="{escape(value)}"')
        for name, value in attributes.items()
        if value is not None and value is not False
    )
    return Markup(f"<{tag}{written}>{markup(content)}</{tag}>")


def section(title: str, name: str, *content: Content) -> Markup:
    """A section of the page under its heading; `name` is its anchor."""
    return element("section", element("h2", title), *content, id=name)


def heading(kind: str, title: str, *content: Content, notes: Iterable[str] = ()) -> Markup:
    """The top of a report: what kind of report it is, its title, and what to know of it first."""
    return element(
        "header",
        element("p", kind, class_="eyebrow"),
        element("h1", title),
        *content,
        *(element("div", element("p", note), class_="note") for note in notes),
    )


def not_measured(what: str = "") -> Markup:
    """What stands where a number or a chart is missing."""
    text = f"{what}: not measured" if what else "not measured"
    return element("span", text, class_="missing")


def figure(value: float | None, form: str) -> Content:
    """A number without an interval, such as a count or a share."""
    return not_measured() if value is None else decimal(value, form)


def code(value: str | None) -> Markup:
    """A name or a hash as code; None was not recorded."""
    if value is None:
        return element("span", "not recorded", class_="missing")
    return element("code", value)


def estimate(found: Estimate, form: str = ".2f") -> Content:
    """An estimate with its interval, or a note of what was not measured."""
    if found.value is None:
        return not_measured()
    value, _, interval = estimated(found, form).partition(" ")
    rest = element("span", interval, class_="interval") if interval else not_measured("interval")
    return [value, " ", rest]


def table(
    head: Sequence[Content],
    rows: Iterable[Sequence[Content]],
    class_: str = "",
    *,
    searchable: bool = False,
) -> Markup:
    """A table whose first column names its rows.

    Where its columns do not fit, its cells stack, each under the name of its column. A searchable
    one gets a field that filters its rows, where scripts run.
    """
    names = [Markup(markup(cell)).striptags() for cell in head]
    stacks = [look for columns, look in _STACKS.items() if len(names) >= columns][-1:]
    roles = bool(stacks)
    body = [_row(cells, names, roles=roles) for cells in rows]
    top = element("thead", _head(head, roles=roles), role="rowgroup" if roles else None)
    return element(
        "div",
        element(
            "table",
            top if head else None,
            element("tbody", *body, role="rowgroup" if roles else None),
            class_=" ".join([class_, *stacks]).strip() or None,
            role="table" if roles else None,
        ),
        class_="scroll",
        data_filter=searchable,
    )


def _head(head: Sequence[Content], *, roles: bool) -> Markup:
    role = "columnheader" if roles else None
    cells = (element("th", cell, scope="col", role=role) for cell in head)
    return element("tr", *cells, role="row" if roles else None)


def _row(cells: Sequence[Content], names: Sequence[str], *, roles: bool) -> Markup:
    """A row; each cell knows the name of its column, to show it when cells stack.

    A stack of cells is no table to a screen reader unless it is told so.
    """
    first = element("th", cells[0], scope="row", role="rowheader" if roles else None)
    labels = [*names[1:], *[""] * len(cells)]
    rest = (
        element("td", cell, data_label=label or None, role="cell" if roles else None)
        for cell, label in zip(cells[1:], labels, strict=False)
    )
    return element("tr", first, *rest, role="row" if roles else None)


def anchor(name: str) -> str:
    """The anchor of a trait's section."""
    return "trait-" + "".join(c if c.isalnum() else "-" for c in name)


def what_was_done(
    facts: Iterable[Sequence[Content]], settings: Mapping[str, Any], versions: Mapping[str, str]
) -> Markup:
    """A run's facts; its settings and versions behind lines that unfold them."""
    return section(
        "What was done",
        "what-was-done",
        table((), facts, "facts"),
        *(
            folded(
                name, table((), [(n, element("code", plain(v))) for n, v in of.items()], "facts")
            )
            for name, of in (("Settings", settings), ("Versions", versions))
        ),
    )


def folded(summary: Content, *content: Content, open_: bool = False) -> Markup:
    """Content behind a line that unfolds it."""
    return element("details", element("summary", summary), *content, open=open_)


def chart(drawn: Chart, title: str, caption: Content = None) -> Markup:
    """A chart with its title, drawn for wide and for narrow places."""
    return element(
        "figure",
        element("h3", title),
        element(
            "div",
            svg.draw(drawn, title, _WIDE, "wide"),
            svg.draw(drawn, title, _NARROW, "narrow"),
            class_="plot",
        ),
        element("figcaption", caption) if caption else None,
        class_="chart",
    )


_HEADED = re.compile('<section id="([^"]*)"><h2>(.*?)</h2>')


def contents(body: Markup) -> Markup | None:
    """Links to all sections of a page but the first; None for a page of few."""
    named = _HEADED.findall(body)[1:]
    if len(named) < 3:
        return None
    links = (
        element("li", element("a", Markup(title), href=f"#{html.unescape(name)}"))
        for name, title in named
    )
    return element("nav", element("h2", "Contents"), element("ul", *links), aria_label="Contents")


def document(title: str, *body: Content) -> str:
    """The whole page, with style sheet, charts and its one script inlined.

    A list of the sections stands before the second one.
    """
    folder = files("personavec.report")
    style = folder.joinpath("page.css").read_text(encoding="utf-8")
    script = folder.joinpath("page.js").read_text(encoding="utf-8")
    policy = _POLICY.format(base64.b64encode(hashlib.sha256(script.encode()).digest()).decode())
    shown = markup(body)
    first, rest = _after_first(shown)
    parts = (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n',
        f'<meta http-equiv="Content-Security-Policy" content="{html.escape(policy)}">\n',
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n',
        '<meta name="color-scheme" content="light dark">\n<link rel="icon" href="data:,">\n',
        f"{element('title', title)}\n<style>\n{style}</style>\n</head>\n<body>\n",
        element("main", first, contents(shown), rest),
        f"\n<script>{script}</script>\n</body>\n</html>\n",
    )
    return "".join(parts)


def _after_first(shown: Markup) -> tuple[Markup, Markup]:
    """The page up to its second section, and the rest."""
    second = [match.start() for match in _HEADED.finditer(shown)][1:2]
    place = second[0] if second else len(shown)
    return Markup(shown[:place]), Markup(shown[place:])


def write(path: Path, title: str, *body: Content) -> None:
    """Write a page. Half of a surrogate pair, which a text of a model can hold, is shown as "?"."""
    atomic_write(path, document(title, *body).encode("utf-8", "replace"))


def plain(value: Any) -> str:
    """A setting as a reader would write it."""
    if isinstance(value, str):
        return value
    return json.dumps(value, ensure_ascii=False, default=str)
