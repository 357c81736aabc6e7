"""The in-process reference: the repository's own step files, run in this process without a server.

As many workers as cores, each of which decodes, runs the detector on one thread and post-processes, one
picture after the other. Nothing is copied between processes and nothing waits in a queue, so this is what
serving is measured against.
"""

from __future__ import annotations

import importlib.util
import itertools
import json
import os
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

from detserve_core.card import Card
from detserve_core.errors import MissingExtra
from detserve_perf.errors import MeasurementError

DetectOne = Callable[[bytes], object]


def cores() -> int:
    """How many cores this process may use."""
    if sys.platform == "linux":
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def load_reference(repository: Path, model: str, workers: int) -> list[DetectOne]:
    """One detect function per worker, each with an ONNX Runtime session of its own on one thread.

    Raises :class:`MeasurementError` when the repository holds no such detector, or :class:`CardError`.
    """
    card = repository_card(repository, model)
    built = json.loads((repository / model / "detserve.json").read_bytes())
    pre = _step(repository, model, "preprocess")
    settings = pre.settings(card.model_dump(mode="json"))
    detector = _step(repository, model, "detector")
    post = _step(repository, model, "postprocess")
    onnx = _step_folder(repository, model, "detector") / "model.onnx"
    if not onnx.is_file():
        raise MeasurementError(f"{onnx} is absent; the in-process reference needs the embedded target's ONNX")

    def one_worker() -> DetectOne:
        session = detector.open_session(str(onnx), 1, runtime=built["runtime"], floats=built["floats"])

        def detect(encoded: bytes) -> object:
            image, geometry = pre.preprocess(encoded, **settings)
            boxes, scores, classes = session.run(detector.OUTPUTS, {"images": image[None]})
            return post.postprocess(
                boxes[0],
                scores[0],
                classes[0],
                geometry,
                score_threshold=card.thresholds.score,
                iou_threshold=card.thresholds.iou,
                max_detections=card.thresholds.max_detections,
                rows=card.thresholds.max_detections,
            )

        return detect

    return [one_worker() for _ in range(workers)]


@dataclass(frozen=True)
class ReferenceRun:
    """One run of the reference.

    ``cores_share`` is the CPU time it got over what its workers could have had, near 1 on a quiet machine.
    """

    pictures_per_s: float
    cores_share: float


def run_reference(workers: list[DetectOne], pictures: list[bytes], count: int) -> ReferenceRun:
    """Detect in ``count`` pictures, taken from ``pictures`` in turn and shared among the workers."""
    for detect in workers:
        detect(pictures[0])
    with _one_opencv_thread(), ThreadPoolExecutor(len(workers)) as pool:
        turns = itertools.islice(itertools.cycle(pictures), count)  # next() on it is atomic under the GIL
        started_s, used_s = time.perf_counter(), time.process_time()
        for future in [pool.submit(_drain, detect, turns) for detect in workers]:
            future.result()
        took_s = time.perf_counter() - started_s
        return ReferenceRun(count / took_s, (time.process_time() - used_s) / (took_s * len(workers)))


def _drain(detect: DetectOne, turns: Iterator[bytes]) -> None:
    for encoded in turns:
        detect(encoded)


@contextmanager
def _one_opencv_thread() -> Iterator[None]:
    try:
        import cv2
    except ImportError:
        raise MissingExtra("opencv-python", "perf") from None

    threads = cv2.getNumThreads()
    cv2.setNumThreads(1)
    try:
        yield
    finally:
        cv2.setNumThreads(threads)


def repository_card(repository: Path, model: str) -> Card:
    """The card in the manifest of ``model``; raises :class:`MeasurementError` or :class:`CardError`."""
    manifest = repository / model / "detserve.json"
    try:
        card = json.loads(manifest.read_bytes())["card"]
    except OSError:
        raise MeasurementError(
            f"{repository} holds no detector {model} ({manifest} cannot be read); "
            "--repository takes the served one"
        ) from None
    except (ValueError, KeyError, TypeError):
        raise MeasurementError(f"{manifest} holds no card; build the repository again") from None
    return Card.from_json(json.dumps(card), where=f"{manifest}: card")


def _step_folder(repository: Path, model: str, step: str) -> Path:
    """Where the files of a step lie: in the pipeline of that name, or in a model of the step's own."""
    pipeline = repository / f"{model}_pipeline" / "1"
    return pipeline if pipeline.is_dir() else repository / f"{model}_{step}" / "1"


def _step(repository: Path, model: str, step: str) -> ModuleType:
    path = _step_folder(repository, model, step) / f"detserve_{step}.py"
    spec = importlib.util.spec_from_file_location(f"detserve_reference_{model}_{step}", path)
    if spec is None or spec.loader is None or not path.is_file():
        raise MeasurementError(f"{path} is absent; build the repository again")
    module = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
    except ModuleNotFoundError as error:
        raise MissingExtra(str(error.name), "perf") from None
    return module
