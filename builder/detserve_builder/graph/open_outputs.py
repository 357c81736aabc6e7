"""Output shapes that inference leaves open -> the shapes the network gives."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from detserve_builder.errors import BuildError
from detserve_builder.graph.running import run_each

if TYPE_CHECKING:
    import onnx

_DATA_DEPENDENT = {"NonMaxSuppression", "NonZero", "Unique", "Compress", "Loop", "If"}


def measure_open_outputs(model: onnx.ModelProto) -> None:
    """Run the network on white and on noise, and write the sizes it gives into its outputs, in place.

    Exports for any batch often leave the number of anchors open too. Dimension 0 is the batch and stays as it
    is; where rows may differ from picture to picture, only the last dimension, of columns, is written.
    Nothing is done where no size is open, where the input's is, or where ONNX Runtime cannot run the graph.
    """
    weights = {initializer.name for initializer in model.graph.initializer}
    inputs = [value for value in model.graph.input if value.name not in weights]
    tensors = [output.type.tensor_type for output in model.graph.output]
    if all(_is_fixed(tensor) for tensor in tensors):
        return
    if not inputs or not all(_is_fixed(value.type.tensor_type) for value in inputs):
        return
    first = -1 if _DATA_DEPENDENT & {node.op_type for node in model.graph.node} else 1
    for tensor, *results in zip(tensors, *_run_twice(model, inputs), strict=False):
        if any(len(tensor.shape.dim) != result.ndim for result in results) or len(tensor.shape.dim) < 2:
            continue
        for dim, *sizes in list(zip(tensor.shape.dim, *(result.shape for result in results), strict=True))[
            first:
        ]:
            if len(set(sizes)) == 1 and sizes[0]:
                dim.dim_value = sizes[0]


def _is_fixed(tensor: onnx.TypeProto.Tensor) -> bool:
    return all(dim.HasField("dim_value") for dim in list(tensor.shape.dim)[1:])


def _run_twice(model: onnx.ModelProto, inputs: list[onnx.ValueInfoProto]) -> list[list[NDArray[Any]]]:
    import onnx

    chance = np.random.default_rng(0)
    feeds: list[dict[str, NDArray[Any]]] = [{}, {}]
    for value in inputs:
        shape = [dim.dim_value or 1 for dim in value.type.tensor_type.shape.dim]
        dtype = onnx.helper.tensor_dtype_to_np_dtype(value.type.tensor_type.elem_type)
        feeds[0][value.name] = np.ones(shape, dtype)
        feeds[1][value.name] = chance.random(shape).astype(dtype)
    try:
        return [list(outputs.values()) for outputs in run_each(model, feeds)]
    except BuildError:
        return [[], []]
