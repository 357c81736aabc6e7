"""What each layer gains by 8 bits in OpenVINO on this machine, by its own counters."""

from __future__ import annotations

from collections.abc import Collection
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from detserve_builder.precision.gate import Candidate

_ROUNDS = 30


def layer_gains_ms(
    floats: Candidate, quantised: Candidate, layers: Collection[str], images: list[NDArray[np.uint8]]
) -> dict[str, float]:
    """How much less time each of ``layers`` takes in ``quantised``, with all that follows it up to the next.

    Both run in turns on one thread over ``images`` (uint8 [1,H,W,3]); of each node the shortest time counts.
    A layer that the counters do not name is left out.
    """
    counted = [_Counted(candidate, layers) for candidate in (floats, quantised)]
    for turn in range(_ROUNDS):
        for one in counted:
            one.run(images[turn % len(images)])
    before, after = (one.took_ms() for one in counted)
    known = before.keys() & after.keys()
    return {layer: before[layer] - after[layer] for layer in layers if layer in known}


class _Counted:
    """A candidate compiled as it is served, with counters."""

    def __init__(self, candidate: Candidate, layers: Collection[str]) -> None:
        import openvino

        core = openvino.Core()
        network = core.read_model(candidate.model.SerializeToString())
        shape = network.input("images").partial_shape
        shape[0] = 1
        network.reshape({"images": shape})
        settings = {
            "INFERENCE_NUM_THREADS": 1,
            "INFERENCE_PRECISION_HINT": candidate.floats,
            "NUM_STREAMS": 1,
            "ENABLE_CPU_PINNING": False,
            "PERF_COUNT": True,
        }
        compiled = core.compile_model(network, "CPU", settings)
        self.request = compiled.create_infer_request()
        self.layer_of = {
            node.get_friendly_name(): layer
            for node in compiled.get_runtime_model().get_ordered_ops()
            for layer in _original_names(node)
            if layer in set(layers)
        }
        self.shortest_ms: dict[str, float] = {}  # by node, in order of execution

    def run(self, image: NDArray[np.uint8]) -> None:
        self.request.infer({"images": image})
        for node in self.request.profiling_info:
            took_ms = node.real_time.total_seconds() * 1e3
            self.shortest_ms[node.node_name] = min(took_ms, self.shortest_ms.get(node.node_name, took_ms))

    def took_ms(self) -> dict[str, float]:
        """By layer; a node that is no layer's own belongs to the layer that ran before it."""
        found: dict[str, float] = {}
        layer = None
        for name, took_ms in self.shortest_ms.items():
            layer = self.layer_of.get(name, layer)
            if layer is not None:
                found[layer] = found.get(layer, 0.0) + took_ms
        return found


def _original_names(node: Any) -> list[str]:
    """The ONNX nodes that OpenVINO made one of."""
    info = node.get_rt_info()
    if "originalLayersNames" not in info:
        return []
    names = info["originalLayersNames"]
    return str(getattr(names, "value", names)).split(",")
