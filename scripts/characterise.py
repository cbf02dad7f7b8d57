"""What every verb of the command line gives on small input, kept to be compared later.

`python scripts/characterise.py run FOLDER` runs all commands in a new folder and writes what came
of them, in a canonical form, into FOLDER/canonical; `--only NAME` runs one case, `--only 'screen*'`
several. `python scripts/characterise.py compare A B` prints what differs between two canonical
folders, with exit code 1 where anything does.
"""

from __future__ import annotations

import argparse
import json
import os
import queue
import runpy
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from fnmatch import fnmatch
from pathlib import Path
from typing import Any, NoReturn

from characterise_cases import CASES, PREPARATION, arguments, environment, library, plain, serve
from characterise_files import SKIPPED, Canonical, compare
from characterise_inputs import Endpoint, write_inputs

HERE = str(Path(__file__).resolve())
#: Seconds that a command may take.
LONGEST = 600
WORKERS = 2
PREPARING = "prepare"


def run(folder: Path, only: Sequence[str]) -> None:
    names = [n for n in CASES if not only or any(fnmatch(n, each) for each in only)]
    if not names:
        sys.exit(f"no case is called {' or '.join(only)}; there are: {', '.join(CASES)}")
    folder.mkdir(parents=True, exist_ok=True)
    if not (folder / "inputs").exists():
        subprocess.run(
            [sys.executable, HERE, "inputs"], cwd=folder, env=environment(folder), check=True
        )
    ready: queue.Queue[Warm] = queue.Queue()
    workers = [Warm(folder) for _ in range(WORKERS)]
    for worker in workers:
        ready.put(worker)

    def case(name: str) -> str:
        worker = ready.get()
        try:
            return _case(folder, name, stub, worker)
        finally:
            ready.put(worker)

    with Endpoint() as stub, ThreadPoolExecutor(WORKERS) as threads:
        if not (folder / "canonical" / PREPARING).exists():
            print(_case(folder, PREPARING, stub, workers[0]), flush=True)
        for done in as_completed([threads.submit(case, name) for name in names]):
            print(done.result(), flush=True)
    for worker in workers:
        worker.close()


def _case(folder: Path, name: str, stub: Endpoint, worker: Warm) -> str:
    """Run a case's steps, and keep their output and their files. Returns how it went."""
    out, kept = folder / "out" / name, folder / "canonical" / name
    for old in (out, kept):
        shutil.rmtree(old, ignore_errors=True)
        old.mkdir(parents=True)
    form = Canonical(folder)
    began, exits = time.monotonic(), []
    for number, line in enumerate(PREPARATION if name == PREPARING else CASES[name], 1):
        kind, _, rest = line.partition(" ")
        argv = arguments(rest if kind in ("human", "library") else line, name, stub.url)
        if kind == "library":
            done = worker.run(["library", argv[0], f"out/{name}/{argv[0]}"])
        elif kind == "serve":
            done = serve([*argv, "--json"], folder, out, environment(folder))
            done["alarms"] = list(stub.alarms)
            stub.alarms.clear()
        else:
            done = worker.run(["command", *argv, *(["--json"] if kind != "human" else [])])
        exits.append(done["exit"])
        (kept / f"step-{number:02}.json").write_text(form.dump({"command": argv, **_read(done)}))
    written = folder / "vectors" if name == PREPARING else out
    for path in sorted(written.rglob("*")):
        own = str(path.relative_to(written))
        if path.is_dir() or SKIPPED.search(own):
            continue
        ending, text = form.file(path)
        file = kept / "files" / f"{own}{'' if own.endswith(ending) else ending}"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text, "utf-8")
    return f"{name}: {time.monotonic() - began:.0f} s, exit codes {' '.join(map(str, exits))}"


class Warm:
    """A process that has loaded what all commands load, and forks for each: saves seconds a step.

    The fork runs the package's `__main__`, as `python -m personavec` does.
    """

    def __init__(self, folder: Path):
        self._folder = folder
        self._process = subprocess.Popen(
            [sys.executable, HERE, "warm"],
            cwd=folder,
            env=environment(folder),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def run(self, argv: Sequence[str]) -> dict[str, Any]:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        with tempfile.TemporaryDirectory() as aside:
            asked = {"argv": list(argv), "stdout": f"{aside}/out", "stderr": f"{aside}/err"}
            self._process.stdin.write(json.dumps(asked) + "\n")
            self._process.stdin.flush()
            code = int(self._process.stdout.readline())
            texts = {k: Path(asked[k]).read_text("utf-8") for k in ("stdout", "stderr")}
        return {"exit": code, **texts}

    def close(self) -> None:
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait()


def _warm() -> None:
    """Fork for each line on standard input, and write the fork's exit code to standard output."""
    import transformers  # noqa: F401

    import personavec as pv

    for name in dir(pv):
        getattr(pv, name)
    for line in sys.stdin:
        asked = json.loads(line)
        child = os.fork()
        if not child:
            _forked(asked)
        print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)


def _forked(asked: dict[str, Any]) -> NoReturn:
    """Run a command line in this process, and end it."""
    signal.alarm(LONGEST)
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    for handle, name in ((1, "stdout"), (2, "stderr")):
        os.dup2(os.open(asked[name], os.O_WRONLY | os.O_CREAT, 0o600), handle)
    code: Any = 0
    try:
        kind, *argv = asked["argv"]
        if kind == "library":
            out = Path(argv[1])
            out.mkdir(parents=True)
            print(json.dumps(plain(library(argv[0], out))))
        else:
            sys.argv = ["personavec", *argv]
            runpy.run_module("personavec", run_name="__main__", alter_sys=True)
    except SystemExit as ended:
        code = ended.code
    except BaseException:
        traceback.print_exc()
        code = 1
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code if isinstance(code, int) else int(bool(code)))


def _read(done: dict[str, Any]) -> dict[str, Any]:
    """Standard output as JSON or as lines; of a failure, its first line."""
    try:
        stdout = json.loads(done["stdout"])
    except ValueError:
        stdout = [line.rstrip() for line in done["stdout"].splitlines()]
    found = {"exit": done["exit"], "stdout": stdout}
    if "alarms" in done:
        found["alarms"] = done["alarms"]
    if done["exit"]:
        errors = [line for line in done.get("stderr", "").splitlines() if line.strip()]
        boxed = [line.strip("│ ") for line in errors if line.startswith("│")]
        plainly = [line for line in errors if line.startswith("error")]
        found["error"] = [*plainly, *boxed, *errors[-1:], ""][0]
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    running = commands.add_parser("run")
    running.add_argument("folder", type=Path)
    running.add_argument("--only", action="append", default=[])
    comparing = commands.add_parser("compare")
    comparing.add_argument("a", type=Path)
    comparing.add_argument("b", type=Path)
    comparing.add_argument("--most", type=int, default=30, help="Lines told of a file.")
    for inner in ("inputs", "warm"):
        commands.add_parser(inner)
    given = parser.parse_args()
    if given.command == "run":
        run(given.folder, given.only)
    elif given.command == "inputs":
        write_inputs(Path("inputs"))
    elif given.command == "warm":
        _warm()
    else:
        told = list(compare(given.a, given.b, given.most))
        print("\n".join(told) or "no difference")
        sys.exit(bool(told))


if __name__ == "__main__":
    main()
