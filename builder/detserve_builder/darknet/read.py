"""FILE.cfg with FILE.weights beside it -> ONNX, and what the .cfg says for the detector card."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from detserve_builder.darknet.cfg import Section, parse_cfg
from detserve_builder.darknet.layers import LAYERS
from detserve_builder.darknet.network import FeatureMap, Network, YoloMap
from detserve_builder.darknet.weights import NoWeights, Weights
from detserve_builder.errors import BuildError

if TYPE_CHECKING:
    import onnx

SUFFIXES = (".cfg", ".weights")
_LETTERBOX_GRAY = 127  # Darknet pads with 0.5


@dataclass(frozen=True)
class DarknetNetwork:
    """``model`` gives one raw map [1,B*(5+C),h,w] per [yolo] section.

    ``sha256`` is the .weights file's, empty where there is none.
    """

    cfg_path: Path
    sha256: str
    model: onnx.ModelProto
    card_fields: dict[str, Any]


def read_darknet(path: Path, opset: int, *, structure_only: bool = False) -> DarknetNetwork:
    """Read a .cfg, or a .weights, with the other beside it under the same name.

    With ``structure_only`` a .weights file that is missing becomes zeros.

    Raises :class:`BuildError` where one is missing, the .cfg has a section, activation or option that is not
    known, or the .weights file does not hold exactly the weights that the .cfg asks for.
    """
    import onnx_graphsurgeon as gs

    cfg_path, weights_path = _beside(path, ".cfg"), path.with_suffix(".weights")
    if not structure_only:
        _beside(path, ".weights")
    net, *sections = parse_cfg(cfg_path)
    image = _image(net)
    content = _read(weights_path) if weights_path.exists() else b""
    weights = Weights(weights_path, content) if weights_path.exists() else NoWeights(weights_path)
    graph = gs.Graph(nodes=[], inputs=[image.tensor], outputs=[], opset=opset, name=cfg_path.stem)
    network = Network(cfg_path, graph, weights, image)
    for index, section in enumerate(sections):
        _add_layer(network, index, section)
    network.weights.check(cfg_path)
    _check_yolo_maps(network)
    for yolo in network.yolo_maps:
        found = yolo.feature_map
        found.tensor.dtype, found.tensor.shape = np.float32, [1, found.channels, found.height, found.width]
        graph.outputs.append(found.tensor)
    model = gs.export_onnx(graph.cleanup())
    return DarknetNetwork(
        cfg_path=cfg_path,
        sha256=hashlib.sha256(content).hexdigest() if weights_path.exists() else "",
        model=model,
        card_fields=_card_fields(cfg_path, net, network),
    )


def _beside(path: Path, suffix: str) -> Path:
    wanted = path.with_suffix(suffix)
    if not wanted.exists():
        raise BuildError(f"{wanted}: no such file; {path.name} is read together with it")
    return wanted


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise BuildError(f"{path}: cannot be read ({error.strerror})") from None


def _image(net: Section) -> FeatureMap:
    import onnx_graphsurgeon as gs

    width, height = (net.integer(key, at_least=1) for key in ("width", "height"))
    channels = net.integer("channels", at_least=1)
    if channels != 3:
        raise BuildError(f"{net.where}: channels={channels}, expected 3")
    tensor = gs.Variable("images", np.float32, [1, channels, height, width])
    return FeatureMap(tensor, channels, height, width)


def _add_layer(network: Network, index: int, section: Section) -> None:
    make = LAYERS.get(section.name)
    if make is None:
        known = ", ".join(f"[{name}]" for name in LAYERS)
        raise BuildError(f"{section.where} is not supported; known are {known}")
    before = len(network.graph.nodes)
    network.maps.append(make(network, section))
    for number, node in enumerate(network.graph.nodes[before:]):
        node.name = f"{section.name}_{index}/{number}_{node.op}"
    if section.name == "yolo":
        network.last.tensor.name = f"yolo_{index}"


def _check_yolo_maps(network: Network) -> None:
    if not network.yolo_maps:
        raise BuildError(f"{network.cfg_path}: no [yolo] section, so no detector of the YOLOv3 family")
    first = network.yolo_maps[0]
    strides: set[int] = set()
    for found in network.yolo_maps:
        if (found.num_classes, found.new_coords) != (first.num_classes, first.new_coords):
            raise BuildError(f"{found.where}: classes= or new_coords= differ from those of {first.where}")
        if found.stride in strides:
            raise BuildError(f"{found.where}: a second map of stride {found.stride}")
        strides.add(found.stride)


def _card_fields(cfg_path: Path, net: Section, network: Network) -> dict[str, Any]:
    maps = sorted(network.yolo_maps, key=lambda found: found.stride)
    fields: dict[str, Any] = {
        "family": "yolov3",
        "input_wh": [network.image.width, network.image.height],
        "preprocess": {"resize": "stretch", "color": "rgb", "scale": 1 / 255},
        "head": _head(maps),
    }
    if net.integer("letter_box", 0):
        fields["preprocess"] |= {"resize": "letterbox_center", "pad_value": _LETTERBOX_GRAY}
    labels = _labels(cfg_path, maps[0].num_classes)
    return fields | ({"labels": labels} if labels else {})


def _head(maps: list[YoloMap]) -> dict[str, Any]:
    return {
        "strides": [found.stride for found in maps],
        "anchors_wh_px": [found.anchors_wh_px for found in maps],
        "scale_xy": [found.scale_xy for found in maps],
        "new_coords": maps[0].new_coords,
    }


def _labels(cfg_path: Path, num_classes: int) -> list[str] | None:
    """The names in FILE.names, else in the one .names file beside it with as many lines as classes."""
    own = cfg_path.with_suffix(".names")
    fitting = []
    for path in [own] if own.exists() else sorted(cfg_path.parent.glob("*.names")):
        names = [line.strip() for line in path.read_text(errors="replace").splitlines() if line.strip()]
        if len(names) == num_classes:
            fitting.append(names)
    return fitting[0] if len(fitting) == 1 else None
