"""The optional requirements, and what each adds."""

from __future__ import annotations

from collections.abc import Iterable
from importlib import metadata

from packaging.requirements import Requirement

from personavec.doctor.results import Extra

#: What one can do with each extra; docs/install.md has the same in its table.
ADDS = {
    "api": "judges and authors behind an OpenAI-compatible endpoint",
    "datasets": "datasets by name, from the Hugging Face hub",
    "eval": "the tasks of lm-eval in `evaluate`",
    "figures": "`--figures`, which saves a report's charts as SVG, PNG and CSV",
    "finetune": "`finetune`, `compare-mitigations`, and models that are adapters",
    "quantise": "models in 8 and 4 bits",
    "ray": "`screen` on a cluster",
    "vllm": "the vLLM engine for large models",
}

#: What is missing of an extra that the installation does not know.
UNKNOWN = "not known; install the package again"


def find_extras(requirements: Iterable[str]) -> list[Extra]:
    """The extras among a package's requirements, `peft>=0.17; extra == 'finetune'`, by name."""
    wanted = [Requirement(text) for text in requirements]
    return [
        Extra(name, adds, _missing(name, wanted), f"pip install 'personavec[{name}]'")
        for name, adds in ADDS.items()
    ]


def _missing(extra: str, wanted: Iterable[Requirement]) -> list[str]:
    own = [
        each
        for each in wanted
        if each.marker is not None
        and each.marker.evaluate({"extra": extra})
        and not each.marker.evaluate({"extra": ""})
    ]
    if not own:  # An editable installation keeps the requirements of the day it was made.
        return [UNKNOWN]
    return [lack for each in own if (lack := _lack(each))]


def _lack(wanted: Requirement) -> str | None:
    """What is missing of a requirement; None where it is installed."""
    text = f"{wanted.name}{wanted.specifier}"
    try:
        found = metadata.version(wanted.name)
    except metadata.PackageNotFoundError:
        return text
    if wanted.specifier.contains(found, prereleases=True):
        return None
    return f"{text} ({found} is installed)"
