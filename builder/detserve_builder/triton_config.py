"""The model configurations of a detector: dict -> Triton's own protobuf -> config.pbtxt."""

from __future__ import annotations

from collections.abc import Mapping
from enum import Enum
from typing import Any

from detserve_builder.runtime import Runtime
from detserve_core import contract
from detserve_core.card import Card
from detserve_core.repository.processes import in_flight_for, processes_for

Json = dict[str, Any]

# Pictures wait at most this long and in at most this number; more is refused at once, so that overload shows
# as a distinct error and not as latency without bound.
_MAX_WAIT_S = 10
_MAX_WAITING = 32
# No queue policy: a bound by size or by time turns prefetching off in Triton's batcher, which then sleeps for
# up to half a second while an instance has nothing to do.
_BATCHES: Json = {}
#: The embedded server may run a pipeline within its own process (detserve_server/in_process).
_PLACE = {"process": "server"}
GEOMETRY = {"name": "geometry", "data_type": "TYPE_FP32", "dims": [6]}


class Target(str, Enum):
    """Where the detector step runs."""

    EMBEDDED = "embedded"  # python backend with ONNX Runtime or OpenVINO: needs pip only
    ONNXRUNTIME = "onnxruntime"  # Triton's onnxruntime backend
    TENSORRT = "tensorrt"  # Triton's tensorrt backend, on plans that `detserve engine` builds


class Preprocess(str, Enum):
    """Who decodes and resizes the pictures."""

    PYTHON = "python"  # OpenCV
    DALI = "dali"  # NVIDIA DALI, on the GPU


class Placement(str, Enum):
    """How the steps are spread over models."""

    PIPELINE = "pipeline"  # one model, NAME_pipeline, for all steps; it calls NAME_detector for other targets
    STEPS = "steps"  # a model for each of preprocess, detector and postprocess


_BACKENDS = {Target.EMBEDDED: "python", Target.ONNXRUNTIME: "onnxruntime", Target.TENSORRT: "tensorrt"}

#: Of the GPUs that TensorRT 10 and 11 build for: Turing, Ampere, Ada, Hopper, Blackwell.
COMPUTE_CAPABILITIES = ("7.5", "8.0", "8.6", "8.7", "8.9", "9.0", "10.0", "10.3", "11.0", "12.0", "12.1")


def plan_filename(compute_capability: str) -> str:
    """Name of the plan for GPUs of this compute capability, "8.9"; what no name is for shares model.plan."""
    if compute_capability not in COMPUTE_CAPABILITIES:
        return "model.plan"
    return f"model_sm{compute_capability.replace('.', '')}.plan"


#: Step -> tensor -> name of its file under the step's ``warmup/`` folder.
Warmup = Mapping[str, Mapping[str, str]]


def configs(
    card: Card,
    *,
    target: Target,
    preprocess: Preprocess,
    placement: Placement,
    max_batch_size: int,
    detector_batch_size: int,
    warmup: Warmup,
    cores: int,
    runtime: Runtime = Runtime.ONNXRUNTIME,
    floats: str = "f32",
    precision: str = "fp32",
) -> dict[str, Json]:
    """Model name -> configuration, for the ensemble and the models it is made of.

    The pipeline gets the processes that it takes to keep ``cores`` busy.
    A request has up to ``max_batch_size`` pictures, and the network takes ``detector_batch_size`` at a time.
    ``runtime`` and ``floats`` are what the embedded target's detector runs on and computes in, ``precision``
    is what is said of it.
    """
    name = card.name
    if placement is Placement.STEPS:
        batch = detector_batch_size
        detector = _detector(card, target, batch, warmup, runtime, floats)
        first = _preprocess(card, preprocess, batch, warmup)
        first["parameters"].update(_said({"first_step": "true"}))
        return {
            f"{name}_preprocess": first,
            f"{name}_detector": detector,
            f"{name}_postprocess": _postprocess(card, batch, warmup),
            name: _ensemble(card, placement, batch, precision),
        }
    described = {name: _ensemble(card, placement, max_batch_size, precision)}
    if target is Target.EMBEDDED:
        network, processes = _opened(runtime, floats), processes_for(cores, calls=False)
    else:
        detector = _detector(card, target, detector_batch_size, warmup, runtime, floats)
        described[f"{name}_detector"] = detector
        processes = processes_for(cores, calls=True)
        network = _called(detector, processes)
        if preprocess is Preprocess.DALI:
            described[f"{name}_preprocess"] = _preprocess(card, preprocess, max_batch_size, warmup)
            network["preprocess"] = f"{name}_preprocess"
    network["processes_because"] = f"so many keep the {cores} cores of the building machine busy"
    return {**described, f"{name}_pipeline": _pipeline(card, max_batch_size, warmup, network, processes)}


