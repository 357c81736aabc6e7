"""Whether a runtime computes what ONNX Runtime does, on a few pictures, before it is chosen.

Asked of it with float layers in f32, whatever the candidate computes them in: that tells a graph which is
read wrong from rounding. How far bf16 moves the detections is measured and kept, and is for a gate to judge.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from detserve_builder.graph.layers import OWN_PREFIX
from detserve_builder.graph.network import Unfit, own_layers
from detserve_builder.graph.plain import plain
from detserve_builder.graph.session import open_session
from detserve_builder.precision.request import Precision
from detserve_builder.precision.sensitivity import Anchors, harm, tensors_before_top_k
from detserve_builder.runtime import Runtime
from detserve_builder.steps.detserve_detector import OUTPUTS, OpenVinoSession

if TYPE_CHECKING:
    import onnx

    from detserve_builder.precision.gate import Candidate

_SCORE = 2e-3
_BOX_PX, _BOX_SHARE = 0.25, 2e-3  # of its longer side
_LEAST_HARM = 0.03  # what may differ between quantised networks, where nothing else is known
_SELECTING = ("NonMaxSuppression", "TopK")
_LOST = 0.01  # of the rows, where the network itself selects: ties are broken and rows ordered otherwise
_LIKELY = 0.05
_ROWS_AT_ONCE = 256
_SCORE_OF_A_PX = 0.01  # what weighs as much as a pixel when rows are looked for


def check_runtime(
    candidate: Candidate, images: NDArray[np.uint8], original: onnx.ModelProto | None
) -> dict[str, float]:
    """Run ``candidate`` on ``images`` (uint8 [P,H,W,3]) as served and compare it with ONNX Runtime.

    Float networks give the same numbers to a fraction of a pixel. Integer kernels round differently, which
    may cost at most what quantisation itself did: the distance to ``original``, the float network, where
    there is one. Returns how far bf16 moves scores and boxes (px), where it is what will compute, for the
    record. Raises :class:`~detserve_builder.graph.network.Unfit` with the figures.
    """
    if candidate.runtime is Runtime.ONNXRUNTIME:
        return {}
    tensors = tensors_before_top_k(candidate.model)
    # OpenVINO computes 16-bit floats in f32, where ONNX Runtime rounds after each node
    reference = plain(candidate.model) if _has_halves(candidate.model) else candidate.model
    expected = _of_onnxruntime(reference, images)
    exposed = _with_outputs(candidate.model, tensors)
    try:
        session = candidate.open()
        outputs = [session.run(OUTPUTS, {"images": image[None]}) for image in images]
        exact = _anchors(OpenVinoSession(exposed, 0, "f32"), tensors, images)
        reduced = exact
        if candidate.floats != "f32":
            reduced = _anchors(OpenVinoSession(exposed, 0, candidate.floats), tensors, images)
    except Exception as error:  # of whatever type the runtime has for it
        raise Unfit(
            f"{candidate.label}: OpenVINO does not run this network ({_reason(error)}); {_mend(candidate)}"
        ) from None
    finite = all(np.isfinite(values).all() for found in outputs for values in found)
    if not finite:
        raise Unfit(
            f"{candidate.label}: OpenVINO gives numbers that are not finite in {candidate.floats}; "
            f"{_mend(candidate)}"
        )
    selects = any(_selects(node) for node in candidate.model.graph.node)
    if selects:
        exact, reduced = (_aligned(expected, anchors) for anchors in (exact, reduced))
    if own_layers(candidate.model).quantised:
        _check_quantised(candidate, expected, exact, original, images)
    else:
        _check_floats(candidate, expected, exact, _LOST if selects else 0)
    return {} if candidate.floats == "f32" else _moved(expected, reduced)


def _check_floats(candidate: Candidate, expected: Anchors, found: Anchors, may_be_lost: float) -> None:
    lost = ~_same(*expected, *found)
    if lost.mean() > may_be_lost:
        moved = _moved((expected[0][lost], expected[1][lost]), (found[0][lost], found[1][lost]))
        raise Unfit(
            f"{candidate.label}: OpenVINO computes this network differently from ONNX Runtime: "
            f"{lost.mean():.1%} of the candidates, scores by up to {moved['score']:g} and boxes by up to "
            f"{moved['box_px']:g} px on two probe pictures; {_mend(candidate)}"
        )


def _check_quantised(
    candidate: Candidate,
    expected: Anchors,
    found: Anchors,
    original: onnx.ModelProto | None,
    images: NDArray[np.uint8],
) -> None:
    distance, allowed = harm(expected, found), _LEAST_HARM
    if original is not None and distance > allowed:
        floats = _of_onnxruntime(original, images)
        allowed = max(allowed, harm(floats, expected))
    if not distance <= allowed:
        moved = _moved(expected, found)
        raise Unfit(
            f"{candidate.label}: OpenVINO computes this quantised network differently from ONNX Runtime: "
            f"scores by up to {moved['score']:g} and boxes by up to {moved['box_px']:g} px on two probe "
            f"pictures, a distance of {distance:.3f} where {allowed:.3f} is rounding; "
            f"{_mend(candidate)}"
        )


def _aligned(expected: Anchors, found: Anchors) -> Anchors:
    """``found`` with each row that differs replaced by the nearest: a network that selects orders them."""
    boxes, scores = found[0].copy(), found[1].copy()
    for picture, differs in enumerate(~_same(*expected, *found)):
        for rows in np.array_split(np.flatnonzero(differs), 1 + differs.sum() // _ROWS_AT_ONCE):
            apart_px = _apart(expected[0][picture, rows, None], found[0][picture, None]).max(axis=-1)
            apart = (
                apart_px + _apart(expected[1][picture, rows, None], found[1][picture, None]) / _SCORE_OF_A_PX
            )
            nearest = apart.argmin(axis=1)
            boxes[picture, rows], scores[picture, rows] = (
                found[0][picture, nearest],
                found[1][picture, nearest],
            )
    return boxes, scores


def _same(
    boxes: NDArray[np.float32],
    scores: NDArray[np.float32],
    other_boxes: NDArray[np.float32],
    other_scores: NDArray[np.float32],
) -> NDArray[np.bool_]:
    size_px = np.abs(boxes[..., 2:] - boxes[..., :2]).max(axis=-1)
    apart_px = _apart(boxes, other_boxes).max(axis=-1)
    return np.asarray(
        (_apart(scores, other_scores) <= _SCORE) & (apart_px <= _BOX_PX + _BOX_SHARE * np.nan_to_num(size_px))
    )


def _apart(one: NDArray[np.float32], other: NDArray[np.float32]) -> NDArray[np.float32]:
    """Absolute differences; equal infinities are equal, not-a-number is as far as can be."""
    with np.errstate(invalid="ignore"):
        return np.where(one == other, np.float32(0), np.nan_to_num(np.abs(one - other), nan=np.inf))


def _moved(expected: Anchors, found: Anchors) -> dict[str, float]:
    """The largest differences of scores, and of boxes in pixels where a score could be a detection's."""
    likely = np.maximum(expected[1], found[1]) >= _LIKELY
    if likely.any():
        expected, found = (expected[0][likely], expected[1][likely]), (found[0][likely], found[1][likely])
    return {
        "score": round(float(_apart(expected[1], found[1]).max()), 4),
        "box_px": round(float(_apart(expected[0], found[0]).max()), 2),
    }


