"""Suppression by a TensorRT plugin at the end of a graph, cut off: what it was given becomes the outputs.

NVIDIA/TensorRT, plugin/efficientNMSPlugin and plugin/batchedNMSPlugin (README.md of each), and mmdeploy's
TRTBatchedNMS: boxes [N,A,4] or [N,A,1|C,4] and scores [N,A,C] in, the best boxes out. Here suppression is a
step of its own, so that such a file serves on every target.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from detserve_builder.errors import BuildError
from detserve_builder.graph.sorting import reads

if TYPE_CHECKING:
    import onnx

PLUGIN_KEY = "detserve.nms_plugin"  # the metadata entry that says what was cut off
_PLUGINS = {"EfficientNMS_TRT", "BatchedNMS_TRT", "BatchedNMSDynamic_TRT", "TRTBatchedNMS"}
_SHAPES_ONLY = {"Cast", "Identity", "Reshape", "Squeeze", "Unsqueeze"}


@dataclass(frozen=True)
class NmsPlugin:
    """What a plugin was told; ``boxes`` and ``scores`` name the outputs that take its place.

    ``center_size``: boxes are cx, cy, w, h; ``normalised``: shares of the input. ``background`` is the score
    column of no class, or -1. What a plugin does not say is None.
    """

    operator: str
    boxes: str
    scores: str
    center_size: bool
    normalised: bool | None
    sigmoid: bool
    class_agnostic: bool
    background: int
    score_threshold: float | None
    iou_threshold: float | None
    max_detections: int | None


def cut_nms_plugin(path: Path, model: onnx.ModelProto) -> None:
    """Cut a plugin that suppresses off the end of ``model``, in place; metadata tells :func:`plugin_of`.

    Does nothing where there is none; raises :class:`BuildError` for one that does more than suppress boxes.
    """
    found = [node for node in model.graph.node if node.op_type in _PLUGINS]
    if not found:
        return
    plugin = found[0]
    if len(found) > 1 or not _ends_the_graph(model.graph, plugin):
        raise BuildError(
            f"{path}: the plugin {plugin.op_type} is not the graph's end, other nodes go on from what it "
            f"finds; {_option(plugin.op_type)}"
        )
    if len(plugin.input) != 2:
        raise BuildError(
            f"{path}: the plugin {plugin.op_type} has {len(plugin.input)} inputs, expected boxes and scores "
            f"alone, without anchors to decode them against; {_option(plugin.op_type)}"
        )
    said = _told(plugin)
    _end_at(model, list(plugin.input))
    model.metadata_props.add(key=PLUGIN_KEY, value=json.dumps(asdict(said)))


def plugin_of(metadata: Mapping[str, str]) -> NmsPlugin | None:
    """What was cut off the file with this ``metadata``, or None."""
    return NmsPlugin(**json.loads(metadata[PLUGIN_KEY])) if PLUGIN_KEY in metadata else None


def _option(operator: str) -> str:
    if operator == "TRTBatchedNMS":
        return "deploy with mmdeploy's ONNX Runtime configuration"
    return "export without the option that adds it (--end2end, nms)"


def _ends_the_graph(graph: onnx.GraphProto, plugin: onnx.NodeProto) -> bool:
    """Whether every output is one of the plugin's, at most cast or reshaped."""
    made_by = {name: node for node in graph.node for name in node.output}
    for output in graph.output:
        node = made_by.get(output.name)
        while node is not None and node is not plugin and node.op_type in _SHAPES_ONLY:
            node = made_by.get(node.input[0])
        if node is not plugin:
            return False
    return True


def _told(plugin: onnx.NodeProto) -> NmsPlugin:
    """The plugins spell the same attributes differently: iou_threshold, iouThreshold."""
    from onnx import helper

    given = {
        attribute.name.replace("_", "").casefold(): helper.get_attribute_value(attribute)
        for attribute in plugin.attribute
    }
    score, iou = given.get("scorethreshold"), given.get("iouthreshold")
    most = next((given[name] for name in ("maxoutputboxes", "keeptopk") if name in given), None)
    return NmsPlugin(
        operator=plugin.op_type,
        boxes=plugin.input[0],
        scores=plugin.input[1],
        center_size=bool(given.get("boxcoding", 0)),
        normalised=bool(given["isnormalized"]) if "isnormalized" in given else None,
        sigmoid=bool(given.get("scoreactivation", 0)),
        class_agnostic=bool(given.get("classagnostic", 0)),
        background=int(given.get("backgroundclass", given.get("backgroundlabelid", -1))),
        score_threshold=None if score is None else float(score),
        iou_threshold=None if iou is None else float(iou),
        max_detections=None if most is None else int(most),
    )


def _end_at(model: onnx.ModelProto, names: list[str]) -> None:
    """The tensors ``names`` become the outputs; nodes that only what was cut off needed are dropped."""
    import onnx

    graph = model.graph
    outputs = [_described(model, name) for name in names]
    needed, kept = set(names), []
    for node in reversed(graph.node):
        if needed & set(node.output):
            needed |= reads(node)
            kept.append(node)
    kept = [onnx.NodeProto.FromString(node.SerializeToString()) for node in reversed(kept)]
    del graph.node[:]
    graph.node.extend(kept)
    del graph.output[:]
    graph.output.extend(outputs)


def _described(model: onnx.ModelProto, name: str) -> onnx.ValueInfoProto:
    """Type and shape of an inner tensor, as far as inference follows; FLOAT [?,?,?] otherwise."""
    import onnx
    from onnx import helper

    inferred = onnx.shape_inference.infer_shapes(model)
    described: dict[str, onnx.ValueInfoProto] = {
        value.name: value for value in (*inferred.graph.value_info, *inferred.graph.input)
    }
    if name in described and described[name].type.tensor_type.HasField("shape"):
        return described[name]
    return helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, [None, None, None])
