"""A graph fixed at batch 1 -> the same graph for any batch, or the node that stands in the way."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np

from detserve_builder.errors import BuildError

if TYPE_CHECKING:
    import onnx
    import onnx_graphsurgeon as gs
    from numpy.typing import NDArray

BATCH = "N"
_TOLERANCE = 1e-4


class NotBatchable(BuildError):
    """The graph computes over the batch dimension; the text names the node."""


def free_batch(graph: gs.Graph) -> None:
    """Make the batch dimension of every input symbolic, in place; Reshapes with a constant shape follow.

    Memory order decides: the batch is the outermost dimension, so a constant shape can let its first
    dimension absorb it. Whether the graph then computes each picture by itself is for :func:`check_batch`.
    Raises :class:`NotBatchable` for a batch fixed at more than 1, and for a picture without that dimension.
    """
    for tensor in graph.inputs:
        if len(tensor.shape) == 3:
            raise NotBatchable(
                f"the input {tensor.name} {tensor.shape} is one picture, with no batch dimension"
            )
        if isinstance(tensor.shape[0], int) and tensor.shape[0] > 1:
            raise NotBatchable(
                f"the input {tensor.name} is fixed at batch {tensor.shape[0]}; export with batch 1"
            )
        tensor.shape = [BATCH, *tensor.shape[1:]]
    for node in graph.nodes:
        if node.op == "Reshape":
            _free_reshape(node)
    _forget_shapes(graph)


def _free_reshape(node: gs.Node) -> None:
    import onnx_graphsurgeon as gs

    constant = _constant(node.inputs[1])
    if constant is None or not len(constant):  # a scalar has no batch
        return
    shape = np.array(constant)
    if -1 not in shape:
        shape[0] = -1
    elif shape[0] == 1:
        shape[0] = 0
    node.inputs[1] = gs.Constant(f"{node.name or node.outputs[0].name}_shape", shape)


def _constant(tensor: gs.Tensor) -> NDArray[np.int64] | None:
    """The value of an initialiser, or of a Constant node as PyTorch writes them."""
    if hasattr(tensor, "values"):
        return np.asarray(tensor.values)
    made_by = tensor.inputs[0] if tensor.inputs else None
    if made_by is not None and made_by.op == "Constant" and "value" in made_by.attrs:
        return np.asarray(made_by.attrs["value"].values)
    return None


def _forget_shapes(graph: gs.Graph) -> None:
    """Shapes of inner tensors still say batch 1; inference makes them anew."""
    for tensor in graph.tensors().values():
        if hasattr(tensor, "values") or any(tensor is given for given in graph.inputs):
            continue
        tensor.shape = None
    for tensor in graph.outputs:
        tensor.shape = None


def check_batch(model: onnx.ModelProto, images: NDArray[np.uint8]) -> None:
    """Prove that ``model`` gives two different pictures [2,H,W,3] together what it gives them one by one.

    Raises :class:`NotBatchable` with the first node, in execution order, whose output differs.
    """
    from onnxruntime.capi.onnxruntime_pybind11_state import (
        Fail,
        InvalidArgument,
        RuntimeException,
    )
    from onnxruntime.capi.onnxruntime_pybind11_state import (
        NotImplemented as NoKernel,
    )

    try:
        together = _run(model, images)
        apart = [_run(model, images[index : index + 1]) for index in range(len(images))]
    except NoKernel as error:
        reason = str(error).rpartition(" : ")[2].splitlines()[0][:200]
        raise BuildError(f"ONNX Runtime cannot run this graph: {reason}") from None
    except (Fail, InvalidArgument, RuntimeException) as error:
        raise NotBatchable(f"this node accepts one picture only: {_node_of(str(error))}") from None
    if all(len(value) == len(images) for value in together.values()):
        of_each = [{name: value[[index]] for name, value in together.items()} for index in range(len(images))]
        if all(_same_detections(one, single) for one, single in zip(of_each, apart, strict=True)):
            return
    raise NotBatchable(f"this node mixes the pictures of a batch: {_first_mixing_node(model, images)}")


def _first_mixing_node(model: onnx.ModelProto, images: NDArray[np.uint8]) -> str:
    import onnx

    probe = onnx.ModelProto()
    probe.CopyFrom(model)
    known = {output.name for output in probe.graph.output}
    for node in probe.graph.node:
        probe.graph.output.extend(onnx.ValueInfoProto(name=n) for n in node.output if n and n not in known)
    together = _run(probe, images)
    apart = [_run(probe, images[index : index + 1]) for index in range(len(images))]
    for node in probe.graph.node:
        for name in node.output:
            if name and not _same(together[name], [single[name] for single in apart]):
                return f"{node.op_type} {node.name or name!r}"
    return "the graph's outputs differ, but no single node does"


def _run(model: onnx.ModelProto, images: NDArray[np.uint8]) -> dict[str, NDArray[np.generic]]:
    import onnxruntime as ort

    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_BASIC
    options.log_severity_level = 4
    session = ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]
    return dict(zip(names, session.run(names, {session.get_inputs()[0].name: images}), strict=True))


def _same_detections(
    together: Mapping[str, NDArray[np.generic]], alone: Mapping[str, NDArray[np.generic]]
) -> bool:
    """The same rows of one picture, in any order: rounding decides among scores that are all but equal.

    For the same reason rows that score like the last may be others. Scores count in shares of the best, so
    that a picture in which next to nothing is found proves as much as another.
    """
    first, second = _rows(together), _rows(alone)
    best = max(float(first[0, 0]), float(second[0, 0]))
    if best <= 0:
        return bool(np.allclose(first, second, rtol=_TOLERANCE, atol=_TOLERANCE))
    first[:, 0], second[:, 0] = first[:, 0] / best, second[:, 0] / best
    if not np.allclose(first[:, 0], second[:, 0], rtol=_TOLERANCE, atol=_TOLERANCE):
        return False
    close = np.isclose(first[:, None], second[None], rtol=_TOLERANCE, atol=_TOLERANCE).all(axis=2)
    decided = first[:, 0] > first[-1, 0] + 2 * _TOLERANCE
    return bool(close.any(axis=1)[decided].all() and close.any(axis=0)[decided].all())


def _rows(outputs: Mapping[str, NDArray[np.generic]]) -> NDArray[np.float64]:
    """Score, class, x1, y1, x2, y2 of each candidate of one picture, [K,6]."""
    columns = [outputs["scores"][0], outputs["classes"][0], *outputs["boxes"][0].T]
    return np.asarray(np.stack(columns, axis=1), np.float64)


def _same(together: NDArray[np.generic], apart: list[NDArray[np.generic]]) -> bool:
    """Constants and shapes are the same for any batch; everything else must be the stack of the singles."""
    if together.shape == apart[0].shape and np.array_equal(together, apart[0]):
        return True
    if together.ndim == 0 or any(single.ndim == 0 for single in apart):
        return True
    stacked = np.concatenate(apart)
    if together.shape != stacked.shape:
        return together.ndim == 1  # a computed shape: it differs by design
    return bool(np.allclose(together, stacked, rtol=_TOLERANCE, atol=_TOLERANCE))


def _node_of(message: str) -> str:
    """Op and name from ONNX Runtime's "... while running Reshape node. Name:'Reshape_7' Status ..."."""
    op = message.partition("while running ")[2].partition(" node.")[0]
    name = message.partition("Name:'")[2].partition("'")[0]
    return f"{op} {name!r}" if op else message.splitlines()[0][:160]
