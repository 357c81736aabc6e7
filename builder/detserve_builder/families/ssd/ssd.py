"""SSD (Liu et al. 2016, arXiv:1512.02325): prior boxes on several feature maps, a score column per class.

Two outputs, boxes [N,A,4] and scores [N,A,C]. Decode, section 2.2 of the paper with Caffe's variances v
(TensorFlow's scales and torchvision's weights are 1/v), for a prior p of centre, width and height:
``centre = p_centre + v_xy * t_xy * p_size``, ``size = p_size * exp(v_wh * t_wh)``. Caffe's CORNER coding:
``corner = p_corner + v * t``. A file may hold the decode already. Score: softmax over all columns, or
sigmoid; the columns of the labels are kept, so background and gaps in a label table never come out.
"""

from __future__ import annotations

import math
import re
from typing import TYPE_CHECKING, Annotated, Any, Literal

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, model_validator

from detserve_builder.checkpoint import Checkpoint, TensorInfo
from detserve_builder.checkpoint.nms_plugins import plugin_of
from detserve_builder.coco_labels import COCO_CATEGORY_IDS
from detserve_builder.families.family import Candidates, Draft, Family
from detserve_builder.families.pair import decoded_pair
from detserve_builder.families.reading import in_pixels, probe
from detserve_builder.families.ssd.priors import PriorGrid, PriorTensors
from detserve_builder.families.ssd.trace import Trace, float_constants, trace
from detserve_builder.graph.layers import corners, float32, int64, layer, slice_last
from detserve_core.card import Card
from detserve_core.errors import CardError

if TYPE_CHECKING:
    import onnx
    import onnx_graphsurgeon as gs
    from numpy.typing import NDArray

_Positive = Annotated[float, Field(gt=0)]
_Column = Annotated[int, Field(ge=0)]
_NEXT_TO_NOTHING = 0.1
_BACKGROUND_SHARE = 0.9  # of the anchors of a picture

# Linzaer/Ultra-Light-Fast-Generic-Face-Detector-1MB, vision/ssd/config/fd_config.py: sizes by stride.
_ULTRAFACE_SIZES_PX = {8: [10, 16, 24], 16: [32, 48], 32: [64, 96], 64: [128, 192, 256]}


class Head(BaseModel):
    """What the two outputs mean.

    ``class_columns``: the score column of each label. ``axis_order``: whether x or y comes first in the boxes
    (and in ``prior_tensors``). ``variances`` are in the order x, y, width, height (or x1, y1, x2, y2).
    ``units`` are those of decoded boxes. Boxes that are not decoded need one of ``prior_grid`` and
    ``prior_tensors``.
    """

    model_config = ConfigDict(extra="forbid")
    boxes_output: str
    num_anchors: Annotated[int, Field(gt=0)]
    class_columns: Annotated[list[_Column], Field(min_length=1)]
    activation: Literal["softmax", "sigmoid", "none"]
    coding: Literal["center_size", "corner", "decoded"]
    axis_order: Literal["xy", "yx"] = "xy"
    variances: tuple[_Positive, _Positive, _Positive, _Positive] = (0.1, 0.1, 0.2, 0.2)
    units: Literal["normalized", "px"] = "normalized"
    prior_grid: PriorGrid | None = None
    prior_tensors: PriorTensors | None = None

    @model_validator(mode="after")
    def _priors_where_needed(self) -> Head:
        given = [name for name in ("prior_grid", "prior_tensors") if getattr(self, name) is not None]
        if self.coding == "decoded" and given:
            raise ValueError(f"coding decoded takes no {given[0]}; leave it out or say the coding")
        if self.coding != "decoded" and not given:
            raise ValueError(f"coding {self.coding} needs prior_grid or prior_tensors")
        if len(given) == 2:
            raise ValueError("prior_grid and prior_tensors exclude each other; set one of them to null")
        return self


def _num_anchors(card: Card) -> int:
    return Head.model_validate(card.head).num_anchors


