"""The few graph operations that decoders and preparation are written with, over onnx-graphsurgeon."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    import onnx_graphsurgeon as gs

OWN_PREFIX = "detserve/"  # begins the names of nodes that are not the network's own
Operand = Any  # a gs.Tensor, or an array that becomes a constant
_AXES_ARE_AN_INPUT_FROM = {
    "ReduceMax": 18,
    "ReduceMean": 18,
    "ReduceMin": 18,
    "ReduceProd": 18,
    "ReduceSum": 13,
}


def layer(graph: gs.Graph, op: str, *inputs: Operand, outputs: int = 1, **attrs: Any) -> Any:
    """Append one node; returns its output tensor, or the list of them where ``outputs`` > 1.

    ``axes`` of a reduction is given as an attribute; the node has it as the graph's opset wants it.
    """
    if "axes" in attrs and graph.opset >= _AXES_ARE_AN_INPUT_FROM.get(op, graph.opset + 1):
        inputs = (*inputs, int64(*attrs.pop("axes")))
    made = graph.layer(
        op=op,
        name=f"{OWN_PREFIX}{op}_{len(graph.nodes)}",
        inputs=list(inputs),
        outputs=[f"detserve_{op.lower()}" for _ in range(outputs)],
        attrs=attrs,
    )
    return made[0] if outputs == 1 else made


def slice_last(graph: gs.Graph, tensor: gs.Tensor, start: int, end: int) -> gs.Tensor:
    """``tensor[..., start:end]``."""
    return layer(graph, "Slice", tensor, int64(start), int64(end), int64(-1))


def corners(graph: gs.Graph, center: gs.Tensor, size: gs.Tensor) -> gs.Tensor:
    """Centre and size, each [N,A,2], to x1,y1,x2,y2 [N,A,4]."""
    half = layer(graph, "Mul", size, float32(0.5))
    low, high = layer(graph, "Sub", center, half), layer(graph, "Add", center, half)
    return layer(graph, "Concat", low, high, axis=2)


def int64(*values: int) -> NDArray[np.int64]:
    """A 1-D int64 constant."""
    return np.array(values, np.int64)


def float32(value: Any) -> NDArray[np.float32]:
    """A float32 constant."""
    return np.asarray(value, np.float32)


def cell_grid(width: int, height: int) -> NDArray[np.float32]:
    """Column and row of every cell of a feature map in row-major order, float32 [height*width, 2]."""
    rows, columns = np.mgrid[0:height, 0:width]
    return np.asarray(np.stack([columns, rows], axis=-1).reshape(-1, 2), np.float32)


def map_rows(graph: gs.Graph, feature_map: gs.Tensor, channels: int, cells: int) -> gs.Tensor:
    """A feature map [N,channels,h,w] to one row a cell, [N,cells,channels]."""
    flat = layer(graph, "Reshape", feature_map, int64(0, channels, cells))
    return layer(graph, "Transpose", flat, perm=[0, 2, 1])


def distribution_corners(
    graph: gs.Graph,
    logits: gs.Tensor,
    bins: int,
    centers_px: NDArray[np.float32],
    strides_px: NDArray[np.float32],
) -> gs.Tensor:
    """Generalised focal loss (Li et al. 2020, arXiv:2006.04388), section 3: a distance is an expectation.

    ``logits`` [N,A,4*bins] are the distributions of the distances left, top, right, bottom from
    ``centers_px`` [A,2], in strides ``strides_px`` [A,1]. Returns x1,y1,x2,y2 [N,A,4].
    """
    split = layer(graph, "Reshape", logits, int64(0, len(centers_px), 4, bins))
    probabilities = layer(graph, "Softmax", split, axis=3)
    expectation = layer(graph, "MatMul", probabilities, float32(np.arange(bins)).reshape(bins, 1))
    distances = layer(graph, "Reshape", expectation, int64(0, len(centers_px), 4))
    distances = layer(graph, "Mul", distances, float32(strides_px))
    low = layer(graph, "Sub", float32(centers_px), slice_last(graph, distances, 0, 2))
    high = layer(graph, "Add", float32(centers_px), slice_last(graph, distances, 2, 4))
    return layer(graph, "Concat", low, high, axis=2)
