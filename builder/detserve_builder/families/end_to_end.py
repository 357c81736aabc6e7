"""End-to-end YOLO: YOLOv10 (Wang et al. 2024, arXiv:2405.14458), YOLO26; one box an object, no suppression.

One output [N,R,6]: x1, y1, x2, y2 in network pixels, score, class. Ultralytics' RT-DETR has the same columns
with cx, cy, w, h as shares of the input.
"""

from __future__ import annotations

from enum import Enum
from typing import TYPE_CHECKING, Annotated

from pydantic import BaseModel, ConfigDict, Field

from detserve_builder.checkpoint import Checkpoint
from detserve_builder.families.family import Candidates, Draft, Family
from detserve_builder.families.reading import (
    expect_anchors,
    image_wh,
    last_top_k,
    num_cells,
    num_classes_of_top_k,
    ops,
)
from detserve_builder.graph import corners, float32, int64, layer, slice_last
from detserve_client.card import Card

if TYPE_CHECKING:
    import onnx_graphsurgeon as gs

_ANCHORS_PER_CELL = (1, 3)  # [N,A,6] is also YOLOX and YOLOv5 with one class


class BoxCoding(str, Enum):
    """What the first four columns are."""

    XYXY_PX = "xyxy_px"
    CXCYWH_SHARE = "cxcywh_share"


class Head(BaseModel):
    """``detections`` is R, the rows of the output."""

    model_config = ConfigDict(extra="forbid")
    detections: Annotated[int, Field(gt=0)]
    boxes: BoxCoding = BoxCoding.XYXY_PX


def _num_anchors(card: Card) -> int:
    return Head.model_validate(card.head).detections


def _recognise(checkpoint: Checkpoint) -> Draft | None:
    wh = image_wh(checkpoint)
    if wh is None or len(checkpoint.inputs) != 1 or len(checkpoint.outputs) != 1:
        return None
    shape = checkpoint.outputs[0].shape
    if len(shape) != 3 or shape[2] != 6:
        return None
    detections = shape[1] if isinstance(shape[1], int) else last_top_k(checkpoint)
    if detections in [per_cell * num_cells(wh, (8, 16, 32)) for per_cell in _ANCHORS_PER_CELL]:
        return None
    transformer = "GridSample" in ops(checkpoint)
    boxes = BoxCoding.CXCYWH_SHARE if transformer else BoxCoding.XYXY_PX
    head: dict[str, object] = {"boxes": boxes.value}
    if detections is not None:
        head["detections"] = detections
    return Draft(
        card_fields={
            "input_wh": list(wh),
            "preprocess": {
                "resize": "stretch" if transformer else "letterbox_center",
                "color": "rgb",
                "scale": 1 / 255,
            },
            "head": head,
            "thresholds": {"iou": 1.0},
        },
        num_classes=num_classes_of_top_k(checkpoint),
    )


def _decode(graph: gs.Graph, card: Card) -> Candidates:
    head, rows = Head.model_validate(card.head), graph.outputs[0]
    expect_anchors("head.detections", str(head.detections), head.detections, rows, rows.shape[1])
    # one Split: OpenVINO 2026.4 makes a GatherElements of all six columns from neighbouring Slices
    boxes, score, label = layer(graph, "Split", rows, int64(4, 1, 1), outputs=3, axis=2)
    if head.boxes is BoxCoding.CXCYWH_SHARE:
        boxes = layer(graph, "Mul", boxes, float32([*card.input_wh, *card.input_wh]))
        boxes = corners(graph, slice_last(graph, boxes, 0, 2), slice_last(graph, boxes, 2, 4))
    scores, classes = layer(graph, "Squeeze", score, int64(2)), layer(graph, "Squeeze", label, int64(2))
    return Candidates(boxes, scores, layer(graph, "Cast", classes, to=7))


FAMILY = Family(
    name="end_to_end",
    expects="one output [N,R,6] of x1,y1,x2,y2,score,class",
    head=Head,
    num_anchors=_num_anchors,
    recognise=_recognise,
    decode=_decode,
)
