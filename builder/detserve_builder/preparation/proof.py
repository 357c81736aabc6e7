"""The prepared network against the file as it came, and against what is possible."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from detserve_builder.checkpoint import Checkpoint
from detserve_builder.checkpoint.image_input import ImageInput, image_input
from detserve_builder.checkpoint.one_form import rename
from detserve_builder.checkpoint.opset import OPSET, opset_of
from detserve_builder.errors import BuildError
from detserve_builder.graph.layers import float32
from detserve_builder.graph.running import CannotRun, run_each
from detserve_builder.graph.sorting import reads
from detserve_builder.preparation.rows import BOX_PX, SCORE, coarseness, same_detections
from detserve_core.card import Card, ColorOrder

if TYPE_CHECKING:
    import onnx
    from numpy.typing import NDArray

_GREY = (0.299, 0.587, 0.114)
_HALVES = (10, 16)  # ONNX's numbers of FLOAT16 and BFLOAT16
_FAR = 8  # times the input's longer side: no box that was found lies so far out
_BEYOND, _MOST = 0.1, 0.95  # shares of the picture: boxes reach a little beyond, and most do not
_MOST_ROWS = 100
_NOTHING = 0.01
_MOST_WITHOUT = 0.5
_MOST_COMPARED = 1000
_ROUNDING = 1e-3
_HUGE = 1e5  # beyond it rounding of an exponential decides


@dataclass(frozen=True)
class DecodedGraph:
    """A prepared ONNX: ``heads`` are the network's own outputs in it, by name there, with their names in the
    file;

    ``candidates`` names the decoded boxes, scores and, where the network says them, classes, before the best
    are taken.
    """

    model: onnx.ModelProto
    heads: Mapping[str, str]
    candidates: list[str]


def infer_shapes(model: onnx.ModelProto) -> onnx.ModelProto:
    """``model`` with the shapes that inference finds; where it stumbles, as it is."""
    import onnx

    try:
        return onnx.shape_inference.infer_shapes(model)
    except (onnx.shape_inference.InferenceError, RuntimeError, ValueError):
        return model


def check_against_file(
    checkpoint: Checkpoint, card: Card, graph: DecodedGraph, probe: NDArray[np.uint8]
) -> None:
    """Raise :class:`BuildError` where a probe picture gives other candidates than the file's own outputs do.

    ``probe`` uint8 [n,H,W,3] RGB. The file runs untouched, on pictures normalised here in numpy; its outputs
    go through the decode, cut out of the prepared graph.
    """
    whole = _part(
        graph.model, [value.name for value in graph.model.graph.input], [*graph.candidates, *graph.heads]
    )
    decode = _part(graph.model, list(graph.heads), graph.candidates)
    coarse = coarseness(checkpoint.original)
    images = graph.model.graph.input[0].name
    heads = [
        {inside: outputs[name] for inside, name in graph.heads.items() if name in outputs}
        for outputs in _run_file(checkpoint, card, probe)
    ]
    expected = _run_each(checkpoint, decode, heads)
    found = _run_each(checkpoint, whole, [{images: picture[None]} for picture in probe])
    for given, ours, files in zip(heads, found, expected, strict=True):
        pairs = [(ours[name], files[name]) for name in graph.candidates]
        if not _same(pairs, coarse) and not _same_heads(given, ours):
            raise BuildError(f"{checkpoint.path}: {_difference(pairs)}; {_mend(checkpoint)}")


def refuse_impossible(
    checkpoint: Checkpoint, card: Card, model: onnx.ModelProto, probe: NDArray[np.uint8]
) -> None:
    """Raise :class:`BuildError` where a probe picture's candidates cannot be detections.

    ``model`` is prepared. Scores are shares of 1, boxes are finite, not many times the input away, and no
    shares of the picture that are taken for pixels.
    """
    where = f"{checkpoint.path}: read as {card.family}"
    fix = "say family, head and preprocess in a card where they are not what the file is"
    for found in run_each(model, [picture[None] for picture in probe]):
        scores, classes = found["scores"][0], found["classes"][0]
        rows = (classes >= 0) & (scores != 0)
        boxes = found["boxes"][0][rows][:_MOST_ROWS]
        if not np.isfinite(scores).all() or not np.isfinite(boxes).all():
            raise BuildError(f"{where}, the network gives numbers that are not finite; {fix}")
        if not len(boxes):
            continue
        low, high = float(scores[rows].min()), float(scores[rows].max())
        if low < -SCORE or high > 1 + SCORE:
            raise BuildError(f"{where}, the scores run from {low:.3g} to {high:.3g}, expected 0 to 1; {fix}")
        reach = np.abs(boxes).max(axis=1)
        if np.median(reach) > _FAR * max(card.input_wh):
            raise BuildError(
                f"{where}, the best boxes lie {np.median(reach):.0f} px out, on an input of "
                f"{card.input_wh[0]}x{card.input_wh[1]}; {fix}"
            )
        if len(boxes) >= 3 and np.mean((boxes > -_BEYOND) & (boxes < 1 + _BEYOND)) > _MOST:
            raise BuildError(f"{where}, the boxes are shares of the picture where pixels are expected; {fix}")


def doubts(model: onnx.ModelProto, probe: NDArray[np.uint8]) -> str | None:
    """A sentence where a prepared network's answer to the probe pictures is odd, though possible; else None.

    That it finds nothing is right for a detector of something that is not in them, and what a wrong
    normalisation looks like.
    """
    found = run_each(model, [picture[None] for picture in probe])
    best = max(float(one["scores"].max(initial=0)) for one in found)
    if best < _NOTHING:
        return (
            f"nothing is found in two everyday pictures (best score {best:.2g}): right for a detector of "
            "something else; if not, the preprocessing or the head is not what the network was trained with"
        )
    without_area = min(_without_area(one) for one in found)
    if without_area > _MOST_WITHOUT:
        return (
            f"{without_area:.0%} of the best boxes in two everyday pictures have no area and are dropped: "
            "they may be centre and size where corners are expected"
        )
    return None


def _without_area(found: Mapping[str, NDArray[Any]]) -> float:
    """The share of the best-scoring boxes of one picture whose corners are not in order."""
    scores, boxes = found["scores"][0], found["boxes"][0]
    best = boxes[scores >= scores.max(initial=0) / 2][:_MOST_ROWS]
    return float((best[:, 2:] <= best[:, :2]).any(axis=1).mean()) if len(best) else 0.0


def _run_file(
    checkpoint: Checkpoint, card: Card, pictures: NDArray[np.uint8]
) -> list[dict[str, NDArray[Any]]]:
    """The file's own outputs for each RGB picture, floats as float32."""
    image = image_input(checkpoint.path, checkpoint.original, card.input_wh)
    feeds = [{image.name: _as_the_file_wants(one, card, image), **checkpoint.fed} for one in pictures]
    return [
        {
            name: value if value.dtype.kind in "iub" else value.astype(np.float32)
            for name, value in outputs.items()
        }
        for outputs in _run_each(checkpoint, _fed_with_float32(checkpoint.original, image), feeds)
    ]


