"""What a measurement was made on."""

from __future__ import annotations

import platform
import shlex
import sys
from dataclasses import dataclass
from datetime import datetime, timezone
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from detserve_core.machine.cores import cores


@dataclass(frozen=True)
class Machine:
    """The machine, the software and the command of one run."""

    cpu: str
    cores: int
    triton: str
    onnxruntime: str
    opencv: str
    perf_analyzer: str
    date: str
    command: str


def this_machine(*, triton: str, perf_analyzer: str = "") -> Machine:
    """Describe this process's machine; ``triton`` is what the server says of itself."""
    return Machine(
        cpu=cpu_model(),
        cores=cores(),
        triton=triton,
        onnxruntime=_version("onnxruntime"),
        opencv=_version("opencv-python") or _version("opencv-python-headless"),
        perf_analyzer=perf_analyzer,
        date=datetime.now(timezone.utc).strftime("%Y-%m-%d %H:%M UTC"),
        command=shlex.join(["detserve", *sys.argv[1:]]),
    )


def cpu_model() -> str:
    """The CPU's name from /proc/cpuinfo, or the architecture where there is none."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(names, platform.machine())


def _version(distribution: str) -> str:
    try:
        return version(distribution)
    except PackageNotFoundError:
        return ""
