"""What this machine is: its processor and how much of it this process may use."""

from __future__ import annotations

import os
import platform
from collections.abc import Iterable
from pathlib import Path

# Instruction sets that kernels choose their code by, under the names /proc/cpuinfo has for them.
_ISA = {
    "avx2": "avx2",
    "bmi1": "bmi1",
    "bmi2": "bmi2",
    "f16c": "f16c",
    "movbe": "movbe",
    "fma": "fma",
    "avx512f": "avx512",
    "avx512bw": "avx512bw",
    "avx512cd": "avx512cd",
    "avx512dq": "avx512dq",
    "avx512vl": "avx512vl",
    "avx512_vnni": "avx512_vnni",
    "avx_vnni": "avx_vnni",
    "avx512_bf16": "avx512_bf16",
    "avx512_fp16": "avx512_fp16",
    "amx_tile": "amx",
    "amx_int8": "amx_int8",
    "amx_bf16": "amx_bf16",
    "asimd": "neon",
    "asimddp": "dotprod",
    "bf16": "bf16",
    "i8mm": "i8mm",
    "sve": "sve",
    "sve2": "sve2",
}


def cpu_model() -> str:
    """The processor's name, such as `AMD EPYC 9554`; on Arm, which has none, its implementer and part."""
    fields = _cpuinfo()
    if "model name" in fields:
        return fields["model name"]
    if "CPU part" in fields:
        return f"Arm implementer {fields.get('CPU implementer', '?')} part {fields['CPU part']}"
    return platform.processor() or platform.machine()


def isa() -> tuple[str, ...]:
    """Names of the instruction sets beyond the architecture's base that matter to kernels."""
    fields = _cpuinfo()
    flags = set(fields.get("flags", fields.get("Features", "")).split())
    return tuple(name for flag, name in _ISA.items() if flag in flags)


def features_of(isa: Iterable[str]) -> frozenset[str]:
    """Instruction sets by the names that /proc/cpuinfo has for them."""
    names = set(isa)
    return frozenset(flag for flag, name in _ISA.items() if name in names)


def cpus() -> int:
    """Processors that this process may run on."""
    return len(os.sched_getaffinity(0))


def _cpuinfo() -> dict[str, str]:
    """Fields of the first processor."""
    try:
        text = Path("/proc/cpuinfo").read_text()
    except OSError:
        return {}
    fields: dict[str, str] = {}
    for line in text.splitlines():
        key, _, content = line.partition(":")
        fields.setdefault(key.strip(), content.strip())
    return fields
