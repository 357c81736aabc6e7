"""Detections as JSON: boxes and scores are written so that they read back as the same float32."""

from __future__ import annotations

import orjson

from detserve_rest.formats.found import Found


def json(found: Found) -> bytes:
    """``detections``, best first, the size of the ``image`` and the ``timings`` in milliseconds."""
    detections = found.detections
    names, width_height = detections.names, found.wh
    rows = [
        {"label": names[class_id], "class_id": class_id, "score": score, "box": box}
        for class_id, score, box in zip(
            detections.classes.tolist(), detections.scores, detections.boxes, strict=True
        )
    ]
    content = {
        "detections": rows,
        "image": {"width": width_height[0], "height": width_height[1]},
        "timings": found.timings_ms,
    }
    return orjson.dumps(content, option=orjson.OPT_SERIALIZE_NUMPY)
