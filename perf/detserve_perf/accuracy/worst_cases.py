"""The pictures two detectors disagree on most, drawn side by side."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from detserve_core.detections import Detections
from detserve_core.pictures.drawing import annotated
from detserve_core.pictures.files import upright_pixels
from detserve_perf.accuracy.differences import WorstCase, pair

_GREY, _AMBER = (150, 150, 150), (0, 190, 255)
_JPEG_QUALITY = 90
_LEAST_WIDTH_PX = 800


def side_by_side_jpeg(case: WorstCase, model: str, other: str) -> bytes:
    """The other detector's boxes to the left, the model's to the right.

    Boxes that only one detector has carry their label and score; moved ones are amber, the others grey.

    Raises:
        SourceError: the picture cannot be read or decoded here.
    """
    import cv2

    pixels = upright_pixels(case.path)
    pairing = pair(case.found, case.other)
    moved, counts = pairing.rows[pairing.moved], case.counts
    panels = [
        _panel(pixels, case.other, pairing.missed, moved[:, 1], f"{other}: {counts.missed} only here"),
        _panel(
            pixels,
            case.found,
            pairing.extra,
            moved[:, 0],
            f"{model}: {counts.extra} only here, {counts.moved} moved",
        ),
    ]
    gap = np.full((panels[0].shape[0], 6, 3), 255, np.uint8)
    _, encoded = cv2.imencode(
        ".jpg", np.hstack([panels[0], gap, panels[1]]), [cv2.IMWRITE_JPEG_QUALITY, _JPEG_QUALITY]
    )
    return encoded.tobytes()


def _panel(
    pixels: NDArray[np.uint8],
    detections: Detections,
    alone: NDArray[np.bool_],
    moved: NDArray[np.int64],
    title: str,
) -> NDArray[np.uint8]:
    import cv2

    zoom = max(1.0, _LEAST_WIDTH_PX / pixels.shape[1])
    canvas = cv2.resize(pixels, None, fx=zoom, fy=zoom, interpolation=cv2.INTER_LINEAR)
    for row in np.flatnonzero(~alone):
        x1, y1, x2, y2 = (detections.boxes[row] * zoom).round().astype(int).tolist()
        cv2.rectangle(canvas, (x1, y1), (x2, y2), _AMBER if row in moved else _GREY, 1)
    shown = detections[alone]
    enlarged = Detections(shown.boxes * np.float32(zoom), shown.scores, shown.classes, shown.names)
    drawn = annotated(canvas.astype(np.uint8, copy=False), enlarged)
    scale = max(0.5, drawn.shape[1] / 1400)
    header = np.full((round(44 * scale), drawn.shape[1], 3), 255, np.uint8)
    cv2.putText(
        header, title, (8, round(30 * scale)), cv2.FONT_HERSHEY_SIMPLEX, scale, (0, 0, 0), 1, cv2.LINE_AA
    )
    return np.vstack([header, drawn])
