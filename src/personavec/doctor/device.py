"""The device that models are placed on by default, found without loading torch.

`model/loading.py::choose_device` asks torch itself.
"""

from __future__ import annotations

import platform
import re
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

from personavec.doctor.results import Device

_SMI = ("nvidia-smi", "--query-gpu=name,memory.total,driver_version", "--format=csv,noheader")


def find_device() -> Device:
    """The device by torch's build and the accelerators that are there."""
    spec = find_spec("torch")
    if spec is None or spec.origin is None:
        return Device(None, "torch is not installed", [])
    accelerators = _nvidia()
    version = Path(spec.origin).with_name("version.py").read_text(encoding="utf-8")
    name, reason = chosen(version, accelerators, has_rocm=Path("/dev/kfd").exists())
    return Device(name, reason, accelerators)


def chosen(version: str, accelerators: list[str], *, has_rocm: bool) -> tuple[str, str]:
    """The device and the reason for it, by the text of torch's `version.py`."""
    cuda, hip = (_built_for(version, platform) for platform in ("cuda", "hip"))
    if cuda and accelerators:
        return "cuda", f"torch is built for CUDA {cuda}"
    if hip and has_rocm:
        return "cuda", f"torch is built for ROCm {hip}"
    if sys.platform == "darwin" and platform.machine() == "arm64":
        return "mps", "the GPU of an Apple processor"
    if cuda or hip:
        built = f"CUDA {cuda}" if cuda else f"ROCm {hip}"
        return "cpu", f"torch is built for {built}, but no accelerator was found"
    if accelerators:
        return "cpu", "this torch cannot use accelerators; install one that is built for them"
    return "cpu", "this torch cannot use accelerators"


def _built_for(version: str, platform: str) -> str:
    found = re.search(rf"^{platform}\b[^=]*= '([^']+)'", version, re.MULTILINE)
    return found[1] if found else ""


def _nvidia() -> list[str]:
    """The accelerators that nvidia-smi lists: name, memory and driver of each."""
    try:
        found = subprocess.run(_SMI, capture_output=True, text=True, timeout=5, check=True)
    except (OSError, subprocess.SubprocessError):
        return []
    return [line.strip() for line in found.stdout.splitlines() if line.strip()]
