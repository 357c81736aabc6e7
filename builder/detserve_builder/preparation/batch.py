"""A graph fixed at batch 1 -> the same graph for any batch, or the node that stands in the way."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from detserve_builder.errors import BuildError
from detserve_builder.graph.running import CannotRun, run_each, with_outputs
from detserve_builder.preparation.rows import BOX_PX, SCORE, same_detections

if TYPE_CHECKING:
    import onnx
    import onnx_graphsurgeon as gs
    from numpy.typing import NDArray

BATCH = "N"
_TOLERANCE = 1e-3
# What these read of a picture is its size, or the range of its values over the whole batch.
_SIZES = {"Shape", "Size"}
_RANGES = ("DynamicQuantizeLinear", "ConvInteger", "MatMulInteger")


class NotBatchable(BuildError):
    """The graph computes over the batch dimension; the text names the node."""


def free_batch(graph: gs.Graph) -> None:
    """Make the batch dimension of the input symbolic, in place; Reshapes of picture data follow.

    Memory order decides: the batch is the outermost dimension, so a constant shape can let its first
    dimension absorb it. Whether the graph then computes each picture by itself is for :func:`check_batch`.
    Raises :class:`NotBatchable` for a picture without that dimension, and for values that are quantised by
    their range over all pictures.
    """
    image = graph.inputs[0]
    image.shape = [BATCH, *image.shape[1:]]
    behind = _behind(image)
    for node in behind:
        if node.op in _RANGES:
            raise NotBatchable(
                f"this node quantises by the range of all pictures of a batch: {node.op} {node.name!r}"
            )
        if node.op == "Squeeze" and node.inputs[0] is image:
            raise NotBatchable("the input image is one picture, with no batch dimension")
        if node.op == "Reshape":
            _free_reshape(node)
    _forget_shapes(graph)


def _behind(image: gs.Tensor) -> list[gs.Node]:
    """The nodes that compute with the picture's values: not those that read its size, or constants alone."""
    found: dict[int, gs.Node] = {}
    waiting = [image]
    while waiting:
        for node in waiting.pop().outputs:
            is_shape = node.op == "Reshape" and not any(
                given.inputs or given is image for given in node.inputs[:1]
            )
            if id(node) in found or node.op in _SIZES or is_shape:
                continue
            found[id(node)] = node
            waiting += node.outputs
    return list(found.values())


def _free_reshape(node: gs.Node) -> None:
    import onnx_graphsurgeon as gs

    if not hasattr(node.inputs[1], "values"):
        return
    shape = np.array(node.inputs[1].values)
    if (
        not shape.size or shape.ndim != 1 or shape[0] == 0
    ):  # a scalar has no batch, an empty tensor no pictures
        return
    if -1 not in shape:
        shape[0] = -1
    elif shape[0] == 1:
        shape[0] = 0
    if node.attrs.get("allowzero") and 0 not in np.asarray(node.inputs[1].values):
        del node.attrs["allowzero"]  # nothing was empty, and 0 now stands for the size that comes in
    node.inputs[1] = gs.Constant(f"{node.name or node.outputs[0].name}_shape", shape)


def _forget_shapes(graph: gs.Graph) -> None:
    """Shapes of inner tensors still say batch 1; inference makes them anew."""
    for tensor in graph.tensors().values():
        if hasattr(tensor, "values") or any(tensor is given for given in graph.inputs):
            continue
        tensor.shape = None
    for tensor in graph.outputs:
        tensor.shape = None


def check_batch(
    model: onnx.ModelProto,
    images: NDArray[np.uint8],
    *,
    candidates: Sequence[str] = (),
    coarse: float = 1,
) -> None:
    """Prove that ``model`` gives two different pictures [2,H,W,3] together what it gives them one by one.

    ``candidates`` names the decoded boxes and scores before the best are taken: where these agree, rounding
    alone decides among scores that are equal. ``coarse`` is by how much more than float32 rounding two runs
    may differ. Raises :class:`NotBatchable` with the first node, in execution order, whose output differs.
    """
    try:
        probe = with_outputs(model, candidates)
        together, *apart = run_each(probe, [images, *(image[None] for image in images)])
    except CannotRun as error:
        raise NotBatchable(f"this node accepts one picture only: {_node_of(str(error))}") from None
    if all(len(value) == len(images) for value in together.values()):
        if _same_candidates(candidates, together, apart, coarse):
            return
        of_each = [{name: value[[index]] for name, value in together.items()} for index in range(len(images))]
        if all(
            same_detections(one, single, coarse=coarse) for one, single in zip(of_each, apart, strict=True)
        ):
            return
    raise NotBatchable(f"this node mixes the pictures of a batch: {_first_mixing_node(model, images)}")


def _same_candidates(
    names: Sequence[str],
    together: Mapping[str, NDArray[np.generic]],
    apart: Sequence[Mapping[str, NDArray[np.generic]]],
    coarse: float,
) -> bool:
    """Whether boxes, scores and classes before the best are taken agree, anchor by anchor, but for rounding.

    Scores count in shares of the picture's best, as in :func:`same_detections`.
    """
    if not names:
        return False
    for index, single in enumerate(apart):
        best = float(np.abs(single[names[1]]).max(initial=0))
        within = (BOX_PX * coarse, SCORE * coarse * best, 0)
        for name, atol in zip(names, within, strict=False):
            rtol = SCORE * coarse if name == names[0] else 0
            one, other = together[name][[index]], single[name]
            if one.shape != other.shape or not np.allclose(one, other, rtol=rtol, atol=atol, equal_nan=True):
                return False
    return True


def _first_mixing_node(model: onnx.ModelProto, images: NDArray[np.uint8]) -> str:
    probe = with_outputs(model, [name for node in model.graph.node for name in node.output if name])
    together, *apart = run_each(probe, [images, *(image[None] for image in images)])
    for node in probe.graph.node:
        for name in node.output:
            if name and not _same(together[name], [single[name] for single in apart]):
                return f"{node.op_type} {node.name or name!r}"
    return "the graph's outputs differ, but no single node does"


def _same(together: NDArray[np.generic], apart: list[NDArray[np.generic]]) -> bool:
    """Constants and shapes are the same for any batch; everything else must be the stack of the singles."""
    if together.shape == apart[0].shape and np.array_equal(together, apart[0]):
        return True
    if together.ndim == 0 or any(single.ndim == 0 for single in apart):
        return True
    stacked = np.concatenate(apart)
    if together.shape != stacked.shape:
        return together.ndim == 1  # a computed shape: it differs by design
    spread = max(float(np.abs(stacked).max(initial=0)), 1e-6) if stacked.dtype.kind == "f" else 1
    return bool(np.allclose(together, stacked, rtol=_TOLERANCE, atol=_TOLERANCE * spread))


def _node_of(message: str) -> str:
    """Op and name from ONNX Runtime's "... while running Reshape node. Name:'Reshape_7' Status ..."."""
    op = message.partition("while running ")[2].partition(" node.")[0]
    name = message.partition("Name:'")[2].partition("'")[0]
    return f"{op} {name!r}" if op else message.splitlines()[0][:160]
