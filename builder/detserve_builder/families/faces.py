"""Face detectors: how each is recognised, and its head in the words of generic_head.py.

Key points are not served.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable
from itertools import accumulate, groupby
from typing import Any

from detserve_builder.checkpoint import Checkpoint, TensorInfo
from detserve_builder.families import generic
from detserve_builder.families.columns import columns_of
from detserve_builder.families.family import Draft, Family
from detserve_builder.families.generic_head import Head
from detserve_builder.families.reading import image_wh, last_op, num_cells

_USUAL = (8, 16, 32)
_KEY_POINTS = 10  # columns: x and y of both eyes, the nose and both corners of the mouth
_RETINA_PRIORS = (
    {8: [16, 32], 16: [64, 128], 32: [256, 512]},
    {8: [10, 16, 24], 16: [32, 48], 32: [64, 96], 64: [128, 192, 256]},
)
_BLAZE_PRIORS = {128: {8: 2, 16: 6}, 192: {4: 1}, 256: {16: 2, 32: 6}}  # by side: boxes a cell by stride


def _draft(
    wh: tuple[int, int], preprocess: dict[str, Any], head: dict[str, Any], *, iou: float, **guesses: str
) -> Draft:
    return Draft(
        card_fields={
            "input_wh": list(wh),
            "labels": ["face"],
            "preprocess": preprocess,
            "head": head,
            "thresholds": {"score": 0.5, "iou": iou},
        },
        num_classes=1,
        guesses={"labels": "what else the network was trained to find", **guesses},
    )


def _by_columns(checkpoint: Checkpoint) -> dict[int, list[TensorInfo]]:
    """The outputs [N,A,columns] or [A,columns] by columns, most rows first; {} with others among them."""
    found: dict[int, list[TensorInfo]] = {}
    for output in checkpoint.outputs:
        if len(output.shape) not in (2, 3) or not all(isinstance(size, int) for size in output.shape[-2:]):
            return {}
        found.setdefault(int(output.shape[-1]), []).append(output)
    return {columns: sorted(outputs, key=_rows, reverse=True) for columns, outputs in found.items()}


def _rows(output: TensorInfo) -> int:
    return int(output.shape[-2])


def _names(outputs: Iterable[TensorInfo]) -> list[str]:
    return [output.name for output in outputs]


def _activation(checkpoint: Checkpoint, outputs: Iterable[TensorInfo], raw: str) -> str:
    """The activation that is left to do: none where it ends the graph."""
    done = {last_op(checkpoint, output).lower() for output in outputs}
    return "none" if done == {raw} else raw


def _cells(strides: Iterable[int], per_cell: int) -> dict[str, Any]:
    """Priors of a stride's size at the corners of the cells."""
    return {
        "maps": [
            {"step_px": stride, "cell_offset": 0, "sizes_wh_px": [[stride, stride]] * per_cell}
            for stride in strides
        ]
    }


def _rows_match(
    outputs: list[TensorInfo], wh: tuple[int, int], strides: Iterable[int], per_cell: int
) -> bool:
    return [_rows(output) for output in outputs] == [per_cell * num_cells(wh, [stride]) for stride in strides]


def _yunet(checkpoint: Checkpoint, wh: tuple[int, int]) -> Draft | None:
    """YuNet (Wu et al. 2023, doi:10.1007/s11633-023-1423-y): sqrt(class * objectness) of cells and strides.

    libfacedetection.train, yunet_head.py: centre (cell + t) * stride, size exp(t) * stride.
    """
    outputs = _by_columns(checkpoint)
    if set(outputs) != {1, 4, _KEY_POINTS} or len(outputs[1]) != 2 * len(outputs[4]):
        return None
    first, second = outputs[1][::2], outputs[1][1::2]  # which is which does not matter to their product
    every = (first, second, outputs[4], outputs[_KEY_POINTS])
    if not all(_rows_match(of_kind, wh, _USUAL, 1) for of_kind in every):
        return None
    head = {
        "anchors": num_cells(wh, _USUAL),
        "boxes": _names(outputs[4]),
        "scores": _names(first),
        "objectness": _names(second),
        "box_coding": "center_size",
        "prior_grid": _cells(_USUAL, 1),
        "activation": _activation(checkpoint, outputs[1], "sigmoid"),
        "score_of": "square_root_of_product",
    }
    return _draft(wh, {"resize": "letterbox_topleft", "pad_value": 0, "color": "bgr"}, head, iou=0.3)


