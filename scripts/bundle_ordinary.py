"""Read the bundled dialogues along the bundled vectors: `python scripts/bundle_ordinary.py FOLDER`.

`serve` then counts in how many of them a guard would act without reading them.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

from personavec import load_model
from personavec.monitor import ordinary
from personavec.runs import atomic_write
from personavec.vectors import bundled_vectors, load_vector


def main() -> None:
    loaded = load_model("smollm2")
    vectors = [load_vector(name) for name in bundled_vectors()]
    found = ordinary.read_uncached(loaded, vectors)
    for vector in vectors:
        record = ordinary.as_record(loaded, vector, found[vector.trait])
        path = Path(sys.argv[1]) / vector.trait / ordinary.FILE
        atomic_write(path, json.dumps(record) + "\n")
        print(path)


if __name__ == "__main__":
    main()
