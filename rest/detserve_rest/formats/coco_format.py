"""Detections as a COCO data set of one picture, with scores, as annotation tools import it."""

from __future__ import annotations

import orjson

from detserve_rest.formats.found import Found


def coco(found: Found) -> bytes:
    """``images``, ``categories`` by class index, and ``annotations``: ``bbox`` is x, y, width, height."""
    width, height = found.wh
    annotations = []
    for number, row in enumerate(found.detections.to_coco(image_id=1), start=1):
        area = round(row["bbox"][2] * row["bbox"][3], 4)
        annotations.append({"id": number, **row, "area": area, "iscrowd": 0})
    content = {
        "images": [{"id": 1, "file_name": found.picture.name, "width": width, "height": height}],
        "categories": [{"id": number, "name": name} for number, name in enumerate(found.detections.names)],
        "annotations": annotations,
    }
    return orjson.dumps(content)
