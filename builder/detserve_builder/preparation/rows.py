"""Whether two runs found the same candidates, as far as that can be said of rounded numbers."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    import onnx

SCORE = 1e-3
BOX_PX = 0.1
_BOX_SHARE = 1e-3
_COARSE = 20  # by how much more two runs of a network in half precision or 8-bit steps may differ
_COARSE_SHARE = 0.8  # and how many of its rows must be found again: rounding decides which are listed at all
_SAME_CLASS = 0.9  # two classes of the same score at the same place change places by rounding
_COARSE_OPS = {"QuantizeLinear", "DynamicQuantizeLinear", "QLinearConv", "QLinearMatMul", "ConvInteger"}
_COARSE_DTYPES = (10, 16)  # ONNX's numbers of FLOAT16 and BFLOAT16


def coarseness(model: onnx.ModelProto) -> float:
    """By how much more than float32 rounding two runs of ``model`` may differ: 1, or more where it computes
    coarsely.
    """
    coarse = any(node.op_type in _COARSE_OPS for node in model.graph.node) or any(
        tensor.data_type in _COARSE_DTYPES for tensor in model.graph.initializer
    )
    return _COARSE if coarse else 1


def same_detections(
    first: Mapping[str, NDArray[np.generic]], second: Mapping[str, NDArray[np.generic]], *, coarse: float = 1
) -> bool:
    """The same rows of one picture: boxes [1,K,4], scores [1,K], classes [1,K], in any order.

    Rounding decides the order among scores that are all but equal; for the same reason rows that score like
    the last may be others. Scores count in shares of the best, so that a picture in which next to nothing is
    found proves as much as another; boxes may differ by a tenth of a pixel, or a thousandth where they are
    large.
    """
    one, other = _rows(first), _rows(second)
    if one.shape != other.shape or not len(one):
        return one.shape == other.shape
    best = max(float(one[:, 0].max()), float(other[:, 0].max()), 1e-6)
    one[:, 0], other[:, 0] = one[:, 0] / best, other[:, 0] / best
    score = SCORE * coarse
    if not np.allclose(-np.sort(-one[:, 0]), -np.sort(-other[:, 0]), rtol=0, atol=score):
        return False
    within = np.array([score, 0.5, *[BOX_PX * coarse] * 4])
    share = np.array([0, 0, *[_BOX_SHARE * coarse] * 4])
    with np.errstate(invalid="ignore"):  # infinite boxes, which are for the look at the values to refuse
        close = np.abs(one[:, None] - other[None]) <= within + share * np.abs(one[:, None])
    least = min(one[:, 0].min(), other[:, 0].min()) + 2 * score
    decided = one[:, 0] > least, other[:, 0] > least
    in_place = _share_found(close[..., [0, 2, 3, 4, 5]].all(axis=2), *decided)
    of_class = _share_found(close.all(axis=2), *decided)
    return in_place >= (1.0 if coarse == 1 else _COARSE_SHARE) and of_class >= _SAME_CLASS * in_place


def _share_found(close: NDArray[np.bool_], rows: NDArray[np.bool_], columns: NDArray[np.bool_]) -> float:
    """The least share of the ``rows``, and of the ``columns``, that have one that is ``close`` on the other
    side.
    """
    found = [close.any(axis=1)[rows], close.any(axis=0)[columns]]
    return min(float(one.mean()) if len(one) else 1.0 for one in found)


def _rows(outputs: Mapping[str, NDArray[np.generic]]) -> NDArray[np.float64]:
    """Score, class, x1, y1, x2, y2 of each candidate of one picture, [K,6]."""
    columns = [outputs["scores"][0], outputs["classes"][0], *outputs["boxes"][0].T]
    return np.asarray(np.stack(columns, axis=1), np.float64)
