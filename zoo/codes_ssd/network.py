"""torchvision's SSD with four feature maps: those of codes_yolo and one coarser."""

from __future__ import annotations

from collections import OrderedDict

import torch
from torch import Tensor, nn
from torchvision.models.detection.anchor_utils import DefaultBoxGenerator
from torchvision.models.detection.ssd import SSD, SSDHead

from zoo.codes_features import CHANNELS, CodesFeatures
from zoo.codes_yolo.network import ConvUnit

INPUT_PX = 416
STRIDES = (8, 16, 32, 64)
SCALES = (0.07, 0.14, 0.28, 0.5, 0.85)
"""Square root of a default box's area as a share of the deployed side; the codes have 0.07 to 0.9."""

ASPECT_RATIOS = ((2.0,), (2.0, 4.0), (2.0, 4.0), (2.0, 4.0))
"""Beside the squares: linear codes are up to six times as wide as high."""

_COARSEST = 96


class FixedSizeBoxes(DefaultBoxGenerator):
    """Default boxes that keep their size in pixels when a training picture is smaller than the deployed one.

    torchvision's grow with the picture: the same feature would then stand for another size in every batch.
    """

    def _grid_default_boxes(
        self, grid_sizes: list[list[int]], image_size: list[int], dtype: torch.dtype = torch.float32
    ) -> Tensor:
        boxes = super()._grid_default_boxes(grid_sizes, image_size, dtype)
        boxes[:, 2:] *= INPUT_PX / image_size[0]
        return boxes


class SsdFeatures(nn.Module):
    """The maps of codes_yolo and a fourth of stride 64, for codes that fill the picture."""

    def __init__(self) -> None:
        super().__init__()
        self.codes = CodesFeatures()
        self.to_64 = nn.Sequential(ConvUnit(CHANNELS["32"], 64, 1), ConvUnit(64, _COARSEST, 3, 2))

    def forward(self, pictures: Tensor) -> OrderedDict[str, Tensor]:
        """Pictures float32 [n, 3, S, S] to maps of strides 8, 16, 32 and 64."""
        maps = self.codes(pictures)
        maps["64"] = self.to_64(maps["32"])
        return maps


def make_network(class_count: int) -> SSD:
    """An SSD whose label 0 is the background."""
    boxes = FixedSizeBoxes(
        [list(ratios) for ratios in ASPECT_RATIOS], scales=list(SCALES), steps=list(STRIDES), clip=False
    )
    channels = [*CHANNELS.values(), _COARSEST]
    head = SSDHead(channels, boxes.num_anchors_per_location(), class_count + 1)
    return SSD(
        SsdFeatures(), boxes, (INPUT_PX, INPUT_PX), class_count + 1, head=head,
        image_mean=[0.0, 0.0, 0.0], image_std=[1.0, 1.0, 1.0], _skip_resize=True,
        iou_thresh=0.5, score_thresh=0.01, nms_thresh=0.45, detections_per_img=100, topk_candidates=300,
    )  # fmt: skip
