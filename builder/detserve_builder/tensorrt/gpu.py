"""The GPU that TensorRT will build for, asked of the driver. Not run: no GPU was at hand."""

from __future__ import annotations

import ctypes
from dataclasses import dataclass

from detserve_builder.errors import BuildError

_COMPUTE_CAPABILITY_MAJOR, _COMPUTE_CAPABILITY_MINOR = 75, 76  # CUdevice_attribute


@dataclass(frozen=True)
class Gpu:
    """A GPU: its name, compute capability ("8.9") and the CUDA version of its driver ("13.2")."""

    name: str
    compute_capability: str
    cuda: str


def first_gpu() -> Gpu:
    """The first GPU that CUDA_VISIBLE_DEVICES leaves visible. Raises :class:`BuildError` for none."""
    try:
        driver = ctypes.CDLL("libcuda.so.1")
    except OSError:
        raise BuildError("no NVIDIA driver here; engines are built on the GPU that will run them") from None
    device, number = ctypes.c_int(), ctypes.c_int()
    name = ctypes.create_string_buffer(128)
    if driver.cuInit(0) or driver.cuDeviceGet(ctypes.byref(device), 0):
        raise BuildError("the NVIDIA driver shows no GPU; start the container with one (--gpus all)")

    def attribute(which: int) -> int:
        driver.cuDeviceGetAttribute(ctypes.byref(number), which, device)
        return number.value

    capability = f"{attribute(_COMPUTE_CAPABILITY_MAJOR)}.{attribute(_COMPUTE_CAPABILITY_MINOR)}"
    driver.cuDeviceGetName(name, len(name), device)
    driver.cuDriverGetVersion(ctypes.byref(number))
    cuda = f"{number.value // 1000}.{number.value % 1000 // 10}"
    return Gpu(name.value.decode(), capability, cuda)
