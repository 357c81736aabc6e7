"""Detections as GeoJSON in pixels of the picture, y downwards: tools for large pictures read it."""

from __future__ import annotations

import orjson

from detserve_rest.formats.found import Found


def geojson(found: Found) -> bytes:
    """A ``FeatureCollection`` with a polygon for each box; label, class and score are its properties."""
    detections = found.detections
    features = []
    for (x1, y1, x2, y2), row in zip(detections.boxes, detections.to_dicts(), strict=True):
        ring = [[x1, y1], [x2, y1], [x2, y2], [x1, y2], [x1, y1]]
        properties = {name: row[name] for name in ("label", "class_id", "score")}
        geometry = {"type": "Polygon", "coordinates": [ring]}
        features.append({"type": "Feature", "geometry": geometry, "properties": properties})
    content = {"type": "FeatureCollection", "features": features}
    return orjson.dumps(content, option=orjson.OPT_SERIALIZE_NUMPY)
