"""Copy calibrations and drift limits into the package, beside the vectors they are of.

`python scripts/bundle_measurements.py out/calibrations out/limits`; either may be missing.
"""

from __future__ import annotations

import argparse
import shutil
from pathlib import Path

from personavec.vectors import DRIFT_FILE, FILE, bundled_vectors, load_vector

TARGET = Path(__file__).parents[1] / "src" / "personavec" / "bundled" / "vectors"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("sources", type=Path, nargs="+", help="of measurements, by trait")
    sources = parser.parse_args().sources
    for name in bundled_vectors():
        for source in sources:
            for file in (FILE, DRIFT_FILE):
                if (source / name / file).is_file():
                    shutil.copyfile(source / name / file, TARGET / name / file)
                    print(f"bundled {name}/{file}")
        load_vector(name)  # refuses what was measured of another vector


if __name__ == "__main__":
    main()
