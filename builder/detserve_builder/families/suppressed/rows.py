"""Which outputs and columns of a network that suppresses itself are boxes, scores and classes.

Names, dtypes and shapes say most of it. What they leave open is looked up in what the network gives for real
pictures: a class is an integer, a score is in 0..1.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from detserve_builder.checkpoint import Checkpoint, TensorInfo
from detserve_builder.coco_labels import COCO_CATEGORY_IDS
from detserve_builder.families.family import Draft
from detserve_builder.families.reading import (
    IMAGENET_MEAN,
    IMAGENET_STD,
    image_wh,
    in_pixels,
    num_classes_of_top_k,
    ops,
    probe,
    rows_of_one_picture,
    shapes,
    suppresses,
)

if TYPE_CHECKING:
    import onnx

_Outputs = dict[str, NDArray[Any]]
# First column of boxes, scores and classes.
_ORDERS_OF_6 = {"paddle": (2, 1, 0), "score, class": (0, 4, 5), "class, score": (0, 5, 4)}
_ORDERS_OF_7 = {"YOLOv7": (1, 6, 5), "YOLO-NAS": (1, 5, 6), "class, score first": (3, 2, 1)}
_SEVEN_NAMED = "classid_score_x1y1x2y2"  # PINTO's outputs say their columns
_IN_ORDER = 0.9  # of the boxes of a picture
_OUT_OF_ORDER = 0.15  # centre and size pass as corners for the few boxes in the first corner alone
_SCORE = re.compile("score|conf|prob", re.IGNORECASE)
_CLASS = re.compile("class|label|categor", re.IGNORECASE)
_COUNT = re.compile("num|count", re.IGNORECASE)


def recognise(checkpoint: Checkpoint) -> Draft | None:
    """The draft of a network whose outputs are rows of box, score and class; None for another."""
    wh = image_wh(checkpoint)
    if wh is None or len(checkpoint.inputs) != 1 or "orig_target_sizes" in checkpoint.fed:
        return None
    found = _apart(checkpoint) or _with_score(checkpoint) or _in_one(checkpoint)
    if found is None:
        return None
    pictures = probe(checkpoint)
    head, guesses = found
    if "columns" in head:
        head, more = _in_columns(head, pictures)
        guesses |= more
        if "boxes" not in head and not _can_only_be_rows(checkpoint):
            return None
    if "boxes" in head:
        rows = [_rows(outputs, head) for outputs in pictures]
        more_fields, more = _units_and_coding(head, rows)
        head, guesses = head | more_fields, guesses | more
    return _draft(checkpoint, wh, head, guesses)


def _apart(checkpoint: Checkpoint) -> tuple[dict[str, Any], dict[str, str]] | None:
    """Boxes, scores and classes, an output each: [N,K,4], [N,K], [N,K], or as many rows as objects."""
    if rows_of_one_picture(checkpoint) is not None and suppresses(checkpoint):
        return None  # torchvision's
    for boxes in _ending_in(checkpoint.outputs, 4):
        beside = [o for o in checkpoint.outputs if o is not boxes and _row_each(o, boxes)]
        scores = _chosen(beside, _SCORE, ("FLOAT",))
        beside = [output for output in beside if output is not scores]
        classes = _chosen(beside, _CLASS, ("INT64", "INT32")) or (beside[0] if len(beside) == 1 else None)
        if scores is None or classes is None:
            continue
        head = {
            name: {"output": o.name}
            for name, o in (("boxes", boxes), ("scores", scores), ("classes", classes))
        }
        used = {boxes.name, scores.name, classes.name}
        return _with_count(checkpoint, head, boxes, used), {}
    return None


def _with_score(checkpoint: Checkpoint) -> tuple[dict[str, Any], dict[str, str]] | None:
    """mmdeploy: boxes and scores [N,K,5] beside labels [N,K]."""
    for rows in _ending_in(checkpoint.outputs, 5):
        labels = [o for o in checkpoint.outputs if o is not rows and _row_each(o, rows)]
        classes = _chosen(labels, _CLASS, ("INT64", "INT32"))
        if classes is not None:
            parts = {name: {"output": rows.name, "column": at} for name, at in (("boxes", 0), ("scores", 4))}
            head = {**parts, "classes": {"output": classes.name}}
            return _with_count(checkpoint, head, rows, {rows.name, classes.name}), {}
    return None


def _in_one(checkpoint: Checkpoint) -> tuple[dict[str, Any], dict[str, str]] | None:
    """Rows of 7 columns, the picture's number first, or of 6 and their count."""
    if len(checkpoint.outputs) == 1 and _ending_in(checkpoint.outputs, 7):
        rows = checkpoint.outputs[0]
        if len(rows.shape) == 2 or rows.shape[0] in (1, "N"):
            return _with_count(checkpoint, {"output": rows.name, "columns": 7}, rows, {rows.name}), {}
    for rows in _ending_in(checkpoint.outputs, 6):
        head = _with_count(checkpoint, {"output": rows.name, "columns": 6}, rows, {rows.name})
        if "count" in head or (len(rows.shape) == 2 and len(checkpoint.outputs) == 1):
            paddle = bool({"scale_factor", "im_shape"} & set(checkpoint.fed))
            return head | ({"order": "paddle"} if paddle and "count" in head else {}), {}
    return None


