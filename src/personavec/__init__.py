"""personavec: persona vectors for open models.

    >>> import personavec as pv
    >>> loaded = pv.load_model("smollm2")
    >>> vector = pv.load_vector("optimistic")
    >>> with pv.steer(loaded.model, vector, coefficient=1.5):
    ...     loaded.model.generate(...)

The names in `__all__` are the stable surface. They are imported on first use.
"""

import sys
from types import ModuleType
from typing import Any

import lazy_loader

__version__ = "0.1.0"

_VERBS = frozenset(
    (
        "author",
        "calibrate",
        "elicit",
        "evaluate",
        "extract",
        "finetune",
        "monitor",
        "screen",
        "shift",
    )
)

_lazy, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)


class _Verb(ModuleType):
    """A verb's module; calling it raises an error that names its `run`."""

    def __call__(self, *_: object, **__: object) -> None:
        name = self.__name__.rpartition(".")[2]
        raise TypeError(f"personavec.{name} is a module: call personavec.{name}.run(…)")


class _Package(ModuleType):
    """This package: makes a `_Verb` of each verb's module once it is imported."""

    def __setattr__(self, name: str, value: Any) -> None:
        if name in _VERBS:
            value.__class__ = _Verb
        super().__setattr__(name, value)


sys.modules[__name__].__class__ = _Package


def __getattr__(name: str) -> Any:
    value = _lazy(name)
    setattr(sys.modules[__name__], name, value)
    return value
