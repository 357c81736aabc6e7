"""A Darknet .weights file: a header, then float32 little-endian, layer after layer, with no names or sizes.

::

    int32 major, minor, revision
    seen, the number of training pictures: uint64 from version 0.2 on, uint32 before
    per convolution: bias [n], with batch norm scale, mean, variance [n] each, kernel [n,c/g,k,k]
"""

from __future__ import annotations

import math
import struct
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from detserve_builder.errors import BuildError

Float32 = NDArray[np.float32]
_VARIANCE_FLOOR = 1e-5  # Darknet's fuse_conv_batchnorm


class Weights:
    """The weights, taken in the order of the layers that own them.

    Beyond the end of the file it goes on counting and hands out nothing, so that the whole network is walked
    and :meth:`check` can say how many bytes the .cfg asks for.
    """

    def __init__(self, path: Path, content: bytes) -> None:
        self._path = path
        self._size_bytes = len(content)
        self._header_bytes = _header_bytes(path, content)
        whole = (len(content) - self._header_bytes) // 4
        self._values = np.frombuffer(content, "<f4", whole, self._header_bytes)
        self._taken = 0
        self._not_finite: str | None = None

    def convolution(
        self, kernel_shape: tuple[int, int, int, int], *, batch_normalize: bool, where: str
    ) -> tuple[Float32, Float32]:
        """The next layer's kernel [n,c/g,k,k] and bias [n], batch norm folded into both."""
        filters = kernel_shape[0]
        bias = self._take(filters)
        scale, mean, variance = (self._take(filters) if batch_normalize else None for _ in range(3))
        kernel = self._take(math.prod(kernel_shape))
        if self._taken > len(self._values):
            return kernel, bias
        kernel = kernel.reshape(kernel_shape)
        if scale is not None and mean is not None and variance is not None:
            with np.errstate(invalid="ignore", over="ignore"):
                factor = scale / np.sqrt(variance.astype(np.float64) + _VARIANCE_FLOOR)
                kernel = np.asarray(kernel * factor[:, None, None, None], np.float32)
                bias = np.asarray(bias - mean * factor, np.float32)
        if self._not_finite is None and not (np.isfinite(kernel).all() and np.isfinite(bias).all()):
            self._not_finite = where
        return kernel, bias

    def check(self, cfg_path: Path) -> None:
        """Raise :class:`BuildError` unless the layers took just what the file holds, all of it finite."""
        expected = self._header_bytes + 4 * self._taken
        if expected != self._size_bytes:
            what = "truncated" if expected > self._size_bytes else "too long"
            raise BuildError(
                f"{self._path}: {what}, or weights of another network: {cfg_path.name} takes {expected} "
                f"bytes, the file has {self._size_bytes}"
            )
        if self._not_finite is not None:
            raise BuildError(
                f"{self._path}: damaged: the weights for {self._not_finite} are not finite numbers"
            )

    def _take(self, count: int) -> Float32:
        start, self._taken = self._taken, self._taken + count
        return self._values[start : self._taken]


class NoWeights(Weights):
    """Zeros of every size: for the structure of a .cfg whose .weights file is not at hand."""

    def __init__(self, path: Path) -> None:
        super().__init__(path, struct.pack("<3iQ", 0, 2, 5, 0))

    def _take(self, count: int) -> Float32:
        return np.zeros(count, np.float32)


def _header_bytes(path: Path, content: bytes) -> int:
    if len(content) < 16:
        raise BuildError(f"{path}: a Darknet header takes 16 or 20 bytes, the file has {len(content)}")
    major, minor, _ = struct.unpack_from("<3i", content)
    return 20 if major * 10 + minor >= 2 else 16
