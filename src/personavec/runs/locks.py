"""Locks that keep two processes from writing to one folder or file.

They are `flock` locks, which the system releases when the process ends for any reason. On a network
file system they work across hosts only if it supports `flock`, as NFS does through its lock
service. On a file system without locks, StorageError is raised.
"""

from __future__ import annotations

import errno
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from filelock import FileLock, Timeout

from personavec.errors import StorageError
from personavec.runs.artifacts import remove_leftovers, remove_leftovers_of
from personavec.runs.storage import make_folder, storage_errors

LOCK = ".lock"
#: The errors of file systems that cannot lock files.
_NO_LOCKS = (errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP)


@contextmanager
def lock(folder: Path, *, wait: bool = False) -> Iterator[None]:
    """Keep other processes from writing to a folder, until the block or the process ends.

    Unfinished files of a killed process are removed. Raises StorageError if another process holds
    the lock, unless `wait` is set.
    """
    make_folder(folder)
    with _held(folder / LOCK, folder, wait=wait):
        remove_leftovers(folder)
        yield


@contextmanager
def lock_file(path: Path) -> Iterator[None]:
    """`lock` for a result that is one file; the lock file beside it is removed at the end."""
    beside = path.with_name(f".{path.name}{LOCK}")
    make_folder(path.parent)
    with _held(beside, path):
        try:
            remove_leftovers_of(path)
            yield
        finally:
            with suppress(OSError):
                beside.unlink()


@contextmanager
def _held(path: Path, target: Path, *, wait: bool = False) -> Iterator[None]:
    """Hold the lock file `path`, which names its holder."""
    own = _acquired(path, target, wait=wait)
    try:
        # The holder's name is only for error messages; the lock works without it.
        with suppress(OSError):
            path.write_text(f"process {os.getpid()} on {socket.gethostname()}\n")
        yield
    finally:
        own.release()


def _acquired(path: Path, target: Path, *, wait: bool) -> FileLock:
    # filelock's fallback, a soft lock, would outlive a killed process.
    found = FileLock(path, timeout=-1 if wait else 0, fallback_to_soft=False)
    with storage_errors(path), _unsupported(path):
        try:
            found.acquire()
        except Timeout as error:
            raise StorageError(
                f"{target} is being written by another process{_holder(path)}; wait until it has "
                "finished, or use another --out"
            ) from error
    return found


@contextmanager
def _unsupported(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        if error.errno not in _NO_LOCKS:
            raise
        raise StorageError(
            f"{path.parent} is on a file system that cannot lock files ({error.strerror}), such as "
            "some network file systems; use an --out on another one"
        ) from error


def _holder(path: Path) -> str:
    """The lock's holder by the lock file, such as " (process 1234 on host)"."""
    try:
        name = path.read_text(errors="replace").strip()
    except OSError:
        return ""
    return f" ({name[:100]})" if name else ""
