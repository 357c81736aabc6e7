"""Write `checkpoint.onnx` and `card.json`: normalisation folded, batch size free, checked."""

from __future__ import annotations

import copy
import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import torch
from torch.nn.utils.fusion import fuse_conv_bn_eval

from zoo.codes_yolo.network import SCALE_XY, STRIDES, CodesNetwork, ConvUnit
from zoo.letterbox import PAD_VALUE
from zoo.scenes.symbols import LABELS

INPUT_PX = 416
_OPSET = 17
_MOST_DIFFERENCE = 1e-4


def fold_normalisation(network: CodesNetwork) -> CodesNetwork:
    """Copy the network with every batch normalisation inside its convolution."""
    folded: CodesNetwork = copy.deepcopy(network).eval().float()
    for unit in folded.modules():
        if isinstance(unit, ConvUnit):
            unit[0] = fuse_conv_bn_eval(unit[0], unit[1])
            unit[1] = torch.nn.Identity()
    return folded


def card(anchors_px: list[list[list[float]]], sha256: str) -> dict[str, Any]:
    """What the product must know to serve the file."""
    return {
        "schema_version": 1,
        "name": "codes_yolo",
        "family": "yolov3",
        "input_wh": [INPUT_PX, INPUT_PX],
        "preprocess": {
            "resize": "letterbox_center", "pad_value": PAD_VALUE, "color": "rgb",
            "scale": 0.00392156862745098, "mean": [0, 0, 0], "std": [1, 1, 1],
        },
        "head": {"strides": list(STRIDES), "anchors_wh_px": anchors_px, "scale_xy": SCALE_XY},
        "labels": list(LABELS),
        "thresholds": {"score": 0.5, "iou": 0.45, "max_detections": 100},
        "candidates": 300,
        "max_picture_pixels": 50_000_000,
        "origin": {
            "source": "zoo/codes_yolo, trained by this project from generated scenes",
            "license": "Apache-2.0",
            "sha256": sha256,
        },
    }  # fmt: skip


def _check(path: Path, network: CodesNetwork) -> float:
    """Compare onnxruntime with the unfolded network at batch 1 and 5; returns the largest difference."""
    onnx.checker.check_model(onnx.load(path), full_check=True)
    session = ort.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    reference = copy.deepcopy(network).eval().float()
    worst = 0.0
    for batch in (1, 5):
        pictures = torch.rand(batch, 3, INPUT_PX, INPUT_PX, generator=torch.Generator().manual_seed(batch))
        with torch.no_grad():
            expected = reference(pictures)
        for ours, theirs in zip(session.run(None, {"images": pictures.numpy()}), expected, strict=True):
            worst = max(worst, float(np.abs(ours - theirs.numpy()).max()))
    if worst > _MOST_DIFFERENCE:
        raise RuntimeError(f"the exported network differs from torch by {worst:.2e}")
    return worst


def export(network: CodesNetwork, anchors_px: list[list[list[float]]], folder: Path) -> float:
    """Write both files into `folder` (each replaced in one step); return the largest error."""
    folded = fold_normalisation(network)
    part = folder / "checkpoint.onnx.part"
    names = [f"head_{stride}" for stride in STRIDES]
    torch.onnx.export(
        folded,
        (torch.zeros(2, 3, INPUT_PX, INPUT_PX),),
        str(part),
        opset_version=_OPSET,
        input_names=["images"],
        output_names=names,
        dynamic_axes={name: {0: "N"} for name in ("images", *names)},
        dynamo=False,
    )
    worst = _check(part, network)
    digest = hashlib.sha256(part.read_bytes()).hexdigest()
    note = folder / "card.json.part"
    note.write_text(json.dumps(card(anchors_px, digest), indent=1) + "\n")
    part.replace(folder / "checkpoint.onnx")
    note.replace(folder / "card.json")
    return worst
