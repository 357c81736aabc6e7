"""The prepared ONNX in the one form that the passes read, whatever its exporter wrote.

Every node has a name of its own, floats are FLOAT, constants are initialisers (those in Constant nodes, and
weights computed of constants alone: behind Identity, Cast, Transpose, a weight normalisation) and no two
layers share a bias, whose scale is that of its layer. Q/DQ nodes that came with the network stay as they are.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping
from typing import TYPE_CHECKING

from detserve_builder.precision.network import WEIGHTED, named_nodes, quantises

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
    _halves_to_float(copy.graph)
    _name_constants(copy.graph)
    fold_weights(copy)
    _own_biases(copy.graph)
    _rename(copy.graph, {name: f"{name}_" for name in _names(copy.graph) if name.endswith(_SUFFIXES)})
    return onnx.shape_inference.infer_shapes(copy)


def _halves_to_float(graph: onnx.GraphProto) -> None:
    """FLOAT16 and BFLOAT16 -> FLOAT, in the graph and in its branches."""
    from onnx import TensorProto

    halves = (TensorProto.FLOAT16, TensorProto.BFLOAT16)
    for tensor in graph.initializer:
        _tensor_to_float(tensor)
    for value in (*graph.value_info, *graph.input, *graph.output):
        if value.type.tensor_type.elem_type in halves:
            value.type.tensor_type.elem_type = TensorProto.FLOAT
    for node in graph.node:
        for attribute in node.attribute:
            if attribute.HasField("t"):
                _tensor_to_float(attribute.t)
            elif attribute.name in ("to", "dtype", "output_dtype") and attribute.i in halves:
                attribute.i = TensorProto.FLOAT
    for branch in _branches(graph.node):
        _halves_to_float(branch)


def _tensor_to_float(tensor: onnx.TensorProto) -> None:
    import numpy as np
    from onnx import TensorProto, numpy_helper

    if tensor.data_type in (TensorProto.FLOAT16, TensorProto.BFLOAT16):
        values = np.asarray(numpy_helper.to_array(tensor)).astype(np.float32)
        tensor.CopyFrom(numpy_helper.from_array(values, tensor.name))


def _name_constants(graph: onnx.GraphProto) -> None:
    """Constant nodes -> initialisers."""
    kept = []
    for node in graph.node:
        tensor = _value(node) if node.op_type == "Constant" else None
        if tensor is None:
            kept.append(node)
        else:
            tensor.name = node.output[0]
            graph.initializer.append(tensor)
    del graph.node[:]
    graph.node.extend(kept)


def _value(node: onnx.NodeProto) -> onnx.TensorProto | None:
    import numpy as np
    from onnx import helper, numpy_helper

    held = node.attribute[0]
    value: onnx.TensorProto = held.t
    if held.name == "value":
        return value
    dtypes = {"value_float": np.float32, "value_floats": np.float32, "value_int": np.int64}
    dtype = {**dtypes, "value_ints": np.int64}.get(held.name)
    if dtype is None:  # strings, a sparse tensor
        return None
    value.CopyFrom(numpy_helper.from_array(np.array(helper.get_attribute_value(held), dtype)))
    return value


def fold_weights(model: onnx.ModelProto, *, quantised: bool = False) -> None:
    """Weights and biases that are computed of constants alone -> initialisers, in place.

    Those that are dequantised stay so but where ``quantised``.
    """
    import onnx
    from onnx import numpy_helper

    from detserve_builder.precision.session import open_session

    graph = model.graph
    known = {tensor.name for tensor in graph.initializer}
    makers: dict[str, onnx.NodeProto] = {}  # of what is made of constants alone
    for node in graph.node:
        constant = node.input and all(name in known or name in makers for name in node.input if name)
        if constant and (quantised or not quantises(node)) and not any(_branches([node])):
            makers.update(dict.fromkeys(node.output, node))
    weighted = [node for node in graph.node if node.op_type in WEIGHTED]
    wanted = {name for node in weighted for name in node.input[1:] if name in makers}
    if not wanted:
        return
    needed = _needed(graph.node, wanted, makers)
    source = onnx.helper.make_model(
        onnx.helper.make_graph(
            needed,
            "weights",
            [],
            [onnx.ValueInfoProto(name=name) for name in sorted(wanted)],
            [t for t in graph.initializer if any(t.name in node.input for node in needed)],
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
    _remove_unread(graph)


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
    read.update(name for branch in _branches(graph.node) for name in _names(branch))
    kept = []
    for node in reversed(graph.node):
        if read.intersection(node.output):
            read.update(node.input)
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
    read = {name for node in graph.node for name in node.input}
    read.update(name for branch in _branches(graph.node) for name in _names(branch))
    for tensor in [tensor for tensor in graph.initializer if tensor.name not in read]:
        graph.initializer.remove(tensor)


def _free(name: str, taken: set[str]) -> str:
    while name in taken:
        name += "_"
    taken.add(name)
    return name


def _names(graph: onnx.GraphProto) -> set[str]:
    """Of every tensor in the graph and in its branches."""
    names = {value.name for value in (*graph.input, *graph.output, *graph.initializer)}
    for node in graph.node:
        names.update(node.input, node.output)
    return names.union(*map(_names, _branches(graph.node)))


def _rename(graph: onnx.GraphProto, new: Mapping[str, str]) -> None:
    if not new:
        return
    for value in (*graph.input, *graph.output, *graph.initializer, *graph.value_info):
        value.name = new.get(value.name, value.name)
    for node in graph.node:
        for names in (node.input, node.output):
            names[:] = [new.get(name, name) for name in names]
    for branch in _branches(graph.node):
        _rename(branch, new)


def _branches(nodes: Iterable[onnx.NodeProto]) -> Iterator[onnx.GraphProto]:
    return (held.g for node in nodes for held in node.attribute if held.HasField("g"))