def _scrfd(checkpoint: Checkpoint, wh: tuple[int, int]) -> Draft | None:
    """SCRFD (Guo et al. 2021, arXiv:2105.04714): two boxes a cell, distances from its corner in strides.

    insightface, scrfd.py; its models of five strides have one box a cell.
    """
    outputs = _by_columns(checkpoint)
    key_points = outputs.get(_KEY_POINTS, [])
    if set(outputs) - {_KEY_POINTS} != {1, 4}:
        return None
    layouts = (((8, 16, 32), 2), ((8, 16, 32, 64, 128), 1))
    for strides, per_cell in layouts:
        every = [outputs[1], outputs[4], *([key_points] if key_points else [])]
        if (per_cell == 2 or key_points) and all(_rows_match(kind, wh, strides, per_cell) for kind in every):
            break
    else:
        return None
    head = {
        "anchors": per_cell * num_cells(wh, strides),
        "boxes": _names(outputs[4]),
        "scores": _names(outputs[1]),
        "box_coding": "distances",
        "prior_grid": _cells(strides, per_cell),
        "activation": _activation(checkpoint, outputs[1], "sigmoid"),
    }
    preprocess = {"resize": "letterbox_topleft", "pad_value": 0, "mean": [127.5] * 3, "std": [128.0] * 3}
    guesses = {} if key_points else {"head.box_coding": "center_size for heads of another kind"}
    return _draft(wh, preprocess, head, iou=0.4, **guesses)


def _retinaface(checkpoint: Checkpoint, wh: tuple[int, int]) -> Draft | None:
    """RetinaFace (Deng et al. 2019, arXiv:1905.00641): raw boxes against priors, two classes, landmarks.

    biubug6/Pytorch_Retinaface, prior_box.py; Face-Detector-1MB-with-landmark has more and smaller priors.
    """
    columns: dict[int, tuple[TensorInfo, list[int] | None]]
    if len(checkpoint.outputs) == 1:
        columns = _columns_of_one(checkpoint, checkpoint.outputs[0])
    else:
        columns = {width: (outputs[0], None) for width, outputs in _by_columns(checkpoint).items()}
    if set(columns) != {4, 2, _KEY_POINTS} or len(checkpoint.outputs) not in (1, 3):
        return None
    (boxes, box_columns), (scores, score_columns) = columns[4], columns[2]
    anchors = _rows(checkpoint.outputs[0])
    counts = [sum(len(sizes) * num_cells(wh, [step]) for step, sizes in p.items()) for p in _RETINA_PRIORS]
    if anchors not in counts:
        return None
    priors = _RETINA_PRIORS[counts.index(anchors)]
    joined = len(checkpoint.outputs) == 1
    head = {
        "anchors": anchors,
        "boxes": checkpoint.outputs[0].name if joined else boxes.name,
        "scores": checkpoint.outputs[0].name if joined else scores.name,
        "boxes_columns": box_columns,
        "scores_columns": score_columns,
        "box_coding": "center_size",
        "variances": [0.1, 0.1, 0.2, 0.2],
        "prior_grid": {"maps": [{"step_px": step, "min_sizes_px": sizes} for step, sizes in priors.items()]},
        "activation": _activation(checkpoint, [scores], "softmax"),
        "background_column": 0,
    }
    preprocess = {"resize": "letterbox_topleft", "pad_value": 0, "color": "bgr", "mean": [104, 117, 123]}
    return _draft(wh, preprocess, head, iou=0.4, **{"head.prior_grid": "the priors of another training"})


def _columns_of_one(
    checkpoint: Checkpoint, output: TensorInfo
) -> dict[int, tuple[TensorInfo, list[int] | None]]:
    """The parts that the one output's columns were joined of, each with its columns."""
    parts, found, start = _parts(checkpoint, output), {}, 0
    for name, width in parts:
        found[width] = (TensorInfo(name, "", ()), [start, start + width])
        start += width
    return dict(found) if len(parts) == 3 else {}


