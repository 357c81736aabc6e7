"""torchvision's detectors as torch.onnx exports them, NMS inside: Faster R-CNN, RetinaNet, FCOS, SSD.

Faster R-CNN: Ren et al. 2015, arXiv:1506.01497. Three outputs of one picture, of which there are as many rows
as were found: boxes [D,4] in network pixels, labels int64 [D], scores [D]; Mask R-CNN's masks are left out.
Rows are padded to K with score 0 and class -1. Label 0 is the background, so label 1 is class 0 unless the
card says otherwise.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Annotated, Any

import numpy as np
from pydantic import BaseModel, ConfigDict, Field

from detserve_builder.batch import NotBatchable
from detserve_builder.checkpoint import Checkpoint, TensorInfo
from detserve_builder.families.family import Candidates, Draft, Family
from detserve_builder.graph import int64, layer
from detserve_client.card import Card
from detserve_client.errors import CardError

if TYPE_CHECKING:
    import onnx
    import onnx_graphsurgeon as gs

_DETECTIONS_PER_PICTURE = 100  # torchvision's default
_COCO_COLUMNS = 91
_COCO_GAPS = (12, 26, 29, 30, 45, 66, 68, 69, 71, 83)


class Head(BaseModel):
    """``label_numbers``: the network's number of each of the card's labels; rows of other labels are dropped.

    Left out, the labels are numbered from 1.
    """

    model_config = ConfigDict(extra="forbid")
    label_numbers: Annotated[list[Annotated[int, Field(ge=0)]], Field(min_length=1)] | None = None


def _recognise(checkpoint: Checkpoint) -> Draft | None:
    if len(checkpoint.inputs) != 1 or len(checkpoint.inputs[0].shape) not in (3, 4):
        return None
    *batch, channels, height, width = checkpoint.inputs[0].shape
    rows = _rows(checkpoint.outputs)
    suppresses = any(node.op_type == "NonMaxSuppression" for node in _nodes(checkpoint.model.graph))
    if channels != 3 or (batch and isinstance(batch[0], int) and batch[0] > 1):
        return None
    if rows is None or not suppresses:
        return None
    fields: dict[str, Any] = {
        "preprocess": {"resize": "letterbox_topleft", "color": "rgb", "scale": 1 / 255},
        "thresholds": {"iou": 1.0},  # the graph has suppressed already
        "candidates": _most_rows(checkpoint.model, rows["scores"]) or _DETECTIONS_PER_PICTURE,
    }
    if isinstance(height, int) and isinstance(width, int):
        fields["input_wh"] = [width, height]
    numbers = _label_numbers(_score_columns(checkpoint.model))
    if numbers:
        fields["head"] = {"label_numbers": numbers}
    return Draft(card_fields=fields, num_classes=len(numbers) or None)


def _rows(outputs: tuple[TensorInfo, ...]) -> dict[str, str] | None:
    """Names of the outputs that are boxes, labels and scores, by dtype and shape."""
    found: dict[str, list[str]] = {"boxes": [], "labels": [], "scores": []}
    for output in outputs:
        if output.dtype == "FLOAT" and len(output.shape) == 2 and output.shape[1] == 4:
            found["boxes"].append(output.name)
        elif len(output.shape) == 1 and output.dtype in ("INT64", "FLOAT"):
            found["labels" if output.dtype == "INT64" else "scores"].append(output.name)
    if any(len(names) != 1 for names in found.values()):
        return None
    return {kind: names[0] for kind, names in found.items()}


def _nodes(graph: onnx.GraphProto) -> Iterator[onnx.NodeProto]:
    """Every node, those inside the branches of If too."""
    for node in graph.node:
        yield node
        for attribute in node.attribute:
            if attribute.HasField("g"):
                yield from _nodes(attribute.g)


def _most_rows(model: onnx.ModelProto, scores: str) -> int | None:
    """``detections_per_img``: torchvision gathers the scores at ``keep[:detections_per_img]``."""
    made_by = {name: node for node in model.graph.node for name in node.output}
    gather = made_by.get(scores)
    for name in gather.input if gather is not None else ():
        node = made_by.get(name)
        if node is not None and node.op_type == "Slice":
            end = _constant(model, made_by, node.input[2])
            return end if end is not None and 0 < end < 2**31 else None
    return None


def _constant(model: onnx.ModelProto, made_by: dict[str, onnx.NodeProto], name: str) -> int | None:
    """The value of an initialiser or Constant node of one element."""
    from onnx import numpy_helper

    tensors = [weight for weight in model.graph.initializer if weight.name == name]
    if not tensors and name in made_by and made_by[name].op_type == "Constant":
        tensors = [attribute.t for attribute in made_by[name].attribute if attribute.name == "value"]
    value = numpy_helper.to_array(tensors[0]) if tensors else np.array([])
    return int(value.item()) if value.size == 1 else None


def _score_columns(model: onnx.ModelProto) -> int | None:
    """Columns of the graph's only Softmax: the background and the classes; sigmoid heads have none."""
    softmaxes = [node for node in _nodes(model.graph) if node.op_type == "Softmax"]
    if len(softmaxes) != 1:
        return None
    known = {value.name: value.type.tensor_type.shape.dim for value in model.graph.value_info}
    shape = known.get(softmaxes[0].output[0])
    return int(shape[-1].dim_value) or None if shape else None


