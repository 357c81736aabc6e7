"""Checkpoint and card -> prepared ONNX, the same shape for every family.

::

    images   UINT8 [N,H,W,3]   RGB
    boxes    FP32  [N,K,4]     x1,y1,x2,y2 in network pixels
    scores   FP32  [N,K]       descending
    classes  INT32 [N,K]

Colour order, normalisation, head decode, best class and top-K are in the graph; NMS is not.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from detserve_builder.batch import BATCH, NotBatchable, check_batch, free_batch
from detserve_builder.checkpoint import Checkpoint
from detserve_builder.errors import BuildError
from detserve_builder.families import FAMILIES, Candidates
from detserve_builder.focus import fold_focus
from detserve_builder.graph import float32, int64, layer
from detserve_client.card import Card, ColorOrder, PreprocessSpec

if TYPE_CHECKING:
    import onnx
    import onnx_graphsurgeon as gs
    from numpy.typing import NDArray


@dataclass(frozen=True)
class Prepared:
    """A prepared ONNX. ``batch_obstacle`` says why it takes one picture at a time, or is None."""

    model: onnx.ModelProto
    batch_obstacle: str | None


def prepare(checkpoint: Checkpoint, card: Card, probe: NDArray[np.uint8]) -> Prepared:
    """Graph surgery. ``probe`` uint8 [2,H,W,3] are two different pictures that batching is proved with.

    Raises :class:`~detserve_client.errors.CardError` where the card contradicts the graph and
    :class:`BuildError` where the result is no valid graph.
    """
    try:
        model = _prepared_model(checkpoint, card, any_batch=True)
        check_batch(model, probe)
        return Prepared(model, None)
    except NotBatchable as obstacle:
        return Prepared(_prepared_model(checkpoint, card, any_batch=False), str(obstacle))


def prepare_for_floats(checkpoint: Checkpoint, card: Card) -> onnx.ModelProto:
    """The prepared graph of one picture without normalisation: ``images`` are FLOAT [1,H,W,3], normalised.

    For trying one normalisation after the other on one session.
    """
    import onnx

    spec = PreprocessSpec(resize=card.preprocess.resize)
    model = _prepared_model(checkpoint, card.model_copy(update={"preprocess": spec}), any_batch=False)
    model.graph.input[0].type.tensor_type.elem_type = onnx.TensorProto.FLOAT
    return model


def _prepared_model(checkpoint: Checkpoint, card: Card, *, any_batch: bool) -> onnx.ModelProto:
    import onnx
    import onnx_graphsurgeon as gs

    graph = gs.import_onnx(checkpoint.model)
    _keep_unread_initialisers(graph, checkpoint.model)
    shapes = {output.name: output.shape for output in graph.outputs}
    if any_batch:
        free_batch(graph)
        for output in graph.outputs:
            output.shape = [BATCH, *shapes[output.name][1:]]
    fold_focus(graph)
    _put_normalisation_in_front(graph, card, BATCH if any_batch else 1)
    family = next(family for family in FAMILIES if family.name == card.family)
    graph.outputs = _best(graph, family.decode(graph, card), card)
    _clear_names(graph)
    _shape_outputs(graph, BATCH if any_batch else 1, card)
    graph.name = card.name
    graph.cleanup().toposort()
    model = gs.export_onnx(graph)
    model.producer_name = "detserve"
    try:
        onnx.checker.check_model(model, full_check=True)
    except Exception as error:
        reason = str(error).strip().splitlines()[0][:200]
        raise BuildError(f"{checkpoint.path}: the prepared graph is not valid ({reason})") from error
    return onnx.shape_inference.infer_shapes(model)


def _keep_unread_initialisers(graph: gs.Graph, model: onnx.ModelProto) -> None:
    """Let decoders find initialisers that no node reads, such as prior boxes; cleanup drops them."""
    import onnx_graphsurgeon as gs
    from onnx import numpy_helper

    known = graph.tensors()
    for initializer in model.graph.initializer:
        if initializer.name not in known:
            kept = gs.Constant(initializer.name, numpy_helper.to_array(initializer))
            graph.layer(op="Identity", inputs=[kept], outputs=["detserve_unread"])


def _clear_names(graph: gs.Graph) -> None:
    """The network's own tensors make way for the names of the prepared ONNX."""
    for name, tensor in graph.tensors().items():
        if name in ("boxes", "scores", "classes"):
            tensor.name = f"network_{name}"


