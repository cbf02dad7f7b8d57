"""What must hold under abuse: killed commands, and a server under bad clients. `make soak`.

Long commands are killed with SIGKILL at random moments and called again, and their final files
compared with those of undisturbed runs; the server is asked by malformed, slow and leaving clients.
Ends with one table and exit code 1 when anything differs.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from pathlib import Path

import soak_kills
import soak_server
from soak_jobs import write_inputs


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=25, help="over all commands")
    parser.add_argument("--seconds", type=float, default=120, help="that the server is asked for")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", type=Path, help="where the server's figures are kept")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        inputs = Path(folder) / "inputs"
        inputs.mkdir()
        write_inputs(inputs)
        outcomes = soak_kills.run_kills(inputs, Path(folder), arguments.kills, arguments.seed)
    served = soak_server.run(arguments.seconds, arguments.seed)
    if arguments.json:
        arguments.json.parent.mkdir(parents=True, exist_ok=True)
        arguments.json.write_text(json.dumps(served.record(), indent=1))
    print(f"\n{soak_kills.table(outcomes)}\n\n{served.table()}")
    if served.wrong or any(outcome.differences for outcome in outcomes):
        sys.exit(1)


if __name__ == "__main__":
    main()
