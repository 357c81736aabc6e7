"""torchvision's Faster R-CNN with a narrow neck and head on the feature maps of codes_yolo."""

from __future__ import annotations

from collections import OrderedDict

from torch import Tensor, nn
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.faster_rcnn import FasterRCNN, FastRCNNPredictor, TwoMLPHead
from torchvision.models.detection.transform import GeneralizedRCNNTransform
from torchvision.ops import MultiScaleRoIAlign

from zoo.codes_features import CHANNELS, CodesFeatures

INPUT_PX = 416
DETECTIONS = 100
ANCHOR_SIZES_PX = ((22, 40), (68, 112), (180, 300))
"""Per stride 8, 16 and 32: square root of an anchor's area; the codes have 20 to 375."""

ANCHOR_RATIOS = (0.3, 1.0, 3.2)
"""Height over width: linear codes are long either way."""

_WIDTH = 64
_ROI_CELLS = 7
_HIDDEN = 128


class RcnnFeatures(nn.Module):
    """The maps of codes_yolo, brought to one width."""

    out_channels = _WIDTH

    def __init__(self) -> None:
        super().__init__()
        self.codes = CodesFeatures()
        self.same_width = nn.ModuleDict(
            {name: nn.Conv2d(channels, _WIDTH, 1) for name, channels in CHANNELS.items()}
        )

    def forward(self, pictures: Tensor) -> OrderedDict[str, Tensor]:
        """Pictures float32 [n, 3, S, S] to maps of strides 8, 16 and 32 with 64 channels each."""
        maps = self.codes(pictures)
        return OrderedDict((name, convolve(maps[name])) for name, convolve in self.same_width.items())


class AsGiven(GeneralizedRCNNTransform):
    """Pictures come at the size they are meant to be seen at; torchvision would enlarge them to 800 px."""

    def resize(
        self, image: Tensor, target: dict[str, Tensor] | None = None
    ) -> tuple[Tensor, dict[str, Tensor] | None]:
        """Leave the picture float32 [3, S, S] and its boxes as they are."""
        return image, target


def make_network(class_count: int) -> FasterRCNN:
    """A Faster R-CNN whose label 0 is the background."""
    # A code of 112 px is looked at in the map of stride 16, others an octave finer or coarser.
    pool = MultiScaleRoIAlign(list(CHANNELS), _ROI_CELLS, 2, canonical_scale=112, canonical_level=4)
    network = FasterRCNN(
        RcnnFeatures(),
        rpn_anchor_generator=AnchorGenerator(ANCHOR_SIZES_PX, (ANCHOR_RATIOS,) * 3),
        rpn_pre_nms_top_n_train=100, rpn_pre_nms_top_n_test=100,
        rpn_post_nms_top_n_train=60, rpn_post_nms_top_n_test=60,
        rpn_fg_iou_thresh=0.5, rpn_batch_size_per_image=48,
        box_roi_pool=pool, box_head=TwoMLPHead(_WIDTH * _ROI_CELLS**2, _HIDDEN),
        box_predictor=FastRCNNPredictor(_HIDDEN, class_count + 1),
        box_batch_size_per_image=16, box_score_thresh=0.01, box_nms_thresh=0.45,
        box_detections_per_img=DETECTIONS,
    )  # fmt: skip
    network.transform = AsGiven(INPUT_PX, INPUT_PX, image_mean=[0.0] * 3, image_std=[1.0] * 3)
    return network
