"""Which nodes of a prepared ONNX are layers with weights, and what belongs to each."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import onnx

WEIGHTED = ("Conv", "ConvTranspose", "Gemm", "MatMul")


def named_nodes(model: onnx.ModelProto) -> onnx.ModelProto:
    """A copy in which every node has a name of its own."""
    import onnx

    named = onnx.ModelProto()
    named.CopyFrom(model)
    taken: set[str] = set()
    for index, node in enumerate(named.graph.node):
        if not node.name or node.name in taken:
            node.name = f"{node.op_type}_{index}"
        taken.add(node.name)
    return named


def is_weighted(node: onnx.NodeProto, constants: Collection[str]) -> bool:
    """Whether ``node`` multiplies with weights, which are among ``constants``."""
    return node.op_type in WEIGHTED and len(node.input) > 1 and node.input[1] in constants


def layers(model: onnx.ModelProto, nodes: Iterable[str]) -> dict[str, list[str]]:
    """``nodes`` grouped under the weighted layer that each follows, in order of execution."""
    wanted = set(nodes)
    groups: dict[str, list[str]] = {}
    layer_of: dict[str, str] = {}
    order = {node.name: index for index, node in enumerate(model.graph.node)}
    constants = {initializer.name for initializer in model.graph.initializer}
    for node in model.graph.node:
        before = [layer_of[name] for name in node.input if name in layer_of]
        own = node.name if is_weighted(node, constants) else max(before, key=order.__getitem__, default=None)
        if own is None:
            continue
        layer_of.update(dict.fromkeys(node.output, own))
        if node.name in wanted:
            groups.setdefault(own, []).append(node.name)
    return groups
