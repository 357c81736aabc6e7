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

from detserve_builder.checkpoint import Checkpoint
from detserve_builder.families.family import Candidates, Draft, Family
from detserve_builder.families.reading import (
    class_of_number,
    image_wh,
    num_classes_of_top_k,
    rows_of_one_picture,
    suppresses,
)
from detserve_builder.graph.branches import all_graphs
from detserve_builder.graph.layers import float32, int64, layer
from detserve_builder.preparation.batch import NotBatchable
from detserve_core.card import Card
from detserve_core.errors import CardError

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
    wh, rows = image_wh(checkpoint), rows_of_one_picture(checkpoint)
    if wh is None or rows is None or not suppresses(checkpoint):
        return None
    inside = {node.op_type for graph in all_graphs(checkpoint.model.graph) for node in graph.node}
    columns = _score_columns(checkpoint.model)
    numbers = _label_numbers(columns or num_classes_of_top_k(checkpoint))
    of_one_size = columns is not None and "RoiAlign" not in inside  # SSD; all others keep the ratio
    fields: dict[str, Any] = {
        "input_wh": list(wh),
        "preprocess": {
            "resize": "stretch" if of_one_size else "letterbox_topleft",
            "color": "rgb",
            "scale": 1 / 255,
        },
        "thresholds": {"iou": 1.0},  # the graph has suppressed already
        "candidates": _most_rows(checkpoint.model, rows["scores"]) or _DETECTIONS_PER_PICTURE,
    }
    if numbers:
        fields["head"] = {"label_numbers": numbers}
    # RetinaNet and FCOS were trained with as many columns as their user said, a background among them or not.
    guesses = {} if columns is not None else {"head.label_numbers": "0, 1, 2 … where 0 is a class"}
    return Draft(card_fields=fields, num_classes=len(numbers) or None, guesses=guesses)


def _most_rows(model: onnx.ModelProto, scores: str) -> int | None:
    """``detections_per_img``: torchvision gathers the scores at ``keep[:detections_per_img]``."""
    from onnx import numpy_helper

    made_by = {name: node for node in model.graph.node for name in node.output}
    gather = made_by.get(scores)
    for name in gather.input if gather is not None else ():
        node = made_by.get(name)
        if node is not None and node.op_type == "Slice":
            ends = [weight for weight in model.graph.initializer if weight.name == node.input[2]]
            values = numpy_helper.to_array(ends[0]) if ends else np.zeros(1)
            return int(values.item()) if values.size == 1 and 0 < values.item() < 2**31 else None
    return None


def _score_columns(model: onnx.ModelProto) -> int | None:
    """Columns of the graph's only Softmax: the background and the classes; sigmoid heads have none."""
    softmaxes = [n for graph in all_graphs(model.graph) for n in graph.node if n.op_type == "Softmax"]
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

    classes, known = class_of_number(graph, labels, numbers)
    scores = layer(graph, "Where", known, scores, float32([0.0]))
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
    expects="one picture at a time, outputs boxes [D,4], labels [D] and scores [D], NMS inside",
    head=Head,
    num_anchors=lambda card: card.candidates,  # rows are padded to any number
    recognise=_recognise,
    decode=_decode,
)
