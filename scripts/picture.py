"""Draw docs/picture.png from the bundled vectors: `python scripts/picture.py [FILE]`.

Each panel is one trait's dose-response over its coherent range, as stored in `vector.json`.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import matplotlib as mpl

from personavec.report import charts
from personavec.vectors import bundled_vectors, load_vector

mpl.use("Agg")
from matplotlib import pyplot as plt
from matplotlib.ticker import MaxNLocator

TARGET = Path(__file__).parents[1] / "docs" / "picture.png"
#: In inches, at 100 pixels each.
WIDTH, HEIGHT = 12.0, 3.3


def main() -> None:
    target = Path(sys.argv[1]).resolve() if sys.argv[1:] else TARGET
    names = bundled_vectors()
    figure, panels = plt.subplots(
        ncols=len(names), sharey=True, figsize=(WIDTH, HEIGHT), layout="constrained"
    )
    for name, panel in zip(names, panels, strict=True):
        draw(name, panel)
    panels[0].set_ylabel("trait expression, log-odds (nats)")
    panels[len(names) // 2].set_xlabel("coefficient α")
    figure.savefig(target, dpi=100)
    print(target)


def draw(name: str, panel: Any) -> None:
    """One trait's dose-response with its 95% intervals as a band."""
    vector = load_vector(name)
    low, high = vector.coherent_range or (0.0, 0.0)
    doses = [d for d in vector.meta["dose_response"] if low <= d["coefficient"] <= high]
    x = [d["coefficient"] for d in doses]
    panel.fill_between(
        x, [d["low"] for d in doses], [d["high"] for d in doses], color=charts.PURPLE, alpha=0.22
    )
    panel.plot(x, [d["log_odds"] for d in doses], marker="o", markersize=4, color=charts.PURPLE)
    panel.set_title(name, fontsize=11)
    panel.grid(alpha=0.3)
    panel.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=5))
    panel.spines[["top", "right"]].set_visible(False)


if __name__ == "__main__":
    main()
