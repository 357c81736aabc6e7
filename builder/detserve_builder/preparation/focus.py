"""A Focus layer and the convolution behind it -> one convolution of twice the kernel and stride.

Focus (YOLOv5 up to 5.0, YOLOX) puts every other pixel of both axes side by side as channels before a
convolution with kernel k. The same sums are a convolution with kernel 2k and stride 2 on the picture itself
(ultralytics/yolov5 discussion 3181); strided slices are slow in OpenVINO and TensorRT.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    import onnx_graphsurgeon as gs

Offset = tuple[int, int]


def fold_focus(graph: gs.Graph) -> None:
    """Fold every Focus layer of ``graph`` whose picture has even sides."""
    for conv in graph.nodes:
        if conv.op == "Conv" and conv.inputs[0].inputs and _is_plain(conv):
            found = _focus(conv.inputs[0].inputs[0])
            if found:
                _fold(conv, *found)


def _is_plain(conv: gs.Node) -> bool:
    """Whether it is the convolution that follows a Focus: constant weights, nothing strided or grouped."""
    import onnx_graphsurgeon as gs

    attributes = conv.attrs
    unit = all(set(attributes.get(name, [1])) == {1} for name in ("strides", "dilations"))
    padded = attributes.get("auto_pad", "NOTSET") == "NOTSET"
    return unit and padded and attributes.get("group", 1) == 1 and isinstance(conv.inputs[1], gs.Constant)


def _focus(concat: gs.Node) -> tuple[gs.Tensor, list[Offset]] | None:
    """Picture and (row, column) offset of each group of channels, where ``concat`` ends a Focus layer."""
    if concat.op != "Concat" or concat.attrs["axis"] != 1:
        return None
    read = [_every_other_pixel(tensor) for tensor in concat.inputs]
    if len(read) != 4 or None in read:
        return None
    sources = {id(source) for source, _ in read}  # type: ignore[misc]
    offsets = [offset for _, offset in read]  # type: ignore[misc]
    picture = read[0][0]  # type: ignore[index]
    height, width = picture.shape[2:]
    even = all(isinstance(side, int) and side % 2 == 0 for side in (height, width))
    if len(sources) > 1 or len(set(offsets)) < 4 or not even:
        return None
    return picture, offsets


def _every_other_pixel(tensor: gs.Tensor) -> tuple[gs.Tensor, Offset] | None:
    """What ``tensor`` has every other pixel of, and from which row and column."""
    slices: list[tuple[int, int, int]] = []
    while len(slices) < 2 and tensor.inputs and (found := _step_of_two(tensor.inputs[0])):
        slices.append(found)
        tensor = tensor.inputs[0].inputs[0]
    if tensor.shape is None or len(tensor.shape) != 4:
        return None
    offset = {}
    for axis, start, end in slices:
        size = tensor.shape[axis % 4]
        if isinstance(size, int) and end >= size:
            offset[axis % 4] = start
    return (tensor, (offset[2], offset[3])) if set(offset) == {2, 3} else None


def _step_of_two(node: gs.Node) -> tuple[int, int, int] | None:
    """Axis, start and end of a Slice of every other element of one axis."""
    import onnx_graphsurgeon as gs

    if node.op != "Slice" or len(node.inputs) != 5:
        return None
    if not all(isinstance(given, gs.Constant) and given.values.size == 1 for given in node.inputs[1:]):
        return None
    start, end, axis, step = (int(given.values.item()) for given in node.inputs[1:])
    return (axis, start, end) if step == 2 and start in (0, 1) else None


def _fold(conv: gs.Node, picture: gs.Tensor, offsets: list[Offset]) -> None:
    import onnx_graphsurgeon as gs

    weights = conv.inputs[1].values
    channels = weights.shape[1] // len(offsets)
    height, width = weights.shape[2:]
    folded = np.zeros((len(weights), channels, 2 * height, 2 * width), weights.dtype)
    for group, (row, column) in enumerate(offsets):
        folded[:, :, row::2, column::2] = weights[:, group * channels : (group + 1) * channels]
    conv.inputs[0] = picture
    conv.inputs[1] = gs.Constant(f"{conv.inputs[1].name}_focus", folded)
    conv.attrs |= {
        "kernel_shape": [2 * height, 2 * width],
        "strides": [2, 2],
        "pads": [2 * pad for pad in conv.attrs.get("pads", [0, 0, 0, 0])],
    }