def _as_the_file_wants(picture: NDArray[np.uint8], card: Card, image: ImageInput) -> NDArray[Any]:
    from onnx import helper

    spec = card.preprocess
    pixels = picture[..., ::-1] if spec.color is ColorOrder.BGR else picture
    normal = (pixels * float32(spec.scale) - float32(spec.mean)) / float32(spec.std)
    if image.channels == 1:
        normal = normal @ float32(_GREY)[:, None]
    if not image.channels_last:
        normal = normal.transpose(2, 0, 1)
    dtype = np.float32 if image.dtype in _HALVES else helper.tensor_dtype_to_np_dtype(image.dtype)
    return np.asarray(normal[None if image.has_batch else ...], dtype)


def _fed_with_float32(model: onnx.ModelProto, image: ImageInput) -> onnx.ModelProto:
    """The file's network with a Cast in front of an input of half precision.

    ONNX Runtime computes it in float32 and drops that Cast where it can, here as in the prepared network;
    rounded pixels would make two networks of it.
    """
    import onnx
    from onnx import TensorProto, helper

    if image.dtype not in _HALVES:
        return model
    fed = onnx.ModelProto()
    fed.CopyFrom(model)
    rename(fed.graph, image.name, f"{image.name}_in_half")
    nodes = [
        helper.make_node("Cast", [image.name], [f"{image.name}_in_half"], to=image.dtype),
        *fed.graph.node,
    ]
    del fed.graph.node[:]
    fed.graph.node.extend(nodes)
    next(v for v in fed.graph.input if v.name == image.name).type.tensor_type.elem_type = TensorProto.FLOAT
    return fed


