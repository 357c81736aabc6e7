"""How much a change of the network changes what it detects, without labels."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from detserve_builder.graph.session import open_session
from detserve_builder.quantise.calibration import CalibrationSource, Progress

if TYPE_CHECKING:
    import onnx

PICTURES = 8
Anchors = tuple[NDArray[np.float32], NDArray[np.float32]]
"""Boxes [...,A,4] and scores [...,A]."""


@dataclass(frozen=True)
class Probe:
    """The float model's candidates before top-K, over a few calibration pictures.

    ``images`` uint8 [P,1,H,W,3]; ``boxes`` float32 [P,A,4] and ``scores`` float32 [P,A] of the tensors named.
    """

    images: list[NDArray[np.uint8]]
    tensors: tuple[str, str]
    boxes: NDArray[np.float32]
    scores: NDArray[np.float32]

    def harm(self, model: onnx.ModelProto) -> float:
        """How far the candidates of ``model`` lie from the float ones; 0 is equal, 1 is as good as none.

        Of every anchor: the difference of its score, and of its box as 1 - IoU times its score, both weighted
        by the score, so that what will be detected counts and background does not.
        """
        return harm((self.boxes, self.scores), _candidates(model, self.tensors, self.images))


def harm(one: Anchors, other: Anchors) -> float:
    """How far the candidates ``other`` lie from ``one``, as :meth:`Probe.harm` says; infinity for NaN."""
    if not all(np.isfinite(values).all() for values in other):
        return float("inf")
    weight = np.maximum(one[1], other[1]).astype(np.float64)
    difference = np.abs(one[1] - other[1]) + weight * (1 - _iou(one[0], other[0]))
    return float((weight * difference).sum() / max(float((weight**2).sum()), 1e-30))


def probed_pictures(count: int) -> set[int]:
    """Which of ``count`` calibration pictures a probe looks at."""
    return set(np.linspace(0, count - 1, min(PICTURES, count)).astype(int).tolist())


def probe(model: onnx.ModelProto, source: CalibrationSource) -> Probe:
    """Run the prepared float ``model`` over a few pictures spread over ``source``."""
    wanted = probed_pictures(len(source.pictures))
    images = [image for index, image in enumerate(source.images()) if index in wanted]
    tensors = tensors_before_top_k(model)
    return Probe(images, tensors, *_candidates(model, tensors, images))


def sensitivity(
    candidates: Sequence[str],
    made_with: Callable[[str], onnx.ModelProto],
    float_probe: Probe,
    progress: Progress = lambda done, total: None,
) -> Mapping[str, float]:
    """Harm of each candidate alone, most harmful first; ``made_with`` gives the model with it applied."""
    harms = {}
    for done, name in enumerate(candidates, 1):
        harms[name] = float_probe.harm(made_with(name))
        progress(done, len(candidates))
    return dict(sorted(harms.items(), key=lambda item: -item[1]))


def tensors_before_top_k(model: onnx.ModelProto) -> tuple[str, str]:
    """Names of the boxes [N,A,4] and scores [N,A] of all candidates, or of the outputs where they are all."""
    makers = {name: node for node in model.graph.node for name in node.output}
    boxes, scores = makers["boxes"], makers["scores"]
    if boxes.op_type == "GatherElements" and scores.op_type == "TopK" and _is_fixed(model, scores.input[0]):
        return boxes.input[0], scores.input[0]
    return "boxes", "scores"


def _is_fixed(model: onnx.ModelProto, scores: str) -> bool:
    """Whether there are as many candidates whatever the picture: not where NMS is in the network."""
    import onnx

    known = onnx.shape_inference.infer_shapes(model).graph.value_info
    shapes = (value.type.tensor_type.shape.dim for value in known if value.name == scores)
    return any(len(shape) == 2 and shape[1].dim_value > 0 for shape in shapes)


def _candidates(model: onnx.ModelProto, tensors: tuple[str, str], images: list[NDArray[np.uint8]]) -> Anchors:
    session = open_session(model, outputs=tensors)
    found = [session.run(tensors, {"images": image}) for image in images]
    return np.concatenate([boxes for boxes, _ in found]), np.concatenate([scores for _, scores in found])


def _iou(a: NDArray[np.float32], b: NDArray[np.float32]) -> NDArray[np.float64]:
    """Of boxes [...,4] pairwise; 0 where one is empty, 1 where both are: neither is a detection."""
    a, b = a.astype(np.float64), b.astype(np.float64)
    low, high = np.maximum(a[..., :2], b[..., :2]), np.minimum(a[..., 2:], b[..., 2:])
    shared = np.prod(np.clip(high - low, 0, None), axis=-1)
    areas = [np.prod(np.clip(box[..., 2:] - box[..., :2], 0, None), axis=-1) for box in (a, b)]
    union = areas[0] + areas[1] - shared
    return np.where(union > 0, shared / np.maximum(union, 1e-9), 1.0)
