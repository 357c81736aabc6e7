"""Pictures with their detections drawn in."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from detserve_client.pictures.files import WRITTEN_SUFFIXES, upright_pixels, write_picture
from detserve_core.detections import Detection, Detections
from detserve_core.errors import MissingExtra


def require_drawing() -> None:
    """Raise :class:`MissingExtra` where the libraries for drawing are not installed."""
    for library, module in (("opencv-python", "cv2"), ("supervision", "supervision")):
        try:
            __import__(module)
        except ImportError:
            raise MissingExtra(library, "draw") from None


def annotated(
    pixels: NDArray[np.uint8], detections: Detections, track_ids: Sequence[int | None] | None = None
) -> NDArray[np.uint8]:
    """A copy of BGR ``pixels`` ``(h, w, 3)`` with boxes and labels; line and text grow with the picture.

    The best detections are drawn last, so that they are on top. With ``track_ids``, one for each detection
    and None for one that is in no track, a track keeps its colour, and its id stands in the label.
    """
    import supervision as sv

    height, width = pixels.shape[:2]
    thickness = sv.calculate_optimal_line_thickness((width, height))
    boxes = sv.BoxAnnotator(thickness=thickness)
    labels = sv.LabelAnnotator(
        text_scale=sv.calculate_optimal_text_scale((width, height)),
        text_thickness=max(1, thickness // 2),
        smart_position=True,
    )
    order = np.argsort(detections.scores, kind="stable")
    best_last = Detections(
        detections.boxes[order], detections.scores[order], detections.classes[order], detections.labels
    )
    ids = [None] * len(detections) if track_ids is None else [track_ids[row] for row in order]
    rows = best_last.to_supervision()
    texts = [_label(detection, track) for detection, track in zip(best_last, ids, strict=True)]
    colors = best_last.classes if track_ids is None else np.array([track or 0 for track in ids], np.int64)
    drawn: NDArray[np.uint8] = boxes.annotate(pixels.copy(), rows, custom_color_lookup=colors)
    return labels.annotate(drawn, rows, labels=texts, custom_color_lookup=colors)


def _label(detection: Detection, track_id: int | None) -> str:
    text = f"{detection.label} {detection.score:.2f}"
    return text if track_id is None else f"#{track_id} {text}"


def drawn_path(folder: Path, name: Path) -> Path:
    """Where the drawn picture of ``name`` goes: the same name, ``.jpg`` where that format is not written."""
    if name.suffix.lower() in WRITTEN_SUFFIXES:
        return folder / name
    return folder / name.with_name(f"{name.name}.jpg")


def save_drawn(source: Path, detections: Detections, target: Path) -> None:
    """Draw the detections into the picture ``source`` and write it to ``target``, whole or not at all.

    Raises:
        SourceError: ``source`` cannot be read or decoded here.
        OutputError: ``target`` cannot be written.
    """
    write_picture(target, annotated(upright_pixels(source), detections))