def steps_of(target: Target, placement: Placement, preprocess: Preprocess) -> tuple[str, ...]:
    """The models of a detector beside the ensemble, without ``NAME_``, in the order of a picture's way."""
    if placement is Placement.STEPS:
        return ("preprocess", "detector", "postprocess")
    if target is Target.EMBEDDED:
        return ("pipeline",)
    return ("pipeline", *(["preprocess"] if preprocess is Preprocess.DALI else []), "detector")


def warmed_up(target: Target, placement: Placement, preprocess: Preprocess) -> tuple[str, ...]:
    """Those that Triton warms up; not a pipeline that calls models which may load after it."""
    steps = steps_of(target, placement, preprocess)
    return steps if len(steps) == 1 else tuple(step for step in steps if step != "pipeline")


def _pipeline(
    card: Card, max_batch_size: int, warmup: Warmup, network: Mapping[str, str], processes: int
) -> Json:
    """Processes whose threads take the pictures of several requests side by side, each from its own queue."""
    step = _step(f"{card.name}_pipeline", "python", max_batch_size, [_picture()], _detections(card), warmup)
    return {
        **step,
        "instance_group": [{"kind": "KIND_CPU", "count": processes}],
        "parameters": {**_card_parameter(card), **_said({**_waiting(processes), **network, **_PLACE})},
    }


def _called(detector: Json, processes: int) -> dict[str, str]:
    """How the pipeline calls the detector: all processes with what fills its next batch while it runs one."""
    batch, instances = detector["max_batch_size"], detector["instance_group"][0]["count"]
    return {
        "detector": detector["name"],
        "in_flight": str(in_flight_for(batch, instances, processes)),
        "in_flight_because": f"a batch of {batch} runs in each of {instances} instances and the next waits",
        **_waiting(processes, max(_MAX_WAITING, 5 * batch * (instances + 1))),
    }


def _opened(runtime: Runtime, floats: str) -> dict[str, str]:
    """How the embedded target opens its session; more threads than one for a picture made less of them."""
    return {"threads": "1", "runtime": runtime.value, "floats": floats}


