"""The network: a narrow residual backbone, pooled context, three YOLOv3 heads; under 0.5 M parameters."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

STRIDES = (8, 16, 32)
ANCHORS_PER_SCALE = 3
SCALE_XY = 2.0
"""Centres may lie half a cell outside their cell, so that neighbouring cells can share an object."""


class ConvUnit(nn.Sequential):
    """Convolution, batch normalisation, ReLU (which int8 engines fold into the convolution)."""

    def __init__(self, inputs: int, outputs: int, kernel: int = 3, stride: int = 1) -> None:
        super().__init__(
            nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, bias=False),
            nn.BatchNorm2d(outputs, eps=1e-3, momentum=0.03),
            nn.ReLU(inplace=True),
        )


class Residual(nn.Module):
    """1 x 1 to half the channels, 3 x 3 back, added to the input."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.squeeze = ConvUnit(channels, channels // 2, 1)
        self.expand = ConvUnit(channels // 2, channels, 3)

    def forward(self, x: Tensor) -> Tensor:
        """float32 [n, c, h, w] to the same shape."""
        return x + self.expand(self.squeeze(x))  # type: ignore[no-any-return]


class PooledContext(nn.Module):
    """Maxima over 5, 9 and 13 cells beside the map itself: a code may fill the whole picture."""

    def __init__(self, inputs: int, hidden: int, outputs: int) -> None:
        super().__init__()
        self.reduce = ConvUnit(inputs, hidden, 1)
        self.merge = ConvUnit(hidden * 4, outputs, 1)

    def forward(self, x: Tensor) -> Tensor:
        """float32 [n, inputs, h, w] to [n, outputs, h, w]."""
        maps = [self.reduce(x)]
        for _ in range(3):
            maps.append(functional.max_pool2d(maps[-1], 5, 1, 2))
        return self.merge(torch.cat(maps, 1))  # type: ignore[no-any-return]


class CodesNetwork(nn.Module):
    """Picture float32 [n, 3, S, S] (RGB, 0..1) to three raw heads [n, anchors * (5 + classes), g, g]."""

    def __init__(self, class_count: int) -> None:
        super().__init__()
        outputs = ANCHORS_PER_SCALE * (5 + class_count)
        self.to_8 = nn.Sequential(
            ConvUnit(3, 16, 3, 2), ConvUnit(16, 32, 3, 2), Residual(32),
            ConvUnit(32, 48, 3, 2), Residual(48), Residual(48),
        )  # fmt: skip
        self.to_16 = nn.Sequential(ConvUnit(48, 80, 3, 2), Residual(80), Residual(80))
        self.to_32 = nn.Sequential(ConvUnit(80, 128, 3, 2), Residual(128), PooledContext(128, 64, 128))
        self.down_to_16 = ConvUnit(128, 64, 1)
        self.fuse_16 = nn.Sequential(ConvUnit(80 + 64, 64, 1), ConvUnit(64, 64))
        self.down_to_8 = ConvUnit(64, 32, 1)
        self.fuse_8 = nn.Sequential(ConvUnit(48 + 32, 48, 1), ConvUnit(48, 48))
        self.heads = nn.ModuleList(nn.Conv2d(channels, outputs, 1) for channels in (48, 64, 128))
        self._start_silent(class_count)

    def _start_silent(self, class_count: int) -> None:
        """Bias objectness low: nearly every cell is empty, and training should not begin by learning that."""
        for head in self.heads:
            bias = head.bias.detach().view(ANCHORS_PER_SCALE, 5 + class_count)
            bias[:, 4] = -5.0
            bias[:, 5:] = -1.0

    def forward(self, pictures: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Raw heads for strides 8, 16, 32."""
        at_8 = self.to_8(pictures)
        at_16 = self.to_16(at_8)
        at_32 = self.to_32(at_16)
        at_16 = self.fuse_16(torch.cat([at_16, _double(self.down_to_16(at_32))], 1))
        at_8 = self.fuse_8(torch.cat([at_8, _double(self.down_to_8(at_16))], 1))
        heads = [head(x) for head, x in zip(self.heads, (at_8, at_16, at_32), strict=True)]
        return heads[0], heads[1], heads[2]


def _double(x: Tensor) -> Tensor:
    return functional.interpolate(x, scale_factor=2.0, mode="nearest")
