"""A network in memory, run once on the CPU to look at its numbers."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
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


class CannotRun(BuildError):
    """ONNX Runtime refuses the network, or stops in it; the text is what it says."""


def run(model: onnx.ModelProto, feed: NDArray[Any] | Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
    """Outputs by name for ``feed``, by name too, or for the one input; raises as :func:`run_each`."""
    return run_each(model, [feed])[0]


def run_each(
    model: onnx.ModelProto, feeds: Iterable[NDArray[Any] | Mapping[str, NDArray[Any]]]
) -> list[dict[str, NDArray[Any]]]:
    """:func:`run` for one feed after the other.

    Raises :class:`BuildError` where ONNX Runtime has no implementation for a node, and its kind
    :class:`CannotRun` where it refuses the network or stops in it.
    """
    import onnxruntime as ort
    from onnxruntime.capi import onnxruntime_pybind11_state as failures

    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_BASIC
    options.log_severity_level = 4
    stops = (failures.Fail, failures.InvalidArgument, failures.InvalidGraph, failures.RuntimeException)
    try:
        session = ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
        names = [output.name for output in session.get_outputs()]
        inputs = [given.name for given in session.get_inputs()]
        found = []
        for feed in feeds:
            fed = {name: feed[name] for name in inputs} if isinstance(feed, Mapping) else {inputs[0]: feed}
            found.append(dict(zip(names, session.run(names, fed), strict=True)))
    except failures.NotImplemented as error:
        reason = str(error).rpartition(" : ")[2].splitlines()[0][:200]
        raise BuildError(f"ONNX Runtime cannot run this graph: {reason}") from None
    except stops as error:
        raise CannotRun(str(error).strip().splitlines()[0][:300]) from None
    return found