def _label_numbers(columns: int | None) -> list[int]:
    """Every column but the background; 91 are COCO's category ids, which have gaps."""
    gaps = _COCO_GAPS if columns == _COCO_COLUMNS else ()
    return [number for number in range(1, columns or 0) if number not in gaps]


def _decode(graph: gs.Graph, card: Card) -> Candidates:
    if not isinstance(graph.inputs[0].shape[0], int):
        raise NotBatchable(f"this node lists the detections of one picture: {_suppression(graph)}")
    numbers = _checked_numbers(card)
    boxes, labels, scores = _outputs(graph)
    rows = card.candidates
    boxes = layer(graph, "Concat", boxes, np.zeros((rows, 4), np.float32), axis=0)
    labels = layer(graph, "Concat", labels, np.full(rows, -1, np.int64), axis=0)
    scores = layer(graph, "Concat", scores, np.zeros(rows, np.float32), axis=0)

    is_number = layer(graph, "Equal", layer(graph, "Unsqueeze", labels, int64(1)), int64(*numbers))
    is_number = layer(graph, "Cast", is_number, to=1)
    known = layer(graph, "ReduceMax", is_number, axes=[1], keepdims=0)
    classes = layer(graph, "ArgMax", is_number, axis=1, keepdims=0)
    classes = layer(graph, "Where", layer(graph, "Cast", known, to=9), classes, int64(-1))
    scores = layer(graph, "Mul", scores, known)
    return Candidates(*(layer(graph, "Unsqueeze", tensor, int64(0)) for tensor in (boxes, scores, classes)))


def _suppression(graph: gs.Graph) -> str:
    """Op and name of the graph's last NonMaxSuppression."""
    found = [node for node in _graph_nodes(graph) if node.op == "NonMaxSuppression"]
    return f"{found[-1].op} {found[-1].name!r}"


def _graph_nodes(graph: gs.Graph) -> Iterator[gs.Node]:
    import onnx_graphsurgeon as gs

    for node in graph.nodes:
        yield node
        for value in node.attrs.values():
            if isinstance(value, gs.Graph):
                yield from _graph_nodes(value)


def _checked_numbers(card: Card) -> list[int]:
    numbers = Head.model_validate(card.head).label_numbers or list(range(1, len(card.labels) + 1))
    if len(numbers) != len(card.labels):
        raise CardError(
            f"card: labels: got {len(card.labels)}, but head.label_numbers lists {len(numbers)}; "
            "each label needs the network's number for it"
        )
    if len(set(numbers)) != len(numbers):
        raise CardError("card: head.label_numbers: a number is listed twice")
    return numbers


def _outputs(graph: gs.Graph) -> tuple[gs.Tensor, gs.Tensor, gs.Tensor]:
    labels = next(output for output in graph.outputs if output.dtype == np.int64)
    floats = [output for output in graph.outputs if output is not labels]
    boxes = next(output for output in floats if len(output.shape) == 2 and output.shape[1] == 4)
    scores = next(output for output in floats if len(output.shape) == 1)
    return boxes, labels, scores


FAMILY = Family(
    name="torchvision",
    expects="one picture [3,H,W] or [1,3,H,W], outputs boxes [D,4], labels [D] and scores [D], NMS inside",
    head=Head,
    num_anchors=lambda card: card.candidates,  # rows are padded to any number
    recognise=_recognise,
    decode=_decode,
)