def _with_count(
    checkpoint: Checkpoint, head: dict[str, Any], rows: TensorInfo, used: set[str]
) -> dict[str, Any]:
    """``head`` with the output that says how many rows count, and with the rows, where they are fixed."""
    counts = [o for o in checkpoint.outputs if o.name not in used and _is_count(o)]
    if len(counts) > 1:
        counts = [output for output in counts if _COUNT.search(output.name)] or counts[:1]
    if counts:
        head = {**head, "count": counts[0].name}
    fixed = rows.shape[-2]
    if isinstance(fixed, int) and len(rows.shape) == 3:
        head = {**head, "rows": fixed}
    return head


def _is_count(output: TensorInfo) -> bool:
    """One number a picture."""
    if len(output.shape) > 2 or any(isinstance(size, int) and size != 1 for size in output.shape):
        return False
    return output.dtype in ("INT32", "INT64") or bool(_COUNT.search(output.name))


def _ending_in(outputs: Iterable[TensorInfo], columns: int) -> list[TensorInfo]:
    """Float outputs of rows with that many columns; TensorFlow gives its boxes raw too, under other names."""
    found = [o for o in outputs if o.dtype == "FLOAT" and len(o.shape) in (2, 3) and o.shape[-1] == columns]
    return sorted(found, key=lambda output: "raw" in output.name)


def _row_each(output: TensorInfo, rows: TensorInfo) -> bool:
    """Whether ``output`` has one number for each of ``rows`` [...,K,columns]: [...,K] or [...,K,1]."""
    shape = output.shape
    if len(shape) == len(rows.shape) and len(shape) == 3 and shape[-1] == 1:
        shape = shape[:-1]
    if len(shape) != len(rows.shape) - 1:
        return False
    return all(
        first == second or not (isinstance(first, int) and isinstance(second, int))
        for first, second in zip(shape, rows.shape, strict=False)
    )


def _chosen(
    outputs: Sequence[TensorInfo], name: re.Pattern[str], dtypes: tuple[str, ...]
) -> TensorInfo | None:
    """The one of that dtype; where there are several, the one of that name."""
    fitting = [output for output in outputs if output.dtype in dtypes]
    named = [output for output in outputs if name.search(output.name) and not _is_count(output)]
    for found in (fitting, [o for o in named if o in fitting], named):
        if len(found) == 1:
            return found[0]
    return None


def _in_columns(head: dict[str, Any], pictures: list[_Outputs]) -> tuple[dict[str, Any], dict[str, str]]:
    """The part of each column, as its name, its exporter or the rows themselves say.

    Where the rows fit no order that is known, the parts are left out: they are for the card to say.
    """
    orders = _ORDERS_OF_7 if head["columns"] == 7 else _ORDERS_OF_6
    rows = np.concatenate([_rows(outputs, head) for outputs in pictures] or [np.zeros((0, head["columns"]))])
    if "order" in head:
        fitting = [head["order"]]
    elif _SEVEN_NAMED in head["output"].casefold():
        fitting = ["class, score first"]
    else:
        fitting = [name for name, order in orders.items() if _fits(rows, order)]
    kept: dict[str, Any] = {key: head[key] for key in ("rows", "count") if key in head}
    if not fitting:
        return kept, {}
    boxes, scores, classes = orders[fitting[0]]
    columns = {"boxes": boxes, "scores": scores, "classes": classes}
    guesses = {}
    if len(fitting) > 1:
        other = "; ".join(
            f"boxes {b}, scores {s}, classes {c}" for b, s, c in map(orders.__getitem__, fitting[1:])
        )
        guesses = {f"head.{part}": f"first columns {other}" for part in columns}
    return kept | {
        part: {"output": head["output"], "column": column} for part, column in columns.items()
    }, guesses


def _can_only_be_rows(checkpoint: Checkpoint) -> bool:
    """Whether it is known without a look at the rows: as many as objects, or suppression in the graph."""
    shape = checkpoint.outputs[0].shape
    return len(shape) == 2 and (shape[-1] == 7 or not isinstance(shape[0], int) or suppresses(checkpoint))


def _fits(rows: NDArray[np.float64], order: tuple[int, int, int]) -> bool:
    """Whether these columns can be boxes, scores and classes."""
    boxes, scores, classes = order
    rows = rows[np.isfinite(rows).all(axis=1)]
    of_class, of_score, corners = rows[:, classes], rows[:, scores], rows[:, boxes : boxes + 4]
    if rows.shape[1] == 7 and rows[:, 0].any():
        return False
    is_class = bool((of_class == np.round(of_class)).all() and (of_class >= -1).all())
    is_score = bool((of_score >= -1e-6).all() and (of_score <= 1 + 1e-6).all())
    sides = corners[:, 2:] - corners[:, :2]
    return is_class and is_score and (not len(rows) or bool((sides >= 0).all(axis=1).mean() > 0.5))


