"""Terminal output of `personavec doctor`."""

from __future__ import annotations

from collections.abc import Mapping

from personavec.doctor.caches import HOLDS
from personavec.doctor.extras import UNKNOWN
from personavec.doctor.processor import has_bf16
from personavec.doctor.results import Cache, Device, DoctorResults, Extra, Processor, Weights
from personavec.terminal import console, print_table, print_text
from personavec.wording import plural


def show(found: DoctorResults) -> None:
    """Print what was found, as a report of a fault can quote it."""
    versions = [
        f"{name} {version or '(not installed)'}" for name, version in found.versions.items()
    ]
    threads = ", ".join(f"{k}={v}" for k, v in found.threads.items()) or "none"
    for name, said in (
        ("versions", ", ".join(versions)),
        ("installed in", found.location),
        ("system", found.system),
        ("processor", said_processor(found.processor)),
        ("settings of threads", threads),
        ("models run on", said_device(found.device)),
        ("smollm2", said_weights(found.weights)),
    ):
        print_text(f"{name}: {said}")
    console.print()
    _show_caches(found.caches)
    _show_extras(found.extras)
    if any(extra.missing for extra in found.extras):
        console.print("To install one: pip install 'personavec[EXTRA]'")


def said_processor(found: Processor) -> str:
    """The processor's name, cores and memory, its instructions, and what they mean for speed."""
    cores = plural(found.cores, "core")
    if found.quota is not None:
        cores += f" (the container has the time of {found.quota:g})"
    memory = "" if found.memory_gib is None else f", {found.memory_gib:g} GiB of memory"
    has = [name for name, there in found.features.items() if there]
    lacks = [name for name, there in found.features.items() if not there]
    instructions = f"; it has {', '.join(has)}" if has else ""
    without = f"; it lacks {', '.join(lacks)}" if lacks else ""
    whole = f"{found.name} ({found.architecture}), {cores}{memory}{instructions}{without}"
    return whole + (f"; {_speed(found.features)}" if found.features else "")


def _speed(features: Mapping[str, bool]) -> str:
    """What a processor's instructions mean for who runs a model on it."""
    if not has_bf16(features):
        return "without an instruction for bf16, models run but take longer"
    if features.get("amx_bf16") is False:
        return "models are fast with those for bf16, and need no amx_bf16"
    return "models are fast with those for bf16"


def said_device(found: Device) -> str:
    """The device, the reason for it, and the accelerators."""
    return "; ".join([f"{found.name or 'none'} ({found.reason})", *found.accelerators])


def said_weights(found: Weights) -> str:
    """Where the embedded model's weights are, or what brings them."""
    if found.file is None:
        return f"weights missing; run: {found.install}"
    state = "already converted" if found.converted else "the first start converts them"
    return f"weights in {found.file}; {state}"


def _show_caches(found: list[Cache]) -> None:
    rows = [(c.name, said_size(c), HOLDS[c.name], c.folder) for c in found]
    print_table(("cache", "size", "what it holds", "folder"), rows)


def _show_extras(found: list[Extra]) -> None:
    rows = [(extra.name, said_extra(extra), extra.adds) for extra in found]
    print_table(("extra", "installed", "what for"), rows)


def said_extra(found: Extra) -> str:
    """Whether an extra is installed, and what it lacks if not."""
    if not found.missing:
        return "yes"
    return UNKNOWN if UNKNOWN in found.missing else f"no: lacks {', '.join(found.missing)}"


def said_size(cache: Cache) -> str:
    """A cache's size in MiB."""
    if cache.bytes is None:
        return "not used yet"
    return f"{'' if cache.whole else 'over '}{cache.bytes / 2**20:,.0f} MiB"
