"""Which library runs the detector step of the embedded target."""

from __future__ import annotations

import importlib.util
from enum import Enum

from detserve_core.errors import MissingExtra


class Runtime(str, Enum):
    """On the CPU, in the python backend."""

    ONNXRUNTIME = "onnxruntime"
    OPENVINO = "openvino"  # often faster on x86; computes in bf16 where the CPU has it


def is_installed(runtime: Runtime) -> bool:
    """Whether it can be imported here."""
    return importlib.util.find_spec(runtime.value) is not None


def require(runtime: Runtime) -> None:
    """Raise :class:`MissingExtra` where it is not installed."""
    if not is_installed(runtime):
        raise MissingExtra(runtime.value, "builder")
