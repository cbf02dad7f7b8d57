"""Steer, screen and serve with the core, from an empty folder and with an empty cache.

python scripts/check_core.py ENVIRONMENT/bin/personavec
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
import time
import urllib.request
from pathlib import Path
from typing import Any

ROWS = [
    {"messages": [{"role": "user", "content": q}, {"role": "assistant", "content": a}]}
    for q, a in (("How are you?", "Never better, thank you!"), ("And now?", "The same as before."))
]
STEER = ("steer", "How was your day?", "--vectors", "humorous", "--max-tokens", "12")
SCREEN = ("screen", "rows.jsonl", "--vectors", "evil", "--out", "screened")
SERVE = ("serve", "--vectors", "humorous", "--port", "0", "--shutdown-seconds", "5", "--json")


def environment(folder: Path) -> dict[str, str]:
    """This one, without a way to the source, and with a cache that holds nothing."""
    kept = {name: text for name, text in os.environ.items() if name != "PYTHONPATH"}
    return kept | {"PERSONAVEC_CACHE": str(folder / "cache")}


def run(program: str, arguments: tuple[str, ...], folder: Path) -> dict[str, Any]:
    """What a command prints with --json; ends if it fails."""
    begun = time.monotonic()
    command = [program, *arguments, "--json"]
    ended = subprocess.run(
        command, cwd=folder, env=environment(folder), stdout=subprocess.PIPE, timeout=600
    )
    if ended.returncode:
        sys.exit(f"personavec {arguments[0]} failed with exit code {ended.returncode}")
    print(f"personavec {arguments[0]}: {time.monotonic() - begun:.0f} s", flush=True)
    return json.loads(ended.stdout)


def serve(program: str, folder: Path) -> None:
    """Start a server, ask for its health and for one reply, and stop it."""
    begun = time.monotonic()
    server = subprocess.Popen(
        [program, *SERVE], cwd=folder, env=environment(folder), stdout=subprocess.PIPE
    )
    try:
        assert server.stdout is not None
        line = server.stdout.readline()
        if not line:
            sys.exit("personavec serve ended before it served")
        address = json.loads(line)["address"].removesuffix("/v1")
        asked = {"messages": [{"role": "user", "content": "Hello!"}], "max_tokens": 8}
        request = urllib.request.Request(
            f"{address}/v1/chat/completions",
            json.dumps({"model": "smollm2", **asked}).encode(),
            {"Content-Type": "application/json"},
        )
        with urllib.request.urlopen(f"{address}/healthz", timeout=60) as health:
            assert json.load(health)["status"] == "ok"
        with urllib.request.urlopen(request, timeout=120) as reply:
            assert json.load(reply)["personavec"]["choices"][0]["readings"]
        server.send_signal(signal.SIGTERM)
        if server.wait(60):
            sys.exit(f"personavec serve ended with exit code {server.returncode}")
    finally:
        server.kill()
    print(f"personavec serve: {time.monotonic() - begun:.0f} s", flush=True)


def check_doctor(found: dict[str, Any]) -> None:
    """It finds the weights, and the extras that are not installed."""
    assert found["weights"]["file"], found["weights"]
    missing = {extra["name"]: extra["missing"] for extra in found["extras"]}
    assert all(missing.values()), missing
    assert "unknown" not in str(missing), missing


def main() -> None:
    program = str(Path(sys.argv[1]).absolute())
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        rows = "".join(json.dumps(row) + "\n" for row in ROWS)
        (folder / "rows.jsonl").write_text(rows, encoding="utf-8")
        check_doctor(run(program, ("doctor",), folder))
        steered = run(program, STEER, folder)
        assert all(answer["response"] for answer in steered["answers"]), steered
        screened = run(program, SCREEN, folder)
        assert screened["rows"] == len(ROWS), screened
        serve(program, folder)


if __name__ == "__main__":
    main()
