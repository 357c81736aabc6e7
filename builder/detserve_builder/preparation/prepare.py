"""Checkpoint and card -> prepared ONNX, the same shape for every family.

::

    images   UINT8 [N,H,W,3]   RGB
    boxes    FP32  [N,K,4]     x1,y1,x2,y2 in network pixels
    scores   FP32  [N,K]       descending
    classes  INT32 [N,K]

Colour order, normalisation, head decode, best class and top-K are in the graph; NMS is not.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from detserve_builder.checkpoint import Checkpoint, at_size
from detserve_builder.checkpoint.opset import lowest_ir
from detserve_builder.errors import BuildError, first_line
from detserve_builder.families import FAMILIES, Candidates
from detserve_builder.graph.layers import float32, int64, layer
from detserve_builder.preparation.batch import BATCH, NotBatchable, check_batch, free_batch
from detserve_builder.preparation.batch_axis import free_batch_along_axes, shapes_of
from detserve_builder.preparation.focus import fold_focus
from detserve_builder.preparation.proof import DecodedGraph, check_against_file, infer_shapes
from detserve_builder.preparation.rows import coarseness
from detserve_core.card import Card, ColorOrder, PreprocessSpec

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
    """Graph surgery, and the proof that it changed no number.

    ``probe`` uint8 [2,H,W,3] are two different pictures: the prepared network gives them what the decode
    makes of the file's own outputs, and both together what it gives them one by one. Raises
    :class:`~detserve_core.errors.CardError` where the card contradicts the graph and :class:`BuildError`
    where the result is not a valid graph or gives other numbers.
    """
    checkpoint = at_size(checkpoint, card.input_wh)
    graph, obstacle = _batched_or_not(checkpoint, card, probe)
    check_against_file(checkpoint, card, graph, probe)
    return Prepared(graph.model, obstacle)


def _batched_or_not(
    checkpoint: Checkpoint, card: Card, probe: NDArray[np.uint8]
) -> tuple[DecodedGraph, str | None]:
    """The prepared graph for any batch, or for one picture and why."""
    obstacle = ""
    for free in (free_batch, lambda graph: free_batch_along_axes(graph, shapes_of(checkpoint.model))):
        try:
            graph = _prepared_graph(checkpoint, card, free)
            coarse = coarseness(checkpoint.original)
            check_batch(graph.model, probe, candidates=graph.candidates, coarse=coarse)
            return graph, None
        except NotBatchable as reason:
            obstacle = obstacle or str(reason)
    return _prepared_graph(checkpoint, card, None), obstacle


def prepare_for_floats(checkpoint: Checkpoint, card: Card) -> onnx.ModelProto:
    """The prepared graph of one picture without normalisation: ``images`` are FLOAT [1,H,W,3], normalised.

    For trying one normalisation after the other on one session.
    """
    import onnx

    spec = PreprocessSpec(resize=card.preprocess.resize)
    plain = card.model_copy(update={"preprocess": spec})
    model = _prepared_graph(at_size(checkpoint, card.input_wh), plain, None).model
    model.graph.input[0].type.tensor_type.elem_type = onnx.TensorProto.FLOAT
    return model


def _prepared_graph(
    checkpoint: Checkpoint, card: Card, free: Callable[[gs.Graph], None] | None
) -> DecodedGraph:
    import onnx_graphsurgeon as gs

    graph = gs.import_onnx(checkpoint.model)
    _keep_unread_initialisers(graph, checkpoint.model)
    shapes = {output.name: output.shape for output in graph.outputs}
    any_batch = free is not None
    if free is not None:
        free(graph)
        for output in graph.outputs:
            output.shape = [BATCH, *shapes[output.name][1:]]
    _clear_names(graph, "images")
    fold_focus(graph)
    _put_normalisation_in_front(graph, card, BATCH if any_batch else 1)
    family = next(family for family in FAMILIES if family.name == card.family)
    heads = list(graph.outputs)
    candidates = family.decode(graph, card)
    _clear_names(graph, "boxes", "scores", "classes")
    graph.outputs = _best(graph, candidates, card)
    _shape_outputs(graph, BATCH if any_batch else 1, card)
    graph.name = card.name
    graph.cleanup().toposort()
    model = gs.export_onnx(graph)
    model.producer_name = "detserve"
    model.ir_version = lowest_ir(model)
    _check(checkpoint, model, any_batch=any_batch)
    decoded = [tensor.name for tensor in (candidates.boxes, candidates.scores, candidates.classes) if tensor]
    made = {name for node in model.graph.node for name in node.output}
    names = zip(heads, shapes, strict=True)
    return DecodedGraph(infer_shapes(model), {h.name: name for h, name in names if h.name in made}, decoded)


def _check(checkpoint: Checkpoint, model: onnx.ModelProto, *, any_batch: bool) -> None:
    """Raise what is wrong with the prepared graph; shapes that fit one picture only are an obstacle to
    batches.
    """
    import onnx

    try:
        onnx.checker.check_model(model)
    except (onnx.checker.ValidationError, RuntimeError) as error:
        raise BuildError(
            f"{checkpoint.path}: the prepared graph is not valid ({first_line(error)})"
        ) from error
    try:
        onnx.checker.check_model(model, full_check=True)
    except (
        onnx.shape_inference.InferenceError,
        onnx.checker.ValidationError,
        RuntimeError,
        ValueError,
    ) as error:
        if any_batch:
            raise NotBatchable(f"its shapes are those of one picture: {first_line(error)}") from None


def _keep_unread_initialisers(graph: gs.Graph, model: onnx.ModelProto) -> None:
    """Let decoders find initialisers that no node reads, such as prior boxes; cleanup drops them."""
    import onnx_graphsurgeon as gs
    from onnx import numpy_helper

    known = graph.tensors()
    for initializer in model.graph.initializer:
        if initializer.name not in known:
            kept = gs.Constant(initializer.name, numpy_helper.to_array(initializer))
            graph.layer(op="Identity", inputs=[kept], outputs=["detserve_unread"])


def _clear_names(graph: gs.Graph, *names: str) -> None:
    """The network's own tensors make way for ``names``, which the prepared ONNX has."""
    taken = set(graph.tensors())
    for name, tensor in list(graph.tensors().items()):
        if name in names:
            free = f"network_{name}"
            while free in taken:
                free += "_"
            taken.add(free)
            tensor.name = free


def _put_normalisation_in_front(graph: gs.Graph, card: Card, batch: str | int) -> None:
    """``images`` UINT8 NHWC RGB -> what the network was trained on.

    The cast comes first: TensorRT refuses every other operation on UINT8, and ONNX Runtime is no slower
    (416x416, one core: 0.22 ms in this order, 0.25 ms with the bytes transposed).
    """
    import onnx_graphsurgeon as gs

    spec, network_input = card.preprocess, graph.inputs[0]
    consumers = list(network_input.outputs)
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
