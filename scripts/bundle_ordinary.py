"""Read the bundled dialogues along the bundled vectors, and bundle the readings.

`python scripts/bundle_ordinary.py`; `serve` then counts without reading.
"""

from __future__ import annotations

import json
from pathlib import Path

from personavec import load_model
from personavec.monitor import ordinary
from personavec.vectors import bundled_vectors, load_vector

TARGET = Path(__file__).parents[1] / "src" / "personavec" / "bundled" / "vectors"


def main() -> None:
    loaded = load_model("smollm2")
    vectors = [load_vector(name) for name in bundled_vectors()]
    found = ordinary.read_uncached(loaded, vectors)
    for vector in vectors:
        record = ordinary.as_record(loaded, vector, found[vector.trait])
        path = TARGET / vector.trait / ordinary.FILE
        path.write_text(json.dumps(record) + "\n", "utf-8")
        print(f"bundled {vector.trait}/{ordinary.FILE}")


if __name__ == "__main__":
    main()