def _recognise(checkpoint: Checkpoint) -> Draft | None:
    if len(checkpoint.inputs) != 1 or len(checkpoint.inputs[0].shape) != 4 or len(checkpoint.outputs) != 2:
        return None
    height, width = checkpoint.inputs[0].shape[2:]
    if not (isinstance(height, int) and isinstance(width, int)):
        return None
    if plugin_of(checkpoint.metadata) is not None or decoded_pair(checkpoint, (width, height)) is not None:
        return None
    traces = {output.name: trace(checkpoint.model, output.name) for output in checkpoint.outputs}
    outputs = _boxes_and_scores(checkpoint, traces)
    if outputs is None or any(found.layers != {"Conv"} for found in traces.values()):
        return None  # boxes that matrix products predict are a transformer's
    boxes, scores = outputs
    anchors = next((size for size in (boxes.shape[1], scores.shape[1]) if isinstance(size, int)), None)
    coding = _coding(traces[boxes.name], anchors, max(height, width))
    if coding is None:
        return None
    pictures = probe(checkpoint)
    if pictures and coding["coding"] == "decoded" and not in_pixels(o[boxes.name] for o in pictures):
        coding["units"] = "normalized"  # whatever the priors are in
    columns, guesses = _class_columns(
        int(scores.shape[2]), [outputs[scores.name] for outputs in pictures], traces[scores.name].activated
    )
    head: dict[str, Any] = {"boxes_output": boxes.name, "class_columns": columns, **coding}
    if anchors is not None:
        head["num_anchors"] = anchors
        if head["coding"] != "decoded":
            head.update(_prior_tensors(checkpoint.model, anchors))
    if traces[scores.name].activated:
        head["activation"] = "none"
    fields: dict[str, Any] = {
        "input_wh": [width, height],
        "preprocess": {"resize": "stretch", "color": "rgb", "mean": [127.5] * 3, "std": [127.5] * 3},
        "head": head,
    }
    priors = _ultraface_priors((width, height))
    if scores.shape[2] != 2 or anchors != len(PriorGrid.model_validate(priors).boxes((width, height))):
        return Draft(fields, len(columns), guesses)
    fields["labels"] = ["face"]
    fields["preprocess"] |= {"mean": [127.0] * 3, "std": [128.0] * 3}
    if head["coding"] != "decoded" and "prior_tensors" not in head:
        head["prior_grid"] = priors
    guesses = {
        **guesses,
        "labels": "what else it was trained to find",
        "head.prior_grid": "the priors of another training",
    }
    return Draft(fields, 1, guesses)


def _ultraface_priors(wh: tuple[int, int]) -> dict[str, Any]:
    """As a ``prior_grid``."""
    maps = [
        {"cells_wh": [math.ceil(side / stride) for side in wh], "min_sizes_px": sizes}
        for stride, sizes in _ULTRAFACE_SIZES_PX.items()
    ]
    return {"maps": maps, "clip_sizes": True}


def _boxes_and_scores(
    checkpoint: Checkpoint, traces: dict[str, Trace]
) -> tuple[TensorInfo, TensorInfo] | None:
    """The outputs [N,A,4] and [N,A,C]; with four score columns their names or an activation decide."""
    first, second = checkpoint.outputs
    if not all(len(output.shape) == 3 and isinstance(output.shape[2], int) for output in (first, second)):
        return None
    if len({size for size in (first.shape[1], second.shape[1]) if isinstance(size, int)}) == 2:
        return None
    fours = [output for output in (first, second) if output.shape[2] == 4]
    if len(fours) == 2:
        fours = [output for output in fours if not traces[output.name].activated]
    if len(fours) == 2:
        fours = [output for output in fours if re.search("box|loc|reg", output.name, re.IGNORECASE)]
    if len(fours) != 1:
        return None
    return (first, second) if fours[0] is first else (second, first)


