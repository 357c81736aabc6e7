"""The network while it is read: what the layers so far have made."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from detserve_builder.darknet.cfg import Section
from detserve_builder.darknet.weights import Weights
from detserve_builder.errors import BuildError

if TYPE_CHECKING:
    import onnx_graphsurgeon as gs


@dataclass(frozen=True)
class FeatureMap:
    """The output of a layer, [1,channels,height,width]."""

    tensor: gs.Tensor
    channels: int
    height: int
    width: int

    @property
    def size(self) -> str:
        """Width x height x channels, as Darknet prints it."""
        return f"{self.width}x{self.height}x{self.channels}"


@dataclass(frozen=True)
class YoloMap:
    """A [yolo] section: a raw feature map and how it is decoded."""

    where: str
    feature_map: FeatureMap
    stride: int
    anchors_wh_px: list[tuple[float, float]]
    num_classes: int
    scale_xy: float
    new_coords: bool


@dataclass
class Network:
    """``maps`` holds the output of every layer so far; a .cfg counts layers from 0, [net] not among them."""

    cfg_path: Path
    graph: gs.Graph
    weights: Weights
    image: FeatureMap
    maps: list[FeatureMap] = field(default_factory=list)
    yolo_maps: list[YoloMap] = field(default_factory=list)

    @property
    def last(self) -> FeatureMap:
        """What the next layer takes."""
        return self.maps[-1] if self.maps else self.image

    def earlier(self, section: Section, index: int) -> FeatureMap:
        """The output of layer ``index``, counted from here where negative. Raises :class:`BuildError`."""
        absolute = index if index >= 0 else len(self.maps) + index
        if not 0 <= absolute < len(self.maps):
            raise BuildError(f"{section.where}: takes layer {index}, but is itself layer {len(self.maps)}")
        return self.maps[absolute]
