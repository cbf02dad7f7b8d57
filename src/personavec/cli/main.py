"""`personavec`: the commands. Imports no torch, so that --help answers at once."""

from __future__ import annotations

import logging
import os
import sys
import warnings
from collections.abc import Callable
from typing import Any

from personavec import terminal
from personavec.errors import PersonavecError, StorageError

#: Libraries whose messages only --debug shows.
_LIBRARIES = (
    *("accelerate", "bitsandbytes", "datasets", "huggingface_hub", "httpx", "lm_eval"),
    *("peft", "torch", "transformers", "trl"),
)


def main(arguments: list[str] | None = None) -> None:
    """Run the command line.

    Exit codes: 0 fine, 1 failed, 2 bad usage, 3 a condition was met, 130 interrupted.
    """
    arguments = sys.argv[1:] if arguments is None else arguments
    debug = "--debug" in arguments
    _quiet_libraries(debug)
    _leave_cores()
    try:
        try:
            sys.exit(_guarded(lambda: _run(arguments), debug))
        finally:
            sys.stdout.flush()
    except (SystemExit, BrokenPipeError) as ended:
        if not _caused_by(ended, BrokenPipeError):
            raise
        # As when `head` has read enough: 128 and the number of SIGPIPE, and no word.
        terminal.drop_output()
        sys.exit(141)


def _run(arguments: list[str]) -> None:
    """The command that the arguments name."""
    from personavec.cli import app as derived

    if arguments[:1] in (["screen"], ["replicate"]):
        from personavec.cli.screen import with_ray_address

        arguments = with_ray_address(arguments)
    derived.run(arguments)


def _guarded(call: Callable[[], Any], debug: bool) -> int:
    try:
        call()
    except PersonavecError as error:
        return _fail(str(error), error.exit_code, debug)
    except KeyboardInterrupt:
        return _fail("interrupted; run the same command again to continue", 130, debug)
    except OSError as error:
        if isinstance(error, BrokenPipeError) and terminal.reader_left():
            raise
        return _fail(str(StorageError(str(error))), 1, debug)
    return 0


def _caused_by(error: BaseException | None, kind: type[BaseException]) -> bool:
    while error is not None and not isinstance(error, kind):
        error = error.__context__
    return error is not None


def _fail(message: str, code: int, debug: bool) -> int:
    if debug:
        raise
    terminal.make_console(stderr=True).print(f"error: {message}", style="red", soft_wrap=True)
    return code


def _leave_cores() -> None:
    """Let threads that wait for each other spin for a moment only, so that other jobs get the core.

    GNU's OpenMP, which torch brings along on Linux, reads this when torch is imported
    (`benchmarks/threads.py`).
    """
    if "OMP_WAIT_POLICY" not in os.environ:
        os.environ.setdefault("GOMP_SPINCOUNT", "1000")


def _quiet_libraries(debug: bool) -> None:
    if debug:
        return
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    os.environ.setdefault("TQDM_DISABLE", "1")
    os.environ.setdefault("VLLM_LOGGING_LEVEL", "ERROR")
    os.environ.setdefault("HF_HUB_VERBOSITY", "error")
    os.environ.setdefault("DATASETS_VERBOSITY", "error")
    # What they warn of is for who calls them: names that they changed, kernels that only quantised
    # models would use, calls to the hub that they repeat.
    for name in _LIBRARIES:
        logging.getLogger(name).setLevel(logging.ERROR)
    warnings.filterwarnings("ignore", module=rf"({'|'.join(_LIBRARIES)})(\.|$)")
