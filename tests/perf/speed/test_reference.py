"""The in-process reference runs the step files of a repository, found by their place in it."""

import json
import shutil
from pathlib import Path

import cv2
import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

import detserve_builder.steps
from detserve_core.errors import RepositoryError
from detserve_core.repository.manifest import read_manifest
from detserve_core.repository.served_steps import open_steps
from detserve_perf.speed.reference import run_reference
from tests.manifests import manifest

STEPS = Path(detserve_builder.steps.__file__).parent


@pytest.fixture
def repository(tmp_path) -> Path:
    """A repository whose detector sees one box, the left upper quarter, in every picture."""
    for step in ("preprocess", "detector", "postprocess"):
        folder = tmp_path / f"tiny_{step}" / "1"
        folder.mkdir(parents=True)
        shutil.copy(STEPS / f"detserve_{step}.py", folder)
    onnx.save(_one_box(), str(tmp_path / "tiny_detector" / "1" / "model.onnx"))
    (tmp_path / "tiny").mkdir()
    (tmp_path / "tiny" / "detserve.json").write_text(manifest().to_json())
    return tmp_path


def _one_box() -> onnx.ModelProto:
    outputs = {
        "boxes": np.array([[[0, 0, 16, 16], [0, 0, 0, 0]]], np.float32),
        "scores": np.array([[0.9, 0]], np.float32),
        "classes": np.array([[0, -1]], np.int32),
    }
    graph = helper.make_graph(
        [
            helper.make_node("Constant", [], [name], value=numpy_helper.from_array(a))
            for name, a in outputs.items()
        ],
        "tiny",
        [helper.make_tensor_value_info("images", TensorProto.UINT8, [1, 32, 32, 3])],
        [
            helper.make_tensor_value_info(name, helper.np_dtype_to_tensor_dtype(array.dtype), array.shape)
            for name, array in outputs.items()
        ],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


PICTURE = cv2.imencode(".png", np.zeros((64, 128, 3), np.uint8))[1].tobytes()


def test_the_three_steps_run_in_order(repository) -> None:
    first, second = open_steps(repository, "tiny", 2)
    for detect in (first, second):
        num, boxes, scores, classes = detect(PICTURE)
        assert num.tolist() == [1]
        assert boxes[0].tolist() == [0, 0, 64, 32]
        assert scores[0] == pytest.approx(0.9)
        assert classes.tolist() == [0, -1, -1, -1]


def test_pictures_are_taken_in_turn_by_all_workers() -> None:
    seen: list[bytes] = []
    pictures = [b"a", b"b", b"c"]
    run = run_reference([seen.append, seen.append], pictures, 8)
    assert run.pictures_per_s > 0
    assert run.cores_share > 0
    warm_up, measured = seen[:2], seen[2:]
    assert warm_up == [b"a", b"a"]
    assert sorted(measured) == sorted([b"a", b"b", b"c", b"a", b"b", b"c", b"a", b"b"])


def test_a_picture_that_fails_stops_the_reference(repository) -> None:
    with pytest.raises(ValueError, match="not a JPEG"):
        run_reference(open_steps(repository, "tiny", 1), [PICTURE, b"no picture"], 4)


def test_opencv_gets_its_threads_back() -> None:
    before = cv2.getNumThreads()
    during: list[int] = []
    run_reference([lambda _: during.append(cv2.getNumThreads())], [b"a"], 1)
    assert during[-1] == 1
    assert cv2.getNumThreads() == before


def test_what_is_absent_is_named(repository) -> None:
    with pytest.raises(RepositoryError, match="has no detector other"):
        read_manifest(repository, "other")
    (repository / "tiny_detector" / "1" / "model.onnx").unlink()
    with pytest.raises(RepositoryError, match=r"model\.onnx is absent"):
        open_steps(repository, "tiny", 1)
    (repository / "tiny_postprocess" / "1" / "detserve_postprocess.py").unlink()
    with pytest.raises(RepositoryError, match=r"detserve_postprocess\.py is absent"):
        open_steps(repository, "tiny", 1)
    built = repository / "tiny" / "detserve.json"
    built.write_text(json.dumps({**json.loads(built.read_text()), "target": "tensorrt"}))
    with pytest.raises(
        RepositoryError, match=r"for Triton's tensorrt backend; .* with --target embedded only"
    ):
        open_steps(repository, "tiny", 1)
    built.write_text("{}")
    with pytest.raises(RepositoryError, match="is not a manifest"):
        read_manifest(repository, "tiny")