def _selects(node: onnx.NodeProto) -> bool:
    return node.op_type in _SELECTING and not node.name.startswith(OWN_PREFIX)


def _has_halves(model: onnx.ModelProto) -> bool:
    from onnx import TensorProto

    halves = (TensorProto.FLOAT16, TensorProto.BFLOAT16)
    return any(tensor.data_type in halves for tensor in model.graph.initializer)


def _of_onnxruntime(model: onnx.ModelProto, images: NDArray[np.uint8]) -> Anchors:
    tensors = tensors_before_top_k(model)
    return _anchors(open_session(model, outputs=tensors), tensors, images)


def _anchors(session: Any, tensors: tuple[str, str], images: NDArray[np.uint8]) -> Anchors:
    found = [session.run(tensors, {"images": image[None]}) for image in images]
    return np.concatenate([boxes for boxes, _ in found]), np.concatenate([scores for _, scores in found])


def _with_outputs(model: onnx.ModelProto, tensors: tuple[str, str]) -> bytes:
    import onnx

    exposed = onnx.ModelProto()
    exposed.CopyFrom(model)
    known = {output.name for output in exposed.graph.output}
    exposed.graph.output.extend(
        onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, None)
        for name in tensors
        if name not in known
    )
    content: bytes = exposed.SerializeToString()
    return content


def _mend(candidate: Candidate) -> str:
    bfloat = candidate.precision is Precision.BF16
    return "leave bf16 out" if bfloat else "leave it to --runtime onnxruntime"


def _reason(error: Exception) -> str:
    """The last line of what OpenVINO says: those before are its own files."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[-1][:200] if lines else type(error).__name__
