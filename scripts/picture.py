"""Draw docs/picture.png from the bundled vectors: `python scripts/picture.py [FILE]`.

Needs a `chromium` on the path.

Each panel is one trait's dose-response over its coherent range, as stored in `vector.json`.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
from pathlib import Path

import plotly.graph_objects as go
from plotly.subplots import make_subplots

from personavec.report import charts
from personavec.vectors import bundled_vectors, load_vector

TARGET = Path(__file__).parents[1] / "docs" / "picture.png"
WIDTH, HEIGHT = 1200, 330


def main() -> None:
    target = Path(sys.argv[1]).resolve() if sys.argv[1:] else TARGET
    names = bundled_vectors()
    figure = make_subplots(cols=len(names), subplot_titles=names, shared_yaxes=True)
    for column, name in enumerate(names, start=1):
        vector = load_vector(name)
        low, high = vector.coherent_range or (0.0, 0.0)
        doses = [d for d in vector.meta["dose_response"] if low <= d["coefficient"] <= high]
        x = [d["coefficient"] for d in doses]
        band = [d["high"] for d in doses] + [d["low"] for d in reversed(doses)]
        figure.add_trace(
            go.Scatter(x=x + x[::-1], y=band, fill="toself", mode="lines", line={"width": 0},
                       fillcolor="rgba(42,130,199,0.22)"),
            row=1, col=column,
        )  # fmt: skip
        figure.add_trace(
            go.Scatter(
                x=x,
                y=[d["log_odds"] for d in doses],
                mode="lines+markers",
                line={"color": charts.BLUE},
            ),
            row=1,
            col=column,
        )
    figure.update_layout(
        showlegend=False,
        template="plotly_white",
        width=WIDTH,
        height=HEIGHT,
        font_family=charts.FONT,
        margin={"l": 60, "r": 10, "t": 40, "b": 50},
    )
    figure.update_yaxes(title_text="trait expression, log-odds (nats)", row=1, col=1)
    figure.update_xaxes(title_text="coefficient α", row=1, col=(len(names) + 1) // 2)
    with tempfile.TemporaryDirectory() as folder:
        page = Path(folder) / "picture.html"
        page.write_text(
            f"<body style='margin:0'>{figure.to_html(full_html=False, config={'staticPlot': True})}"
        )
        flags = ["--headless", "--no-sandbox", "--disable-gpu", "--disable-background-networking"]
        subprocess.run(
            [
                "chromium",
                *flags,
                f"--user-data-dir={folder}/profile",
                "--virtual-time-budget=4000",
                f"--window-size={WIDTH},{HEIGHT}",
                f"--screenshot={target}",
                f"file://{page}",
            ],
            check=True,
            capture_output=True,
        )
    print(target)


if __name__ == "__main__":
    main()
