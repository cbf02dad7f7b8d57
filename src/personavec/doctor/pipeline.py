"""Look at the installation and the machine, without loading torch."""

from __future__ import annotations

import os
import platform
from collections.abc import Iterable
from importlib import metadata
from pathlib import Path

import personavec
from personavec.doctor.caches import caches, converted
from personavec.doctor.device import find_device
from personavec.doctor.extras import find_extras
from personavec.doctor.privacy import private
from personavec.doctor.processor import find_processor
from personavec.doctor.results import DoctorResults, Weights
from personavec.errors import ModelError
from personavec.model.embedded import INSTALL_EMBEDDED, embedded_gguf

#: Packages whose versions decide what a model computes.
PACKAGES = ("torch", "transformers", "accelerate", "numpy", "vllm")
THREADS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OMP_WAIT_POLICY", "RAYON_NUM_THREADS")


def run() -> DoctorResults:
    """Versions, device, processor, caches, extras, and whether the embedded weights are there.

    It takes at most seconds: counting a large cache ends early.
    """
    return DoctorResults(
        versions=_versions(PACKAGES),
        location=private(Path(personavec.__file__).parent),
        system=platform.platform(),
        processor=find_processor(),
        threads={name: os.environ[name] for name in THREADS if name in os.environ},
        device=find_device(),
        weights=_weights(),
        caches=caches(),
        extras=find_extras(_requirements()),
    )


def _requirements() -> list[str]:
    """The package's own, as it was installed; none where it only lies on Python's path."""
    try:
        return metadata.requires("personavec") or []
    except metadata.PackageNotFoundError:
        return []


def _versions(packages: Iterable[str]) -> dict[str, str | None]:
    found: dict[str, str | None] = {
        "personavec": personavec.__version__,
        "python": platform.python_version(),
    }
    for name in packages:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            found[name] = None
    return found


def _weights() -> Weights:
    try:
        file = embedded_gguf()
    except ModelError:
        return Weights(None, converted=False, install=INSTALL_EMBEDDED)
    return Weights(private(file), converted=converted(file), install=INSTALL_EMBEDDED)
