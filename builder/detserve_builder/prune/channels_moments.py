"""Second moments of what convolutions read over the calibration pictures, and least squares from them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from detserve_builder.graph.session import open_session
from detserve_builder.prune.channels_graph import attribute

if TYPE_CHECKING:
    import onnx

Floats = NDArray[np.float64]
_POSITIONS = 256  # of every feature map
_RIDGE = 1e-3  # of the mean variance: what pulls the weights to those they had
_SHRINKAGE = 0.3  # of the correlations to zero, the more the fewer positions there are for a filter's weights
_LEAST = 1e-30  # where nothing varies


@dataclass(frozen=True)
class Moments:
    """Of the patches that a convolution with D = in*h*w weights a filter reads, in the order of its weights.

    ``mean`` [D]; ``covariance`` [D,D] with a ridge on its diagonal, so that least squares with it stay near
    the weights they start from.
    """

    mean: Floats
    covariance: Floats


def moments(
    model: onnx.ModelProto,
    nodes: Sequence[onnx.NodeProto],
    kernels: Mapping[str, tuple[int, int]],
    images: Iterable[NDArray[np.uint8]],
) -> dict[str, Moments]:
    """Of what each of the convolutions ``nodes`` reads; ``kernels`` are their heights and widths.

    ``images`` are network inputs, uint8 [1,H,W,3]; the same positions of each are looked at in every run.
    """
    tensors = tuple(dict.fromkeys(node.input[0] for node in nodes))
    session = open_session(model, outputs=tensors)
    sums: dict[str, Floats] = {}
    squares: dict[str, Floats] = {}
    counts = dict.fromkeys((node.name for node in nodes), 0)
    for image in images:
        maps = dict(zip(tensors, session.run(tensors, {"images": image}), strict=True))
        for node in nodes:
            read = patches(maps[node.input[0]], node, kernels[node.name])
            total, square = read.sum(axis=0, dtype=np.float64), (read.T @ read).astype(np.float64)
            if counts[node.name]:
                total, square = sums[node.name] + total, squares[node.name] + square
            sums[node.name], squares[node.name] = total, square
            counts[node.name] += len(read)
    found = {}
    for name, count in counts.items():
        mean = sums[name] / count
        covariance = squares[name] / count - np.outer(mean, mean)
        variances = np.diag(covariance)
        shrunk = min(_SHRINKAGE * len(mean) / count, 1.0)
        ridge = shrunk * variances + _RIDGE * variances.mean() + _LEAST
        found[name] = Moments(mean, (1 - shrunk) * covariance + np.diag(ridge))
    return found


def patches(
    values: NDArray[np.float32], node: onnx.NodeProto, kernel_hw: tuple[int, int]
) -> NDArray[np.float32]:
    """What the convolution reads of ``values`` [1,C,H,W] at some positions [P, C*h*w], padding included."""
    strides = attribute(node, "strides", [1, 1])
    dilations = attribute(node, "dilations", [1, 1])
    top, left, bottom, right = _pads(node, values.shape[2:], kernel_hw, strides, dilations)
    padded = np.pad(values[0], ((0, 0), (top, bottom), (left, right)))
    reach = [(size - 1) * dilation for size, dilation in zip(kernel_hw, dilations, strict=True)]
    rows = (padded.shape[1] - reach[0] - 1) // strides[0] + 1
    columns = (padded.shape[2] - reach[1] - 1) // strides[1] + 1
    chosen = np.unique(np.linspace(0, rows * columns - 1, min(_POSITIONS, rows * columns)).astype(int))
    y, x = chosen // columns * strides[0], chosen % columns * strides[1]
    taken = [
        padded[:, y + i * dilations[0], x + j * dilations[1]]
        for i in range(kernel_hw[0])
        for j in range(kernel_hw[1])
    ]
    return np.asarray(np.stack(taken, axis=1).reshape(-1, len(chosen)).T)


def _pads(
    node: onnx.NodeProto,
    size_hw: Sequence[int],
    kernel_hw: tuple[int, int],
    strides: Sequence[int],
    dilations: Sequence[int],
) -> tuple[int, int, int, int]:
    """Top, left, bottom, right."""
    rule = attribute(node, "auto_pad", b"NOTSET").decode()
    if not rule.startswith("SAME"):
        top, left, bottom, right = attribute(node, "pads", [0, 0, 0, 0])
        return top, left, bottom, right
    needed = [
        max((-(-size // stride) - 1) * stride + (kernel - 1) * dilation + 1 - size, 0)
        for size, kernel, stride, dilation in zip(size_hw, kernel_hw, strides, dilations, strict=True)
    ]
    less, more = [pad // 2 for pad in needed], [pad - pad // 2 for pad in needed]
    if rule == "SAME_LOWER":
        less, more = more, less
    return less[0], less[1], more[0], more[1]


def refitted(weight: Floats, keep: NDArray[np.bool_], seen: Moments) -> tuple[Floats, Floats]:
    """Weights [out,K] over the kept of D columns nearest to ``weight`` [out,D], and the bias to add.

    Least squares over the calibration pictures, as in He et al. 2017 (arXiv:1707.06168), section 3.1.
    """
    crossed = weight @ seen.covariance[:, keep]
    fitted = np.linalg.solve(seen.covariance[np.ix_(keep, keep)], crossed.T).T
    return fitted, weight @ seen.mean - fitted @ seen.mean[keep]
