"""FastestDet (dog-qiuqiu 2022): one feature map, one box a cell.

One output [N,5+C,h,w]: objectness, t_x, t_y, t_w, t_h, class scores; objectness is sigmoid and the classes
are softmax already. Decode, utils/tool.py (handle_preds) of the official code: ``score = objectness**.6 *
class**.4``, ``centre = (cell + tanh(t_xy)) * stride``, ``size = sigmoid(t_wh) * input size``.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

from pydantic import BaseModel, ConfigDict, Field

from detserve_builder.checkpoint import Checkpoint
from detserve_builder.families.family import Candidates, Draft, Family
from detserve_builder.families.reading import expect_classes, image_wh, last_op, num_cells, strides_of
from detserve_builder.graph.layers import cell_grid, corners, float32, layer, map_rows, slice_last
from detserve_core.card import Card
from detserve_core.errors import CardError

if TYPE_CHECKING:
    import onnx_graphsurgeon as gs


class Head(BaseModel):
    """The stride of the one feature map."""

    model_config = ConfigDict(extra="forbid")
    stride: Annotated[int, Field(gt=0)] = 16


def _num_anchors(card: Card) -> int:
    return num_cells(card.input_wh, [Head.model_validate(card.head).stride])


def _recognise(checkpoint: Checkpoint) -> Draft | None:
    wh = image_wh(checkpoint)
    if wh is None or len(checkpoint.inputs) != 1 or len(checkpoint.outputs) != 1:
        return None
    shape = checkpoint.outputs[0].shape
    if len(shape) != 4 or not isinstance(shape[1], int) or shape[1] <= 5:
        return None
    strides = strides_of([shape[2:]], wh)
    if strides is None or last_op(checkpoint, checkpoint.outputs[0]) != "Sigmoid":
        return None  # the first column is objectness, 0..1
    return Draft(
        card_fields={
            "input_wh": list(wh),
            "preprocess": {"resize": "stretch", "color": "bgr", "scale": 1 / 255},
            "head": {"stride": strides[0]},
        },
        num_classes=shape[1] - 5,
    )


def _decode(graph: gs.Graph, card: Card) -> Candidates:
    head, output = Head.model_validate(card.head), graph.outputs[0]
    width, height = -(-card.input_wh[0] // head.stride), -(-card.input_wh[1] // head.stride)
    if list(output.shape[2:]) != [height, width]:
        raise CardError(
            f"card: head.stride: {head.stride} on {card.input_wh[0]}x{card.input_wh[1]} gives a map of "
            f"{width}x{height}, but the graph's output {output.name} is {output.shape[3]}x{output.shape[2]}"
        )
    fields = 5 + len(card.labels)
    expect_classes(card, output, output.shape[1] - 5)
    rows = map_rows(graph, output, fields, width * height)
    offset = layer(graph, "Tanh", slice_last(graph, rows, 1, 3))
    center = layer(graph, "Mul", layer(graph, "Add", offset, cell_grid(width, height)), float32(head.stride))
    size = layer(graph, "Mul", layer(graph, "Sigmoid", slice_last(graph, rows, 3, 5)), float32(card.input_wh))
    objectness = layer(graph, "Pow", slice_last(graph, rows, 0, 1), float32(0.6))
    classes = layer(graph, "Pow", slice_last(graph, rows, 5, fields), float32(0.4))
    return Candidates(corners(graph, center, size), layer(graph, "Mul", classes, objectness))


FAMILY = Family(
    name="fastestdet",
    expects="one output [N,5+C,h,w]",
    head=Head,
    num_anchors=_num_anchors,
    recognise=_recognise,
    decode=_decode,
)
