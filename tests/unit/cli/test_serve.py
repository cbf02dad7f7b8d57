"""`personavec serve` from its command line: keys that are missing, and how it ends."""

import os
import signal
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import httpx2 as httpx
import pytest

from personavec import LoadedModel
from personavec.cli.main import main


def ended(*options: str) -> int:
    with pytest.raises(SystemExit) as found:
        main(["serve", "--vectors", "none", *options])
    return int(found.value.code or 0)


@pytest.mark.parametrize(
    ("value", "named", "said"),
    [
        (None, True, "is not set"),
        ("", True, "is empty"),
        ("", False, "is empty"),
        ("a\nb", False, "cannot be sent in a header"),
        ("schlüssel", True, "cannot be sent in a header"),
    ],
)
def test_a_key_that_was_meant_and_is_none_is_refused(
    value: str | None,
    named: bool,
    said: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Rather than served without a key."""
    name = "CLIENTS_KEY" if named else "PERSONAVEC_API_KEY"
    monkeypatch.delenv("PERSONAVEC_API_KEY", raising=False)
    monkeypatch.delenv(name, raising=False)
    if value is not None:
        monkeypatch.setenv(name, value)
    assert ended(*(["--api-key-env", name] if named else [])) == 2
    [line] = capsys.readouterr().err.splitlines()
    assert name in line
    assert said in line


@pytest.mark.parametrize("option", ["--api-key", "--name", "--max-body", "--default-tokens"])
def test_fields_that_only_code_sets_are_no_options(
    option: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """Above all a key, which would stand in the list of processes."""
    assert ended(option, "1") == 2
    assert option in capsys.readouterr().err


@pytest.fixture
def handlers() -> Iterator[None]:
    """Ctrl-C as in a terminal, and both signals as they were afterwards."""
    before = {each: signal.getsignal(each) for each in (signal.SIGINT, signal.SIGTERM)}
    signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    for each, handler in before.items():
        signal.signal(each, handler)


@pytest.mark.parametrize(("sent", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 0)])
def test_a_signal_ends_it_quietly(
    llama: LoadedModel,
    tmp_path: Path,
    handlers: None,
    sent: signal.Signals,
    code: int,
    capfd: pytest.CaptureFixture[str],
) -> None:
    llama.model.save_pretrained(tmp_path)
    llama.tokenizer.save_pretrained(tmp_path)
    capfd.readouterr()
    with closing(socket.create_server(("127.0.0.1", 0))) as free:
        port = free.getsockname()[1]

    def interrupt() -> None:
        for _ in range(600):
            try:
                if httpx.get(f"http://127.0.0.1:{port}/healthz", timeout=5).status_code == 200:
                    break
            except httpx.HTTPError:
                pass
            time.sleep(0.05)
        os.kill(os.getpid(), sent)

    thread = threading.Thread(target=interrupt)
    thread.start()
    assert ended("--model", str(tmp_path), "--port", str(port)) == code
    thread.join()
    lines = [line for line in capfd.readouterr().err.splitlines() if "serving" not in line]
    if code:
        assert lines[-1] == "interrupted; the server has stopped"
    assert not any("Traceback" in line for line in lines)