def _coding(boxes: Trace, anchors: int | str | None, side_px: int) -> dict[str, str] | None:
    """Raw boxes come from their layers unchanged; a decode inside the graph brings the priors with it."""
    if boxes.only_layout:
        return {"coding": "center_size"}
    centers_or_sizes = any(_is_per_anchor(array, anchors, 2) for array in boxes.constants)
    whole = any(_is_per_anchor(array, anchors, 4) for array in boxes.constants)
    if not (whole or (centers_or_sizes and "Exp" in boxes.ops)):
        return None
    in_px = any(array.size and np.abs(array).max() >= side_px / 2 for array in boxes.constants)
    return {"coding": "decoded", "units": "px" if in_px else "normalized"}


def _is_per_anchor(array: NDArray[np.float64], anchors: int | str | None, fields: int) -> bool:
    return array.shape[-2:] == (anchors, fields)


def _class_columns(
    count: int, pictures: list[NDArray[np.float32]], activated: bool
) -> tuple[list[int], dict[str, str]]:
    """The columns of the labels, and what else they could be; 91 are COCO's category ids, which have gaps.

    ``pictures`` are the scores [1,A,C] of real pictures. A softmax has the background in column 0. So have
    sigmoids, unless most anchors score next to nothing in every column.
    """
    if count == 91:
        return list(COCO_CATEGORY_IDS), {}
    everything, classes = list(range(count)), list(range(1, count))
    if count == 1:
        return everything, {}
    rows = np.concatenate([np.zeros((0, count)), *(scores.reshape(-1, count) for scores in pictures)])
    without = f"0 to {count - 1}, where column 0 is not a background"
    if not activated or not len(rows):
        return classes, {"head.class_columns": without}
    if np.allclose(rows.sum(axis=1), 1, atol=1e-3):
        return classes, {}
    best, is_best = rows.max(axis=1), rows.argmax(axis=1)
    if (best < _NEXT_TO_NOTHING).mean() > 0.5 and (is_best == 0).mean() < _BACKGROUND_SHARE:
        return everything, {"head.class_columns": f"1 to {count - 1}, where column 0 is the background"}
    return classes, {"head.class_columns": without}


def _prior_tensors(model: onnx.ModelProto, anchors: int) -> dict[str, Any]:
    """Initialisers of A rows of 4, or a pair of A rows of 2, as the head fields they are."""
    from onnx import numpy_helper

    found: dict[int, dict[str, NDArray[np.float64]]] = {4: {}, 2: {}}
    for name, tensor in float_constants(model).items():
        if tuple(tensor.dims[-2:]) in ((anchors, 4), (anchors, 2)):
            rows, fields = tensor.dims[-2:]
            found[fields][name] = np.asarray(numpy_helper.to_array(tensor), np.float64).reshape(rows, fields)
    if len(found[4]) == 1:
        names, values = list(found[4]), next(iter(found[4].values()))
    elif len(found[2]) == 2:
        names = sorted(found[2], key=lambda name: bool(re.search("wh|hw|size", name, re.IGNORECASE)))
        values = np.concatenate([found[2][name] for name in names], axis=1)
    else:
        return {}
    is_corner = bool(np.all(values[:, 2:] > values[:, :2]))
    is_px = bool(np.abs(values).max() > 8)  # priors reach beyond the picture, but not eight times its side
    fields_of_head: dict[str, Any] = {
        "prior_tensors": {
            "names": names,
            "form": "corner" if is_corner else "center_size",
            "units": "px" if is_px else "normalized",
        }
    }
    if any(re.search("yx|hw", name, re.IGNORECASE) for name in names):
        fields_of_head["axis_order"] = "yx"
    return fields_of_head


def _decode(graph: gs.Graph, card: Card) -> Candidates:
    head = Head.model_validate(card.head)
    boxes, scores = _outputs(graph, head)
    _check_classes(card, head, scores)
    if head.axis_order == "yx":
        boxes = layer(graph, "Gather", boxes, int64(1, 0, 3, 2), axis=2)
    if head.coding != "decoded":
        boxes = _decode_boxes(graph, boxes, head, _priors(graph, card, head))
    if head.coding != "decoded" or head.units == "normalized":
        boxes = layer(graph, "Mul", boxes, float32([*card.input_wh, *card.input_wh]))
    if head.activation == "softmax":
        scores = layer(graph, "Softmax", scores, axis=2)
    scores = layer(graph, "Gather", scores, int64(*head.class_columns), axis=2)
    if head.activation == "sigmoid":
        scores = layer(graph, "Sigmoid", scores)
    return Candidates(boxes, scores)