def _parts(checkpoint: Checkpoint, output: TensorInfo) -> list[tuple[str, int]]:
    """Name and width of the tensors that the columns of ``output`` [N,A,columns] come from, in order."""
    columns = columns_of(checkpoint, output, 2) if len(output.shape) == 3 else []
    return [(name, len(list(run))) for name, run in groupby(columns, key=lambda column: column.tensor)]


def _blazeface(checkpoint: Checkpoint, wh: tuple[int, int]) -> Draft | None:
    """BlazeFace (Bazarevsky et al. 2019, arXiv:1907.05047): boxes in pixels from the middle of a cell.

    MediaPipe's ssd_anchors_calculator for its front, back and full range detectors.
    """
    outputs, per_cell = _by_columns(checkpoint), _BLAZE_PRIORS.get(wh[0], {})
    if set(outputs) != {1, 16} or wh[0] != wh[1]:
        return None
    levels = [count * num_cells(wh, [stride]) for stride, count in per_cell.items()]
    rows = {tuple(_rows(output) for output in of_kind) for of_kind in outputs.values()}
    if len(rows) != 1 or rows.pop() not in (tuple(levels), (sum(levels),)):
        return None
    head = {
        "anchors": sum(levels),
        "boxes": _names(outputs[16]),
        "boxes_columns": [0, 4],
        "scores": _names(outputs[1]),
        "box_coding": "center_size_linear",
        "prior_grid": {
            "maps": [
                {"step_px": stride, "sizes_wh_px": [[1, 1]] * count} for stride, count in per_cell.items()
            ]
        },
        "activation": _activation(checkpoint, outputs[1], "sigmoid"),
    }
    preprocess = {"resize": "letterbox_center", "pad_value": 0, "mean": [127.5] * 3, "std": [127.5] * 3}
    return _draft(wh, preprocess, head, iou=0.3)


def _yolov5_face(checkpoint: Checkpoint, wh: tuple[int, int]) -> Draft | None:
    """YOLOv5-face (Qi et al. 2021, arXiv:2105.12931): decoded, with landmarks before the classes.

    deepcam-cn/yolov5-face, yolo.py: ten landmark columns lie between objectness and classes.
    """
    if not has_landmark_columns(checkpoint):
        return None
    output = checkpoint.outputs[0]
    columns = int(output.shape[2])
    head = {
        "anchors": output.shape[1],
        "boxes": output.name,
        "boxes_columns": [0, 4],
        "scores": output.name,
        "scores_columns": [15, columns],
        "objectness_column": 4,
        "box_coding": "cxcywh",
        "units": "pixels",
        "activation": "none",
    }
    draft = _draft(wh, {"resize": "letterbox_center", "scale": 1 / 255}, head, iou=0.5)
    if columns > 16:
        del draft.card_fields["labels"]
    return Draft(draft.card_fields, columns - 15, draft.guesses)


def has_landmark_columns(checkpoint: Checkpoint) -> bool:
    """Whether ten landmark columns lie between objectness and classes of a YOLO's one output [N,A,15+C]."""
    if len(checkpoint.outputs) != 1:
        return False
    ends = set(accumulate(width for _, width in _parts(checkpoint, checkpoint.outputs[0])))
    return {4, 5, 15} < ends


def _family(name: str, expects: str, read: Callable[[Checkpoint, tuple[int, int]], Draft | None]) -> Family:
    def recognise(checkpoint: Checkpoint) -> Draft | None:
        wh = image_wh(checkpoint)
        return read(checkpoint, wh) if wh is not None and len(checkpoint.inputs) == 1 else None

    return Family(
        name, expects, Head, generic.num_anchors, recognise, generic.decode, about=inspect.getdoc(read)
    )


FAMILIES = (
    _family(
        "yunet", "class, objectness, box and key points [N,A,1], 1, 4 and 10 of strides 8, 16, 32", _yunet
    ),
    _family("scrfd", "scores [N,A,1], boxes [N,A,4] and key points of each stride, two a cell", _scrfd),
    _family("retinaface", "boxes, scores and landmarks [N,A,4], 2 and 10, or the three in one", _retinaface),
    _family(
        "blazeface", "scores [N,A,1] and boxes with key points [N,A,16] at 128, 192 or 256 px", _blazeface
    ),
    _family("yolov5_face", "one output [N,A,15+C] of box, objectness, landmarks, classes", _yolov5_face),
)
