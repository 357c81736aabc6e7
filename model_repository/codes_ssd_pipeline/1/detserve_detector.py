"""Network input -> candidates, on ONNX Runtime or OpenVINO."""

from __future__ import annotations

import itertools
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

OUTPUTS = ("boxes", "scores", "classes")
#: What copies of a network's weights may take together, as their file has them.
_MOST_BYTES = 2**30


class Session(Protocol):
    """A prepared ONNX, opened.

    ``run(OUTPUTS, {"images": uint8 [N,H,W,3] RGB})`` gives boxes float32 [N,K,4] (x1,y1,x2,y2 in network
    pixels), scores float32 [N,K] descending and classes int32 [N,K]. It may be called from several threads.
    """

    def run(self, outputs: Sequence[str], feed: Mapping[str, NDArray[np.uint8]]) -> list[NDArray[Any]]:
        """Run the network."""


def open_session(
    model: str | bytes,
    threads: int,
    *,
    runtime: str = "onnxruntime",
    floats: str = "f32",
    callers: int = 1,
) -> Session:
    """Open a prepared ONNX, its path or its bytes, on the CPU with ``threads`` for each call; 0: every core.

    ``callers`` is how many threads call ``run`` at a time without waiting for each other.
    ``runtime`` is onnxruntime or openvino. ``floats`` is what OpenVINO computes float layers in, f32 or bf16;
    a CPU that has no bf16 takes f32.
    """
    if runtime == "openvino":
        return OpenVinoSession(model, threads, floats, callers)
    session: Session = open_onnxruntime(model, threads)
    return session


def open_onnxruntime(model: str | bytes, threads: int) -> Any:
    """An ``onnxruntime.InferenceSession`` with the served settings."""
    import onnxruntime as ort

    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    # A spinning pool would take the cores from picture decoding, which runs beside it.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    options.log_severity_level = 3
    return ort.InferenceSession(model, options, providers=["CPUExecutionProvider"])


class OpenVinoSession:
    """Compiled for one picture; a batch runs picture by picture, which is no slower on a CPU.

    Each calling thread has a network of its own, compiled with one stream: OpenVINO runs such a one in the
    thread that calls. One with a stream for each caller has threads of its own, which are woken for every
    picture; that is for where copies of the weights would take too much memory.
    """

    def __init__(self, model: str | bytes, threads: int, floats: str, callers: int = 1) -> None:
        """Compile ``model``, the path of an ONNX file or its bytes."""
        import openvino

        core = openvino.Core()
        network = core.read_model(model)
        shape = network.input("images").partial_shape
        shape[0] = 1
        network.reshape({"images": shape})
        model_bytes = len(model) if isinstance(model, bytes) else Path(model).stat().st_size
        networks, streams = (callers, 1) if model_bytes * callers <= _MOST_BYTES else (1, callers)
        settings = {
            "INFERENCE_NUM_THREADS": threads * streams,
            "INFERENCE_PRECISION_HINT": floats,
            "NUM_STREAMS": streams,
            # Each process would pin itself to the same first cores.
            "ENABLE_CPU_PINNING": False,
        }
        compiled = [core.compile_model(network, "CPU", settings) for _ in range(networks)]
        self.networks = itertools.cycle(compiled)  # next() on it is atomic under the GIL
        self.places = {output.any_name: place for place, output in enumerate(compiled[0].outputs)}
        self.tensor, self.of_thread = openvino.Tensor, threading.local()

    def run(self, outputs: Sequence[str], feed: Mapping[str, NDArray[np.uint8]]) -> list[NDArray[Any]]:
        """As :class:`Session` says."""
        if not hasattr(self.of_thread, "request"):
            self.of_thread.request = next(self.networks).create_infer_request()
        request = self.of_thread.request
        found = []
        for image in feed["images"]:
            # By number, and without OpenVINO's look at what it is given: names take longer than copies.
            given = image[None] if image.flags.writeable and image.flags.c_contiguous else image[None].copy()
            request.set_input_tensor(self.tensor(given, shared_memory=True))
            results = request.infer(share_outputs=True).to_tuple()  # its memory, until the next picture
            found.append([results[self.places[name]].copy() for name in outputs])
        return found[0] if len(found) == 1 else [np.concatenate(parts) for parts in zip(*found, strict=True)]
