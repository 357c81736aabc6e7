"""Pictures with their detections drawn in."""

from __future__ import annotations

from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from detserve_core.detections import Detection, Detections
from detserve_core.errors import MissingExtra
from detserve_core.picture_sources import drawn_name
from detserve_core.pictures.files import upright_pixels, write_picture
from detserve_core.pictures.fonts import drawable, font_for

if TYPE_CHECKING:
    from supervision.annotators.core import LabelAnnotator, RichLabelAnnotator

_HERSHEY_EM_PX = 30  # of the font as high as OpenCV's at scale 1


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
    id is in the label. A character that no font here has is written out, as ``\\u0e2b``.
    """
    import supervision as sv

    height, width = pixels.shape[:2]
    boxes = sv.BoxAnnotator(thickness=sv.calculate_optimal_line_thickness((width, height)))
    font = font_for(detections.names)
    labels = _label_annotator((width, height), font)
    order = np.argsort(detections.scores, kind="stable")
    best_last = detections[order]
    rows = best_last.to_supervision()
    texts = [drawable(_label(detection), font) for detection in best_last]
    ids = best_last.track_ids
    colors = best_last.classes if ids is None else np.array([track or 0 for track in ids], np.int64)
    drawn: NDArray[np.uint8] = boxes.annotate(pixels.copy(), rows, custom_color_lookup=colors)
    return labels.annotate(drawn, rows, labels=texts, custom_color_lookup=colors)


def _label_annotator(picture_wh: tuple[int, int], font: Path | None) -> LabelAnnotator | RichLabelAnnotator:
    """What draws the labels: OpenCV with its own font, or Pillow with another."""
    import supervision as sv

    scale = sv.calculate_optimal_text_scale(picture_wh)
    if font is None:
        thickness = max(1, sv.calculate_optimal_line_thickness(picture_wh) // 2)
        return sv.LabelAnnotator(text_scale=scale, text_thickness=thickness, smart_position=True)
    return sv.RichLabelAnnotator(
        font_path=str(font), font_size=max(1, round(scale * _HERSHEY_EM_PX)), smart_position=True
    )


def _label(detection: Detection) -> str:
    text = f"{detection.label} {detection.score:.2f}"
    return text if detection.track_id is None else f"#{detection.track_id} {text}"


def drawn_path(folder: Path, name: Path) -> Path:
    """Where the drawn picture of ``name`` goes: the same name, ``.jpg`` where that format is not written."""
    return folder / drawn_name(name)


def save_drawn(source: Path, detections: Detections, target: Path) -> None:
    """Draw the detections into the picture ``source`` and write it to ``target``, whole or not at all.

    Raises:
        SourceError: ``source`` cannot be read or decoded here.
        OutputError: ``target`` cannot be written.
    """
    write_picture(target, annotated(upright_pixels(source), detections))
