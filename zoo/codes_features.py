"""The feature maps of codes_yolo, with its trained weights: what the other code detectors are built on."""

from __future__ import annotations

from collections import OrderedDict
from pathlib import Path

import onnx
import torch
from onnx import numpy_helper
from torch import Tensor, nn
from torch.nn import functional

from zoo.codes_yolo.export import fold_normalisation
from zoo.codes_yolo.network import CodesNetwork
from zoo.scenes.symbols import LABELS

CHECKPOINT = Path(__file__).parent / "codes_yolo/checkpoint.onnx"
CHANNELS = {"8": 48, "16": 64, "32": 128}
"""Stride of a feature map in pixels: its channels."""


class CodesFeatures(nn.Module):
    """codes_yolo without its heads; batch normalisation stays folded into the convolutions, as published."""

    def __init__(self) -> None:
        super().__init__()
        self.network = fold_normalisation(CodesNetwork(len(LABELS)))
        self.network.heads = nn.ModuleList()
        # The finest layers see edges and bars whatever the head: left as they are, training is twice as fast.
        self.network.to_8.requires_grad_(False)

    def load(self, checkpoint: Path) -> None:
        """Take the weights of an exported codes_yolo; raises KeyError where one is missing."""
        stored = {
            weight.name: torch.from_numpy(numpy_helper.to_array(weight).copy())
            for weight in onnx.load(checkpoint).graph.initializer
        }
        names = self.network.state_dict().keys()
        self.network.load_state_dict({name: stored[name] for name in names})

    def forward(self, pictures: Tensor) -> OrderedDict[str, Tensor]:
        """Pictures float32 [n, 3, S, S] (RGB, 0..1) to maps float32 [n, c, S / stride, S / stride]."""
        network, pictures = self.network, pictures.contiguous(memory_format=torch.channels_last)
        # bfloat16 doubles the speed of training on processors that have it; what follows stays float32.
        with torch.autocast("cpu", torch.bfloat16, enabled=self.training):
            at_8 = network.to_8(pictures)
            at_16 = network.to_16(at_8)
            at_32 = network.to_32(at_16)
            at_16 = network.fuse_16(torch.cat([at_16, _double(network.down_to_16(at_32))], 1))
            at_8 = network.fuse_8(torch.cat([at_8, _double(network.down_to_8(at_16))], 1))
        return OrderedDict({"8": at_8.float(), "16": at_16.float(), "32": at_32.float()})


def _double(x: Tensor) -> Tensor:
    return functional.interpolate(x, scale_factor=2.0, mode="nearest")
