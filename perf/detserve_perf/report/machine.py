"""What a measurement was made on."""

from __future__ import annotations

import shlex
import sys
from dataclasses import dataclass
from datetime import datetime, timezone
from importlib.metadata import PackageNotFoundError, version

from detserve_core.machine.cores import cores
from detserve_core.machine.cpu import cpu_name, cpuinfo


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
        cpu=cpu_name(cpuinfo()),
        cores=cores(),
        triton=triton,
        onnxruntime=_version("onnxruntime"),
        opencv=_version("opencv-python") or _version("opencv-python-headless"),
        perf_analyzer=perf_analyzer,
        date=datetime.now(timezone.utc).strftime("%Y-%m-%d %H:%M UTC"),
        command=shlex.join(["detserve", *sys.argv[1:]]),
    )


def _version(distribution: str) -> str:
    try:
        return version(distribution)
    except PackageNotFoundError:
        return ""
