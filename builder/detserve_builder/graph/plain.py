"""The prepared ONNX in the one form that the passes read, whatever its exporter wrote.

Every node has its own name, floats are FLOAT, weights that are computed of constants alone (behind a
Cast, a Transpose, a weight normalisation) are initialisers, and no two layers share a bias, whose scale is
that of its layer. Q/DQ nodes that came with the network stay as they are.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Mapping
from typing import TYPE_CHECKING

from detserve_builder.graph.branches import all_graphs
from detserve_builder.graph.network import WEIGHTED, named_nodes, quantises
from detserve_builder.graph.sorting import reads

if TYPE_CHECKING:
    import onnx

#: What the passes and ONNX Runtime's quantiser append to the names of tensors.
_SUFFIXES = (
    *("_quantized", "_scale", "_zero_point", "_fp16"),
    *("_QuantizeLinear_Input", "_QuantizeLinear_Output", "_DequantizeLinear_Output"),
)


def plain(model: onnx.ModelProto) -> onnx.ModelProto:
    """``model`` (left as it is) in the form above; it computes the same, fp16 with fewer roundings."""
    import onnx

    copy = named_nodes(model)
    for graph in all_graphs(copy.graph):
        _halves_to_float(graph)
    fold_weights(copy)
    _own_biases(copy.graph)
    _remove_unread(copy.graph)
    names = _names(copy.graph)
    new = {name: _free(f"{name}_", names) for name in sorted(names) if name.endswith(_SUFFIXES)}
    for graph in all_graphs(copy.graph):
        _rename(graph, new)
    return onnx.shape_inference.infer_shapes(copy)


def _halves_to_float(graph: onnx.GraphProto) -> None:
    """FLOAT16 and BFLOAT16 -> FLOAT."""
    from onnx import TensorProto

    halves = (TensorProto.FLOAT16, TensorProto.BFLOAT16)
    for tensor in graph.initializer:
        _tensor_to_float(tensor)
    for value in (*graph.value_info, *graph.input, *graph.output):
        if value.type.tensor_type.elem_type in halves:
            value.type.tensor_type.elem_type = TensorProto.FLOAT
    for attribute in (held for node in graph.node for held in node.attribute):
        if attribute.HasField("t"):
            _tensor_to_float(attribute.t)
        elif attribute.name in ("to", "dtype", "output_dtype") and attribute.i in halves:
            attribute.i = TensorProto.FLOAT


def _tensor_to_float(tensor: onnx.TensorProto) -> None:
    import numpy as np
    from onnx import TensorProto, numpy_helper

    if tensor.data_type in (TensorProto.FLOAT16, TensorProto.BFLOAT16):
        values = np.asarray(numpy_helper.to_array(tensor)).astype(np.float32)
        tensor.CopyFrom(numpy_helper.from_array(values, tensor.name))


def fold_weights(model: onnx.ModelProto, *, quantised: bool = False) -> None:
    """Weights and biases that are computed of constants alone -> initialisers, in place.

    What is dequantised is computed too where ``quantised``, and else stays.
    """
    import onnx
    from onnx import numpy_helper

    from detserve_builder.graph.session import open_session

    graph = model.graph
    known = {tensor.name for tensor in graph.initializer}
    makers: dict[str, onnx.NodeProto] = {}  # of what is made of constants alone
    for node in graph.node:
        constant = node.input and all(name in known or name in makers for name in reads(node))
        if constant and (quantised or not quantises(node)):
            makers.update(dict.fromkeys(node.output, node))
    weighted = [node for node in graph.node if node.op_type in WEIGHTED]
    wanted = {name for node in weighted for name in node.input[1:] if name in makers}
    if not wanted:
        return
    wanted = {output for name in wanted for output in makers[name].output if output}
    needed = _needed(graph.node, wanted, makers)
    source = onnx.helper.make_model(
        onnx.helper.make_graph(
            needed,
            "weights",
            [],
            [onnx.ValueInfoProto(name=name) for name in sorted(wanted)],
            [tensor for tensor in graph.initializer if any(tensor.name in reads(node) for node in needed)],
        ),
        opset_imports=model.opset_import,
        ir_version=model.ir_version,
    )
    values = open_session(source).run(sorted(wanted), {})
    for node in list(graph.node):
        if wanted.intersection(node.output):
            graph.node.remove(node)
    graph.initializer.extend(
        numpy_helper.from_array(value, name) for name, value in zip(sorted(wanted), values, strict=True)
    )


def _needed(
    nodes: Iterable[onnx.NodeProto], wanted: Collection[str], makers: Mapping[str, onnx.NodeProto]
) -> list[onnx.NodeProto]:
    """Those of the makers that ``wanted`` depend on, in order of execution."""
    names, open_names = set(wanted), list(wanted)
    while open_names:
        for name in makers[open_names.pop()].input:
            if name in makers and name not in names:
                names.add(name)
                open_names.append(name)
    return [node for node in nodes if names.intersection(node.output)]


def _remove_unread(graph: onnx.GraphProto) -> None:
    """Nodes and initialisers that nothing reads any more."""
    read = {output.name for output in graph.output}
    kept = []
    for node in reversed(graph.node):
        if read.intersection(node.output):
            read.update(reads(node))
            kept.append(node)
    del graph.node[:]
    graph.node.extend(reversed(kept))
    for tensor in [tensor for tensor in graph.initializer if tensor.name not in read]:
        graph.initializer.remove(tensor)


def _own_biases(graph: onnx.GraphProto) -> None:
    """A copy of a bias for each layer, where several read it."""
    constants = {tensor.name: tensor for tensor in graph.initializer}
    readers = Counter(name for node in graph.node for name in node.input)
    taken = _names(graph)
    for node in graph.node:
        if node.op_type not in WEIGHTED or len(node.input) < 3 or readers[node.input[2]] < 2:
            continue
        if node.input[2] in constants:
            own = graph.initializer.add()
            own.CopyFrom(constants[node.input[2]])
            own.name = _free(f"{node.name}_bias", taken)
            node.input[2] = own.name


def _free(name: str, taken: set[str]) -> str:
    while name in taken:
        name += "_"
    taken.add(name)
    return name


def _names(graph: onnx.GraphProto) -> set[str]:
    """Of every tensor in the graph and in its branches."""
    names: set[str] = set()
    for inner in all_graphs(graph):
        names.update(value.name for value in (*inner.input, *inner.output, *inner.initializer))
        names.update(name for node in inner.node for name in (*node.input, *node.output))
    return names


def _rename(graph: onnx.GraphProto, new: Mapping[str, str]) -> None:
    for value in (*graph.input, *graph.output, *graph.initializer, *graph.value_info):
        value.name = new.get(value.name, value.name)
    for node in graph.node:
        for names in (node.input, node.output):
            names[:] = [new.get(name, name) for name in names]
