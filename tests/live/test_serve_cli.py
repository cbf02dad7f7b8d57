"""`personavec serve` as an operator runs it: the embedded model in a process of its own."""

import json
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import openai

from personavec.model import chat


@contextmanager
def served(*options: str) -> Iterator[tuple[subprocess.Popen[str], dict[str, Any]]]:
    command = [
        sys.executable,
        "-c",
        "from personavec.cli.main import main; main()",
        "serve",
        "--port",
        "0",
        "--json",
    ]
    process = subprocess.Popen(
        [*command, *options], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    )
    assert process.stdout is not None
    try:
        yield process, json.loads(process.stdout.readline())
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(60)
        process.stdout.close()


def test_a_signal_lets_running_replies_finish() -> None:
    """And the log-free stdout holds one object: where it serves, and what of ordinary talk the
    guard and the alarm would have stopped, by readings that come with the package."""
    with served("--vectors", "evil", "--guard", "evil>50sigma: refuse") as (process, found):
        guard, alarm = found["ordinary"]
        assert guard == {"what": "guard 'evil>50sigma: refuse'", "dialogues": [], "of": 109}
        assert (alarm["what"], alarm["of"]) == ("drift alarm evil", 109)
        client = openai.OpenAI(base_url=f"{found['address']}/v1", api_key="none", timeout=300)
        stream = client.chat.completions.create(
            model=found["model"], messages=chat("Tell me a story."), max_tokens=30, stream=True
        )
        next(stream)
        process.send_signal(signal.SIGTERM)
        chunks = list(stream)
        assert chunks[-1].choices[0].finish_reason in ("length", "stop")
        [reading] = chunks[-1].model_extra["personavec"]["choices"][0]["readings"]
        assert reading["trait"] == "evil"
        assert process.wait(60) == 0
