"""Write `checkpoint.onnx` (raw heads, any batch size) and `card.json`, checked against torch."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import torch
from torch import Tensor, nn
from torchvision.models.detection.ssd import SSD

from zoo.codes_ssd.network import INPUT_PX, STRIDES
from zoo.publishing import OPSET, fold, publish, random_pictures

_MOST_DIFFERENCE = 1e-3


class RawHeads(nn.Module):
    """The part of an SSD that batches: pictures to box deltas [n, a, 4] and class logits [n, a, 1 + c]."""

    def __init__(self, network: SSD) -> None:
        super().__init__()
        self.features, self.head = network.backbone, network.head

    def forward(self, pictures: Tensor) -> tuple[Tensor, Tensor]:
        """Pictures float32 [n, 3, S, S] (RGB, 0..1) to deltas and logits."""
        heads = self.head(list(self.features(pictures).values()))
        return heads["bbox_regression"], heads["cls_logits"]


def head_card(network: SSD) -> dict[str, Any]:
    """The default boxes and their coding, in the words of the product's card."""
    side_px, maps, anchors = INPUT_PX, [], 0
    # torchvision keeps the sizes in one cell as shares of the picture's side.
    for pairs, stride in zip(network.anchor_generator._wh_pairs, STRIDES, strict=True):
        cells = -(-INPUT_PX // stride)
        sizes = [[round(float(side) * side_px, 4) for side in pair] for pair in pairs]
        maps.append({"cells_wh": [cells, cells], "step_px": stride, "sizes_wh_px": sizes})
        anchors += cells * cells * len(sizes)
    classes = network.head.classification_head.num_columns
    return {
        "boxes_output": "boxes",
        "num_anchors": anchors,
        "class_columns": list(range(1, classes)),  # column 0 is the background
        "activation": "softmax",
        "coding": "center_size",
        "variances": [0.1, 0.1, 0.2, 0.2],
        "prior_grid": {"maps": maps},
    }


def _write(network: SSD, path: Path) -> None:
    heads = RawHeads(network).eval()
    torch.onnx.export(
        heads,
        (random_pictures(2, INPUT_PX),),
        str(path),
        opset_version=OPSET,
        input_names=["images"],
        output_names=["boxes", "logits"],
        dynamic_axes={name: {0: "N"} for name in ("images", "boxes", "logits")},
        dynamo=False,
    )
    onnx.checker.check_model(onnx.load(path), full_check=True)
    session = ort.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    for batch in (1, 5):
        pictures = random_pictures(batch, INPUT_PX)
        with torch.no_grad():
            expected = heads(pictures)
        for ours, theirs in zip(session.run(None, {"images": pictures.numpy()}), expected, strict=True):
            worst = float(np.abs(ours - theirs.numpy()).max())
            if worst > _MOST_DIFFERENCE:
                raise RuntimeError(f"the exported network differs from torch by {worst:.2e}")


def export(network: SSD, folder: Path) -> None:
    """Write both files into `folder`."""
    folded = fold(network)
    card = {
        "family": "ssd",
        "input_wh": [INPUT_PX, INPUT_PX],
        "head": head_card(folded),
        "thresholds": {"score": 0.6, "iou": 0.45, "max_detections": 100},
        "candidates": 300,
    }
    publish(folder, card, lambda path: _write(folded, path))