def _rows(outputs: _Outputs, head: Mapping[str, Any]) -> NDArray[np.float64]:
    """The rows of one picture that count, of the output of all columns or of the boxes."""
    part = head.get("boxes", head)
    rows = np.asarray(outputs[part["output"]], np.float64)
    rows = rows.reshape(-1, rows.shape[-1])
    counted = (
        np.arange(len(rows)) < int(outputs[head["count"]].ravel()[0])
        if "count" in head
        else np.full(len(rows), True)
    )
    if "boxes" not in head:
        return rows[counted]
    scores = outputs[head["scores"]["output"]].ravel()
    if len(scores) == len(rows):
        counted &= scores > 0
    return rows[counted][:, slice(part.get("column", 0), part.get("column", 0) + 4)]


def _units_and_coding(
    head: Mapping[str, Any], pictures: list[NDArray[np.float64]]
) -> tuple[dict[str, str], dict[str, str]]:
    """What the boxes of real pictures show: shares stay small, corners are in order."""
    if "detection_boxes" in head["boxes"]["output"]:  # TensorFlow's object detection API
        return {"coding": "yxyx", "units": "normalised"}, {}
    boxes = np.concatenate(pictures or [np.zeros((0, 4))])
    if not len(boxes):
        return {}, {"head.units": "normalised", "head.coding": "cxcywh or yxyx"}
    in_order = (boxes[:, 2:] >= boxes[:, :2]).all(axis=1).mean()
    fields = {
        "units": "pixels" if in_pixels(pictures) else "normalised",
        "coding": "xyxy" if in_order > _OUT_OF_ORDER else "cxcywh",
    }
    if in_order > _IN_ORDER:  # so are corners with y first
        return fields, {"head.coding": "yxyx"}
    return fields, {
        "head.coding": "cxcywh" if fields["coding"] == "xyxy" else "xyxy",
        "head.units": "pixels" if fields["units"] == "normalised" else "normalised",
    }


def _draft(
    checkpoint: Checkpoint, wh: tuple[int, int], head: dict[str, Any], guesses: dict[str, str]
) -> Draft:
    numbers = list(range(_num_classes(checkpoint) or 0))
    if "detection_classes" in head.get("classes", {}).get("output", ""):
        numbers = _tensorflow_numbers(len(numbers))
    if numbers:
        head["label_numbers"] = numbers
        guesses.setdefault("head.label_numbers", "1, 2, 3 … where the network counts a background as 0")
    fields: dict[str, Any] = {
        "input_wh": list(wh),
        "preprocess": _preprocess(checkpoint),
        "head": head,
        "thresholds": {"iou": 1.0},  # the graph has suppressed already
    }
    if "rows" not in head:
        fields["candidates"] = 300
    return Draft(card_fields=fields, num_classes=len(numbers) or None, guesses=guesses)


def _tensorflow_numbers(columns: int) -> list[int]:
    """TensorFlow's classes are numbered from 1, COCO's by their category ids."""
    if columns in (90, 91):
        return list(COCO_CATEGORY_IDS)
    return list(range(1, columns + 1))


def _preprocess(checkpoint: Checkpoint) -> dict[str, Any]:
    """What the exporters that write such rows train with."""
    names = {output.name for output in checkpoint.outputs}
    imagenet = {"color": "rgb", "mean": list(IMAGENET_MEAN), "std": list(IMAGENET_STD)}
    if {"scale_factor", "im_shape"} & set(checkpoint.fed):
        return {"resize": "stretch", **imagenet}
    if {"dets", "labels"} <= names:
        return {"resize": "letterbox_topleft", "pad_value": 0, **imagenet}
    stretched = "GridSample" in ops(checkpoint) or any("detection_boxes" in name for name in names)
    return {"resize": "stretch" if stretched else "letterbox_center", "color": "rgb", "scale": 1 / 255}


def _num_classes(checkpoint: Checkpoint) -> int | None:
    """C as the graph's suppression, its choice of the best class, or its TopK over all of them shows it."""
    known = shapes(checkpoint)
    nodes = checkpoint.model.graph.node
    suppressed = [known.get(n.input[1], (None,) * 3)[1] for n in nodes if n.op_type == "NonMaxSuppression"]
    best = {_size_along_axis(node, known) for node in nodes if node.op_type == "ArgMax"}
    for found in (suppressed[-1:], list(best) if len(best) == 1 else [], [num_classes_of_top_k(checkpoint)]):
        if found and found[0] is not None and found[0] > 1:
            return found[0]
    return 1 if suppressed[-1:] == [1] and not best else None


def _size_along_axis(node: onnx.NodeProto, known: Mapping[str, tuple[int | None, ...]]) -> int | None:
    axis = next((attribute.i for attribute in node.attribute if attribute.name == "axis"), 0)
    shape = known.get(node.input[0], ())
    return shape[axis] if -len(shape) <= axis < len(shape) else None
