"""Terminal output of `personavec doctor`."""

from __future__ import annotations

from rich.table import Table

from personavec.doctor.results import Cache, Device, DoctorResults, Extra, Processor, Weights
from personavec.terminal import console
from personavec.wording import plural


def show(found: DoctorResults) -> None:
    """Print what was found, as a report of a fault can quote it."""
    versions = [f"{name} {version or '(missing)'}" for name, version in found.versions.items()]
    about = Table.grid(padding=(0, 2))
    about.add_column()
    about.add_column(overflow="fold")
    about.add_row("versions", ", ".join(versions))
    about.add_row("installed in", found.location)
    about.add_row("system", found.system)
    about.add_row("processor", said_processor(found.processor))
    about.add_row("threads", ", ".join(f"{k}={v}" for k, v in found.threads.items()) or "not set")
    about.add_row("device", said_device(found.device))
    about.add_row("smollm2", said_weights(found.weights))
    console.print(about)
    console.print(_caches(found.caches))
    console.print(_extras(found.extras))
    if any(extra.missing for extra in found.extras):
        console.print("To add one: pip install 'personavec[EXTRA]'")


def said_processor(found: Processor) -> str:
    """The processor's name, cores and memory, and which instructions it has and lacks."""
    cores = plural(found.cores, "core")
    if found.quota is not None:
        cores += f" (time of {found.quota:g})"
    memory = "" if found.memory_gib is None else f", {found.memory_gib:g} GiB"
    has = [name for name, there in found.features.items() if there]
    lacks = [name for name, there in found.features.items() if not there]
    instructions = f"; with {', '.join(has)}" if has else ""
    without = f"; without {', '.join(lacks)}" if lacks else ""
    return f"{found.name}, {found.architecture}, {cores}{memory}{instructions}{without}"


def said_device(found: Device) -> str:
    """The device, the reason for it, and the accelerators."""
    return "; ".join([f"{found.name or 'none'} ({found.reason})", *found.accelerators])


def said_weights(found: Weights) -> str:
    """Where the embedded model's weights are, or what brings them."""
    if found.file is None:
        return f"weights missing; run: {found.install}"
    state = "converted" if found.converted else "the first start converts them"
    return f"weights in {found.file}; {state}"


def _caches(found: list[Cache]) -> Table:
    table = _table("Caches", "cache", "folder", "size")
    for cache in found:
        table.add_row(cache.name, cache.folder, said_size(cache))
    return table


def _extras(found: list[Extra]) -> Table:
    table = _table("Extras", "extra", "adds", "missing")
    for extra in found:
        table.add_row(extra.name, extra.adds, ", ".join(extra.missing) or "nothing")
    return table


def _table(title: str, *headers: str) -> Table:
    """A table that folds what is too long, and cuts nothing."""
    table = Table(title=title, title_justify="left")
    for header in headers:
        table.add_column(header, overflow="fold")
    return table


def said_size(cache: Cache) -> str:
    """A cache's size in MiB."""
    if cache.bytes is None:
        return "no such folder"
    return f"{'' if cache.whole else 'over '}{cache.bytes / 2**20:,.0f} MiB"
