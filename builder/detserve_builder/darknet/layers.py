"""Every layer of Darknet that YOLO networks use, one function each: section in, ONNX nodes and output out."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from detserve_builder.darknet.activations import activate
from detserve_builder.darknet.cfg import Section
from detserve_builder.darknet.network import FeatureMap, Network, YoloMap
from detserve_builder.errors import BuildError
from detserve_builder.graph.layers import float32, int64, layer


def convolutional(network: Network, section: Section) -> FeatureMap:
    """Convolution, batch norm (folded into the weights), activation."""
    _refuse(section, "flipped", "antialiasing", "binary", "xnor", "share_index", "coordconv")
    _refuse(section, "sway", "rotate", "stretch", "stretch_sway")
    given = network.last
    filters, size = section.integer("filters", 1, at_least=1), section.integer("size", 1, at_least=1)
    groups = section.integer("groups", 1, at_least=1)
    if given.channels % groups or filters % groups:
        raise BuildError(
            f"{section.where}: groups={groups} does not divide {given.channels} channels, {filters} filters"
        )
    dilation = section.integer("dilation", 1, at_least=1) if size > 1 else 1
    stride_x, stride_y = _strides(section)
    padding = size // 2 if section.integer("pad", 0) else section.integer("padding", 0, at_least=0)
    padding *= dilation
    extent = dilation * (size - 1) + 1
    height = _out_size(section, given.height + 2 * padding, extent, stride_y)
    width = _out_size(section, given.width + 2 * padding, extent, stride_x)
    kernel, bias = network.weights.convolution(
        (filters, given.channels // groups, size, size),
        batch_normalize=bool(section.integer("batch_normalize", 0) or section.integer("cbn", 0)),
        where=section.where,
    )
    tensor = layer(
        network.graph,
        "Conv",
        given.tensor,
        kernel,
        bias,
        kernel_shape=[size, size],
        strides=[stride_y, stride_x],
        pads=[padding] * 4,
        dilations=[dilation, dilation],
        group=groups,
    )
    return FeatureMap(activate(network.graph, tensor, section, "logistic"), filters, height, width)


def maxpool(network: Network, section: Section) -> FeatureMap:
    """Max pooling. ``padding`` counts both sides together, size-1 by default; the smaller half is first."""
    _refuse(section, "maxpool_depth", "antialiasing")
    given = network.last
    stride_x, stride_y = _strides(section)
    size = section.integer("size", section.integer("stride", 1), at_least=1)
    padding = section.integer("padding", size - 1, at_least=0)
    before, after = padding // 2, padding - padding // 2
    tensor = layer(
        network.graph,
        "MaxPool",
        given.tensor,
        kernel_shape=[size, size],
        strides=[stride_y, stride_x],
        pads=[before, before, after, after],
    )
    height = _out_size(section, given.height + padding, size, stride_y)
    width = _out_size(section, given.width + padding, size, stride_x)
    return FeatureMap(tensor, given.channels, height, width)


def avgpool(network: Network, section: Section) -> FeatureMap:
    """The mean of every channel."""
    given = network.last
    return FeatureMap(layer(network.graph, "GlobalAveragePool", given.tensor), given.channels, 1, 1)


def shortcut(network: Network, section: Section) -> FeatureMap:
    """Sum of the last output and others; of one with other channels, as many as both have are added."""
    if section.text("weights_type", "none") != "none":
        raise BuildError(f"{section.where}: weights_type={section.text('weights_type', '')} is not supported")
    given = network.last
    tensor = given.tensor
    for index in section.integers("from"):
        other = network.earlier(section, index)
        if (other.height, other.width) != (given.height, given.width):
            raise BuildError(f"{section.where}: adds {other.size} (layer {index}) to {given.size}")
        common = min(given.channels, other.channels)
        addend = _channels(network, other, 0, common)
        if common < given.channels:
            missing = int64(0, 0, 0, 0, 0, given.channels - common, 0, 0)
            addend = layer(network.graph, "Pad", addend, missing)
        tensor = layer(network.graph, "Add", tensor, addend)
    activated = activate(network.graph, tensor, section)
    return FeatureMap(activated, given.channels, given.height, given.width)


def route(network: Network, section: Section) -> FeatureMap:
    """Earlier outputs one behind the other, or one of ``groups`` equal parts of each."""
    sources = [network.earlier(section, index) for index in section.integers("layers")]
    groups, group = section.integer("groups", 1, at_least=1), section.integer("group_id", 0, at_least=0)
    first, parts, channels = sources[0], [], 0
    for source in sources:
        if (source.height, source.width) != (first.height, first.width):
            raise BuildError(f"{section.where}: joins {first.size} and {source.size}")
        if source.channels % groups or group >= groups:
            raise BuildError(f"{section.where}: {source.channels} channels have no part {group} of {groups}")
        share = source.channels // groups
        parts.append(_channels(network, source, group * share, (group + 1) * share))
        channels += share
    tensor = parts[0] if len(parts) == 1 else layer(network.graph, "Concat", *parts, axis=1)
    return FeatureMap(tensor, channels, first.height, first.width)


def upsample(network: Network, section: Section) -> FeatureMap:
    """Every pixel repeated ``stride`` times both ways, times ``scale``."""
    import onnx_graphsurgeon as gs

    given, stride = network.last, section.integer("stride", 2, at_least=1)
    tensor = layer(
        network.graph,
        "Resize",
        given.tensor,
        gs.Variable.empty(),
        float32([1, 1, stride, stride]),
        mode="nearest",
        coordinate_transformation_mode="asymmetric",
        nearest_mode="floor",
    )
    scale = section.number("scale", 1)
    if scale != 1:
        tensor = layer(network.graph, "Mul", tensor, float32(scale))
    return FeatureMap(tensor, given.channels, given.height * stride, given.width * stride)


def reorg3d(network: Network, section: Section) -> FeatureMap:
    """Blocks of stride x stride pixels become channels."""
    _refuse(section, "reverse")
    return _space_to_depth(network, section, network.last)


def reorg(network: Network, section: Section) -> FeatureMap:
    """YOLOv2's variant: the bytes are read as a map of stride² fewer channels, and that one is rearranged."""
    _refuse(section, "reverse")
    given, stride = network.last, section.integer("stride", 1, at_least=1)
    if given.channels % stride**2:
        raise BuildError(f"{section.where}: {given.channels} channels are no multiple of {stride}²")
    channels, height, width = given.channels // stride**2, given.height * stride, given.width * stride
    view = layer(network.graph, "Reshape", given.tensor, int64(1, channels, height, width))
    moved = _space_to_depth(network, section, FeatureMap(view, channels, height, width))
    channels, height, width = given.channels * stride**2, given.height // stride, given.width // stride
    tensor = layer(network.graph, "Reshape", moved.tensor, int64(1, channels, height, width))
    return FeatureMap(tensor, channels, height, width)


