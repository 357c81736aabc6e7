"""Where one picture's time goes, by operator and precision: what decides which mix is fast on a CPU.

python -m benchmarks.operators CHECKPOINT --calibrate DIR: Markdown on standard output. ONNX Runtime's own
profile and OpenVINO's counters, one thread, of each node the shortest of the runs; the candidates take turns.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from detserve_builder.build import probe_pictures
from detserve_builder.checkpoint import load_checkpoint
from detserve_builder.graph.plain import plain
from detserve_builder.infer_card import infer_card
from detserve_builder.mixing.silu import with_polynomial_silu
from detserve_builder.precision.gate import Candidate
from detserve_builder.precision.request import Precision
from detserve_builder.preparation.prepare import prepare
from detserve_builder.quantise.calibration import calibration_folder
from detserve_builder.quantise.int8 import Form, measured_tensors, quantisable_nodes, quantise
from detserve_builder.quantise.ranges import Method, activations_of, ranges
from detserve_builder.quantise.statistics import measure
from detserve_builder.runtime import Runtime
from detserve_core.machine.cpu import cpu_kind, cpu_name, cpuinfo

ROUNDS = 100
SHOWN = 10
Run = Callable[[NDArray[np.uint8]], None]


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser()
    parser.add_argument("checkpoint")
    parser.add_argument("--calibrate", type=Path, required=True)
    asked = parser.parse_args()
    checkpoint = load_checkpoint(asked.checkpoint)
    card = infer_card(checkpoint, name="operators")
    model = plain(prepare(checkpoint, card, probe_pictures(card)).model)
    source = calibration_folder(asked.calibrate, card)
    image = next(iter(source.images()))
    tables = profiles(list(candidates(model, source)), image)
    print(f"{cpu_name(cpuinfo())}, {cpu_kind(cpuinfo())}; milliseconds\n")
    print(markdown(tables))


def candidates(model: Any, source: Any) -> Iterator[Candidate]:
    """The float network and all layers in INT8 for each runtime, SiLU as it is and as a polynomial."""
    forms = (Form.ONNXRUNTIME, Form.OPENVINO)
    nodes = {form: quantisable_nodes(model, form) for form in forms}
    tensors = measured_tensors(model, set().union(*nodes.values()))
    found = ranges(
        measure(model, tensors, source), Method.ENTROPY, symmetric=False, activations=activations_of(model)
    )
    for runtime, precision in (
        (Runtime.ONNXRUNTIME, Precision.FP32),
        (Runtime.ONNXRUNTIME, Precision.INT8),
        (Runtime.OPENVINO, Precision.FP32),
        (Runtime.OPENVINO, Precision.BF16),
        (Runtime.OPENVINO, Precision.INT8),
    ):
        form = Form(runtime.value)
        made = quantise(model, found, nodes[form], form) if precision is Precision.INT8 else model
        label = f"{precision.value}, {runtime.value}"
        yield Candidate(label, precision, made, {}, runtime=runtime)
        smooth, count = with_polynomial_silu(made)
        if count and runtime is Runtime.OPENVINO:
            yield Candidate(f"{label}, polynomial silu", precision, smooth, {}, runtime=runtime)


def profiles(made: list[Candidate], image: NDArray[np.uint8]) -> dict[str, Counter[str]]:
    """Milliseconds by operator of each candidate."""
    with tempfile.TemporaryDirectory() as folder:
        opened = {
            one.label: (_openvino if one.runtime is Runtime.OPENVINO else _onnxruntime)(one, Path(folder))
            for one in made
        }
        for _ in range(ROUNDS):
            for run, _read in opened.values():
                run(image)
        return {label: read() for label, (_run, read) in opened.items()}


def _onnxruntime(candidate: Candidate, folder: Path) -> tuple[Run, Callable[[], Counter[str]]]:
    import onnxruntime as ort

    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    options.enable_profiling = True
    options.profile_file_prefix = str(folder / candidate.precision.value)
    session = ort.InferenceSession(
        candidate.model.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )

    def read() -> Counter[str]:
        events = json.loads(Path(session.end_profiling()).read_bytes())
        shortest: dict[tuple[str, str], float] = {}
        for event in events:
            if event["cat"] == "Node" and event["name"].endswith("_kernel_time"):
                key = (event["args"]["op_name"], event["name"])
                shortest[key] = min(event["dur"] / 1e3, shortest.get(key, np.inf))
        return _by_operator(shortest)

    return lambda image: session.run(None, {"images": image}), read


def _openvino(candidate: Candidate, folder: Path) -> tuple[Run, Callable[[], Counter[str]]]:
    import openvino

    core = openvino.Core()
    settings = {
        "INFERENCE_NUM_THREADS": 1,
        "INFERENCE_PRECISION_HINT": candidate.floats,
        "PERF_COUNT": True,
        "ENABLE_CPU_PINNING": False,
    }
    network = core.read_model(candidate.model.SerializeToString())
    shape = network.input("images").partial_shape
    shape[0] = 1
    network.reshape({"images": shape})
    request = core.compile_model(network, "CPU", settings).create_infer_request()
    shortest: dict[tuple[str, str], float] = {}

    def run(image: NDArray[np.uint8]) -> None:
        request.infer({"images": image})
        for node in request.profiling_info:
            key = (node.node_type, node.node_name)
            shortest[key] = min(node.real_time.total_seconds() * 1e3, shortest.get(key, np.inf))

    return run, lambda: _by_operator(shortest)


def _by_operator(shortest: dict[tuple[str, str], float]) -> Counter[str]:
    took_ms: Counter[str] = Counter()
    for (operator, _), node_ms in shortest.items():
        took_ms[operator] += node_ms  # type: ignore[assignment]  # a Counter of floats
    return took_ms


def markdown(tables: dict[str, Counter[str]]) -> str:
    """A row for each operator that takes the most anywhere, and the sums."""
    most = Counter[str]()
    for took_ms in tables.values():
        most |= took_ms
    operators = [operator for operator, _ in most.most_common(SHOWN)]
    rows = [["operator", *tables], ["---", *("---:" for _ in tables)]]
    rows += [[one, *(f"{t[one]:.2f}" if t[one] else "" for t in tables.values())] for one in operators]
    others = ["others", *(f"{t.total() - sum(t[o] for o in operators):.2f}" for t in tables.values())]
    rows += [others, ["sum", *(f"{t.total():.2f}" for t in tables.values())]]
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


if __name__ == "__main__":
    main()
