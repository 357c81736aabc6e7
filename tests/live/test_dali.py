"""DALI's preprocess in a real Triton, on the CPU: the same detections, the same AP, the same refusals."""

from __future__ import annotations

import contextlib
import io
import shutil
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from detserve_builder.build import build
from detserve_builder.triton_config import Placement, Preprocess, Target
from detserve_client import Client, InferenceError, RequestRejected
from detserve_server.triton.embedded import RunningServer, embedded_server
from tests.live.test_counting import outcomes
from tests.live.test_yolox import average_precision, rows
from tests.shared_data import SINGLE, VAL64, YOLOX, needs_shared

pytestmark = needs_shared


@pytest.fixture(scope="module")
def both(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningServer]:
    """Detectors that differ in the preprocess only: ``python``, ``dali``, ``called`` by a pipeline."""
    pytest.importorskip("nvidia.dali", reason="needs nvidia-dali, pip install 'detserve[dali]'")
    folder = tmp_path_factory.mktemp("dali")
    repository, gpu = folder / "repository", folder / "gpu"
    on_gpu = {"target": Target.TENSORRT, "preprocess": Preprocess.DALI}
    for name in ("python", "dali", "called"):
        build(str(YOLOX), name=name, repository=repository, placement=Placement.STEPS)
    build(str(YOLOX), name="dali", repository=gpu, placement=Placement.STEPS, **on_gpu)
    build(str(YOLOX), name="called", repository=gpu, **on_gpu)
    shutil.rmtree(repository / "called_postprocess")
    # All but the detector, which runs on the CPU here.
    for model in ("dali_preprocess", "called_preprocess", "called_pipeline", "called"):
        shutil.rmtree(repository / model, ignore_errors=True)
        shutil.copytree(gpu / model, repository / model)
        config = (repository / model / "config.pbtxt").read_text()
        (repository / model / "config.pbtxt").write_text(config.replace("KIND_GPU", "KIND_CPU"))
    with embedded_server(repository) as running:
        yield running


def test_the_same_average_precision(both: RunningServer) -> None:
    from pycocotools.coco import COCO

    with contextlib.redirect_stdout(io.StringIO()):
        truth = COCO(str(VAL64 / "instances_val64.json"))
    by_name = {category["name"]: category["id"] for category in truth.dataset["categories"]}
    paths = {image["id"]: VAL64 / "images" / image["file_name"] for image in truth.dataset["images"]}
    precision = {}
    for name in ("python", "dali", "called"):
        found = []
        with Client(both.grpc_url, name) as client:
            labels = client.card().labels
            outcomes = client.detect_stream(paths.values(), score_threshold=0.001)
            for image_id, outcome in zip(paths, outcomes, strict=True):
                one = outcome.get()
                categories = [by_name[labels[index]] for index in one.classes]
                found += rows(image_id, one.boxes, one.scores, categories)
        precision[name] = average_precision(truth, found)
    print(precision)
    assert precision["python"] > 0.3
    assert precision["dali"] == pytest.approx(precision["python"], abs=0.005)
    assert precision["called"] == precision["dali"]


@pytest.mark.parametrize("name", ["dali", "called"])
def test_a_bad_picture_fails_alone(both: RunningServer, name: str) -> None:
    good = (SINGLE / "dog.jpg").read_bytes()
    pictures = [good] * 3 + [good[:-2000]] + [good] * 4
    with Client(both.grpc_url, name) as client, ThreadPoolExecutor(8) as pool:
        expected = client.detect(good)

        def outcome(picture: bytes):
            try:
                return client.detect(picture)
            except InferenceError as error:
                return error

        for _ in range(5):
            outcomes = list(pool.map(outcome, pictures))
            refused = outcomes.pop(3)
            assert isinstance(refused, RequestRejected)
            assert str(refused).startswith("the picture is rejected: damaged or truncated")
            for found in outcomes:
                np.testing.assert_allclose(found.boxes, expected.boxes, atol=1e-2)


def test_it_counts_as_opencv_does(both: RunningServer) -> None:
    """The first step what it refuses, the last what it answers; or the pipeline all of it."""
    good = (SINGLE / "dog.jpg").read_bytes()
    changed = []
    for name in ("python", "dali", "called"):
        before = outcomes(both, name)
        with Client(both.grpc_url, name) as client:
            client.detect(good)
            for _ in range(2):
                with pytest.raises(RequestRejected):
                    client.detect(good[:-2000])
        changed.append({key: total - before[key] for key, total in outcomes(both, name).items()})
    assert changed[0] == changed[1] == changed[2]
    assert {key: number for key, number in changed[0].items() if number} == {"answered": 1, "refused": 2}
