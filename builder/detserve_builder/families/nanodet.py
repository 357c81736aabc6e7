"""NanoDet, NanoDet-Plus (RangiLyu 2020-2021) and PicoDet (arXiv:2111.00902): generalised focal loss heads.

Per cell C class scores and the distributions of four distances over reg_max+1 bins (arXiv:2006.04388).
NanoDet-Plus gives one output [N,A,C+4*(reg_max+1)]; NanoDet and PicoDet give two per stride, as maps
[N,C,h,w] or as rows [N,h*w,C]. Decode: a distance is the softmax expectation,
``x1y1 = (cell + cell_offset - left_top) * stride``, ``x2y2 = (cell + cell_offset + right_bottom) * stride``.
NanoDet-Plus counts from the cell's corner (nanodet_plus_head.py, get_single_level_center_priors), the others
from its middle (gfl_head.py, get_single_level_center_point). Maps cover a part of a stride with a cell.

The three want different pictures, which only their heads tell apart: NanoDet has strides 8 to 32 and
keeps the ratio on black (nanodet-m.yml), NanoDet-Plus has one output of strides 8 to 64 and stretches
(nanodet-plus-m_320.yml), PicoDet has pairs of strides 8 to 64, stretches and takes RGB
(picodet_320_reader.yml).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import numpy as np
from pydantic import BaseModel, ConfigDict, Field

from detserve_builder.checkpoint import Checkpoint, TensorInfo
from detserve_builder.families.family import Candidates, Draft, Family
from detserve_builder.families.reading import (
    channel_parts,
    classes_beside,
    expect_anchors,
    expect_classes,
    image_wh,
    last_op,
    num_cells,
)
from detserve_builder.graph.layers import (
    cell_grid,
    distribution_corners,
    float32,
    layer,
    map_rows,
    slice_last,
)
from detserve_core.card import Card
from detserve_core.errors import CardError

if TYPE_CHECKING:
    import onnx_graphsurgeon as gs

STRIDE_SETS = ([8, 16, 32], [8, 16, 32, 64])
REG_MAX = 7
_IMAGENET_RGB: dict[str, Any] = {"mean": [123.675, 116.28, 103.53], "std": [58.395, 57.12, 57.375]}
_BGR: dict[str, Any] = {"color": "bgr", **{name: values[::-1] for name, values in _IMAGENET_RGB.items()}}
_NANODET = {"resize": "letterbox_center", "pad_value": 0, **_BGR}
_NANODET_PLUS = {"resize": "stretch", **_BGR}
_PICODET = {"resize": "stretch", "color": "rgb", **_IMAGENET_RGB}

_Positive = Annotated[int, Field(gt=0)]


class Head(BaseModel):
    """``cell_offset``: where in its cell a distance starts; ``sigmoid_in_graph``: scores, not logits."""

    model_config = ConfigDict(extra="forbid")
    strides: Annotated[list[_Positive], Field(min_length=1)] = STRIDE_SETS[1]
    reg_max: _Positive = REG_MAX
    cell_offset: Annotated[float, Field(ge=0, le=1)]
    sigmoid_in_graph: bool


def _num_anchors(card: Card) -> int:
    return num_cells(card.input_wh, Head.model_validate(card.head).strides)


def _recognise(checkpoint: Checkpoint) -> Draft | None:
    wh = image_wh(checkpoint)
    if wh is None or len(checkpoint.inputs) != 1:
        return None
    if len(checkpoint.outputs) == 1:
        return _recognise_joined(checkpoint, checkpoint.outputs[0], wh)
    return _recognise_pairs(checkpoint, wh)


def _recognise_joined(checkpoint: Checkpoint, output: TensorInfo, wh: tuple[int, int]) -> Draft | None:
    if len(output.shape) != 3 or not isinstance(output.shape[2], int):
        return None
    box_channels, fields = 4 * (REG_MAX + 1), output.shape[2]
    strides = next((s for s in STRIDE_SETS if num_cells(wh, s) == output.shape[1]), None)
    parts = channel_parts(checkpoint, output)
    if strides is None or fields <= box_channels:
        return None
    if len(strides) == 3 and parts != (fields - box_channels, box_channels):
        return None  # YOLOX has as many cells
    is_plus = len(strides) == 4
    return _draft(
        checkpoint,
        output,
        strides,
        cell_offset=0.0 if is_plus else 0.5,
        num_classes=fields - box_channels,
        preprocess=_NANODET_PLUS if is_plus else _NANODET,
    )


def _recognise_pairs(checkpoint: Checkpoint, wh: tuple[int, int]) -> Draft | None:
    for strides in STRIDE_SETS:
        if len(checkpoint.outputs) != 2 * len(strides):
            continue
        pairs = [_pair(checkpoint.outputs, wh, stride, 4 * (REG_MAX + 1)) for stride in strides]
        found = [pair for pair in pairs if pair is not None]
        classes = {_channels(scores.shape) for scores, _ in found}
        if len(found) == len(strides) and len(classes) == 1:
            preprocess = _PICODET if len(strides) == 4 else _NANODET
            return _draft(
                checkpoint,
                found[0][0],
                strides,
                cell_offset=0.5,
                num_classes=classes.pop(),
                preprocess=preprocess,
            )
    return None


def _pair(
    outputs: tuple[TensorInfo, ...], wh: tuple[int, int], stride: int, box_channels: int
) -> tuple[TensorInfo, TensorInfo] | None:
    """Scores and distributions of one stride; scores come first where both have as many channels."""
    of_stride = [output for output in outputs if _covers(output.shape, wh, stride)]
    if len(of_stride) != 2:
        return None
    first, second = of_stride
    if _channels(second.shape) == box_channels:
        return first, second
    return (second, first) if _channels(first.shape) == box_channels else None


def _covers(shape: tuple[int | str, ...], wh: tuple[int, int], stride: int) -> bool:
    width, height = -(-wh[0] // stride), -(-wh[1] // stride)
    return shape[2:] == (height, width) if len(shape) == 4 else len(shape) == 3 and shape[1] == height * width


def _channels(shape: tuple[int | str, ...]) -> int:
    channels = shape[1] if len(shape) == 4 else shape[2]
    return channels if isinstance(channels, int) else 0


def _draft(
    checkpoint: Checkpoint,
    scores: TensorInfo,
    strides: list[int],
    *,
    cell_offset: float,
    num_classes: int,
    preprocess: dict[str, Any],
) -> Draft:
    return Draft(
        card_fields={
            "input_wh": list(checkpoint.inputs[0].shape[:1:-1]),
            "preprocess": preprocess,
            "head": {
                "strides": strides,
                "reg_max": REG_MAX,
                "cell_offset": cell_offset,
                "sigmoid_in_graph": last_op(checkpoint, scores) == "Sigmoid",
            },
            "thresholds": {"iou": 0.6},
        },
        num_classes=num_classes,
        guesses={
            "head.cell_offset": "0 for NanoDet-Plus, 0.5 for NanoDet and PicoDet",
            "preprocess.resize": "letterbox_center on 0 for NanoDet, stretch for NanoDet-Plus and PicoDet",
            "preprocess.color": "bgr for NanoDet and NanoDet-Plus, rgb for PicoDet",
        },
    )


def _decode(graph: gs.Graph, card: Card) -> Candidates:
    head = Head.model_validate(card.head)
    grids = [
        (stride, cell_grid(-(-card.input_wh[0] // stride), -(-card.input_wh[1] // stride)))
        for stride in head.strides
    ]
    centers = np.concatenate([(grid + float32(head.cell_offset)) * float32(stride) for stride, grid in grids])
    strides = np.concatenate([np.full((len(grid), 1), stride, np.float32) for stride, grid in grids])
    scores, distributions = (_joined if len(graph.outputs) == 1 else _stacked)(graph, card, head)
    if not head.sigmoid_in_graph:
        scores = layer(graph, "Sigmoid", scores)
    return Candidates(distribution_corners(graph, distributions, head.reg_max + 1, centers, strides), scores)


def _joined(graph: gs.Graph, card: Card, head: Head) -> tuple[gs.Tensor, gs.Tensor]:
    """Scores [N,A,C] and distributions of the one output."""
    output, box_channels = graph.outputs[0], 4 * (head.reg_max + 1)
    expect_anchors("head.strides", str(head.strides), _num_anchors(card), output, output.shape[1])
    num_classes = classes_beside("head.reg_max", box_channels, output, output.shape[2])
    expect_classes(card, output, num_classes)
    return slice_last(graph, output, 0, num_classes), slice_last(graph, output, num_classes, output.shape[2])


def _stacked(graph: gs.Graph, card: Card, head: Head) -> tuple[gs.Tensor, gs.Tensor]:
    """Scores [N,A,C] and distributions of the pairs, finest stride first."""
    described = tuple(TensorInfo(out.name, "", tuple(out.shape)) for out in graph.outputs)
    by_name = {output.name: output for output in graph.outputs}
    scores: list[gs.Tensor] = []
    distributions: list[gs.Tensor] = []
    for stride in head.strides:
        pair = _pair(described, card.input_wh, stride, 4 * (head.reg_max + 1))
        if pair is None:
            found = ", ".join(f"{output.name} {output.shape}" for output in graph.outputs)
            raise CardError(
                f"card: head.strides: got {head.strides}, but at stride {stride} the graph has no pair of "
                f"scores and {4 * (head.reg_max + 1)} distribution channels; it has {found}"
            )
        expect_classes(card, by_name[pair[0].name], _channels(pair[0].shape))
        cells = num_cells(card.input_wh, [stride])
        for parts, info in zip((scores, distributions), pair, strict=True):
            output = by_name[info.name]
            rows = map_rows(graph, output, output.shape[1], cells) if len(info.shape) == 4 else output
            parts.append(rows)
    return layer(graph, "Concat", *scores, axis=1), layer(graph, "Concat", *distributions, axis=1)


FAMILY = Family(
    name="nanodet",
    expects="one output [N,A,C+32] with A the cells of strides 8, 16, 32 and 64, "
    "or per stride scores with C and distributions with 32 channels",
    head=Head,
    num_anchors=_num_anchors,
    recognise=_recognise,
    decode=_decode,
)
