"""Which nodes of a prepared ONNX are layers with weights, and what belongs to each."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

from detserve_builder.errors import BuildError
from detserve_builder.graph.layers import OWN_PREFIX

if TYPE_CHECKING:
    import onnx

WEIGHTED = ("Conv", "ConvTranspose", "Gemm", "MatMul")
LEAST_SHARE = 0.25  # of the layers that a pass must change, so that the network may be called by its name
_OF_QOPERATORS = ("QLinearConv", "QLinearMatMul", "QGemm", "QLinearConvTranspose")
_OF_DYNAMIC = ("ConvInteger", "MatMulInteger", "MatMulIntegerToFloat", "DynamicQuantizeMatMul", "MatMulNBits")


class Unfit(BuildError):
    """A candidate that is no use; a free choice goes on without it and reports why."""


@dataclass(frozen=True)
class Layers:
    """Names of the network's own layers with weights, in order of execution.

    ``floats`` have constant float weights, which passes change; ``quantised`` came quantised, as ``kind``
    says: ``Q/DQ``, ``16-bit Q/DQ`` (of activations), ``QOperator`` or ``dynamic``; the rest compute their
    weights.
    """

    every: tuple[str, ...]
    floats: tuple[str, ...]
    quantised: tuple[str, ...]
    kind: str

    @cached_property
    def as_it_came(self) -> str | None:
        """What the file's own quantisation is, for a sentence; None where there is none."""
        if not self.quantised:
            return None
        return f"{len(self.quantised)} of {len(self.every)} layers are quantised as they came ({self.kind})"

    def changed(self, what: str, nodes: Collection[str], rest: str) -> dict[str, int]:
        """How many of the layers are among ``nodes``, for the record of the pass ``what``.

        Raises :class:`Unfit` where they are none or less than a quarter; ``rest`` says what others are left.
        """
        changed = set(self.floats).intersection(nodes)
        if len(changed) < max(LEAST_SHARE * len(self.every), 1):
            found = f"only {len(changed)}" if changed else "none"
            raise Unfit(
                f"{what}: {found} of the network's {len(self.every)} layers with weights can be changed, "
                f"expected {LEAST_SHARE:.0%} or more ({self.as_it_came or rest}); leave {what} out"
            )
        return {"layers_changed": len(changed), "layers": len(self.every)}


def own_layers(model: onnx.ModelProto) -> Layers:
    """The layers of a prepared ``model``, whose nodes have names."""
    constants = {tensor.name for tensor in model.graph.initializer}
    dequantised = {name for n in model.graph.node if n.op_type == "DequantizeLinear" for name in n.output}
    every, floats, quantised, kinds = [], [], [], []
    for node in model.graph.node:
        if node.name.startswith(OWN_PREFIX):
            continue
        kind = _kind(node, dequantised)
        if kind:
            quantised.append(node.name)
            kinds.append(kind)
        elif is_weighted(node, constants):
            floats.append(node.name)
        elif node.op_type not in ("Conv", "ConvTranspose"):
            continue
        every.append(node.name)
    kind = " and ".join(sorted(set(kinds)))
    if kind == "Q/DQ" and _in_16_bits(model):
        kind = f"16-bit {kind}"
    return Layers(tuple(every), tuple(floats), tuple(quantised), kind)


def _in_16_bits(model: onnx.ModelProto) -> bool:
    from onnx import TensorProto

    types = {tensor.name: tensor.data_type for tensor in model.graph.initializer}
    points = (name for n in model.graph.node if n.op_type == "QuantizeLinear" for name in n.input[2:3])
    return any(types.get(name) in (TensorProto.INT16, TensorProto.UINT16) for name in points)


def _kind(node: onnx.NodeProto, dequantised: Collection[str]) -> str:
    if node.op_type in _OF_QOPERATORS:
        return "QOperator"
    if node.op_type in _OF_DYNAMIC:
        return "dynamic"
    return "Q/DQ" if node.op_type in WEIGHTED and node.input[1] in dequantised else ""


def quantises(node: onnx.NodeProto) -> bool:
    """Whether ``node`` turns floats into integers, or back."""
    return node.op_type in ("QuantizeLinear", "DequantizeLinear", "DynamicQuantizeLinear")


def named_nodes(model: onnx.ModelProto) -> onnx.ModelProto:
    """A copy in which every node has its own name."""
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
    """Whether ``node`` is a layer of the network's own with weights, which are among ``constants``."""
    own = node.op_type in WEIGHTED and not node.name.startswith(OWN_PREFIX)
    return own and len(node.input) > 1 and node.input[1] in constants


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
