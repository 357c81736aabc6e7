"""Prior boxes of SSD: where they are described in the card, and the arrays they become.

Centre of cell (i, j): ``((i + offset) * step, (j + offset) * step)``, offset 0.5, with ``step`` the picture's
side over the map's where the card gives none. Sizes in one cell, as Caffe's PriorBox and torchvision's
DefaultBoxGenerator order them: per minimum size s the square s; with a maximum size m the square
``sqrt(s * m)``; per aspect ratio r the boxes ``(s * sqrt(r), s / sqrt(r))`` and its transpose.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Annotated, Literal

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, model_validator

from detserve_builder.graph.layers import cell_grid, float32
from detserve_core.card import Wh
from detserve_core.errors import CardError

if TYPE_CHECKING:
    import onnx_graphsurgeon as gs
    from numpy.typing import NDArray

_Positive = Annotated[float, Field(gt=0)]


class PriorMap(BaseModel):
    """One feature map: its cells, and the boxes of one cell in network pixels.

    Without ``cells_wh`` cells of ``step_px`` cover the picture; a part of a step has a cell. The boxes
    are either ``sizes_wh_px``, in the network's order, or follow from ``min_sizes_px``, ``max_sizes_px``
    (none, or one per minimum size) and ``aspect_ratios``.
    """

    model_config = ConfigDict(extra="forbid")
    cells_wh: Wh | None = None
    step_px: _Positive | None = None
    cell_offset: Annotated[float, Field(ge=0, le=1)] = 0.5
    sizes_wh_px: list[tuple[_Positive, _Positive]] = []
    min_sizes_px: list[_Positive] = []
    max_sizes_px: list[_Positive] = []
    aspect_ratios: list[_Positive] = []

    @model_validator(mode="after")
    def _one_description(self) -> PriorMap:
        if self.cells_wh is None and self.step_px is None:
            raise ValueError("give cells_wh, or step_px, or both")
        if bool(self.sizes_wh_px) == bool(self.min_sizes_px):
            raise ValueError("give either sizes_wh_px or min_sizes_px")
        if self.sizes_wh_px and (self.max_sizes_px or self.aspect_ratios):
            raise ValueError("max_sizes_px and aspect_ratios go with min_sizes_px, not with sizes_wh_px")
        if self.max_sizes_px and len(self.max_sizes_px) != len(self.min_sizes_px):
            raise ValueError(
                f"{len(self.min_sizes_px)} min_sizes_px but {len(self.max_sizes_px)} max_sizes_px"
            )
        return self

    def cells(self, input_wh: tuple[int, int]) -> tuple[int, int]:
        """Columns and rows of the map."""
        if self.cells_wh is not None or self.step_px is None:
            return self.cells_wh or input_wh
        return math.ceil(input_wh[0] / self.step_px), math.ceil(input_wh[1] / self.step_px)

    def num_priors(self, input_wh: tuple[int, int]) -> int:
        """Priors of all cells."""
        columns, rows = self.cells(input_wh)
        return columns * rows * len(self.cell_sizes_wh_px())

    def cell_sizes_wh_px(self) -> list[tuple[float, float]]:
        """Width and height of every prior of one cell."""
        if self.sizes_wh_px:
            return self.sizes_wh_px
        sizes = []
        for index, side in enumerate(self.min_sizes_px):
            sizes.append((side, side))
            if self.max_sizes_px:
                between = math.sqrt(side * self.max_sizes_px[index])
                sizes.append((between, between))
            for ratio in self.aspect_ratios:
                wide, high = side * math.sqrt(ratio), side / math.sqrt(ratio)
                sizes += [(wide, high), (high, wide)]
        return sizes


class PriorGrid(BaseModel):
    """Feature maps in the order of the anchors. ``clip_sizes``: no prior is larger than the picture."""

    model_config = ConfigDict(extra="forbid")
    maps: Annotated[list[PriorMap], Field(min_length=1)]
    clip_sizes: bool = False

    def boxes(self, input_wh: tuple[int, int]) -> NDArray[np.float32]:
        """Centre and size of every prior as fractions of the picture, float32 [A,4]: cx, cy, w, h."""
        side_wh = np.array(input_wh, np.float64)
        rows = []
        for prior_map in self.maps:
            cells_wh = prior_map.cells(input_wh)
            cells = cell_grid(*cells_wh).astype(np.float64)
            step = prior_map.step_px or side_wh / cells_wh
            centers = (cells + prior_map.cell_offset) * step / side_wh
            sizes = np.array(prior_map.cell_sizes_wh_px(), np.float64) / side_wh
            if self.clip_sizes:
                sizes = np.minimum(sizes, 1.0)
            rows.append(
                np.concatenate(
                    [np.repeat(centers, len(sizes), axis=0), np.tile(sizes, (len(cells), 1))], axis=1
                )
            )
        return float32(np.concatenate(rows))


class PriorTensors(BaseModel):
    """Initialisers of the graph that hold the priors: one of A rows of 4, or two of A rows of 2.

    ``form`` center_size is centre then size, corner is the low then the high corner; both in the head's
    ``axis_order``. ``units`` normalized are fractions of the picture, px network pixels.
    """

    model_config = ConfigDict(extra="forbid")
    names: Annotated[list[str], Field(min_length=1, max_length=2)]
    form: Literal["center_size", "corner"] = "center_size"
    units: Literal["normalized", "px"] = "normalized"

    def boxes(
        self, graph: gs.Graph, input_wh: tuple[int, int], axis_order: Literal["xy", "yx"]
    ) -> NDArray[np.float32]:
        """As :meth:`PriorGrid.boxes`; raises CardError where the graph has no such initialisers."""
        values, fields = [], 4 // len(self.names)
        known = graph.tensors()
        for name in self.names:
            if not hasattr(known.get(name), "values"):
                raise CardError(f"card: head.prior_tensors.names: the graph has no initialiser {name!r}")
            array = np.asarray(known[name].values, np.float64)
            if array.ndim < 2 or array.shape[-1] != fields:
                raise CardError(
                    f"card: head.prior_tensors.names: {name} has shape {list(array.shape)}, "
                    f"expected rows of {fields}"
                )
            values.append(array.reshape(-1, fields))
        if len({len(array) for array in values}) != 1:
            lengths = " and ".join(str(len(array)) for array in values)
            raise CardError(f"card: head.prior_tensors.names: {' and '.join(self.names)} have {lengths} rows")
        rows = np.concatenate(values, axis=1)
        if axis_order == "yx":
            rows = rows[:, [1, 0, 3, 2]]
        if self.units == "px":
            rows = rows / np.tile(np.array(input_wh, np.float64), 2)
        if self.form == "corner":
            low, high = rows[:, :2], rows[:, 2:]
            rows = np.concatenate([(low + high) / 2, high - low], axis=1)
        return float32(rows)
