"""Write docs/results.md from finished runs: `make results`.

Every figure in its tables is printed from a file that a command of this repository wrote.
`make bundle` writes the sections on what it bundles as it goes.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from results_checks import checks
from results_extractions import extractions
from results_finetuning import finetuning
from results_monitoring import monitoring
from results_screening import datasets, detection, logistic

DOCS = Path(__file__).parents[1] / "docs"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("out", type=Path, help="the folder that holds the runs' folders")
    out = parser.parse_args().out
    text = "\n".join(
        [
            HEAD,
            checks([json.loads(p.read_text("utf-8")) for p in sorted(out.glob("checks/*.json"))]),
            extractions("Bundled traits", out / "vectors"),
            extractions("Traits from a name alone", out / "unbundled"),
            detection(_results(out / "validate-screen")),
            logistic(_results(out / "validate-screen-logistic")),
            datasets(_results(out / "screen-chats")),
            finetuning(_all_results(out / "compare")),
            monitoring(
                _all_results(out / "calibrations", "calibration.json"),
                _results(out / "monitor-ordinary"),
                _results(out / "drift-study"),
                _results(out / "capping"),
                _results(out, "soak.json"),
            ),
        ]
    )
    (DOCS / "results.md").write_text(text, "utf-8")
    print(text)


def _all_results(folder: Path, name: str = "results.json") -> list[dict[str, Any]]:
    return [json.loads(p.read_text("utf-8")) for p in sorted(folder.glob(f"*/{name}"))]


def _results(folder: Path, name: str = "results.json") -> dict[str, Any] | None:
    path = folder / name
    return json.loads(path.read_text("utf-8")) if path.exists() else None


HEAD = """# Results on the embedded model

SmolLM2-135M-Instruct on two processor cores, written by `make bundle` and `make results` from the
runs that each section names. Log-odds are in nats over the first 64 response tokens, judged by the
contrast judge with prompts and examples that elicited nothing; intervals are 95%, from a bootstrap
clustered by question. Steered answers have no system prompt and answer evaluation questions that
neither made the vector nor selected its layer. "Random" is the range of the random directions' 95%
intervals, norms equal to the vector's. The verdict is that of the report's checks; one that is not
passed is printed with what it says.

The specs of the bundled traits hold examples, in eliciting pairs and, others, in judge pairs. Specs
that are built from a name alone have none: their judge is much weaker (see [LOG.md](LOG.md)), and
the log-odds of the two kinds are not on one scale.
"""


if __name__ == "__main__":
    main()