def _outputs(graph: gs.Graph, head: Head) -> tuple[gs.Tensor, gs.Tensor]:
    by_name = {output.name: output for output in graph.outputs}
    boxes = by_name.pop(head.boxes_output, None)
    if boxes is None or boxes.shape[2] != 4:
        found = " and ".join(f"{output.name} {output.shape}" for output in graph.outputs)
        raise CardError(f"card: head.boxes_output: got {head.boxes_output!r}, but the graph has {found}")
    if isinstance(boxes.shape[1], int) and boxes.shape[1] != head.num_anchors:
        raise CardError(
            f"card: head.num_anchors: got {head.num_anchors}, but the graph's output {boxes.name} has "
            f"{boxes.shape[1]}"
        )
    return boxes, next(iter(by_name.values()))


def _check_classes(card: Card, head: Head, scores: gs.Tensor) -> None:
    for index, label in enumerate(card.labels):
        if label.strip("? ") == "":
            raise CardError(
                f"card: labels: {label!r} at index {index} is a gap; leave it out, and its column out of "
                "head.class_columns"
            )
    if len(card.labels) != len(head.class_columns):
        raise CardError(
            f"card: labels: got {len(card.labels)}, but head.class_columns lists {len(head.class_columns)} "
            f"of the {scores.shape[2]} score columns; each label needs its column"
        )
    if len(set(head.class_columns)) != len(head.class_columns):
        raise CardError("card: head.class_columns: a score column is listed twice")
    if max(head.class_columns) >= scores.shape[2]:
        raise CardError(
            f"card: head.class_columns: got {max(head.class_columns)}, but the graph's output {scores.name} "
            f"has columns 0 to {scores.shape[2] - 1}"
        )


def _priors(graph: gs.Graph, card: Card, head: Head) -> NDArray[np.float32]:
    """Centre and size as fractions of the picture, float32 [A,4]."""
    if head.prior_grid is not None:
        field, priors = "prior_grid", head.prior_grid.boxes(card.input_wh)
    else:
        assert head.prior_tensors is not None  # noqa: S101 - the head's validator saw to it
        field = "prior_tensors"
        priors = head.prior_tensors.boxes(graph, card.input_wh, head.axis_order)
    if len(priors) != head.num_anchors:
        raise CardError(
            f"card: head.{field}: describes {len(priors)} priors, but the graph has "
            f"{head.num_anchors} anchors"
        )
    return priors


def _decode_boxes(graph: gs.Graph, deltas: gs.Tensor, head: Head, priors: NDArray[np.float32]) -> gs.Tensor:
    """Boxes [N,A,4] x1,y1,x2,y2 as fractions of the picture."""
    centers, sizes = priors[:, :2], priors[:, 2:]
    scaled = layer(graph, "Mul", deltas, float32(head.variances))
    if head.coding == "corner":
        low_high = np.concatenate([centers - sizes / 2, centers + sizes / 2], axis=1)
        return layer(graph, "Add", scaled, float32(low_high))
    offset = layer(graph, "Mul", slice_last(graph, scaled, 0, 2), sizes)
    growth = layer(graph, "Exp", slice_last(graph, scaled, 2, 4))
    return corners(graph, layer(graph, "Add", offset, centers), layer(graph, "Mul", growth, sizes))


FAMILY = Family(
    name="ssd",
    expects="two outputs of convolutions, boxes [N,A,4] (raw, or decoded with priors) and scores [N,A,C]",
    head=Head,
    num_anchors=_num_anchors,
    recognise=_recognise,
    decode=_decode,
)
