"""What was found of the installation and the machine."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Processor:
    """The processor, and what of it this process may use."""

    name: str
    architecture: str
    features: dict[str, bool]
    """Whether it has the instructions that decide the speed; empty where the system names none."""
    cores: int
    """Cores that this process may run on."""
    quota: float | None
    """Cores' worth of time that its container has; None without a limit."""
    memory_gib: float | None


@dataclass(frozen=True)
class Device:
    """Where models are placed by default, as far as it can be told without loading torch."""

    name: str | None
    """cuda, mps or cpu; None without torch."""
    reason: str
    accelerators: list[str]
    """Names, memory and driver, as nvidia-smi has them."""


@dataclass(frozen=True)
class Weights:
    """The embedded model's weights."""

    file: str | None
    """Their GGUF file; None where it is not installed."""
    converted: bool
    """Whether the cache holds them as they are loaded; the first start converts them."""
    install: str
    """The command that brings them."""


@dataclass(frozen=True)
class Cache:
    """A folder that fills by itself."""

    name: str
    folder: str
    bytes: int | None
    """Its size; None where there is no such folder."""
    whole: bool
    """False where counting ended early, so that the folder is larger."""


@dataclass(frozen=True)
class Extra:
    """Optional requirements, `personavec[NAME]`."""

    name: str
    adds: str
    missing: list[str]
    """Requirements that are not installed, or not in this version; empty: the extra is there."""
    install: str


@dataclass(frozen=True, kw_only=True)
class DoctorResults:
    """This installation and machine. Paths below the home folder begin with `~`."""

    format: int = 1
    versions: dict[str, str | None]
    """Of personavec, Python and the packages that it runs models with; None: not installed."""
    location: str
    """The package's folder."""
    system: str
    processor: Processor
    threads: dict[str, str]
    """The environment's variables that decide the number of threads, where they are set."""
    device: Device
    weights: Weights
    caches: list[Cache]
    extras: list[Extra]
