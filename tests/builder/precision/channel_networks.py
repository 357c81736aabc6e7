"""Random small networks of everything that couples, carries or freezes channels."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

SIZE = 16  # pixels of the picture


@dataclass
class Writer:
    """A network that grows from the input "images" [N,3,16,16]; every step keeps height and width alike."""

    rng: np.random.Generator
    opset: int = 17
    nodes: list[onnx.NodeProto] = field(default_factory=list)
    constants: dict[str, np.ndarray] = field(default_factory=dict)
    channels: dict[str, int] = field(default_factory=lambda: {"images": 3})

    def add(self, op: str, inputs: list[str], channels: int, outputs: int = 1, **attributes) -> str:
        name = f"{op}_{len(self.nodes)}"
        made = [name] if outputs == 1 else [f"{name}_{index}" for index in range(outputs)]
        self.nodes.append(helper.make_node(op, inputs, made, name, **attributes))
        self.channels.update(dict.fromkeys(made, channels))
        return name

    def constant(self, value) -> str:
        name = f"constant_{len(self.constants)}"
        array = np.asarray(value)
        self.constants[name] = array.astype(np.float32) if array.dtype.kind == "f" else array
        return name

    def conv(self, source: str, out: int, kernel: int = 3, group: int = 1) -> str:
        into = self.channels[source] // group
        weight = self.rng.normal(0, (into * kernel**2) ** -0.5, (out, into, kernel, kernel))
        inputs = [source, self.constant(weight)]
        if self.rng.random() < 0.7:
            inputs.append(self.constant(self.rng.normal(0, 0.3, out)))
        pad = kernel // 2
        return self.add("Conv", inputs, out, group=group, pads=[pad] * 4, kernel_shape=[kernel] * 2)

    def model(self, outputs: list[str]) -> onnx.ModelProto:
        graph = helper.make_graph(
            self.nodes,
            "random",
            [helper.make_tensor_value_info("images", TensorProto.FLOAT, ["N", 3, SIZE, SIZE])],
            [onnx.ValueInfoProto(name=name) for name in outputs],
            [numpy_helper.from_array(value, name) for name, value in self.constants.items()],
        )
        made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", self.opset)], ir_version=10)
        return onnx.shape_inference.infer_shapes(made, strict_mode=True)


def activation(net: Writer, x: str) -> str:
    kind = net.rng.choice(["LeakyRelu", "HardSwish", "Sigmoid", "Clip", "PRelu", "silu", "Relu", "relu6"])
    c = net.channels[x]
    if kind == "silu":
        return net.add("Mul", [x, net.add("Sigmoid", [x], c)], c)
    if kind in ("Clip", "relu6"):
        return net.add("Clip", [x, net.constant(np.float32(-1)), net.constant(np.float32(6))], c)
    if kind == "PRelu":
        return net.add("PRelu", [x, net.constant(net.rng.random((c, 1, 1)))], c)
    return net.add(kind, [x], c)


def wide(net: Writer, x: str) -> str:
    return net.conv(x, int(net.rng.choice([8, 12, 16])), int(net.rng.choice([1, 3])))


def depthwise(net: Writer, x: str) -> str:
    c = net.channels[x]
    return net.conv(x, c, 3, group=c) if c > 1 else wide(net, x)


def grouped(net: Writer, x: str) -> str:
    """Freezes."""
    return net.conv(net.conv(x, 8), 8, 3, group=2)


def batch_normalisation(net: Writer, x: str) -> str:
    c = net.channels[x]
    values = [net.constant(net.rng.uniform(0.5, 1.5, c)) for _ in range(4)]
    return net.add("BatchNormalization", [x, *values], c)


def residual(net: Writer, x: str) -> str:
    c = net.channels[x]
    inner = activation(net, net.conv(x, c))
    return net.add(str(net.rng.choice(["Add", "Mul", "Sub", "Max"])), [x, net.conv(inner, c)], c)


def branches(net: Writer, x: str) -> str:
    one, other = net.conv(x, 8, 1), activation(net, net.conv(x, 12))
    return net.add("Concat", [one, other], 20, axis=1)


def with_itself(net: Writer, x: str) -> str:
    """A channel is read in two places."""
    one = net.conv(x, 8)
    return net.add("Concat", [one, net.add("Relu", [one], 8)], 16, axis=1)


def split(net: Writer, x: str) -> str:
    both = net.conv(x, 16)
    if net.opset >= 18 and net.rng.random() < 0.5:
        name = net.add("Split", [both], 8, outputs=2, axis=1, num_outputs=2)
    else:
        name = net.add("Split", [both, net.constant(np.array([4, 12]))], 0, outputs=2, axis=1)
        net.channels |= {f"{name}_0": 4, f"{name}_1": 12}
    return net.add("Concat", [activation(net, f"{name}_1"), f"{name}_0"], 16, axis=1)


def sliced(net: Writer, x: str) -> str:
    both = net.conv(x, 16)
    low, high = ((0, 8), (8, 2**31)) if net.rng.random() < 0.5 else ((-16, -8), (-8, 16))
    halves = [
        net.add("Slice", [both, *(net.constant(np.array([n])) for n in (start, end, 1))], 8)
        for start, end in (low, high)
    ]
    return net.add("Add", halves, 8)


def scaled(net: Writer, x: str) -> str:
    c = net.channels[x]
    shape = [(c, 1, 1), (1, c, 1, 1), (1,), (1, 1, SIZE, SIZE), ()][net.rng.integers(5)]
    return net.add(str(net.rng.choice(["Mul", "Add"])), [x, net.constant(net.rng.random(shape))], c)


def squeeze_and_excite(net: Writer, x: str) -> str:
    c = net.channels[x]
    if net.rng.random() < 0.5:
        mean = net.add("GlobalAveragePool", [x], c)
    elif net.opset < 18:
        mean = net.add("ReduceMean", [x], c, axes=[2, 3], keepdims=1)
    else:
        mean = net.add("ReduceMean", [x, net.constant(np.array([2, 3]))], c, keepdims=1)
    inner = net.add("Relu", [net.conv(mean, 8, 1)], 8)
    return net.add("Mul", [x, net.add("Sigmoid", [net.conv(inner, c, 1)], c)], c)


def spatial_attention(net: Writer, x: str) -> str:
    """One channel against many."""
    return net.add("Mul", [x, net.conv(x, 1)], net.channels[x])


def pooled(net: Writer, x: str) -> str:
    c = net.channels[x]
    return net.add("MaxPool", [x], c, kernel_shape=[3, 3], pads=[1] * 4)


def resized(net: Writer, x: str) -> str:
    c = net.channels[x]
    if net.rng.random() < 0.5:
        up = net.add("Resize", [x, "", net.constant(np.array([1.0, 1, 2, 2]))], c, mode="nearest")
    else:
        sizes = net.constant(np.array([1, c, 2 * SIZE, 2 * SIZE]))
        up = net.add("Resize", [x, "", "", sizes], c, mode="nearest")
    return net.add("AveragePool", [up], c, kernel_shape=[2, 2], strides=[2, 2])


def padded(net: Writer, x: str) -> str:
    c = net.channels[x]
    pads = net.constant(np.array([0, 0, 1, 1, 0, 0, 1, 1]))
    return net.add("MaxPool", [net.add("Pad", [x, pads], c)], c, kernel_shape=[3, 3])


def shuffled(net: Writer, x: str) -> str:
    """Freezes."""
    made = net.conv(x, 8)
    apart = net.add("Reshape", [made, net.constant(np.array([0, 2, 4, SIZE, SIZE]))], 8)
    swapped = net.add("Transpose", [apart], 8, perm=[0, 2, 1, 3, 4])
    return net.add("Reshape", [swapped, net.constant(np.array([0, 8, SIZE, SIZE]))], 8)


STEPS = (
    *(
        activation,
        wide,
        depthwise,
        grouped,
        batch_normalisation,
        residual,
        branches,
        with_itself,
        split,
        sliced,
    ),
    *(scaled, squeeze_and_excite, spatial_attention, pooled, resized, padded, shuffled),
)


def random_network(seed: int, steps: list[int]) -> onnx.ModelProto:
    """The steps numbered, between a stem and two heads that read what there is."""
    rng = np.random.default_rng(seed)
    net = Writer(rng, int(rng.choice([17, 18, 22])))
    x = activation(net, net.conv("images", 8))
    for step in steps:
        x = STEPS[step](net, x)
    return net.model([net.conv(x, 5, 1), net.conv(x, 4, 3)])
