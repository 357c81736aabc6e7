"""What Ultralytics' exporter writes into a file's metadata (ultralytics/engine/exporter.py)."""

from __future__ import annotations

import ast
import math
from collections.abc import Sequence

from detserve_builder.checkpoint import Checkpoint, TensorInfo
from detserve_builder.errors import BuildError

PREPROCESS = {"resize": "letterbox_center", "pad_value": 114, "color": "rgb", "scale": 1 / 255}
STRETCHED = {"resize": "stretch", "color": "rgb", "scale": 1 / 255}  # its RT-DETR
_BOXES = ("detect", "segment", "pose")


def is_export(checkpoint: Checkpoint) -> bool:
    """Whether the metadata is Ultralytics', so that the preprocessing is known."""
    metadata = checkpoint.metadata
    return metadata.get("description", "").startswith("Ultralytics") or {"task", "stride"} <= metadata.keys()


def refuse_other_tasks(checkpoint: Checkpoint) -> None:
    """Raise :class:`BuildError` for a task without upright boxes, where the metadata says one."""
    task = checkpoint.metadata.get("task", _BOXES[0])
    if task in _BOXES or "names" not in checkpoint.metadata:
        return
    gives = {"obb": "rotated boxes", "classify": "one class a picture"}.get(task, f"the task {task!r}")
    raise BuildError(
        f"{checkpoint.path}: Ultralytics {task}: a network for {gives}, but detserve serves upright boxes; "
        "bring a model of the task detect, segment or pose"
    )


def is_rtdetr(checkpoint: Checkpoint) -> bool:
    """Whether the metadata names RT-DETR, whose boxes are shares and whose pictures are stretched."""
    metadata = checkpoint.metadata
    return metadata.get("head") == "RTDETRDecoder" or "rtdetr" in metadata.get("description", "").casefold()


def classes_and_behind(
    checkpoint: Checkpoint, columns: int, found: tuple[int, int] | None, prototypes: Sequence[TensorInfo]
) -> tuple[int, int]:
    """How many of ``columns`` behind a box are class scores, and how many lie behind those.

    ``found`` is what the graph shows, ``prototypes`` are the outputs [N,M,h,w] beside. Raises
    :class:`BuildError` where the columns behind the classes are an angle, or nothing that is known.
    """
    said = said_behind(checkpoint, prototypes)
    classes, behind = found or (columns - (said or 0), said or 0)
    if behind == 1:
        raise BuildError(angle_behind(checkpoint))
    key_points = behind % 3 == 0 or behind % 2 == 0  # x, y and maybe visibility
    if classes < 1 or not (behind == said or (said is None and key_points)):
        raise BuildError(
            f"{checkpoint.path}: behind its boxes are {columns} columns, {classes} of class scores and "
            f"{behind} others, but by its metadata and other outputs {said or 0} are mask coefficients or "
            "key points; say what the columns are in a card of the family generic"
        )
    return classes, behind


def angle_behind(checkpoint: Checkpoint) -> str:
    """The sentence for a head with one column more than box and classes."""
    return (
        f"{checkpoint.path}: YOLO obb: the column behind the classes is the angle of a rotated box, but "
        "detserve serves upright boxes; bring a model of the task detect, segment or pose"
    )


def said_behind(checkpoint: Checkpoint, prototypes: Sequence[TensorInfo]) -> int | None:
    """Columns of mask coefficients or key points, by metadata and outputs; None where they do not say."""
    task = checkpoint.metadata.get("task")
    if prototypes and task in (None, "segment"):
        channels = prototypes[0].shape[1]
        return channels if isinstance(channels, int) else None
    try:
        shape = ast.literal_eval(checkpoint.metadata.get("kpt_shape", ""))
        return math.prod(int(size) for size in shape)
    except (ValueError, SyntaxError, TypeError):
        return 0 if task == "detect" else None
