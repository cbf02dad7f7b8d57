"""Connections to a cluster, and its workers' errors."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from personavec import LoadedModel, PersonaVector
from personavec.errors import DataError, PersonavecError, UsageError
from personavec.progress import Progress
from personavec.screen import pipeline as screen

ray = pytest.importorskip("ray", reason="needs the extra 'ray'")

from ray.exceptions import RayError  # noqa: E402

from personavec.screen.cluster.connecting import (  # noqa: E402
    connected,
    devices,
    own_errors,
)


def test_no_cluster_at_the_address(
    llama: LoadedModel, random_vector: Callable[..., PersonaVector], tmp_path: Path
) -> None:
    data = tmp_path / "data.jsonl"
    data.write_text(json.dumps({"prompt": "Hi", "completion": "Ho"}))
    vectors, quiet = [random_vector(llama)], Progress(quiet=True)
    with pytest.raises(UsageError, match="no cluster answers"):
        screen.run(llama, vectors, [data], tmp_path / "out", ray="127.0.0.1:1", progress=quiet)


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What Ray is asked for; nothing of it is done, and no cluster is there already."""
    found: list[str] = []

    def init(address: str, **_: Any) -> None:
        found.append(address)
        if address == "auto":
            raise ConnectionError("no cluster")

    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    monkeypatch.setattr(ray, "init", init)
    monkeypatch.setattr(ray, "shutdown", lambda: found.append("shutdown"))
    return found


def test_auto_is_the_cluster_of_this_machine_or_else_one_of_its_own(calls: list[str]) -> None:
    with connected("auto"):
        assert calls == ["auto", "local"]
    assert calls[-1] == "shutdown"


def test_a_connection_of_the_callers_is_used_and_left_open(
    calls: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ray, "is_initialized", lambda: True)
    with connected("127.0.0.1:1"):
        pass
    assert calls == []


@pytest.mark.parametrize(
    ("resources", "expected"),
    [({"CPU": 8.0, "GPU": 2.0}, (2, True)), ({"CPU": 8.0}, (8, False)), ({}, (1, False))],
)
def test_accelerators_are_counted_before_cores(
    monkeypatch: pytest.MonkeyPatch, resources: dict[str, float], expected: tuple[int, bool]
) -> None:
    monkeypatch.setattr(ray, "cluster_resources", lambda: resources)
    assert devices() == expected


def test_an_error_of_ours_in_a_worker_is_raised_as_it_was() -> None:
    """However many errors of Ray's are about it."""
    own, outer, inner = DataError("row 7 is odd"), RayError("outer"), RayError("inner")
    outer.cause, inner.__cause__ = inner, own  # pyright: ignore[reportAttributeAccessIssue]
    with pytest.raises(DataError) as caught, own_errors():
        raise outer
    assert caught.value is own


def test_another_error_of_a_worker_is_one_line_with_what_to_do() -> None:
    told = r"failed \(node died\).*is kept"
    with pytest.raises(PersonavecError, match=told), own_errors():
        raise RayError("Traceback\nnode died")
