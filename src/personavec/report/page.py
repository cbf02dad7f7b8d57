"""One self-contained HTML file: escaping by construction, charts inlined.

Knows nothing about traits or models. A plain `str` is text and gets escaped wherever it is put;
only markupsafe's `Markup`, which the functions here return, is markup.
"""

from __future__ import annotations

import html
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

from markupsafe import Markup, escape

from personavec.runs import atomic_write
from personavec.wording import estimated

if TYPE_CHECKING:
    import plotly.graph_objects as go

    from personavec.results import Estimate

# Nothing may be fetched, whatever a model wrote: the browser itself refuses.
_POLICY = (
    "default-src 'none'; script-src 'unsafe-inline'; style-src 'unsafe-inline'; img-src data: blob:"
)

_DRAW = """
for (const figure of document.querySelectorAll("figure.chart")) {
  const chart = JSON.parse(figure.querySelector("script").textContent);
  Plotly.newPlot(figure.querySelector(".plot"), chart.data, chart.layout,
                 {displayModeBar: false, responsive: true, showLink: false});
}
"""


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
    return not_measured() if value is None else f"{value:{form}}".replace("-", "−")


def code(value: str | None) -> Markup:
    """A name or a hash as code; None was not recorded."""
    if value is None:
        return element("span", "not recorded", class_="missing")
    return element("code", value)


def estimate(found: Estimate, form: str = ".2f") -> Content:
    """An estimate with its interval, or a note of what was not measured."""
    if found.value is None:
        return not_measured()
    text = estimated(found, form).replace("-", "−")
    return text if found.low is not None else [text, " ", not_measured("interval")]


def table(head: Sequence[Content], rows: Iterable[Sequence[Content]], class_: str = "") -> Markup:
    """A table whose first column names its rows; it scrolls by itself where it is too wide."""
    body = [
        element(
            "tr",
            element("th", cells[0], scope="row"),
            *(element("td", cell) for cell in cells[1:]),
        )
        for cells in rows
    ]
    top = element("thead", element("tr", *(element("th", cell, scope="col") for cell in head)))
    return element(
        "div",
        element("table", top if head else None, element("tbody", *body), class_=class_ or None),
        class_="scroll",
    )


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


def folded(summary: str, *content: Content, open_: bool = False) -> Markup:
    """Content behind a line that unfolds it."""
    return element("details", element("summary", summary), *content, open=open_)


def chart(figure: go.Figure, title: str, caption: Content = None) -> Markup:
    """A plotly figure, drawn by the page's one script; its labels are texts, and hold no links."""
    found = _labelled(json.loads(str(figure.to_json())))
    drawing = json.dumps(found, ensure_ascii=False)
    for character in "<>&\u2028\u2029":
        drawing = drawing.replace(character, f"\\u{ord(character):04x}")
    height = found["layout"].get("height", 320)
    return element(
        "figure",
        element("h3", title),
        element("div", class_="plot", style=f"min-height:{height}px", role="img", aria_label=title),
        element("figcaption", caption) if caption else None,
        Markup(f'<script type="application/json">{drawing}</script>'),
        class_="chart",
    )


def _labelled(value: Any) -> Any:
    """The figure with its texts escaped, since plotly would read them as a kind of HTML.

    The line breaks and hover boxes that the charts themselves write are left.
    """
    if isinstance(value, str):
        return _OWN_MARKUP.sub(r"<\1>", html.escape(value, quote=False))
    if isinstance(value, dict):
        return {key: _labelled(inner) for key, inner in value.items()}
    return [_labelled(inner) for inner in value] if isinstance(value, list) else value


_OWN_MARKUP = re.compile("&lt;(br|/?extra)&gt;")


def document(title: str, *body: Content) -> str:
    """The whole page, with style sheet and plotly.js inlined once."""
    from plotly.offline import get_plotlyjs

    style = files("personavec.report").joinpath("page.css").read_text(encoding="utf-8")
    parts = (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n',
        f'<meta http-equiv="Content-Security-Policy" content="{html.escape(_POLICY)}">\n',
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n',
        '<meta name="color-scheme" content="light dark">\n<link rel="icon" href="data:,">\n',
        f"{element('title', title)}\n<style>\n{style}</style>\n</head>\n<body>\n",
        element("main", *body),
        element("noscript", "The charts need JavaScript; the tables hold their numbers."),
        f"\n<script>{get_plotlyjs()}</script>\n<script>{_DRAW}</script>\n</body>\n</html>\n",
    )
    return "".join(parts)


def write(path: Path, title: str, *body: Content) -> None:
    """Write a page. Half of a surrogate pair, which a text of a model can hold, is shown as "?"."""
    atomic_write(path, document(title, *body).encode("utf-8", "replace"))


def plain(value: Any) -> str:
    """A setting as a reader would write it."""
    if isinstance(value, str):
        return value
    return json.dumps(value, ensure_ascii=False, default=str)
