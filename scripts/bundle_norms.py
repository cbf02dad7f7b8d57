"""Measure the embedded model's norms of coherence: `python scripts/bundle_norms.py FILE`."""

from __future__ import annotations

import json
import sys
from pathlib import Path

from personavec import load_model
from personavec.judges.coherence_model import norms
from personavec.judges.coherence_readings import as_record, neutral_readings
from personavec.runs import atomic_write


def main() -> None:
    loaded = load_model("smollm2")
    record = as_record(loaded, norms(neutral_readings(loaded)))
    atomic_write(Path(sys.argv[1]), json.dumps(record, indent=2) + "\n")
    print(sys.argv[1])


if __name__ == "__main__":
    main()
