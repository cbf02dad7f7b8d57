"""Connect to a Ray cluster, and raise the errors of its workers in the driver."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import ray
from ray.exceptions import RayError

from personavec.errors import PersonavecError, UsageError


@contextmanager
def connected(address: str) -> Iterator[None]:
    """Connect to a cluster for as long as the context lasts.

    `address` is the HOST:PORT of a cluster's head node; `local`, which starts a cluster on this
    machine; or `auto`, which uses the cluster that this machine belongs to and otherwise starts
    one. A connection that is already open is used and left open. Raises UsageError when there is no
    cluster at the address.
    """
    if ray.is_initialized():
        yield
        return
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    try:
        _connect(address)
    except (OSError, ValueError, RuntimeError) as error:
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise UsageError(
            f"--ray {address}: no cluster answers there ({reason}); give the HOST:PORT that "
            "`ray start --head` printed, or --ray alone for one on this machine"
        ) from error
    try:
        yield
    finally:
        ray.shutdown()


def _connect(address: str) -> None:
    quiet: dict[str, Any] = {"log_to_driver": False, "logging_level": "ERROR"}
    if address == "auto":
        try:
            ray.init(address=address, **quiet)
            return
        except ConnectionError:
            address = "local"
    if address == "local":
        ray.init(address=address, include_dashboard=False, _node_ip_address="127.0.0.1", **quiet)
        return
    host, _, port = address.rpartition(":")
    # Ray itself would take minutes to notice that no cluster answers.
    socket.create_connection((host, int(port)), timeout=10).close()
    ray.init(address=address, **quiet)


def devices() -> tuple[int, bool]:
    """The number of devices in the cluster, and whether they are GPUs rather than CPU cores."""
    resources = ray.cluster_resources()
    gpus = int(resources.get("GPU", 0))
    return (gpus, True) if gpus else (max(1, int(resources.get("CPU", 1))), False)


@contextmanager
def own_errors() -> Iterator[None]:
    """Raise the PersonavecError of a worker in the driver, in place of Ray's error."""
    try:
        yield
    except RayError as error:
        cause: BaseException | None = error
        while cause is not None and not isinstance(cause, PersonavecError):
            cause = getattr(cause, "cause", None) or cause.__cause__
        if cause is not None:
            raise cause from error
        last = (str(error).strip() or type(error).__name__).splitlines()[-1]
        raise PersonavecError(
            f"the Ray cluster failed ({last}); fix the cause and run the same command again: "
            "finished work is kept"
        ) from error
