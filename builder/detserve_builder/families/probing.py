"""What a network gives for a picture, where its graph alone does not tell what its outputs mean."""

from __future__ import annotations

from collections.abc import Sequence
from enum import Enum
from typing import TYPE_CHECKING, Any

import numpy as np

from detserve_builder.checkpoint import Checkpoint, TensorInfo
from detserve_builder.errors import BuildError
from detserve_builder.families.columns import Column
from detserve_builder.graph.layers import cell_grid
from detserve_builder.graph.running import run
from detserve_core.card import Wh

if TYPE_CHECKING:
    from numpy.typing import NDArray

_FOLLOWS = 0.9  # correlation of centres with their cells; trained networks reach .98 and more
_ORDERED, _DISORDERED = 0.98, 0.8  # share of rows; a box is seldom larger than its distance from the edge
_PIXELS = 0.5  # of a pixel for a pixel: shares move by at most 1/32


def probe_outputs(checkpoint: Checkpoint) -> dict[str, NDArray[Any]]:
    """What the network gives for one picture of noise, by output; empty where ONNX Runtime cannot run it."""
    image = checkpoint.inputs[0]
    shape = [1, *(size for size in image.shape[1:] if isinstance(size, int))]
    try:
        return run(checkpoint.model, np.random.default_rng(0).random(shape, np.float32))
    except BuildError:
        return {}


class BoxForm(str, Enum):
    """What four columns of decoded rows are: in network pixels, or shares of the input."""

    CXCYWH = "cxcywh"
    XYXY = "xyxy"
    SHARES = "shares"


def box_form(rows: NDArray[Any], wh: Wh, strides: Sequence[int]) -> BoxForm | None:
    """The form of the boxes in the first columns of ``rows`` [A,...], one a cell of the strides.

    A centre or corner that is decoded moves with its cell, pixel for pixel or as a share of the input, and
    the second of two corners lies beyond the first. None where neither is clear: offsets that are yet to be
    decoded, or a network that is not trained.
    """
    slope = _slope_over_cells(rows[:, :2], wh, strides)
    if slope == 0:
        return None
    if slope < _PIXELS:
        return BoxForm.SHARES
    ordered = float((rows[:, 2:4] >= rows[:, :2]).all(axis=1).mean())
    if ordered > _ORDERED and _slope_over_cells(rows[:, 2:4], wh, strides) > _PIXELS:
        return BoxForm.XYXY
    return BoxForm.CXCYWH if ordered < _DISORDERED else None


def _slope_over_cells(points: NDArray[Any], wh: Wh, strides: Sequence[int]) -> float:
    """How far ``points`` [A,2] move for a pixel between their cells, 0 where they do not move with them."""
    grids = [(cell_grid(-(-wh[0] // s), -(-wh[1] // s)) + 0.5) * s for s in strides]
    slopes = []
    for found, cell in zip(np.asarray(points, np.float64).T, np.concatenate(grids).T, strict=True):
        if not np.isfinite(found).all() or found.std() == 0 or np.corrcoef(found, cell)[0, 1] < _FOLLOWS:
            return 0.0
        slopes.append(np.cov(found, cell)[0, 1] / cell.var(ddof=1))
    return float(np.mean(slopes))


def gives_class_numbers(checkpoint: Checkpoint, output: TensorInfo, columns: Sequence[Column]) -> bool:
    """Whether the sixth column of ``output`` [N,A,6] is the number of a class, and no score of one.

    ``columns`` are where its columns come from; where they do not tell, the network is run once.
    """
    if output.shape[2] != 6:
        return False
    if len(columns) == 6 and (columns[5].is_index or columns[5].is_sigmoid):
        return columns[5].is_index
    rows = probe_outputs(checkpoint).get(output.name)
    return rows is not None and bool((rows[..., 5] == np.round(rows[..., 5])).all())