def _put_normalisation_in_front(graph: gs.Graph, card: Card, batch: str | int) -> None:
    """``images`` UINT8 NHWC RGB -> what the network was trained on.

    The cast comes first: TensorRT refuses every other operation on UINT8, and ONNX Runtime is no slower
    (416x416, one core: 0.22 ms in this order, 0.25 ms with the bytes transposed).
    """
    import onnx_graphsurgeon as gs

    spec, network_input = card.preprocess, graph.inputs[0]
    consumers = list(network_input.outputs)
    network_input.name = "network_input"
    width, height = card.input_wh
    images = gs.Variable("images", np.uint8, [batch, height, width, 3])
    tensor = layer(graph, "Cast", images, to=1)
    tensor = layer(graph, "Transpose", tensor, perm=[0, 3, 1, 2])
    if spec.color is ColorOrder.BGR:
        tensor = layer(graph, "Gather", tensor, int64(2, 1, 0), axis=1)
    factor = spec.scale / float32(spec.std).reshape(1, 3, 1, 1)
    shift = float32(spec.mean).reshape(1, 3, 1, 1) / float32(spec.std).reshape(1, 3, 1, 1)
    if np.any(factor != 1):
        tensor = layer(graph, "Mul", tensor, float32(factor))
    if np.any(shift != 0):
        tensor = layer(graph, "Sub", tensor, float32(shift))
    if len(network_input.shape) == 3:
        tensor = layer(graph, "Squeeze", tensor, int64(0))
    for node in consumers:
        node.inputs = [tensor if given is network_input else given for given in node.inputs]
    graph.inputs = [images]


def _best(graph: gs.Graph, candidates: Candidates, card: Card) -> list[gs.Tensor]:
    """Best class of every anchor, then the K best anchors: boxes [N,K,4], scores [N,K], classes [N,K].

    Classes are looked for in the winners' rows alone: over all anchors it costs OpenVINO 8 times as much.
    """
    scores, classes, k = candidates.scores, candidates.classes, card.candidates
    best = layer(graph, "ReduceMax", scores, axes=[2], keepdims=0) if classes is None else scores
    values, indices = layer(graph, "TopK", best, int64(k), outputs=2, axis=1)
    if classes is None:
        winners = layer(graph, "ArgMax", _rows(graph, scores, indices, len(card.labels)), axis=2, keepdims=0)
    else:
        winners = layer(graph, "GatherElements", classes, indices, axis=1)
    return [_rows(graph, candidates.boxes, indices, 4), values, layer(graph, "Cast", winners, to=6)]


def _rows(graph: gs.Graph, table: gs.Tensor, indices: gs.Tensor, columns: int) -> gs.Tensor:
    """Rows ``indices`` [N,K] of ``table`` [N,A,columns]."""
    spread = layer(graph, "Expand", layer(graph, "Unsqueeze", indices, int64(2)), int64(1, 1, columns))
    return layer(graph, "GatherElements", table, spread, axis=1)


def _shape_outputs(graph: gs.Graph, batch: str | int, card: Card) -> None:
    described = (
        ("boxes", np.float32, [batch, card.candidates, 4]),
        ("scores", np.float32, [batch, card.candidates]),
        ("classes", np.int32, [batch, card.candidates]),
    )
    for tensor, (name, dtype, shape) in zip(graph.outputs, described, strict=True):
        tensor.name, tensor.dtype, tensor.shape = name, dtype, shape
