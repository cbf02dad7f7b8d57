"""Whether the packages of an extra are there, asked before a command begins. Loads none of them."""

from __future__ import annotations

from importlib.util import find_spec

from personavec.errors import missing_extra

#: The modules that each extra brings and that a command needs.
MODULES = {
    "api": ("openai",),
    "eval": ("lm_eval",),
    "figures": ("matplotlib",),
    "finetune": ("peft", "trl"),
    "ray": ("ray",),
}


def check_extras(*names: str) -> None:
    """Raise PersonavecError, with the remedy, for the first extra whose modules are missing."""
    for name in names:
        if any(find_spec(module) is None for module in MODULES[name]):
            raise missing_extra(name)
