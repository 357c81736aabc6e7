"""The detector families. Adding one is one file and one line in FAMILIES."""

from detserve_builder.families import (
    detr,
    end_to_end,
    faces,
    fastestdet,
    generic,
    nanodet,
    pair,
    ssd,
    suppressed,
    torchvision,
    yolov3,
    yolov5,
    yolov8,
    yolox,
)
from detserve_builder.families.family import Candidates, Draft, Family

FAMILIES: tuple[Family, ...] = (
    yolox.FAMILY,
    yolov3.FAMILY,
    ssd.FAMILY,
    yolov5.FAMILY,
    yolov8.FAMILY,
    end_to_end.FAMILY,
    nanodet.FAMILY,
    fastestdet.FAMILY,
    detr.FAMILY,
    torchvision.FAMILY,
    pair.FAMILY,
    suppressed.FAMILY,
    *faces.FAMILIES,
    generic.FAMILY,
)

__all__ = ["FAMILIES", "Candidates", "Draft", "Family"]
