"""The detector families. Adding one is one file and one line in FAMILIES."""

from detserve_builder.families import faces, fastestdet, generic, nanodet, pair, torchvision
from detserve_builder.families.detr import detr
from detserve_builder.families.family import Candidates, Draft, Family
from detserve_builder.families.ssd import ssd
from detserve_builder.families.suppressed import suppressed
from detserve_builder.families.yolo import end_to_end, yolov3, yolov5, yolov8, yolox

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
