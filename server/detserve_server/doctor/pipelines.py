"""Whether queues, threads and processes of the pipelines fit the detectors behind them and this machine."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from detserve_core.repository.processes import in_flight_for, processes_for
from detserve_server.doctor.check import Check
from detserve_server.triton.repository import ModelOutline, with_steps

_GPUS = Path("/proc/driver/nvidia/gpus")


def check_pipelines(models: Sequence[ModelOutline], cores: int, gpus: int) -> list[Check]:
    """The queue policy row, and rows for each pipeline; ``cores`` and ``gpus`` are those that serve."""
    pipelines = [model for model in models if _is_pipeline(model)]
    return [
        check_queue_policy(models),
        *(check for model in pipelines for check in check_in_flight(model, models, gpus)),
        *(check_processes(model, cores) for model in pipelines),
    ]


def check_queue_policy(models: Sequence[ModelOutline]) -> Check:
    """Whether Triton's batcher is to bound a queue of a detector, by which it stalls."""
    detectors = [model.name for model in models if model.max_picture_pixels]
    bounded = [model for model in with_steps(list(models), detectors) if model.queue_policy]
    if not bounded:
        return Check("queue policy", "none: the queue of pictures is detserve's own")
    found = ", ".join(f"{model.name} ({', '.join(model.queue_policy)})" for model in bounded)
    fix = (
        "build it again, or take default_queue_policy out of its config.pbtxt: with it Triton's batcher may "
        "leave an instance idle for up to 500 ms, and most so while its queue is full"
    )
    return Check("queue policy", found, fix, stops=False)


def check_in_flight(pipeline: ModelOutline, models: Sequence[ModelOutline], gpus: int) -> list[Check]:
    """Whether a pipeline asks its detector for what fills the next batch while each instance runs one."""
    detector = next((model for model in models if model.name == pipeline.calls), None)
    if detector is None:  # it calls none, or the row "models" says that it is not there
        return []
    name, batch = f"{pipeline.name}: in flight", max(1, detector.max_batch_size)
    instances = detector.instances * (1 if detector.kind == "KIND_CPU" else max(1, gpus))
    wanted = in_flight_for(batch, instances, pipeline.instances)
    runs = f"{detector.name} runs {instances} x {batch}"
    if not re.fullmatch("[1-9][0-9]{0,5}", pipeline.in_flight):
        found = f"in_flight is {pipeline.in_flight[:20]!r}, no number from 1 on"
        return [Check(name, found, f"put {wanted} in the parameter in_flight of its config.pbtxt")]
    found = f"{pipeline.in_flight} pictures at a time from each of {pipeline.instances} processes, {runs}"
    if int(pipeline.in_flight) == wanted:
        return [Check(name, found)]
    less = int(pipeline.in_flight) < wanted
    why = "with less it waits for pictures" if less else "more wait where no bound and no deadline is kept"
    parameter = f"put {wanted} in the parameter in_flight of its config.pbtxt"
    fix = f"{parameter}, for a batch in each instance and the next: {why}"
    return [Check(name, found, fix, stops=False)]


def check_processes(pipeline: ModelOutline, cores: int) -> Check:
    """Whether a pipeline has the processes that keep this machine's cores busy, and not more."""
    name, processes = f"{pipeline.name}: cores", pipeline.instances
    wanted = processes_for(cores, calls=bool(pipeline.calls))
    found = f"{_counted(processes, 'process')} for {_counted(cores, 'core')}"
    if processes == wanted:
        return Check(name, found)
    why = "fewer do"
    if processes < wanted:
        why = "the pictures of a process take turns at Python's interpreter lock"
    fix = f"build it again on a machine like this, which gives it {_counted(wanted, 'process')}: {why}"
    return Check(name, found, fix, stops=False)


def gpus_here() -> int:
    """Those that NVIDIA's driver has on this machine; Triton runs an instance group on each."""
    return len(list(_GPUS.glob("*")))


def _is_pipeline(model: ModelOutline) -> bool:
    return model.backend == "python" and model.name.endswith("_pipeline") and model.max_picture_pixels > 0


def _counted(number: int, what: str) -> str:
    plural = what if number == 1 else f"{what}es" if what.endswith("s") else f"{what}s"
    return f"{number} {plural}"
