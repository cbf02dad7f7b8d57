"""personavec: persona vectors for open models.

    >>> import personavec as pv
    >>> loaded = pv.load_model("smollm2")
    >>> vector = pv.load_vector("optimistic")
    >>> with pv.steer(loaded.model, vector, coefficient=1.5):
    ...     loaded.model.generate(...)

The names below are the stable surface; they are imported when first used.
"""

from __future__ import annotations

import sys
from importlib import import_module
from types import ModuleType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from personavec import author as author
    from personavec import elicit as elicit
    from personavec import evaluate as evaluate
    from personavec import extract as extract
    from personavec import finetune as finetune
    from personavec import screen as screen
    from personavec import shift as shift
    from personavec.author import AuthorConfig as AuthorConfig
    from personavec.errors import PersonavecError as PersonavecError
    from personavec.extract import ExtractConfig as ExtractConfig
    from personavec.finetune import FinetuneConfig as FinetuneConfig
    from personavec.finetuning.mitigations import Mitigation as Mitigation
    from personavec.finetuning.training import TrainingConfig as TrainingConfig
    from personavec.model.loading import LoadedModel as LoadedModel
    from personavec.model.loading import load_model as load_model
    from personavec.model.loading import wrap_model as wrap_model
    from personavec.model.preventative import PreventativeSteering as PreventativeSteering
    from personavec.model.steering import steer as steer
    from personavec.readings import project_conversation as project_conversation
    from personavec.readings import read_conversation as read_conversation
    from personavec.traits import TraitSpec as TraitSpec
    from personavec.traits import load_trait as load_trait
    from personavec.vectors import PersonaVector as PersonaVector
    from personavec.vectors import cosine as cosine
    from personavec.vectors import load_vector as load_vector

__version__ = "0.1.0"

_PUBLIC: dict[str, tuple[str, str | None]] = {
    "AuthorConfig": ("personavec.author", "AuthorConfig"),
    "ExtractConfig": ("personavec.extract", "ExtractConfig"),
    "FinetuneConfig": ("personavec.finetune", "FinetuneConfig"),
    "LoadedModel": ("personavec.model.loading", "LoadedModel"),
    "Mitigation": ("personavec.finetuning.mitigations", "Mitigation"),
    "PersonaVector": ("personavec.vectors", "PersonaVector"),
    "PreventativeSteering": ("personavec.model.preventative", "PreventativeSteering"),
    "PersonavecError": ("personavec.errors", "PersonavecError"),
    "TrainingConfig": ("personavec.finetuning.training", "TrainingConfig"),
    "TraitSpec": ("personavec.traits", "TraitSpec"),
    "author": ("personavec.author", None),
    "cosine": ("personavec.vectors", "cosine"),
    "elicit": ("personavec.elicit", None),
    "evaluate": ("personavec.evaluate", None),
    "extract": ("personavec.extract", None),
    "finetune": ("personavec.finetune", None),
    "load_model": ("personavec.model.loading", "load_model"),
    "load_trait": ("personavec.traits", "load_trait"),
    "load_vector": ("personavec.vectors", "load_vector"),
    "screen": ("personavec.screen", None),
    "project_conversation": ("personavec.readings", "project_conversation"),
    "read_conversation": ("personavec.readings", "read_conversation"),
    "shift": ("personavec.shift", None),
    "steer": ("personavec.model.steering", "steer"),
    "wrap_model": ("personavec.model.loading", "wrap_model"),
}

__all__ = sorted(_PUBLIC)  # pyright: ignore[reportUnsupportedDunderAll]


def __getattr__(name: str) -> Any:
    if name not in _PUBLIC:
        raise AttributeError(f"module 'personavec' has no attribute {name!r}")
    module, attribute = _PUBLIC[name]
    found = import_module(module)
    return getattr(found, attribute) if attribute else found


def __dir__() -> list[str]:
    return [*__all__, "__version__"]


class _Verb(ModuleType):
    """A verb's module; who calls it meant its `run`."""

    def __call__(self, *_: object, **__: object) -> None:
        name = self.__name__.rpartition(".")[2]
        raise TypeError(f"personavec.{name} is a module: call personavec.{name}.run(…)")


class _Package(ModuleType):
    """The package, which makes its verbs' modules say so as they are imported."""

    def __setattr__(self, name: str, value: Any) -> None:
        if isinstance(value, ModuleType) and _PUBLIC.get(name) == (value.__name__, None):
            value.__class__ = _Verb
        super().__setattr__(name, value)


sys.modules[__name__].__class__ = _Package
