"""The errors a user can meet.

    PersonavecError                 exit code 1
    ├── UsageError                  exit code 2; also a ValueError
    │   ├── RefusedError            a finetune that its own data speak against
    │   └── SpecError               a trait spec that cannot be used
    ├── ModelError                  a model that cannot be loaded or is not supported
    ├── EndpointError               an API that cannot be used; also a ConnectionError
    ├── VectorMismatchError         a vector that does not fit the model; also a ValueError
    ├── DataError                   rows, records or numbers that cannot be used; also a ValueError
    ├── SettingsMismatchError       a folder begun with other settings
    ├── TooFewRolloutsError         too little left after filtering
    ├── HookError                   a hook that did not fire; also a RuntimeError
    ├── ActivationError             NaN or infinity in activations; also an ArithmeticError
    └── StorageError                a full disk, a locked folder; also an OSError

A message is one line: what was wrong, where, and the remedy. Most classes also inherit the
built-in error that fits, so callers who know nothing of this package catch what they expect.
"""

from __future__ import annotations

from typing import ClassVar


class PersonavecError(Exception):
    """An expected failure, shown to the user as its one-line message without a traceback."""

    exit_code: ClassVar[int] = 1
    """What the command line exits with."""

    def __str__(self) -> str:
        """The message; line breaks from quoted text become spaces."""
        return " ".join(line.strip() for line in super().__str__().splitlines())


class UsageError(PersonavecError, ValueError):
    """An argument or option that cannot be what was meant."""

    exit_code: ClassVar[int] = 2


class RefusedError(UsageError):
    """A finetune would do harm or nothing, on the evidence of its own data."""


class SpecError(UsageError):
    """A trait spec that is missing, malformed or unfit for its purpose."""


class ModelError(PersonavecError):
    """A model that cannot be found or loaded, or whose architecture is not supported."""


class EndpointError(PersonavecError, ConnectionError):
    """An API endpoint that cannot be used: no key, no such model, nobody who answers."""


class VectorMismatchError(PersonavecError, ValueError):
    """A vector whose hidden size or number of layers is not the model's."""


class DataError(PersonavecError, ValueError):
    """Rows, records or numbers that cannot be read or computed with."""


class SettingsMismatchError(PersonavecError):
    """A folder that holds a run with other settings."""


class TooFewRolloutsError(PersonavecError):
    """Fewer rollouts left after filtering than the computation needs."""


class HookError(PersonavecError, RuntimeError):
    """A hook that did not fire, so nothing was captured or steered."""


class ActivationError(PersonavecError, ArithmeticError):
    """NaN or infinity in a model's activations."""


class StorageError(PersonavecError, OSError):
    """A file or folder that cannot be written: a full disk, missing rights, another process."""


def missing_extra(extra: str) -> PersonavecError:
    """The error to raise when optional packages are not installed; names the install command."""
    return PersonavecError(
        f"this needs the optional packages of {extra!r}, which are not installed; "
        f"install them with: pip install 'personavec[{extra}]'"
    )
