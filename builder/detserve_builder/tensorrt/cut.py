"""Taking nodes out of a graph, so that the rest can be compiled where those nodes cannot."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import onnx


def without_operators(
    model: onnx.ModelProto, operators: Collection[str]
) -> tuple[onnx.ModelProto, list[str]]:
    """``model`` without its nodes of these types, and the names of those nodes ("RoiAlign 'roi_3'").

    An If or Loop that holds one goes with it. What such a node gave becomes an input of the graph, what it
    took an output: everything before, between and behind them stays. Shapes are inferred; a dimension that
    only the node knew stays open.
    """
    import onnx

    inferred = onnx.shape_inference.infer_shapes(model)
    removed = [node for node in inferred.graph.node if _holds(node, operators)]
    if not removed:
        return model, []
    graph = inferred.graph
    described = {value.name: value for value in (*graph.value_info, *graph.output)}
    constants = {tensor.name for tensor in graph.initializer}
    constants |= {name for node in graph.node if node.op_type == "Constant" for name in node.output}
    kept = [node for node in graph.node if not _holds(node, operators)]
    made = {name for node in kept for name in node.output}
    consumed = {name for node in kept for name in _taken(node)}

    inputs = [name for node in removed for name in node.output if name in consumed]
    wanted = [name for node in removed for name in _taken(node) if name in made and name not in constants]
    outputs = [output.name for output in graph.output if output.name in made]
    outputs += [name for name in dict.fromkeys(wanted) if name not in outputs]
    del graph.node[:], graph.output[:]
    graph.node.extend(kept)
    graph.input.extend(described[name] for name in inputs)
    graph.output.extend(described[name] for name in outputs)
    return inferred, [_name(node, operators) for node in removed]


def _name(node: onnx.NodeProto, operators: Collection[str]) -> str:
    inside = [inner.op_type for graph in _branches(node) for inner in graph.node if _holds(inner, operators)]
    around = f" around {', '.join(inside)}" if inside else ""
    return f"{node.op_type} {node.name or node.output[0]!r}{around}"


def _holds(node: onnx.NodeProto, operators: Collection[str]) -> bool:
    return node.op_type in operators or any(
        _holds(inner, operators) for graph in _branches(node) for inner in graph.node
    )


def _taken(node: onnx.NodeProto) -> Iterator[str]:
    """The inputs of a node, and what its branches take from around them."""
    yield from node.input
    for graph in _branches(node):
        for inner in graph.node:
            yield from _taken(inner)
        yield from (output.name for output in graph.output)


def _branches(node: onnx.NodeProto) -> Iterator[onnx.GraphProto]:
    return (attribute.g for attribute in node.attribute if attribute.HasField("g"))
