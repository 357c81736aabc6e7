"""The tiny network as quantisers and exporters leave it, and as OpenVINO 2026.4 computes it otherwise."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper
from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static

from tests.builder.precision.networks import save_convolutional_network

FORMS = {
    "signed": {},
    "unsigned": {"activation_type": QuantType.QUInt8, "per_channel": True},
    "operators": {"quant_format": QuantFormat.QOperator},
    "sixteen": {"activation_type": QuantType.QUInt16, "extra_options": {"UseQDQContribOps": True}},
}


class _Noise(CalibrationDataReader):
    """A few random pictures."""

    def __init__(self) -> None:
        rng = np.random.default_rng(0)
        self.pictures = iter([rng.uniform(0, 255, (1, 3, 64, 64)).astype(np.float32) for _ in range(3)])

    def get_next(self):
        picture = next(self.pictures, None)
        return None if picture is None else {"images": picture}


def save_quantised_network(path: Path, form: str, *, relu: bool = False, **options) -> Path:
    """The tiny network through ONNX Runtime's ``quantize_static``, as a user would call it.

    ``relu`` puts a Relu in the place of every SiLU.
    """
    source = save_convolutional_network(path.with_suffix(".float.onnx"))
    if relu:
        model = onnx.load(source)
        for node in [node for node in model.graph.node if node.op_type == "Mul"]:
            node.op_type = "Relu"
            model.graph.node.remove(next(n for n in model.graph.node if n.output[0] == node.input[1]))
            del node.input[1:]
        onnx.save(model, source)
    quantize_static(source, path, _Noise(), **FORMS[form], **options)
    return path


def save_with_resize(path: Path, **attributes) -> Path:
    """The tiny network with its input made smaller and larger again, first by a Resize of ``attributes``."""
    model = onnx.load(save_convolutional_network(path))
    del model.opset_import[:]
    model.opset_import.append(helper.make_opsetid("", 18))
    model.graph.initializer.extend(
        [numpy_helper.from_array(np.array([1, 3, size, size], np.int64), f"to_{size}") for size in (24, 64)]
    )
    model.graph.node[0].input[0] = "whole"
    nodes = [
        helper.make_node(
            "Resize", ["images", "", "", "to_24"], ["small"], "small", mode="linear", **attributes
        ),
        helper.make_node("Resize", ["small", "", "", "to_64"], ["whole"], "whole", mode="linear"),
        *model.graph.node,
    ]
    del model.graph.node[:]
    model.graph.node.extend(nodes)
    onnx.save(model, path)
    return path


def with_weights(model: onnx.ModelProto, how: str) -> onnx.ModelProto:
    """``model`` with the weights of its layers behind a node: Cast from fp16, Identity, Transpose or Mul."""
    changed = onnx.ModelProto()
    changed.CopyFrom(model)
    nodes = []
    for tensor in [t for t in changed.graph.initializer if t.name.endswith("_weight")]:
        values, inputs, attributes = numpy_helper.to_array(tensor), [f"{tensor.name}_stored"], {}
        if how == "Cast":
            values, attributes = values.astype(np.float16), {"to": TensorProto.FLOAT}
        elif how == "Transpose":
            values, attributes = np.ascontiguousarray(values.transpose(1, 0, 2, 3)), {"perm": [1, 0, 2, 3]}
        elif how == "Mul":
            half = numpy_helper.from_array(np.float32(0.5), f"{tensor.name}_norm")
            changed.graph.initializer.append(half)
            values, inputs = values * 2, [*inputs, half.name]
        nodes.append(helper.make_node(how, inputs, [tensor.name], f"{tensor.name}_{how}", **attributes))
        tensor.CopyFrom(numpy_helper.from_array(values, inputs[0]))
    nodes += changed.graph.node
    del changed.graph.node[:]
    changed.graph.node.extend(nodes)
    return changed