def _run_each(
    checkpoint: Checkpoint, model: onnx.ModelProto, feeds: list[dict[str, NDArray[Any]]]
) -> list[dict[str, NDArray[Any]]]:
    try:
        return run_each(model, feeds)
    except CannotRun as error:
        raise BuildError(f"{checkpoint.path}: ONNX Runtime cannot run it ({error})") from None


def _part(model: onnx.ModelProto, begin: list[str], end: list[str]) -> onnx.ModelProto:
    """The part of ``model`` between the tensors ``begin`` and ``end``."""
    import onnx

    part = onnx.ModelProto()
    part.CopyFrom(model)
    needed, kept = set(end), []
    for node in reversed(part.graph.node):
        if any(name in needed and name not in begin for name in node.output):
            kept.append(node)
            needed |= reads(node)
    known = {value.name: value for value in (*part.graph.input, *part.graph.output, *part.graph.value_info)}
    inputs = [known[name] for name in begin if name in needed and name in known]
    del part.graph.node[:], part.graph.input[:], part.graph.output[:], part.graph.value_info[:]
    part.graph.node.extend(reversed(kept))
    part.graph.input.extend(inputs)
    part.graph.output.extend(onnx.ValueInfoProto(name=name) for name in end)
    return part


def _same(pairs: list[tuple[NDArray[Any], NDArray[Any]]], coarse: float) -> bool:
    """Anchor by anchor; where that fails, as the boxes that are listed, in any order."""
    if all(one.shape == other.shape for one, other in pairs):
        tolerances = [(1e-3 * coarse, BOX_PX * coarse), (0, SCORE * coarse), (0, 0)]
        clipped = [(np.clip(one, -_HUGE, _HUGE), np.clip(other, -_HUGE, _HUGE)) for one, other in pairs]
        if all(
            np.allclose(one, other, rtol=rtol, atol=atol, equal_nan=True)
            for (one, other), (rtol, atol) in zip(clipped, tolerances, strict=False)
        ):
            return True
    one, other = (_listed(list(values)) for values in zip(*pairs, strict=True))
    return same_detections(one, other, coarse=coarse)


def _same_heads(expected: Mapping[str, NDArray[Any]], found: Mapping[str, NDArray[Any]]) -> bool:
    """Whether the network's own outputs agree but for rounding, which exponentials in a decode blow up."""
    for name, value in expected.items():
        spread = float(np.abs(value).max(initial=0))
        if found[name].shape != value.shape or not np.allclose(
            found[name], value, rtol=_ROUNDING, atol=_ROUNDING * spread
        ):
            return False
    return True


def _listed(values: list[NDArray[Any]]) -> dict[str, NDArray[Any]]:
    """The best candidates of one picture with the class of each; what is not finite is far away."""
    boxes, scores = (np.nan_to_num(np.clip(value, -_HUGE, _HUGE)) for value in values[:2])
    classes = values[2] if len(values) == 3 else scores.argmax(axis=2)
    best = scores if len(values) == 3 else scores.max(axis=2)
    order = np.argsort(-best[0], kind="stable")[:_MOST_COMPARED]
    return {"boxes": boxes[:, order], "scores": best[:, order], "classes": classes[:, order]}


def _difference(pairs: list[tuple[NDArray[Any], NDArray[Any]]]) -> str:
    if any(one.shape != other.shape for one, other in pairs):
        shapes = " and ".join(f"{list(one.shape)} and not {list(other.shape)}" for one, other in pairs)
        return f"the prepared network gives {shapes}, as the file does"
    clipped = [(np.clip(one, -_HUGE, _HUGE), np.clip(other, -_HUGE, _HUGE)) for one, other in pairs[:2]]
    boxes, scores = (float(np.nanmax(np.abs(one - other), initial=0)) for one, other in clipped)
    return (
        f"the prepared network gives other numbers than the file, boxes by up to {boxes:.3g} px, scores by "
        f"up to {scores:.3g}"
    )


def _mend(checkpoint: Checkpoint) -> str:
    opset = opset_of(checkpoint.original)
    if opset < OPSET:
        return f"raising its opset {opset} changed it: export it at opset {OPSET} or later"
    return "that is a fault of detserve, please report it with the file"
