"""The figures of a monitored log for a paper: rows from its results, and how they are drawn."""

from __future__ import annotations

from functools import partial

from personavec.monitor.results import MonitorResults, TraitReadings
from personavec.report.drawing import Plane, curves, forest
from personavec.report.plots import Plot, Row, estimate_cells, file_name
from personavec.results import Estimate

SIGMA = "σ of neutral prompts"


def paper_plots(results: MonitorResults) -> list[Plot]:
    """The charts of a monitored log's report."""
    found = [Plot("readings", reading_rows(results), partial(forest, x_title=SIGMA, reference=0))]
    turns = Plane("turn", "sigma", "assistant turn", SIGMA, zero=True, whole=True)
    server = Plane("reply", "level", "reply", "level of the chart", height=1.6)
    for trait, own in results.traits.items():
        if len(own.by_turn) > 1:
            drawn = partial(curves, plane=turns)
            found.append(Plot(file_name("turns", trait), turn_rows(own), drawn))
        if len(own.drift.server) > 1:
            drawn = partial(curves, plane=server)
            found.append(Plot(file_name("server", trait), server_rows(own), drawn))
    return found


def reading_rows(results: MonitorResults) -> list[Row]:
    """Mean readings by trait, before the answers and of the answers, over conversations."""
    return [
        {
            **{"label": trait, "series": series},
            **estimate_cells(found),
            **{"turns": results.turns, "conversations": results.conversations},
        }
        for trait, own in results.traits.items()
        for series, found in (("before the answer", own.forecast), ("answer", own.answers))
    ]


def turn_rows(readings: TraitReadings) -> list[Row]:
    """Mean readings by assistant turn, counted from 1, over the conversations that reach it."""
    return [
        {
            **{"kind": "curve", "series": series, "turn": each.turn},
            **estimate_cells(found, "sigma"),
            "conversations": each.n,
        }
        for index, series in enumerate(("before the answer", "answer"))
        for each in readings.by_turn
        for found in ((each.prompt_last, each.response_mean)[index],)
    ]


def server_rows(readings: TraitReadings) -> list[Row]:
    """The server's control chart by reply, counted from 1, and its limit; levels are no estimates.

    The chart is thinned to about 400 replies, as results store it.
    """
    drift = readings.drift
    limit = {"kind": "level", "series": f"limit, {drift.server_limit:.2f}", "reply": None}
    return [
        *(
            {
                **{"kind": "line", "series": "all replies", "reply": point.reply + 1},
                **estimate_cells(Estimate(point.level), "level"),
            }
            for point in drift.server
        ),
        {**limit, **estimate_cells(Estimate(drift.server_limit), "level")},
    ]
