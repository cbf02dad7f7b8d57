"""Answers on disk, by the hash of URL, model and request: no run asks for an answer twice."""

from __future__ import annotations

import hashlib
import json
import os
import secrets
from collections.abc import Iterable
from pathlib import Path

from personavec.errors import StorageError
from personavec.judges.endpoint.config import OPTIONAL_FIELDS, Endpoint, Request
from personavec.judges.endpoint.reply import Completion, is_completion

#: The name under which an answer on disk lists the fields that its request left out.
_LEFT_OUT = "personavec_left_out"
_NEW = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC


def path_of(endpoint: Endpoint, request: Request) -> Path:
    """The file of an answer."""
    asked = {"url": endpoint.base_url, "model": endpoint.model, "body": request}
    text = json.dumps(asked, sort_keys=True, ensure_ascii=True)
    name = hashlib.sha256(text.encode()).hexdigest()
    return endpoint.answers_folder() / name[:2] / f"{name}.json"


def recall(endpoint: Endpoint, request: Request) -> Completion | None:
    """The answer on disk; None if there is none or a power cut has damaged it."""
    try:
        found = json.loads(path_of(endpoint, request).read_bytes())
    except (OSError, ValueError, RecursionError):
        return None
    if not is_completion(found):
        return None
    endpoint.adaptations.left_out.update(set(found.get(_LEFT_OUT, ())) & set(OPTIONAL_FIELDS))
    return found


def remember(
    endpoint: Endpoint, request: Request, completion: Completion, left_out: set[str]
) -> Completion:
    """Write an answer with the fields that its request left out; returns what was written.

    A temporary file is renamed, so that a kill or another process leaves a whole file or none. The
    file is not synced: that would cost more than many an answer, and an answer that a power cut
    destroys is asked for again.
    """
    if left_out:
        completion = {**completion, _LEFT_OUT: sorted(left_out)}
    path = path_of(endpoint, request)
    temporary = path.with_name(f".{secrets.token_hex(4)}.tmp")
    try:
        try:
            handle = os.open(temporary, _NEW, 0o600)
        except FileNotFoundError:
            _make_private(endpoint.answers_folder())
            path.parent.mkdir(mode=0o700, exist_ok=True)
            handle = os.open(temporary, _NEW, 0o600)
        with open(handle, "wb") as file:
            file.write(json.dumps(completion).encode())
        os.replace(temporary, path)
    except OSError as error:
        raise StorageError(
            f"cannot keep answers in {endpoint.answers_folder()} ({error.strerror}); "
            "name another folder with --cache"
        ) from error
    return completion


def forget(endpoint: Endpoint, requests: Iterable[Request]) -> None:
    """Delete answers, so that the next run asks again."""
    for request in requests:
        path_of(endpoint, request).unlink(missing_ok=True)


def _make_private(folder: Path) -> None:
    """Make a folder that only its owner can read: answers quote the questions."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    folder.mkdir(mode=0o700, exist_ok=True)
