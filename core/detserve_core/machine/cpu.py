"""The CPU under us: its name, and what it has for networks."""

from __future__ import annotations

import platform
from pathlib import Path

_CPUINFO = Path("/proc/cpuinfo")


def cpuinfo() -> str:
    """Linux's text on the CPU; empty on other systems."""
    try:
        return _CPUINFO.read_text()
    except OSError:
        return ""


def cpu_name(text: str) -> str:
    """The model's name in the text of :func:`cpuinfo`, or the architecture where it has none."""
    return _first(text, "model name") or platform.machine()


def cpu_kind(text: str) -> str:
    """What a CPU has that decides which precision is fast on it, by the text of :func:`cpuinfo`.

    One of ``AMX``, ``VNNI and bf16``, ``VNNI``, ``AVX-512``, ``AVX2`` and ``no AVX2``; the architecture
    where it is not x86. A precision that is the fastest on one kind may lose on another.
    """
    flags = set(_first(text, "flags").split())
    if not flags:
        return platform.machine()
    if {"amx_int8", "amx_bf16"} <= flags:
        return "AMX"
    if flags & {"avx512_vnni", "avx_vnni"}:
        return "VNNI and bf16" if "avx512_bf16" in flags else "VNNI"
    if "avx512f" in flags:
        return "AVX-512"
    return "AVX2" if "avx2" in flags else "no AVX2"


def _first(text: str, field: str) -> str:
    """Of the first core."""
    pairs = (line.partition(":") for line in text.splitlines())
    return next((value.strip() for name, _, value in pairs if name.strip() == field), "")
