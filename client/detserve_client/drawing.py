"""Pictures with their detections drawn in."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from detserve_client.detections import Detection, Detections
from detserve_client.errors import MissingExtra, SourceError
from detserve_client.files import write_whole

_WRITTEN_SUFFIXES = (".bmp", ".jpeg", ".jpg", ".png", ".webp")


def require_drawing() -> None:
    """Raise :class:`MissingExtra` where the libraries for drawing are not installed."""
    for library, module in (("opencv-python", "cv2"), ("supervision", "supervision")):
        try:
            __import__(module)
        except ImportError:
            raise MissingExtra(library, "draw") from None


def upright_pixels(path: Path) -> NDArray[np.uint8]:
    """Read a picture as BGR uint8 ``(h, w, 3)``, upright as its EXIF says: the pixels that boxes are in.

    Raises:
        SourceError: the file cannot be read or is no picture.
    """
    import cv2

    try:
        encoded = np.frombuffer(path.read_bytes(), np.uint8)
        pixels = cv2.imdecode(encoded, cv2.IMREAD_COLOR) if encoded.size else None
    except OSError as error:
        raise SourceError(f"{path} cannot be read: {error.strerror}") from None
    except cv2.error:
        pixels = None
    if pixels is None:
        raise SourceError(f"{path} cannot be decoded here; expected a JPEG, PNG, WebP or BMP")
    return pixels.astype(np.uint8, copy=False)


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
    if name.suffix.lower() in _WRITTEN_SUFFIXES:
        return folder / name
    return folder / name.with_name(f"{name.name}.jpg")


def save_drawn(source: Path, detections: Detections, target: Path) -> None:
    """Draw the detections into the picture ``source`` and write it to ``target``, whole or not at all.

    Raises:
        SourceError: ``source`` cannot be read or decoded here.
        OutputError: ``target`` cannot be written.
    """
    import cv2

    _, encoded = cv2.imencode(target.suffix.lower(), annotated(upright_pixels(source), detections))
    write_whole(target, encoded.tobytes())
