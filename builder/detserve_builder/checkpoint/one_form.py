"""The network as its exporter wrote it -> the same network in the one form that everything behind knows."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from detserve_builder.checkpoint.image_input import ImageInput, image_input, input_size_is_fixed
from detserve_builder.checkpoint.opset import at_opset
from detserve_builder.checkpoint.other_inputs import fed_inputs
from detserve_builder.errors import BuildError, first_line
from detserve_builder.graph.branches import all_graphs
from detserve_builder.graph.layers import OWN_PREFIX
from detserve_builder.graph.open_outputs import measure_open_outputs
from detserve_core.card import Wh

if TYPE_CHECKING:
    import onnx
    from numpy.typing import NDArray

_GREY = (0.299, 0.587, 0.114)  # ITU-R BT.601, as OpenCV and Pillow make grey of RGB


def in_one_form(
    path: Path, original: onnx.ModelProto, input_wh: Wh | None
) -> tuple[onnx.ModelProto, dict[str, NDArray[Any]]]:
    """``original`` as :class:`Checkpoint` says, and what its other inputs are given.

    ``input_wh`` is for an input whose size the file leaves open; where it is None too, the size stays open.
    Raises :class:`BuildError`.
    """
    import onnx

    model = onnx.ModelProto()
    model.CopyFrom(original)
    for graph in all_graphs(model.graph):
        _constants_as_initialisers(graph)
    _drop_weights_from_inputs(model)
    model = at_opset(path, model)
    image = image_input(path, model, input_wh)
    if not input_size_is_fixed(model):
        _forget_output_sizes(model)
    fed = fed_inputs(path, model, image)
    _feed(model, fed)
    _picture_in_front(model, image)
    _floats_behind(model)
    del model.graph.value_info[:]
    model = _inferred(path, model)
    measure_open_outputs(model)
    return model, fed


def _inferred(path: Path, model: onnx.ModelProto) -> onnx.ModelProto:
    """With every shape that can be inferred; what inference cannot follow is for ONNX Runtime to judge."""
    import onnx

    try:
        return onnx.shape_inference.infer_shapes(model, strict_mode=True, data_prop=True)
    except (onnx.shape_inference.InferenceError, RuntimeError, ValueError):
        pass
    try:
        return onnx.shape_inference.infer_shapes(model, data_prop=True)
    except (onnx.shape_inference.InferenceError, RuntimeError, ValueError) as error:
        raise BuildError(f"{path}: the ONNX graph is not valid ({first_line(error)})") from None


def _forget_output_sizes(model: onnx.ModelProto) -> None:
    """Of a network for pictures of any size: exporters write what the example gave (insightface's SCRFD)."""
    for output in model.graph.output:
        dims = output.type.tensor_type.shape.dim
        for dim in dims if len(dims) < 3 else list(dims)[1:]:
            dim.Clear()


def _constants_as_initialisers(graph: onnx.GraphProto) -> None:
    """Constant nodes, and Identity of a weight, become initialisers: the form that every pass looks for."""
    import onnx
    from onnx import numpy_helper

    weights = {tensor.name: tensor for tensor in graph.initializer}
    outputs = {output.name for output in graph.output}
    kept = []
    for node in graph.node:
        value = None
        if node.op_type == "Constant" and node.domain in ("", "ai.onnx"):
            value = _constant_value(node)
        elif node.op_type == "Identity" and node.input[0] in weights:
            value = numpy_helper.to_array(weights[node.input[0]])
        if value is None or node.output[0] in outputs:
            kept.append(node)
            continue
        tensor = value if isinstance(value, onnx.TensorProto) else numpy_helper.from_array(value)
        lifted = onnx.TensorProto()
        lifted.CopyFrom(tensor)
        lifted.name = node.output[0]
        graph.initializer.append(lifted)
        weights[lifted.name] = lifted
    del graph.node[:]
    graph.node.extend(kept)


def _constant_value(node: onnx.NodeProto) -> Any:
    """The tensor or array of a Constant node; None for text and sparse ones, which stay as they are."""
    import numpy as np

    attribute = node.attribute[0]
    if attribute.name == "value":
        return attribute.t
    numbers = {
        "value_float": (np.float32, attribute.f),
        "value_int": (np.int64, attribute.i),
        "value_floats": (np.float32, list(attribute.floats)),
        "value_ints": (np.int64, list(attribute.ints)),
    }
    if attribute.name not in numbers:
        return None
    dtype, value = numbers[attribute.name]
    return np.array(value, dtype)


def _drop_weights_from_inputs(model: onnx.ModelProto) -> None:
    """Up to IR 3 every weight is listed as an input too."""
    weights = {tensor.name for tensor in model.graph.initializer}
    kept = [value for value in model.graph.input if value.name not in weights]
    del model.graph.input[:]
    model.graph.input.extend(kept)


def _feed(model: onnx.ModelProto, fed: Mapping[str, NDArray[Any]]) -> None:
    """Inputs beside the picture become constants."""
    from onnx import numpy_helper

    kept = [value for value in model.graph.input if value.name not in fed]
    del model.graph.input[:]
    model.graph.input.extend(kept)
    model.graph.initializer.extend(numpy_helper.from_array(value, name) for name, value in fed.items())


def _picture_in_front(model: onnx.ModelProto, image: ImageInput) -> None:
    """The input becomes FLOAT [N,3,H,W] under its own name; what the file wants is made of it."""
    from onnx import TensorProto, helper

    nodes, graph = [], model.graph
    steps: list[tuple[str, list[str], dict[str, Any]]] = []
    if image.channels == 1:
        steps.append(("Mul", [_constant(model, "grey", [[[[w]] for w in _GREY]], "float32")], {}))
        steps.append(("ReduceSum", [_constant(model, "grey_axis", [1], "int64")], {"keepdims": 1}))
    if not image.has_batch:
        steps.append(("Squeeze", [_constant(model, "batch_axis", [0], "int64")], {}))
    if image.channels_last:
        steps.append(("Transpose", [], {"perm": [0, 2, 3, 1] if image.has_batch else [1, 2, 0]}))
    if image.dtype != TensorProto.FLOAT and not _only_cast_to_float(graph, image.name):
        steps.append(("Cast", [], {"to": image.dtype}))
    if steps:
        inner = f"{image.name}_as_exported"
        rename(graph, image.name, inner)
        made = image.name
        for index, (op, more, attributes) in enumerate(steps):
            output = inner if index == len(steps) - 1 else f"{OWN_PREFIX}picture_{index}"
            name = f"{OWN_PREFIX}picture_{op}"
            nodes.append(helper.make_node(op, [made, *more], [output], name, **attributes))
            made = output
        after = list(graph.node)
        del graph.node[:]
        graph.node.extend([*nodes, *after])
    width, height = image.wh
    shape = [image.batch, 3, height, width]
    value = helper.make_tensor_value_info(image.name, TensorProto.FLOAT, shape)
    del graph.input[:]
    graph.input.append(value)


def _only_cast_to_float(graph: onnx.GraphProto, name: str) -> bool:
    """Whether all that the network does with its input is to make floats of it, which it may be already."""
    readers = [node for node in graph.node if name in node.input]
    return bool(readers) and all(node.op_type == "Cast" and node.attribute[0].i == 1 for node in readers)


def _floats_behind(model: onnx.ModelProto) -> None:
    """Outputs of half, bfloat16 or double precision become FLOAT, under their own names."""
    from onnx import TensorProto, helper

    for output in model.graph.output:
        tensor = output.type.tensor_type
        if tensor.elem_type in (TensorProto.FLOAT16, TensorProto.BFLOAT16, TensorProto.DOUBLE):
            inner = f"{output.name}_as_exported"
            rename(model.graph, output.name, inner)
            name = f"{OWN_PREFIX}{output.name}_as_float"
            model.graph.node.append(
                helper.make_node("Cast", [inner], [output.name], name, to=TensorProto.FLOAT)
            )
            tensor.elem_type = TensorProto.FLOAT


def rename(graph: onnx.GraphProto, old: str, new: str) -> None:
    """Give an inner tensor of ``graph`` another name, in its branches too, in place."""
    for inner in all_graphs(graph):
        for node in inner.node:
            for names in (node.input, node.output):
                for index, name in enumerate(names):
                    if name == old:
                        names[index] = new
        if inner is not graph:
            for output in inner.output:
                if output.name == old:
                    output.name = new
        for tensor in inner.initializer:
            if tensor.name == old:
                tensor.name = new


def _constant(model: onnx.ModelProto, name: str, value: Any, dtype: str) -> str:
    import numpy as np
    from onnx import numpy_helper

    name = f"{OWN_PREFIX}{name}"
    model.graph.initializer.append(numpy_helper.from_array(np.array(value, dtype), name))
    return name
