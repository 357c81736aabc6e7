"""The python backend's use of ``/dev/shm``: how much it needs, what there is, what a dead server left."""

from __future__ import annotations

import shutil
from collections.abc import Iterable
from pathlib import Path

from detserve_server.triton.repository import ModelOutline

SHM_DIR = Path("/dev/shm")  # noqa: S108

MIB = 1024 * 1024

#: What Triton allocates for each instance of a python model before it serves anything.
REGION_BYTES = 1 * MIB

#: Allowance for one encoded picture, and any other tensor whose size the configuration leaves open.
OPEN_TENSOR_BYTES = 4 * MIB


def start_bytes(models: Iterable[ModelOutline]) -> int:
    """Bytes of shared memory without which the python models do not even load."""
    return sum(model.instances * REGION_BYTES for model in models if model.backend == "python")


def shm_size_bytes(models: Iterable[ModelOutline], *, open_tensor_bytes: int = OPEN_TENSOR_BYTES) -> int:
    """Bytes of shared memory to give a server of these models, rounded up to 64 MiB.

    Every instance of a python model has a region of 1 MiB which grows to hold the inputs and outputs of two
    full batches: the one it computes and the one whose outputs the next step still reads. So::

        sum over python models: instances * (1 MiB + 2 * max_batch_size * bytes of one request's tensors)
    """
    needed = 0
    for model in models:
        if model.backend == "python":
            request_bytes = model.fixed_tensor_bytes + model.open_tensors * open_tensor_bytes
            needed += model.instances * (REGION_BYTES + 2 * max(1, model.max_batch_size) * request_bytes)
    step = 64 * MIB
    return max(step, -(-needed // step) * step)


def free_bytes() -> int:
    """Bytes free in ``/dev/shm``; 0 where it does not exist."""
    try:
        return shutil.disk_usage(SHM_DIR).free
    except OSError:
        return 0


def regions(prefix: str) -> list[Path]:
    """The files of ``/dev/shm`` whose name starts with a server's prefix."""
    return sorted(path for path in SHM_DIR.glob("*") if path.name.startswith(prefix))


def remove_regions(prefix: str) -> None:
    """Remove what a server with this prefix left in ``/dev/shm``."""
    for path in regions(prefix):
        path.unlink(missing_ok=True)
