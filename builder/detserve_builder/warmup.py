"""Warm-up data: one real picture, as every step receives it, so that ready means a picture went through."""

from __future__ import annotations

import struct
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from detserve_builder.triton_config import Warmup
from detserve_core.card import Card

if TYPE_CHECKING:
    import numpy as np
    import onnx
    from numpy.typing import NDArray


@dataclass(frozen=True)
class WarmupPicture:
    """A real picture, as sent and as the network sees it (uint8 [H,W,3]), with its geometry."""

    encoded: bytes
    image: NDArray[np.uint8]
    geometry: NDArray[np.float32]


def write_warmup(
    staged: Path, card: Card, model: onnx.ModelProto, steps: Iterable[str], picture: WarmupPicture
) -> Warmup:
    """Write the files under the ``warmup/`` folder of each of ``steps`` and return their names."""
    # A string tensor in a warm-up file is its length in four little-endian bytes, then the bytes.
    encoded = {"IMAGE": struct.pack("<I", len(picture.encoded)) + picture.encoded}
    contents = {"pipeline": encoded, "preprocess": encoded, **_behind_preprocess(model, picture)}
    wanted = {step: contents[step] for step in steps}
    for step, tensors in wanted.items():
        folder = staged / f"{card.name}_{step}" / "warmup"
        folder.mkdir()
        for name, data in tensors.items():
            (folder / name).write_bytes(data)
    return {step: {name: name for name in tensors} for step, tensors in wanted.items()}


def _behind_preprocess(model: onnx.ModelProto, picture: WarmupPicture) -> dict[str, dict[str, bytes]]:
    import onnxruntime as ort

    session = ort.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    boxes, scores, classes = session.run(
        ["boxes", "scores", "classes"], {session.get_inputs()[0].name: picture.image[None]}
    )
    return {
        "detector": {"images": picture.image.tobytes()},
        "postprocess": {
            "boxes": boxes.tobytes(),
            "scores": scores.tobytes(),
            "classes": classes.tobytes(),
            "geometry": picture.geometry.tobytes(),
        },
    }
