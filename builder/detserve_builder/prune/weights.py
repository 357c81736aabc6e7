"""Weights set to zero: 2:4 along input channels, or a share of all; biases corrected by what that shifts.

2:4 is what sparse tensor cores run faster: of every four neighbouring input channels at most two weights are
not zero. A share of all gives a smaller file where it is compressed, and no kernel here runs it faster.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from detserve_builder.errors import BuildError
from detserve_builder.graph.session import open_session
from detserve_builder.quantise.calibration import CalibrationSource, Progress

if TYPE_CHECKING:
    import onnx

TWO_IN_FOUR = "2:4"
_PICTURES = 32
Weights = Mapping[str, NDArray[np.float32]]


@dataclass(frozen=True)
class Channels:
    """Whole channels, until the ``share`` of the multiplications is saved."""

    share: float


def parse_pruning(said: str) -> str | float | Channels:
    """``2:4``, a ratio between 0 and 1, or ``channels:RATIO``; raises :class:`BuildError`."""
    if said == TWO_IN_FOUR:
        return said
    kind, _, share = said.rpartition(":")
    try:
        ratio = float(share)
    except ValueError:
        ratio = 0.0
    if kind not in ("", "channels") or not 0 < ratio < 1:
        raise BuildError(
            f"--prune got {said!r}; expected 2:4, the share of weights to set to zero, such as 0.5, or "
            "channels: and the share of multiplications to save by removing channels, such as channels:0.1"
        )
    return Channels(ratio) if kind else ratio


def prune(
    model: onnx.ModelProto,
    how: str | float,
    nodes: Collection[str],
    source: CalibrationSource,
    progress: Progress = lambda done, total: None,
) -> tuple[onnx.ModelProto, dict[str, float]]:
    """``model`` (left as it is) with the convolutions among ``nodes`` pruned, and the sparsity of each.

    ``how`` is of :func:`parse_pruning`. Layers that 2:4 does not fit, the first layer and those that work on
    each channel by itself keep their weights. Raises :class:`BuildError` where no layer is left to prune.
    """
    import onnx
    from onnx import numpy_helper

    pruned = onnx.ModelProto()
    pruned.CopyFrom(model)
    constants = {initializer.name: initializer for initializer in pruned.graph.initializer}
    layers = [node for node in _layers(pruned, nodes) if node.input[1] in constants]
    weights = {node.name: numpy_helper.to_array(constants[node.input[1]]) for node in layers}
    if how == TWO_IN_FOUR:
        masks = {name: two_in_four(weight) for name, weight in weights.items() if fits_two_in_four(weight)}
    else:
        masks = magnitude_masks(dict(list(weights.items())[1:]), float(how))
    if not masks:
        raise BuildError(f"--prune {how}: no layer of the network fits; leave it out")
    layers = [node for node in layers if node.name in masks]
    means = _channel_means(model, [node.input[0] for node in layers], source, progress)
    for node in layers:
        weight = weights[node.name] * masks[node.name]
        shift = (weights[node.name] - weight).sum(axis=(2, 3)) @ means[node.input[0]]
        constants[node.input[1]].CopyFrom(numpy_helper.from_array(weight, node.input[1]))
        _add_to_bias(pruned, node, shift.astype(np.float32))
    read = {name for node in pruned.graph.node for name in node.input}
    for replaced in [initializer for initializer in pruned.graph.initializer if initializer.name not in read]:
        pruned.graph.initializer.remove(replaced)
    onnx.checker.check_model(pruned)
    return pruned, {name: float(1 - mask.mean()) for name, mask in masks.items()}


def fits_two_in_four(weight: NDArray[np.float32]) -> bool:
    """Whether TensorRT has sparse kernels for a convolution's ``weight`` [out,in,h,w]."""
    return weight.shape[1] % 16 == 0 and weight.shape[0] % 8 == 0


def two_in_four(weight: NDArray[np.float32]) -> NDArray[np.bool_]:
    """Mask of ``weight`` [out,in,h,w]: the two largest of every four neighbouring input channels."""
    out_channels, in_channels, height, width = weight.shape
    fours = np.abs(weight).reshape(out_channels, in_channels // 4, 4, height, width)
    rank = np.argsort(np.argsort(-fours, axis=2, kind="stable"), axis=2, kind="stable")
    return np.asarray((rank < 2).reshape(weight.shape))


def magnitude_masks(weights: Weights, ratio: float) -> dict[str, NDArray[np.bool_]]:
    """Masks that together remove ``ratio`` of the ``weights``, layer by layer as each can bear it.

    The score of LAMP (Lee et al. 2021, arXiv:2010.07611): a weight's square over the sum of the squares that
    are not smaller in its layer.
    """
    if not weights:
        return {}
    scores = {}
    for name, weight in weights.items():
        squares = weight.ravel().astype(np.float64) ** 2
        order = np.argsort(squares, kind="stable")
        remaining = np.cumsum(squares[order][::-1])[::-1]
        score = np.empty_like(squares)
        score[order] = squares[order] / np.maximum(remaining, np.finfo(np.float64).tiny)
        scores[name] = score.reshape(weight.shape)
    every = np.sort(np.concatenate([score.ravel() for score in scores.values()]))
    threshold = every[int(len(every) * ratio)]
    return {name: score >= threshold for name, score in scores.items()}


def _layers(model: onnx.ModelProto, nodes: Collection[str]) -> list[onnx.NodeProto]:
    wanted = set(nodes)

    def mixes_channels(node: onnx.NodeProto) -> bool:
        return all(attribute.name != "group" or attribute.i == 1 for attribute in node.attribute)

    return [n for n in model.graph.node if n.name in wanted and n.op_type == "Conv" and mixes_channels(n)]


def _channel_means(
    model: onnx.ModelProto, tensors: list[str], source: CalibrationSource, progress: Progress
) -> dict[str, NDArray[np.float64]]:
    """Mean of every channel of ``tensors`` [N,C,h,w] over the first calibration pictures."""
    names = tuple(dict.fromkeys(tensors))
    session = open_session(model, outputs=names)
    sums: list[NDArray[np.float64]] = []
    count = min(_PICTURES, len(source.pictures))
    for done, image in enumerate(source.images(), 1):
        found = [
            values.mean(axis=(0, 2, 3), dtype=np.float64) for values in session.run(names, {"images": image})
        ]
        sums = [total + mean for total, mean in zip(sums, found, strict=True)] if sums else found
        progress(done, count)
        if done == count:
            break
    return {name: total / count for name, total in zip(names, sums, strict=True)}


def _add_to_bias(model: onnx.ModelProto, node: onnx.NodeProto, shift: NDArray[np.float32]) -> None:
    from onnx import numpy_helper

    bias = shift
    if len(node.input) > 2 and node.input[2]:
        given = next((i for i in model.graph.initializer if i.name == node.input[2]), None)
        if given is None:
            return  # a computed bias
        bias = numpy_helper.to_array(given) + shift
    name = f"{node.name}_corrected_bias"
    model.graph.initializer.append(numpy_helper.from_array(bias.astype(np.float32), name))
    del node.input[2:]
    node.input.append(name)
