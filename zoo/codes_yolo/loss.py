"""Which anchors answer for which box, and the loss: CIoU, objectness, classes."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional

from zoo.codes_yolo.network import ANCHORS_PER_SCALE, SCALE_XY, STRIDES

_MOST_RATIO = 3.5  # an anchor answers for boxes up to this many times wider/higher or narrower/lower
_SCALE_WEIGHTS = (
    3.0,
    1.5,
    0.8,
)  # the fine grid has 16 times as many cells, so its mean is that much more diluted
_BOX, _OBJECT, _CLASS = 0.06, 1.4, 0.3
_OVERLAP_SHARE = 0.5  # objectness aims at half 1, half the overlap: confident, yet ordered by quality


def match(
    targets: Tensor, anchors_px: Tensor, stride: int, grid: int
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Match boxes with anchors of one scale by the ratio of sides, in the centre's cell and two neighbours.

    `targets`: float32 [n, 6], picture index, class, cx, cy, w, h in pixels. Returns int64 picture, anchor,
    row, column and the matched targets [m, 6].
    """
    ratio = targets[:, None, 4:] / anchors_px[None]
    fits = torch.max(ratio, 1 / ratio).amax(2) < _MOST_RATIO
    which, anchor = fits.nonzero(as_tuple=True)
    chosen = targets[which]
    centre = chosen[:, 2:4] / stride
    part = centre % 1
    offsets = [torch.zeros_like(centre)]
    keeps = [torch.ones(len(chosen), dtype=torch.bool)]
    for axis in (0, 1):
        for sign, near in ((-1, part[:, axis] < 0.5), (1, part[:, axis] > 0.5)):
            offset = torch.zeros_like(centre)
            offset[:, axis] = sign
            offsets.append(offset)
            keeps.append(near)
    keep = torch.stack(keeps)
    cell = (centre.floor()[None] + torch.stack(offsets))[keep].long()
    row_index = keep.nonzero(as_tuple=True)[1]
    anchor, chosen = anchor[row_index], chosen[row_index]
    inside = ((cell >= 0) & (cell < grid)).all(1)
    cell, anchor, chosen = cell[inside], anchor[inside], chosen[inside]
    return chosen[:, 0].long(), anchor, cell[:, 1], cell[:, 0], chosen


def ciou(first: Tensor, second: Tensor) -> Tensor:
    """Complete IoU of boxes [m, 4] given as cx, cy, w, h: float32 [m]."""
    low = torch.max(first[:, :2] - first[:, 2:] / 2, second[:, :2] - second[:, 2:] / 2)
    high = torch.min(first[:, :2] + first[:, 2:] / 2, second[:, :2] + second[:, 2:] / 2)
    shared = (high - low).clamp(min=0).prod(1)
    overlap = shared / (first[:, 2:].prod(1) + second[:, 2:].prod(1) - shared + 1e-7)
    outer_low = torch.min(first[:, :2] - first[:, 2:] / 2, second[:, :2] - second[:, 2:] / 2)
    outer_high = torch.max(first[:, :2] + first[:, 2:] / 2, second[:, :2] + second[:, 2:] / 2)
    distance = ((first[:, :2] - second[:, :2]) ** 2).sum(1) / (((outer_high - outer_low) ** 2).sum(1) + 1e-7)
    angle = torch.atan(second[:, 2] / second[:, 3]) - torch.atan(first[:, 2] / (first[:, 3] + 1e-7))
    shape = 4 / math.pi**2 * angle**2
    with torch.no_grad():
        weight = shape / (1 - overlap + shape + 1e-7)
    return overlap - distance - weight * shape


def _scale_loss(
    head: Tensor, targets: Tensor, anchors_px: Tensor, stride: int
) -> tuple[Tensor, Tensor, Tensor]:
    """Box, objectness and class loss of one scale; `head`: float32 [n, anchors * (5 + c), grid, grid]."""
    count, channels, grid, _ = head.shape
    maps = head.view(count, ANCHORS_PER_SCALE, channels // ANCHORS_PER_SCALE, grid, grid)
    picture, anchor, row, column, chosen = match(targets, anchors_px, stride, grid)
    goal = torch.zeros(count, ANCHORS_PER_SCALE, grid, grid)
    box_loss = class_loss = head.sum() * 0
    if len(chosen):
        raw = maps[picture, anchor, :, row, column]
        cell = torch.stack([column, row], 1)
        centre = (raw[:, :2].sigmoid() * SCALE_XY - (SCALE_XY - 1) / 2 + cell) * stride
        size = anchors_px[anchor] * raw[:, 2:4].clamp(max=4).exp()
        quality = ciou(torch.cat([centre, size], 1), chosen[:, 2:])
        box_loss = (1 - quality).mean()
        target = (1 - _OVERLAP_SHARE) + _OVERLAP_SHARE * quality.detach().clamp(0, 1)
        goal[picture, anchor, row, column] = target
        wanted = functional.one_hot(chosen[:, 1].long(), raw.shape[1] - 5).float()
        class_loss = functional.binary_cross_entropy_with_logits(raw[:, 5:], wanted)
    object_loss = functional.binary_cross_entropy_with_logits(maps[:, :, 4], goal)
    return box_loss, object_loss, class_loss


def detection_loss(
    heads: tuple[Tensor, ...], targets: Tensor, anchors_px: Tensor
) -> tuple[Tensor, list[float]]:
    """Sum over the scales: the loss and its three parts. `anchors_px`: float32 [scales, anchors, 2]."""
    parts = [torch.zeros(()), torch.zeros(()), torch.zeros(())]
    for head, anchors, stride, weight in zip(heads, anchors_px, STRIDES, _SCALE_WEIGHTS, strict=True):
        box, objectness, label = _scale_loss(head.float(), targets, anchors, stride)
        for index, (value, factor) in enumerate(
            ((box, _BOX), (objectness, _OBJECT * weight), (label, _CLASS))
        ):
            parts[index] = parts[index] + value * factor
    return parts[0] + parts[1] + parts[2], [float(part.detach()) for part in parts]
