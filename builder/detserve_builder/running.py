"""A network in memory, run once on the CPU to look at its numbers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from detserve_builder.errors import BuildError

if TYPE_CHECKING:
    import onnx
    from numpy.typing import NDArray


def with_outputs(model: onnx.ModelProto, names: Sequence[str]) -> onnx.ModelProto:
    """``model`` with its inner tensors ``names`` as outputs too."""
    import onnx

    probe = onnx.ModelProto()
    probe.CopyFrom(model)
    known = {output.name for output in probe.graph.output}
    probe.graph.output.extend(onnx.ValueInfoProto(name=name) for name in names if name not in known)
    return probe


def run(model: onnx.ModelProto, feed: NDArray[Any] | Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
    """Outputs by name for ``feed``, by name too, or for the one input there is.

    Raises :class:`BuildError` where ONNX Runtime has no implementation for a node.
    """
    import onnxruntime as ort
    from onnxruntime.capi import onnxruntime_pybind11_state as failures

    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_BASIC
    options.log_severity_level = 4
    try:
        session = ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    except (failures.NotImplemented, failures.InvalidGraph) as error:
        reason = str(error).rpartition(" : ")[2].splitlines()[0][:200]
        raise BuildError(f"ONNX Runtime cannot run this graph: {reason}") from None
    names = [output.name for output in session.get_outputs()]
    inputs = [given.name for given in session.get_inputs()]
    fed = {name: feed[name] for name in inputs} if isinstance(feed, Mapping) else {inputs[0]: feed}
    return dict(zip(names, session.run(names, fed), strict=True))
