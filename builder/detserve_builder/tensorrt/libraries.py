"""Importing TensorRT and TensorRT-RTX: optional, heavy, and each with libraries to be found first."""

from __future__ import annotations

import ctypes
from importlib import import_module
from importlib.metadata import PackageNotFoundError, files
from pathlib import Path
from types import ModuleType

from detserve_builder.errors import BuildError
from detserve_core.errors import MissingExtra

#: Wheel and library, in the order in which they need one another.
_RTX_LIBRARIES = (
    ("nvidia-cuda-runtime-cu12", "libcudart.so.12"),
    ("tensorrt-rtx-cu12-libs", "libtensorrt_rtx.so.1"),
    ("tensorrt-rtx-cu12-libs", "libtensorrt_onnxparser_rtx.so.1"),
)


def import_rtx() -> ModuleType:
    """The Python API of TensorRT-RTX, which compiles without a GPU. Raises :class:`MissingExtra`.

    Its libraries are loaded by their paths inside the wheels, so that LD_LIBRARY_PATH need not name them.
    """
    for wheel, library in _RTX_LIBRARIES:
        try:
            ctypes.CDLL(str(_in_wheel(wheel, library)), mode=ctypes.RTLD_GLOBAL)
        except (PackageNotFoundError, OSError):
            raise MissingExtra("TensorRT-RTX", "tensorrt-check") from None
    try:
        return import_module("tensorrt_rtx_bindings")
    except ImportError:
        raise MissingExtra("TensorRT-RTX", "tensorrt-check") from None


def import_tensorrt() -> ModuleType:
    """The Python API of TensorRT itself. Raises :class:`BuildError` where it is absent."""
    for name in ("tensorrt", "tensorrt_bindings"):
        try:
            return import_module(name)
        except ImportError:
            continue
    raise BuildError(
        "TensorRT is not installed here; build engines inside the serving image: "
        "docker compose run --rm build-engines"
    )


def _in_wheel(wheel: str, library: str) -> Path:
    for path in files(wheel) or ():
        if path.name == library:
            return Path(str(path.locate()))
    raise PackageNotFoundError(wheel)