def sam(network: Network, section: Section) -> FeatureMap:
    """Product of the last output and an earlier one, element by element."""
    given, other = network.last, network.earlier(section, section.integer("from"))
    if given.size != other.size:
        raise BuildError(f"{section.where}: multiplies {other.size} with {given.size}")
    tensor = layer(network.graph, "Mul", given.tensor, other.tensor)
    return FeatureMap(activate(network.graph, tensor, section), other.channels, other.height, other.width)


def scale_channels(network: Network, section: Section) -> FeatureMap:
    """An earlier output, each channel (``scale_wh``: each pixel) times one value of the last output."""
    given, other = network.last, network.earlier(section, section.integer("from"))
    per_pixel = (1, other.height, other.width)
    expected = per_pixel if section.integer("scale_wh", 0) else (other.channels, 1, 1)
    if (given.channels, given.height, given.width) != expected:
        raise BuildError(f"{section.where}: scales {other.size} by {given.size}")
    tensor = layer(network.graph, "Mul", other.tensor, given.tensor)
    return FeatureMap(activate(network.graph, tensor, section), other.channels, other.height, other.width)


def dropout(network: Network, section: Section) -> FeatureMap:
    """Acts in training only."""
    return network.last


def yolo(network: Network, section: Section) -> FeatureMap:
    """Notes a raw feature map for the decoder, which is the family's work."""
    given = network.last
    stride = network.image.width // given.width
    if (given.width * stride, given.height * stride) != (network.image.width, network.image.height):
        raise BuildError(
            f"{section.where}: its map is {given.width}x{given.height}, which does not divide the input of "
            f"{network.image.width}x{network.image.height}; width and height are multiples of 32"
        )
    values = section.numbers("anchors")
    anchors = list(zip(values[::2], values[1::2], strict=False))
    mask = section.integers("mask") if "mask" in section.options else list(range(section.integer("num", 1)))
    if not mask or not all(0 <= index < len(anchors) for index in mask):
        raise BuildError(f"{section.where}: mask={mask}, but anchors= gives {len(anchors)}")
    classes = section.integer("classes", 20, at_least=1)
    if given.channels != len(mask) * (5 + classes):
        raise BuildError(
            f"{section.where}: {len(mask)} anchors and {classes} classes take {len(mask) * (5 + classes)} "
            f"channels, the layer before it gives {given.channels}"
        )
    network.yolo_maps.append(
        YoloMap(
            where=section.where,
            feature_map=given,
            stride=stride,
            anchors_wh_px=[anchors[index] for index in mask],
            num_classes=classes,
            scale_xy=section.number("scale_x_y", 1),
            new_coords=bool(section.integer("new_coords", 0)),
        )
    )
    return given


LAYERS: dict[str, Callable[[Network, Section], FeatureMap]] = {
    "convolutional": convolutional,
    "conv": convolutional,
    "maxpool": maxpool,
    "max": maxpool,
    "avgpool": avgpool,
    "avg": avgpool,
    "shortcut": shortcut,
    "route": route,
    "upsample": upsample,
    "reorg": reorg,
    "reorg3d": reorg3d,
    "sam": sam,
    "scale_channels": scale_channels,
    "dropout": dropout,
    "yolo": yolo,
}


def _refuse(section: Section, *keys: str) -> None:
    for key in keys:
        if section.text(key, "0") != "0":
            raise BuildError(f"{section.where}: {key}={section.text(key, '')} is not supported")


def _strides(section: Section) -> tuple[int, int]:
    stride = section.integer("stride", 1, at_least=1)
    return section.integer("stride_x", stride, at_least=1), section.integer("stride_y", stride, at_least=1)


def _out_size(section: Section, padded: int, extent: int, stride: int) -> int:
    if padded < extent:
        raise BuildError(f"{section.where}: a window of {extent} pixels on a map of {padded}")
    return (padded - extent) // stride + 1


def _channels(network: Network, source: FeatureMap, start: int, end: int) -> Any:
    if (start, end) == (0, source.channels):
        return source.tensor
    return layer(network.graph, "Slice", source.tensor, int64(start), int64(end), int64(1))


def _space_to_depth(network: Network, section: Section, given: FeatureMap) -> FeatureMap:
    stride = section.integer("stride", 1, at_least=1)
    if given.height % stride or given.width % stride:
        raise BuildError(f"{section.where}: stride {stride} does not divide {given.width}x{given.height}")
    tensor = layer(network.graph, "SpaceToDepth", given.tensor, blocksize=stride)
    return FeatureMap(tensor, given.channels * stride**2, given.height // stride, given.width // stride)
