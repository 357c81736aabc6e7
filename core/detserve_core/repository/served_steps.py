"""A repository's own step files, run in this process: what is served, without a server."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

from detserve_core.errors import MissingExtra, RepositoryError
from detserve_core.repository.manifest import read_manifest

#: Encoded picture -> num_detections, boxes, scores and classes as the postprocess step gives them, padded.
DetectOne = Callable[[bytes], Any]


def open_steps(repository: Path, model: str, workers: int) -> list[DetectOne]:
    """One detect function for each worker, with its own session on one thread.

    Raises:
        RepositoryError: no such detector of the embedded target, or not all of its files.
        MissingExtra: a library of the steps is not installed.
    """
    built = read_manifest(repository, model)
    if built.target != "embedded":
        raise RepositoryError(
            f"{model} in {repository} is built for Triton's {built.target} backend; its steps run here from "
            "a build with --target embedded only"
        )
    card = built.card
    pre = _step(repository, model, "preprocess")
    settings = pre.settings(card.model_dump(mode="json"))
    detector = _step(repository, model, "detector")
    post = _step(repository, model, "postprocess")
    onnx = _file(repository, model, "detector", "model.onnx")

    def one_worker() -> DetectOne:
        session = detector.open_session(str(onnx), 1, runtime=built.runtime, floats=built.floats)

        def detect(encoded: bytes) -> Any:
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


def _file(repository: Path, model: str, step: str, name: str) -> Path:
    """Where a file of a step is: in the pipeline, or in the step's own model."""
    places = [repository / f"{model}_{place}" / "1" / name for place in ("pipeline", step)]
    for path in places:
        if path.is_file():
            return path
    raise RepositoryError(f"{places[0]} is absent; build the repository again")


def _step(repository: Path, model: str, step: str) -> ModuleType:
    path = _file(repository, model, step, f"detserve_{step}.py")
    spec = importlib.util.spec_from_file_location(f"detserve_served_{model}_{step}", path)
    if spec is None or spec.loader is None:
        raise RepositoryError(f"{path} cannot be imported; build the repository again")
    module = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
    except ModuleNotFoundError as error:
        raise MissingExtra(str(error.name), "perf") from None
    return module
