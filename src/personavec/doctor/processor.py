"""The processor's name and instructions, cores and memory."""

from __future__ import annotations

import os
import platform
import re
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

from personavec.doctor.results import Processor

#: The instructions that decide how fast a model runs, by the flag that Linux has for each.
X86 = {"avx2": "avx2", "avx512": "avx512f", "avx512_bf16": "avx512_bf16", "amx_bf16": "amx_bf16"}
ARM = {"neon": "asimd", "sve": "sve", "i8mm": "i8mm", "bf16": "bf16"}
_CPUINFO = Path("/proc/cpuinfo")
#: Of a container: microseconds of processor time in each period, or `max`.
_QUOTA = Path("/sys/fs/cgroup/cpu.max")


def find_processor() -> Processor:
    """The processor of this machine."""
    cpuinfo = _read(_CPUINFO)
    return Processor(
        name=_name(cpuinfo),
        architecture=platform.machine(),
        features=features(cpuinfo),
        cores=_cores(),
        quota=quota(_read(_QUOTA)),
        memory_gib=_memory(),
    )


def features(cpuinfo: str) -> dict[str, bool]:
    """Which instructions the flags in Linux's cpuinfo name; empty without flags."""
    named = re.search(r"^(flags|Features)\s*:(.*)$", cpuinfo, re.MULTILINE)
    if named is None:
        return {}
    flags = set(named[2].split())
    return {name: flag in flags for name, flag in (X86 if named[1] == "flags" else ARM).items()}


def has_bf16(features: Mapping[str, bool]) -> bool:
    """Whether a processor multiplies in bfloat16."""
    return any(features.get(name) for name in ("avx512_bf16", "amx_bf16", "bf16"))


def quota(cpu_max: str) -> float | None:
    """Cores' worth of time by a container's `cpu.max`; None where it sets no limit."""
    found = re.fullmatch(r"(\d+) (\d+)\s*", cpu_max)
    return int(found[1]) / int(found[2]) if found else None


def _name(cpuinfo: str) -> str:
    named = re.search(r"^model name\s*:\s*(\S.*)$", cpuinfo, re.MULTILINE)
    if named:
        return named[1].strip()
    if sys.platform == "darwin":
        asked = ["sysctl", "-n", "machdep.cpu.brand_string"]
        return subprocess.run(asked, capture_output=True, text=True, check=False).stdout.strip()
    return platform.processor() or "unknown"


def _cores() -> int:
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _memory() -> float | None:
    try:
        return round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30, 1)
    except (OSError, ValueError):
        return None


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""
