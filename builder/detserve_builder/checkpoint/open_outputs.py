"""Output shapes that inference leaves open -> the shapes the network gives."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from detserve_builder.errors import BuildError
from detserve_builder.running import run

if TYPE_CHECKING:
    import onnx

_DATA_DEPENDENT = {"NonMaxSuppression", "NonZero", "Unique", "Compress", "Loop", "If"}


def measure_open_outputs(model: onnx.ModelProto) -> None:
    """Run the network once on a grey picture and write the sizes it gives into its outputs, in place.

    Exports for any batch often leave the number of anchors open too. Dimension 0 is the batch and stays as it
    is. Nothing is done where no size is open, where the input's is, where rows may differ from picture to
    picture, or where ONNX Runtime cannot run the graph.
    """
    weights = {initializer.name for initializer in model.graph.initializer}
    inputs = [value for value in model.graph.input if value.name not in weights]
    tensors = [output.type.tensor_type for output in model.graph.output]
    if all(_is_fixed(tensor) for tensor in tensors):
        return
    if not inputs or not all(_is_fixed(value.type.tensor_type) for value in inputs):
        return
    if _DATA_DEPENDENT & {node.op_type for node in model.graph.node}:
        return
    results = _run_once(model, inputs)
    for tensor, result in zip(tensors, results, strict=False):
        if len(tensor.shape.dim) == result.ndim:
            for dim, size in zip(list(tensor.shape.dim)[1:], result.shape[1:], strict=True):
                dim.dim_value = size


def _is_fixed(tensor: onnx.TypeProto.Tensor) -> bool:
    return all(dim.HasField("dim_value") for dim in list(tensor.shape.dim)[1:])


def _run_once(model: onnx.ModelProto, inputs: list[onnx.ValueInfoProto]) -> list[NDArray[Any]]:
    import onnx

    feed = {
        value.name: np.ones(
            [dim.dim_value or 1 for dim in value.type.tensor_type.shape.dim],
            onnx.helper.tensor_dtype_to_np_dtype(value.type.tensor_type.elem_type),
        )
        for value in inputs
    }
    try:
        return list(run(model, feed).values())
    except BuildError:
        return []
