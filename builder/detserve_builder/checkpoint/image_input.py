"""Which input is the picture, and in what form the network wants it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from detserve_builder.checkpoint.checkpoint import TensorInfo, tensors
from detserve_builder.errors import BuildError
from detserve_core.card import Wh

if TYPE_CHECKING:
    import onnx

_CHANNELS = (3, 1)
_DTYPES = ("FLOAT", "FLOAT16", "BFLOAT16", "DOUBLE", "UINT8", "INT32", "INT64")


@dataclass(frozen=True)
class ImageInput:
    """The input ``name`` as the file has it; ``dtype`` is ONNX's number, a side that stays open a symbol."""

    name: str
    dtype: int
    batch: int | str
    channels: int
    channels_last: bool
    has_batch: bool
    wh: tuple[int | str, int | str]


def image_input(path: Path, model: onnx.ModelProto, input_wh: Wh | None) -> ImageInput:
    """The picture among the inputs of ``model``, of ``input_wh`` where the file leaves its size open.

    Raises :class:`BuildError` where no input is one, where the batch is fixed at more than one picture, and
    for a number of channels that no picture has.
    """
    import onnx

    inputs, found = tensors(model, of_outputs=False), picture_of(model)
    if found is None:
        came = "; ".join(map(str, inputs)) or "none"
        raise BuildError(f"{path}: no input is a picture [N,3,H,W]; the inputs are {came}")
    if found.dtype not in _DTYPES:
        raise BuildError(
            f"{path}: the input {found} is not a picture that detserve can feed; "
            f"expected {', '.join(_DTYPES)}"
        )
    has_batch = len(found.shape) == 4
    batch, *rest = found.shape if has_batch else (1, *found.shape)
    if isinstance(batch, int) and batch > 1:
        raise BuildError(f"{path}: the input {found} is fixed at batch {batch}; export with batch 1")
    channels_last = _is_channels_last(model, found, rest)
    channels = rest[2] if channels_last else rest[0]
    height, width = rest[:2] if channels_last else rest[1:]
    if not isinstance(channels, int):  # symbols throughout, as optimum writes them
        channels = _channels_of_weights(model, found.name) or 3
    if channels not in _CHANNELS:
        raise BuildError(
            f"{path}: the input {found} has {channels} channels, expected 3 (colour) or 1 (grey); export a "
            "detector for pictures"
        )
    if 0 in (width, height):
        raise BuildError(f"{path}: the input {found} has no pixels; export it with a height and a width")
    if input_wh is not None:
        width = width if isinstance(width, int) else input_wh[0]
        height = height if isinstance(height, int) else input_wh[1]
    return ImageInput(
        name=found.name,
        dtype=onnx.TensorProto.DataType.Value(found.dtype),
        batch=batch,
        channels=channels,
        channels_last=channels_last,
        has_batch=has_batch,
        wh=(width, height),
    )


def picture_of(model: onnx.ModelProto) -> TensorInfo | None:
    """The input that is the picture, by its number of dimensions; None where there is none."""
    inputs = tensors(model, of_outputs=False)
    found = next((info for info in inputs if len(info.shape) == 4), None)
    return found or next((info for info in inputs if len(info.shape) == 3), None)


def input_size_is_fixed(model: onnx.ModelProto) -> bool:
    """Whether the file itself says the height and width of its picture."""
    pictures = [info for info in tensors(model, of_outputs=False) if len(info.shape) in (3, 4)]
    return bool(pictures) and all(isinstance(size, int) for size in pictures[0].shape[1:])


def _is_channels_last(model: onnx.ModelProto, found: TensorInfo, rest: list[int | str]) -> bool:
    first, last = rest[0] in (*_CHANNELS, 4), rest[2] in (*_CHANNELS, 4)
    if first != last:
        return last
    perms = [
        list(node.attribute[0].ints)
        for node in model.graph.node
        if node.op_type == "Transpose" and found.name in node.input and node.attribute
    ]
    return perms in ([[0, 3, 1, 2]], [[2, 0, 1]])


def _channels_of_weights(model: onnx.ModelProto, name: str) -> int | None:
    """Input channels of the first ungrouped convolution, where the picture's symbol says nothing."""
    weights = {tensor.name: tensor for tensor in model.graph.initializer}
    for node in model.graph.node:
        if node.op_type == "Conv" and node.input[1] in weights:
            return int(weights[node.input[1]].dims[1])
    return None
