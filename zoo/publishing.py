"""What the recipes of torchvision's detectors share in writing `checkpoint.onnx` and `card.json`."""

from __future__ import annotations

import copy
import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from zoo.codes_yolo.network import ConvUnit
from zoo.letterbox import PAD_VALUE
from zoo.scenes.symbols import LABELS

OPSET = 17


def fold(network: nn.Module) -> nn.Module:
    """Copy a network, ready to export, with every batch normalisation inside its convolution."""
    folded = copy.deepcopy(network).eval().float()
    for unit in folded.modules():
        if isinstance(unit, ConvUnit) and isinstance(unit[1], nn.BatchNorm2d):
            unit[0] = fuse_conv_bn_eval(unit[0], unit[1])  # type: ignore[type-var]
            unit[1] = nn.Identity()
    return folded


def publish(folder: Path, card: dict[str, Any], write: Callable[[Path], None]) -> None:
    """Write both files, each replaced in one step. `write` writes and checks the ONNX file."""
    part, note = folder / "checkpoint.onnx.part", folder / "card.json.part"
    write(part)
    described = {
        "schema_version": 1,
        "name": folder.name,
        **card,
        "preprocess": {
            "resize": "letterbox_center", "pad_value": PAD_VALUE, "color": "rgb",
            "scale": 0.00392156862745098, "mean": [0, 0, 0], "std": [1, 1, 1],
        },
        "labels": list(LABELS),
        "max_picture_pixels": 50000000,
        "origin": {
            "source": f"zoo/{folder.name}, trained by this project from generated scenes",
            "license": "Apache-2.0",
            "sha256": hashlib.sha256(part.read_bytes()).hexdigest(),
        },
    }  # fmt: skip
    note.write_text(json.dumps(described, indent=1) + "\n")
    part.replace(folder / "checkpoint.onnx")
    note.replace(folder / "card.json")


def random_pictures(count: int, side_px: int) -> torch.Tensor:
    """Pictures float32 [n, 3, side, side], the same every time."""
    return torch.rand(count, 3, side_px, side_px, generator=torch.Generator().manual_seed(count))
