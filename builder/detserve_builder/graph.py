"""The few graph operations that decoders and preparation are written with, over onnx-graphsurgeon."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    import onnx_graphsurgeon as gs

OWN_PREFIX = "detserve/"  # begins the names of nodes that are not the network's own
Operand = Any  # a gs.Tensor, or an array that becomes a constant


def layer(graph: gs.Graph, op: str, *inputs: Operand, outputs: int = 1, **attrs: Any) -> Any:
    """Append one node; returns its output tensor, or the list of them where ``outputs`` > 1."""
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
