"""The forms in which detections are answered, by the names of ``?format=``."""

from __future__ import annotations

from detserve_rest.formats.coco_format import coco
from detserve_rest.formats.found import Format
from detserve_rest.formats.geojson_format import geojson
from detserve_rest.formats.jpeg_format import jpeg
from detserve_rest.formats.json_format import json
from detserve_rest.formats.yolo_format import yolo

FORMATS = {
    "json": Format("application/json", json),
    "jpg": Format("image/jpeg", jpeg, slow=True),
    "coco": Format("application/json", coco),
    "yolo": Format("text/plain; charset=utf-8", yolo),
    "geojson": Format("application/geo+json", geojson),
}
