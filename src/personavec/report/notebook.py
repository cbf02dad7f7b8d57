"""The kit of a notebook's cards: a headline, a small table, a small chart, coloured tokens.

Markup with its style inline, since a notebook has its own page; text takes the page's colour, light
or dark. Orange is toward the trait and blue away from it, and a sign or a line says so too.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

from markupsafe import Markup

from personavec.report.page import Content, element
from personavec.results import Estimate
from personavec.wording import signed

TOWARD, AWAY = "217, 102, 31", "42, 130, 199"
#: A token this far from the neutral baseline, in sigma, has the full colour.
_FULL = 8.0
_WIDTH, _HEIGHT, _LEFT, _BOTTOM = 340, 150, 42, 30
#: A coefficient, the log-odds there, and whether answers were coherent.
Dose = tuple[float, Estimate, bool]


def card(title: str, headline: Content, *content: Content) -> Markup:
    """A title, what the value says in words, and what shows it."""
    return element(
        "div",
        element("div", element("strong", title)),
        element("div", headline, style="margin: 4px 0 8px; max-width: 46em") if headline else None,
        *content,
        style="border: 1px solid rgba(128, 128, 128, 0.4); border-radius: 6px; padding: 10px 14px; "
        "display: inline-block; text-align: left",
    )


def small_table(head: Sequence[str], rows: Iterable[Sequence[Content]]) -> Markup:
    """A table whose first column names its rows."""
    style = "text-align: left; padding: 2px 14px 2px 0; font-weight: "
    top = [element("th", name, style=f"{style}600", scope="col") for name in head]
    body = [
        element(
            "tr",
            element("th", cells[0], style=f"{style}400", scope="row"),
            *(element("td", cell, style=f"{style}400") for cell in cells[1:]),
        )
        for cells in rows
    ]
    return element("table", element("thead", element("tr", *top)), element("tbody", *body))


def tokens(pieces: Iterable[tuple[str, float]]) -> Markup:
    """Texts with their σ: orange and underlined toward the trait, blue and dotted away from it."""
    return element(
        "span", *(_token(*piece) for piece in pieces), style="white-space: pre-wrap", dir="auto"
    )


def sigma(value: float | None) -> Content:
    """A reading in colour, with its sign: "+2.1 σ"."""
    if value is None:
        return "not measured"
    colour = TOWARD if value > 0 else AWAY
    return element("span", f"{signed(value, 1)} σ", style=f"color: rgb({colour})")


def _token(text: str, found: float) -> Markup:
    colour = TOWARD if found > 0 else AWAY
    strength = min(1.0, abs(found) / _FULL)
    line = "solid" if found > 0 else "dotted"
    style = (
        f"background: rgba({colour}, {0.6 * strength:.2f}); "
        f"border-bottom: 1.5px {line} rgba({colour}, {strength:.2f})"
    )
    return element("span", text, style=style, title=f"{signed(found, 1)} σ")


def dose_chart(doses: Sequence[Dose]) -> Markup | None:
    """Log-odds against the coefficient as inline SVG, with 95% intervals; None without values.

    An open mark is a dose whose answers were not coherent.
    """
    known = sorted((d for d in doses if _finite(d)), key=lambda dose: dose[0])
    if len(known) < 2:
        return None
    places = [coefficient for coefficient, *_ in known]
    ends = [end for _, e, _ in known for end in (e.value, e.low, e.high) if end is not None]
    low, high = min([*ends, 0.0]), max([*ends, 0.0])

    def x(coefficient: float) -> float:
        share = (coefficient - places[0]) / (places[-1] - places[0] or 1.0)
        return _LEFT + 10 + share * (_WIDTH - _LEFT - 20)

    def y(value: float) -> float:
        return 8 + (high - value) / (high - low or 1.0) * (_HEIGHT - _BOTTOM - 16)

    points = " ".join(f"{x(c):.1f},{y(e.value or 0.0):.1f}" for c, e, _ in known)
    marks = [_mark(x(c), [y(v) for v in _ends(e)], coherent) for c, e, coherent in known]
    said = ", ".join(f"{signed(c)}: {signed(e.value or 0.0, 1)}" for c, e, _ in known)
    return element(
        "svg",
        element(
            "line", x1=f"{_LEFT}", x2=f"{_WIDTH}", y1=f"{y(0):.1f}", y2=f"{y(0):.1f}", **_FAINT
        ),
        element("polyline", points=points, fill="none", stroke="currentColor"),
        *marks,
        *(_label(signed(c), x(c), _HEIGHT - 16, "middle") for c in _spread(places)),
        *(
            _label(signed(v, 1), _LEFT - 2, y(v) + 4, "end")
            for v in dict.fromkeys((low, 0.0, high))
        ),
        _label("coefficient; log-odds (nats)", _LEFT + 10, _HEIGHT - 2, "start"),
        width=f"{_WIDTH}",
        height=f"{_HEIGHT}",
        role="img",
        aria_label=f"log-odds by coefficient: {said}",
    )


def _finite(dose: Dose) -> bool:
    coefficient, found, _ = dose
    ends = (end for end in (found.low, found.high) if end is not None)
    return found.value is not None and all(map(math.isfinite, (coefficient, found.value, *ends)))


_FAINT = {"stroke": "currentColor", "stroke_opacity": "0.3", "stroke_dasharray": "2 3"}


def _ends(found: Estimate) -> tuple[float, float, float]:
    """Value, low and high; the value where an end is missing."""
    value = found.value or 0.0
    low, high = found.low, found.high
    return value, value if low is None else low, value if high is None else high


def _mark(x: float, heights: Sequence[float], coherent: bool) -> Content:
    at, low, high = (f"{height:.1f}" for height in heights)
    across = f"{x:.1f}"
    return [
        element("line", x1=across, x2=across, y1=low, y2=high, stroke="currentColor"),
        element(
            "circle",
            cx=across,
            cy=at,
            r="3.5",
            stroke="currentColor",
            fill="currentColor" if coherent else "none",
        ),
    ]


def _label(text: str, x: float, y: float, anchor: str) -> Markup:
    place = {"x": f"{x:.1f}", "y": f"{y:.1f}", "text_anchor": anchor}
    return element("text", text, **place, font_size="11", fill="currentColor")


def _spread(places: Sequence[float]) -> list[float]:
    """At most nine of the places, the ends among them."""
    step = max(1, -(-len(places) // 9))
    return list(dict.fromkeys([*places[::step], places[-1]]))
