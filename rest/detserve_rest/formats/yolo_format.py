"""Detections as the label files of Ultralytics, with the score behind each box."""

from __future__ import annotations

from detserve_rest.formats.found import Found


def yolo(found: Found) -> bytes:
    """A line each: class, centre x and y, width, height as shares of the picture, score."""
    width, height = found.wh
    lines = []
    for (x1, y1, x2, y2), score, class_id, *_ in found.detections:
        box = ((x1 + x2) / 2 / width, (y1 + y2) / 2 / height, (x2 - x1) / width, (y2 - y1) / height)
        lines.append(f"{class_id} {' '.join(f'{value:.6f}' for value in (*box, score))}\n")
    return "".join(lines).encode()
