"""Ranges -> explicit Q/DQ nodes around the network's own layers, in the form each target runs fast.

ONNX Runtime: unsigned activations over their own range, every layer that it has a kernel for.
OpenVINO: unsigned activations, Q/DQ pairs at the inputs of weighted layers alone and on their weights, so
that an activation behind a layer is fused into it, and no quantised bias.
TensorRT: as OpenVINO, with int8 and zero points 0. Weights have a scale per channel in each.
"""

from __future__ import annotations

import logging
from collections.abc import Collection, Mapping
from enum import Enum
from typing import TYPE_CHECKING

import numpy as np

from detserve_builder.graph.layers import OWN_PREFIX
from detserve_builder.graph.network import WEIGHTED, is_weighted
from detserve_builder.quantise.ranges import Range

if TYPE_CHECKING:
    import onnx

_ONNXRUNTIME = (
    *WEIGHTED,
    *("Add", "AveragePool", "Clip", "Concat", "Flatten", "GlobalAveragePool", "LeakyRelu", "MaxPool", "Mul"),
    *("Relu", "Reshape", "Resize", "Sigmoid", "Slice", "Split", "Squeeze", "Transpose", "Unsqueeze"),
)


class Form(str, Enum):
    """What the Q/DQ nodes are for."""

    ONNXRUNTIME = "onnxruntime"
    OPENVINO = "openvino"
    TENSORRT = "tensorrt"


def quantisable_nodes(model: onnx.ModelProto, form: Form, *, heads: bool = False) -> list[str]:
    """Names of the network's own nodes from its first weighted layer to before its last, in execution order.

    With ``heads`` the last weighted layers are among them.

    The last weighted layer of every branch stays float with all that follows (activations of the head, a
    decode inside the network): it is cheap, and boxes and scores are read off it. So does what is in front of
    the first layer, which ONNX Runtime runs faster in float, and every node that detserve added.
    """
    operators = _ONNXRUNTIME if form is Form.ONNXRUNTIME else WEIGHTED
    constants = {initializer.name for initializer in model.graph.initializer}
    behind: set[str] = set()  # tensors that a weighted layer had a part in
    for node in model.graph.node:
        if is_weighted(node, constants) or behind.intersection(node.input):
            behind.update(node.output)
    before: set[str] = set()  # tensors that a weighted layer depends on
    names: list[str] = []
    for node in reversed(model.graph.node):
        inner = bool(before.intersection(node.output))
        if inner or is_weighted(node, constants):
            before.update(node.input)
        own = not node.name.startswith(OWN_PREFIX) and node.op_type in operators
        layer = (
            is_weighted(node, constants)
            if node.op_type in WEIGHTED
            else bool(behind.intersection(node.input))
        )
        last = heads and is_weighted(node, constants)
        if (inner or last) and own and layer:
            names.append(node.name)
    return names[::-1]


def measured_tensors(model: onnx.ModelProto, nodes: Collection[str]) -> tuple[str, ...]:
    """The float32 activations around ``nodes``, whose ranges quantisation needs, in order of execution."""
    from onnx import TensorProto

    described = (*model.graph.value_info, *model.graph.input, *model.graph.output)
    floats = {info.name for info in described if info.type.tensor_type.elem_type == TensorProto.FLOAT}
    floats -= {initializer.name for initializer in model.graph.initializer}
    wanted = set(nodes)
    around = (
        name for node in model.graph.node if node.name in wanted for name in (*node.input, *node.output)
    )
    return tuple(dict.fromkeys(name for name in around if name in floats))


def quantise(
    model: onnx.ModelProto, ranges: Mapping[str, Range], nodes: Collection[str], form: Form, *, bits: int = 8
) -> onnx.ModelProto:
    """``model`` (left as it is) with Q/DQ around ``nodes``; ``ranges`` are of :func:`measured_tensors`.

    ``bits`` 16 gives 16-bit activations with 8-bit weights, which only ONNX Runtime on the CPU runs.
    """
    import onnx
    from onnxruntime.quantization import CalibrationMethod, QuantType
    from onnxruntime.quantization.calibrate import TensorData, TensorsData
    from onnxruntime.quantization.qdq_quantizer import QDQQuantizer

    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    symmetric, fused = form is Form.TENSORRT, form is not Form.ONNXRUNTIME
    wanted = set(nodes)
    unsigned = QuantType.QUInt16 if bits == 16 else QuantType.QUInt8
    quantizer = QDQQuantizer(
        copy,
        True,  # a scale per channel
        False,  # 8 bits of weight, not 7
        QuantType.QInt8,
        QuantType.QInt8 if symmetric else unsigned,
        TensorsData(
            CalibrationMethod.MinMax,
            {
                name: TensorData(lowest=np.float32(low), highest=np.float32(high))
                for name, (low, high) in ranges.items()
            },
        ),
        [node.name for node in copy.graph.node if node.name in wanted],
        [],
        sorted({node.op_type for node in copy.graph.node if node.name in wanted}),
        {
            "ActivationSymmetric": symmetric,
            "WeightSymmetric": True,
            "QuantizeBias": not fused,
            "AddQDQPairToWeight": symmetric,
            "DedicatedQDQPair": False,
            "OpTypesToExcludeOutputQuantization": list(WEIGHTED) if fused else [],
            "MatMulConstBOnly": True,
            "UseQDQContribOps": bits == 16,
        },
    )
    logger = logging.getLogger()
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        quantizer.quantize_model()
    finally:
        logger.setLevel(level)
    quantizer.model.topological_sort()
    quantised: onnx.ModelProto = quantizer.model.model
    quantised.producer_name = model.producer_name
    onnx.checker.check_model(quantised)
    return quantised