def _waiting(processes: int, pictures: int = _MAX_WAITING) -> dict[str, str]:
    """The bounds of each queue; all hold ``pictures``, five times what is in flight to a called detector."""
    return {"max_waiting": str(-(-pictures // processes)), "max_wait_s": str(_MAX_WAIT_S)}


def _said(parameters: Mapping[str, str]) -> Json:
    return {key: {"string_value": value} for key, value in parameters.items()}


def _preprocess(card: Card, preprocess: Preprocess, max_batch_size: int, warmup: Warmup) -> Json:
    inputs, outputs = [_picture()], [_images(card), GEOMETRY]
    step = _step(f"{card.name}_preprocess", "python", max_batch_size, inputs, outputs, warmup)
    if preprocess is Preprocess.DALI:
        return {
            **step,
            "dynamic_batching": _BATCHES,
            "instance_group": [{"kind": "KIND_GPU", "count": 1}],
            "parameters": _card_parameter(card),
        }
    return {
        **step,
        "instance_group": [{"kind": "KIND_CPU", "count": 1}],
        "parameters": {**_card_parameter(card), **_said(_waiting(1))},
    }


def _detector(
    card: Card,
    target: Target,
    max_batch_size: int,
    warmup: Warmup,
    runtime: Runtime,
    floats: str,
) -> Json:
    backend = _BACKENDS[target]
    step = _step(f"{card.name}_detector", backend, max_batch_size, [_images(card)], _candidates(card), warmup)
    step["dynamic_batching"] = _BATCHES
    if target is Target.EMBEDDED:
        # On two cores, two processes of one thread did 1.3 times the pictures of one with two threads.
        step["instance_group"] = [{"kind": "KIND_CPU", "count": 2}]
        step["parameters"] = _said(_opened(runtime, floats))
    elif target is Target.ONNXRUNTIME:
        step["default_model_filename"] = "model.onnx"
        step["instance_group"] = [{"kind": "KIND_AUTO", "count": 1}]
    else:
        # Triton looks up its own GPU's compute capability only, so that plans can come one by one.
        step["platform"] = "tensorrt_plan"
        step["default_model_filename"] = "model.plan"
        step["cc_model_filenames"] = {
            capability: plan_filename(capability) for capability in COMPUTE_CAPABILITIES
        }
        step["instance_group"] = [{"kind": "KIND_GPU", "count": 1}]
    return step


def _postprocess(card: Card, max_batch_size: int, warmup: Warmup) -> Json:
    inputs = [*_candidates(card), GEOMETRY]
    return {
        **_step(f"{card.name}_postprocess", "python", max_batch_size, inputs, _detections(card), warmup),
        "dynamic_batching": _BATCHES,
        "instance_group": [{"kind": "KIND_CPU", "count": 1}],
        "parameters": _card_parameter(card),
    }


def _ensemble(card: Card, placement: Placement, max_batch_size: int, precision: str) -> Json:
    def same(tensors: list[Json]) -> dict[str, str]:
        return {tensor["name"]: tensor["name"] for tensor in tensors}

    candidates = {tensor["name"]: f"candidate_{tensor['name']}" for tensor in _candidates(card)}
    geometry = {"geometry": "geometry"}
    steps = [
        ("preprocess", same([_picture()]), {"images": "images", **geometry}),
        ("detector", {"images": "images"}, candidates),
        ("postprocess", {**candidates, **geometry}, same(_detections(card))),
    ]
    if placement is Placement.PIPELINE:
        steps = [("pipeline", same([_picture()]), same(_detections(card)))]
    return {
        "name": card.name,
        "platform": "ensemble",
        "max_batch_size": max_batch_size,
        "input": [_picture()],
        "output": _detections(card),
        "ensemble_scheduling": {
            "step": [
                {
                    "model_name": f"{card.name}_{step}",
                    "model_version": -1,
                    "input_map": inputs,
                    "output_map": outputs,
                }
                for step, inputs, outputs in steps
            ]
        },
        "parameters": {**_card_parameter(card), **_said({contract.PRECISION_PARAMETER: precision})},
    }


def _step(
    name: str,
    backend: str,
    max_batch_size: int,
    inputs: list[Json],
    outputs: list[Json],
    warmup: Warmup,
) -> Json:
    """What the steps have in common. Ready means: a real picture went through at batch 1."""
    step = {
        "name": name,
        "backend": backend,
        "max_batch_size": max_batch_size,
        "input": inputs,
        "output": outputs,
    }
    files = warmup.get(name.rpartition("_")[2])
    if files is None:
        return step
    data = {
        tensor["name"]: {
            "data_type": tensor["data_type"],
            "dims": tensor["dims"],
            "input_data_file": files[tensor["name"]],
        }
        for tensor in inputs
    }
    return {**step, "model_warmup": [{"name": "a real picture", "batch_size": 1, "inputs": data}]}


def _picture() -> Json:
    return {"name": contract.IMAGE, "data_type": "TYPE_STRING", "dims": [1]}


def _images(card: Card) -> Json:
    width, height = card.input_wh
    return {"name": "images", "data_type": "TYPE_UINT8", "dims": [height, width, 3]}


def _candidates(card: Card) -> list[Json]:
    return [
        {"name": "boxes", "data_type": "TYPE_FP32", "dims": [card.candidates, 4]},
        {"name": "scores", "data_type": "TYPE_FP32", "dims": [card.candidates]},
        {"name": "classes", "data_type": "TYPE_INT32", "dims": [card.candidates]},
    ]


def _detections(card: Card) -> list[Json]:
    rows = card.thresholds.max_detections
    return [
        {"name": contract.NUM_DETECTIONS, "data_type": "TYPE_INT32", "dims": [1]},
        {"name": contract.BOXES, "data_type": "TYPE_FP32", "dims": [rows, 4]},
        {"name": contract.SCORES, "data_type": "TYPE_FP32", "dims": [rows]},
        {"name": contract.CLASSES, "data_type": "TYPE_INT32", "dims": [rows]},
    ]


def _card_parameter(card: Card) -> Json:
    return _said({contract.CARD_PARAMETER: card.model_dump_json()})
