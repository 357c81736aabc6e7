"""The order of a graph's nodes: each behind those whose results it reads."""

from __future__ import annotations

from typing import TYPE_CHECKING

from detserve_builder.graph.branches import inner_graphs

if TYPE_CHECKING:
    import onnx


def sort_nodes(graph: onnx.GraphProto) -> None:
    """Sort ``graph`` and the branches inside it in place; converters append their Casts at the end.

    Nodes that are in order keep it. A graph with a cycle is left for the checker to refuse.
    """
    nodes = list(graph.node)
    for node in nodes:
        for inner in inner_graphs(node):
            sort_nodes(inner)
    made_by = {name: index for index, node in enumerate(nodes) for name in node.output if name}
    order: list[int] = []
    state = [0] * len(nodes)  # 0 not seen, 1 waits for what it reads, 2 placed
    for start in range(len(nodes)):
        waiting = [start]
        while waiting:
            index = waiting[-1]
            if state[index] == 0:
                state[index] = 1
                before = {made_by[name] for name in reads(nodes[index]) if name in made_by}
                waiting += [other for other in sorted(before, reverse=True) if state[other] == 0]
                continue
            waiting.pop()
            if state[index] == 1:
                state[index] = 2
                order.append(index)
    if order != list(range(len(nodes))):
        del graph.node[:]
        graph.node.extend(nodes[index] for index in order)


def reads(node: onnx.NodeProto) -> set[str]:
    """Names of the tensors that ``node`` reads, those its branches take from outside too."""
    names = {name for name in node.input if name}
    for inner in inner_graphs(node):
        for inside in inner.node:
            names |= reads(inside)
        names |= {output.name for output in inner.output}
    return names
