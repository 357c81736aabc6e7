"""Anchor sizes by k-means over the boxes of the training scenes, with IoU as nearness."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Sizes = NDArray[np.float64]


def shape_overlap(first_wh: Sizes, second_wh: Sizes) -> Sizes:
    """IoU of boxes that share a corner: [n, 2] x [k, 2] to [n, k]."""
    shared = np.minimum(first_wh[:, None], second_wh[None]).prod(2)
    together: Sizes = first_wh.prod(1)[:, None] + second_wh.prod(1)[None] - shared
    return np.divide(shared, together)


def cluster_anchors(
    boxes_wh_px: Sizes, scales: int, per_scale: int, seed: int = 0
) -> list[list[list[float]]]:
    """Group box sizes; anchors come sorted by area, the smallest for the finest scale."""
    rng = np.random.default_rng(seed)
    count = scales * per_scale
    centres = boxes_wh_px[rng.choice(len(boxes_wh_px), count, replace=False)]
    for _ in range(60):
        nearest = shape_overlap(boxes_wh_px, centres).argmax(1)
        groups = [boxes_wh_px[nearest == k] for k in range(count)]
        centres = np.array([np.median(g, 0) if len(g) else centres[k] for k, g in enumerate(groups)])
    centres = centres[np.argsort(centres.prod(1))].round(1)
    anchors: list[list[list[float]]] = centres.reshape(scales, per_scale, 2).tolist()
    return anchors
