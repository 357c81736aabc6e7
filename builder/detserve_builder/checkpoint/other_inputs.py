"""Inputs beside the picture: what each known one means, as a constant."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from detserve_builder.checkpoint.checkpoint import tensors
from detserve_builder.checkpoint.image_input import ImageInput
from detserve_builder.errors import BuildError

if TYPE_CHECKING:
    import onnx
    from numpy.typing import NDArray

# The picture reaches the network at the network's own size, so boxes come out in its pixels.
_KNOWN: dict[str, Callable[[int, int], Any]] = {
    "orig_target_sizes": lambda width, height: [[width, height]],  # RT-DETR, D-FINE, DEIM
    "target_sizes": lambda width, height: [[height, width]],
    "scale_factor": lambda width, height: [[1, 1]],  # PaddleDetection
    "im_shape": lambda width, height: [[height, width]],
    "image_shape": lambda width, height: [[height, width]],  # the ONNX model zoo's YOLOv3
    "im_info": lambda width, height: [[height, width, 1]],
    "pixel_mask": lambda width, height: np.ones((1, height, width)),  # Hugging Face's DETR: no padding
}
_TEXT = {"input_ids", "attention_mask", "token_type_ids", "position_ids", "text_token_mask", "txt_feats"}


def fed_inputs(path: Path, model: onnx.ModelProto, image: ImageInput) -> dict[str, NDArray[Any]]:
    """Name and value of every input but the picture; raises :class:`BuildError` naming an unknown one."""
    import onnx

    fed: dict[str, NDArray[Any]] = {}
    width, height = image.wh
    for info in tensors(model, of_outputs=False):
        if info.name == image.name:
            continue
        name = info.name.rpartition("/")[2].casefold()
        if name in _TEXT:
            raise BuildError(
                f"{path}: the input {info} is a text that the detector looks for in the picture; only "
                "detectors with a fixed list of classes are served"
            )
        known = _KNOWN.get(name)
        if known is None or info.dtype in ("STRING", "UNDEFINED"):
            raise BuildError(
                f"{path}: the input {info} beside the picture is not known; known are {', '.join(_KNOWN)}; "
                "export the network without it"
            )
        if not (isinstance(width, int) and isinstance(height, int)):
            continue  # left as it is until the size is known
        dtype = onnx.helper.tensor_dtype_to_np_dtype(onnx.TensorProto.DataType.Value(info.dtype))
        value = np.asarray(known(width, height), dtype)
        if len(info.shape) != value.ndim:
            expected = list(value.shape)
            raise BuildError(
                f"{path}: the input {info} has another shape than {expected}, which it is known for"
            )
        fed[info.name] = value
    return fed
