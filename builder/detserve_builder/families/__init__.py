"""The detector families. Adding one is one file and one line in FAMILIES."""

from detserve_builder.families import ssd, torchvision, yolov3, yolox
from detserve_builder.families.family import Candidates, Draft, Family

FAMILIES: tuple[Family, ...] = (yolox.FAMILY, yolov3.FAMILY, ssd.FAMILY, torchvision.FAMILY)

__all__ = ["FAMILIES", "Candidates", "Draft", "Family"]
