"""Check what a wheel and an sdist hold; the sdist must build the same wheel.

python -m build && python scripts/check_wheel.py dist
"""

from __future__ import annotations

import subprocess
import sys
import tarfile
import tempfile
import zipfile
from pathlib import Path, PurePosixPath

ROOT = Path(__file__).parents[1]
#: What nobody should have to look for in an sdist.
IN_SDIST = ("README.md", "LICENSE", "pyproject.toml", "Dockerfile", "docs/library.md")


def tracked() -> set[str]:
    """The package's files that git knows, `personavec/…`."""
    found = subprocess.check_output(["git", "ls-files", "src/personavec"], cwd=ROOT, text=True)
    return {line.removeprefix("src/") for line in found.splitlines()}


def contents(wheel: Path) -> dict[str, bytes]:
    """The files of a wheel by name."""
    with zipfile.ZipFile(wheel) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def rebuilt(sdist: Path, folder: Path) -> Path:
    """The wheel that an unpacked sdist builds."""
    with tarfile.open(sdist) as archive:
        archive.extractall(folder, filter="data")
    (source,) = folder.iterdir()
    missing = [name for name in IN_SDIST if not (source / name).is_file()]
    if missing:
        sys.exit(f"{sdist.name} lacks {', '.join(missing)}")
    out = folder / "wheel"
    command = ["-m", "build", "--no-isolation", "--wheel", "--outdir", str(out), str(source)]
    subprocess.run([sys.executable, *command], check=True, stdout=subprocess.DEVNULL)
    return next(out.glob("*.whl"))


def difference(name: str, found: set[str], expected: set[str]) -> None:
    """End with a line if the sets differ."""
    if found != expected:
        few = ", ".join(sorted(found ^ expected)[:5])
        missing, more = len(expected - found), len(found - expected)
        sys.exit(f"{name}: {missing} files missing, {more} too many ({few})")


def main() -> None:
    folder = Path(sys.argv[1])
    (wheel,), (sdist,) = folder.glob("*.whl"), folder.glob("*.tar.gz")
    files = contents(wheel)
    info = {name for name in files if PurePosixPath(name).parts[0].endswith(".dist-info")}
    difference(wheel.name, set(files) - info, tracked())
    with tempfile.TemporaryDirectory() as scratch:
        again = contents(rebuilt(sdist, Path(scratch)))
    difference(f"the wheel that {sdist.name} builds", set(again), set(files))
    changed = [name for name, data in files.items() if again[name] != data]
    if changed:
        sys.exit(f"the wheel that {sdist.name} builds differs in {', '.join(changed[:5])}")
    print(f"{wheel.name}: {len(files)} files; {sdist.name} builds the same")


if __name__ == "__main__":
    main()
