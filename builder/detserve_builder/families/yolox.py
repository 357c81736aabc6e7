"""YOLOX (Ge et al. 2021, arXiv:2107.08430): anchor-free, decoupled head, strides 8, 16 and 32.

One output [N,A,5+C]: centre offset, log size, objectness, class scores; the last two are sigmoid already.
Decode, demo_utils.demo_postprocess of the official code: ``centre = (t_xy + cell) * stride``,
``size = exp(t_wh) * stride``, ``score = objectness * class``.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import numpy as np
from pydantic import BaseModel, ConfigDict, Field

from detserve_builder.checkpoint import Checkpoint
from detserve_builder.families.family import Candidates, Draft, Family
from detserve_builder.families.reading import channel_parts
from detserve_builder.graph import cell_grid, corners, float32, layer, slice_last
from detserve_client.card import Card
from detserve_client.errors import CardError

if TYPE_CHECKING:
    import onnx_graphsurgeon as gs

STRIDES = (8, 16, 32)


class Head(BaseModel):
    """Strides of the feature maps, in the order in which the output concatenates them."""

    model_config = ConfigDict(extra="forbid")
    strides: Annotated[list[Annotated[int, Field(gt=0)]], Field(min_length=1)] = list(STRIDES)


def _num_anchors(card: Card) -> int:
    width, height = card.input_wh
    return sum((width // stride) * (height // stride) for stride in Head.model_validate(card.head).strides)


def _recognise(checkpoint: Checkpoint) -> Draft | None:
    if len(checkpoint.outputs) != 1 or len(checkpoint.inputs) != 1:
        return None
    image, output = checkpoint.inputs[0].shape, checkpoint.outputs[0].shape
    if len(image) != 4 or len(output) != 3:
        return None
    height, width, anchors, fields = image[2], image[3], output[1], output[2]
    if not (isinstance(height, int) and isinstance(width, int) and isinstance(fields, int) and fields > 5):
        return None
    if anchors != sum((height // stride) * (width // stride) for stride in STRIDES):
        return None
    if len(channel_parts(checkpoint, checkpoint.outputs[0])) == 2:
        return None  # YOLOX joins three branches; two are scores and distances
    return Draft(
        card_fields={
            "input_wh": [width, height],
            "preprocess": {"resize": "letterbox_topleft", "pad_value": 114, "color": "bgr"},
            "head": {"strides": list(STRIDES)},
        },
        num_classes=fields - 5,
    )


def _decode(graph: gs.Graph, card: Card) -> Candidates:
    head, (width, height) = Head.model_validate(card.head), card.input_wh
    maps = [(stride, cell_grid(width // stride, height // stride)) for stride in head.strides]
    cells = np.concatenate([grid for _, grid in maps])
    strides = np.concatenate([np.full((len(grid), 1), stride, np.float32) for stride, grid in maps])
    output = graph.outputs[0]
    if isinstance(output.shape[1], int) and output.shape[1] != len(cells):
        raise CardError(
            f"card: head.strides: {head.strides} on {width}x{height} give {len(cells)} anchors, "
            f"but the graph's output {output.name} has {output.shape[1]}"
        )
    if output.shape[2] != 5 + len(card.labels):
        raise CardError(
            f"card: labels: got {len(card.labels)}, but the graph's output {output.name} has "
            f"{output.shape[2] - 5} classes"
        )
    center = layer(graph, "Mul", layer(graph, "Add", slice_last(graph, output, 0, 2), cells), strides)
    size = layer(graph, "Mul", layer(graph, "Exp", slice_last(graph, output, 2, 4)), float32(strides))
    objectness = slice_last(graph, output, 4, 5)
    classes = slice_last(graph, output, 5, 5 + len(card.labels))
    return Candidates(corners(graph, center, size), layer(graph, "Mul", classes, objectness))


FAMILY = Family(
    name="yolox",
    expects="one output [N,A,5+C] with A the cells of strides 8, 16 and 32",
    head=Head,
    num_anchors=_num_anchors,
    recognise=_recognise,
    decode=_decode,
)
