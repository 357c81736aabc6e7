"""Pictures with their detections drawn in."""

from __future__ import annotations

from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from detserve_core.detections import Detection, Detections
from detserve_core.errors import MissingExtra
from detserve_core.pictures.files import WRITTEN_SUFFIXES, upright_pixels, write_picture


@dataclass(frozen=True, eq=False)
class Drawing:
    """A picture with its detections drawn in: ``pixels`` are BGR uint8 ``(h, w, 3)``."""

    pixels: NDArray[np.uint8]

    def save(self, path: Path | str) -> None:
        """Write it whole or not at all; the suffix says the format: .bmp, .jpg, .png or .webp.

        Raises:
            OutputError: the suffix is another one, or the file cannot be written.
        """
        write_picture(Path(path), self.pixels)


def require_drawing() -> None:
    """Raise :class:`MissingExtra` where the libraries for drawing are not installed."""
    require_opencv()
    if find_spec("supervision") is None:
        raise MissingExtra("supervision", "draw")


def require_opencv() -> None:
    """Raise :class:`MissingExtra` where OpenCV is not installed."""
    try:
        import cv2  # noqa: F401
    except ImportError:
        raise MissingExtra("opencv-python", "draw") from None


def annotated(pixels: NDArray[np.uint8], detections: Detections) -> NDArray[np.uint8]:
    """A copy of BGR ``pixels`` ``(h, w, 3)`` with boxes and labels; line and text grow with the picture.

    The best detections are drawn last, so that they are on top. A track keeps its colour, and its
    id is in the label.
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
    best_last = detections[order]
    rows = best_last.to_supervision()
    texts = [_label(detection) for detection in best_last]
    ids = best_last.track_ids
    colors = best_last.classes if ids is None else np.array([track or 0 for track in ids], np.int64)
    drawn: NDArray[np.uint8] = boxes.annotate(pixels.copy(), rows, custom_color_lookup=colors)
    return labels.annotate(drawn, rows, labels=texts, custom_color_lookup=colors)


def _label(detection: Detection) -> str:
    text = f"{detection.label} {detection.score:.2f}"
    return text if detection.track_id is None else f"#{detection.track_id} {text}"


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
