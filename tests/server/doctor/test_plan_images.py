"""Which image loads which plan."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from detserve_core.repository.plan_record import PlanRecord
from detserve_server.commands.doctor import app
from detserve_server.doctor import checks
from detserve_server.doctor.plan_images import SERVING_IMAGE, TRITON_IMAGE, obstacle, tensorrt_major
from tests.manifests import manifest

MANIFEST = manifest(target="tensorrt")


def image(release: str) -> str:
    return f"{TRITON_IMAGE}:{release}-py3"


def record(tensorrt: str, release: str = "", *, version_compatible: bool = False) -> PlanRecord:
    return PlanRecord(
        tensorrt=tensorrt,
        image=release,
        cuda="",
        gpu="",
        compute_capability="9.0",
        version_compatible=version_compatible,
        hardware_compatible=False,
        sparse_weights=False,
        batch=(1, 1, 8),
        onnx_sha256="",
        plan_sha256="",
    )


@pytest.mark.parametrize(
    ("name", "major"),
    [
        (image("26.11"), 11),
        (image("26.06"), 11),
        (image("26.05"), 10),
        (image("24.05"), 10),
        (image("24.04"), 8),
        (f"{TRITON_IMAGE}:26.07-py3-min", 11),
        ("detserve-triton", None),
        ("registry:5000/triton:latest", None),
    ],
)
def test_tensorrt_of_an_image(name: str, major: int | None) -> None:
    assert tensorrt_major(name) == major


@pytest.mark.parametrize(
    ("plan", "serving"),
    [
        (record("11.4.0.106", "26.11"), "26.11"),
        (record("11.2.1.2", "26.08", version_compatible=True), "26.11"),
        (record("10.16.1.11", "26.05", version_compatible=True), "26.11"),
        (record("8.6.1.6", "24.04", version_compatible=True), "25.01"),
    ],
)
def test_what_loads(plan: PlanRecord, serving: str) -> None:
    assert obstacle(plan, image(serving)) is None


@pytest.mark.parametrize(
    ("plan", "serving", "found", "fix"),
    [
        (
            record("10.16.1.11", "26.05"),
            "26.11",
            f"built with TensorRT 10.16.1.11 in 26.05, {image('26.11')} has TensorRT 11",
            f"or serve with TRITON_IMAGE={image('26.05')}",
        ),
        (record("10.9.0.34"), "26.11", "has TensorRT 11", f"TRITON_IMAGE={image('26.05')}"),
        (record("11.4.0.106", "26.11"), "26.05", "has TensorRT 10", f"TRITON_IMAGE={image('26.11')}"),
        (record("11.2.1.2", "26.08"), "26.11", "has perhaps another", f"TRITON_IMAGE={image('26.08')}"),
        (record("11.4.0.106"), "26.11", "in no image of NVIDIA's", "serve where TensorRT is 11.4.0.106"),
        # version-compatible goes forward, and one major at most
        (record("11.4.0.106", version_compatible=True), "26.05", "has TensorRT 10", "26.11-py3"),
        (record("8.6.1.6", version_compatible=True), "26.11", "has TensorRT 11", "24.04-py3"),
        (record("11.4.0.106", "26.11", version_compatible=True), "26.08", "has perhaps another", "26.11-py3"),
    ],
)
def test_what_does_not_load_and_what_can(plan: PlanRecord, serving: str, found: str, fix: str) -> None:
    refused = obstacle(plan, image(serving))
    assert refused is not None
    assert found in refused[0]
    assert fix in refused[1]
    assert "docker compose run --rm build-engines" in refused[1]


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    """The detector's folder with a graph, a plan and its sidecar."""
    folder = tmp_path / "tiny_detector/1"
    folder.mkdir(parents=True)
    (folder / "model.onnx").write_bytes(b"graph")
    (folder / "model_sm89.plan").write_bytes(b"plan")
    _describe(tmp_path)
    return tmp_path


def _describe(repository: Path, **changes: Any) -> None:
    sidecar = {
        "tensorrt": "11.4.0.106",
        "image": "26.11",
        "cuda": "13.1",
        "gpu": "NVIDIA L4",
        "compute_capability": "8.9",
        "hardware_compatible": False,
        "sparse_weights": False,
        "batch": [1, 8, 8],
        "version_compatible": False,
        "onnx_sha256": hashlib.sha256(b"graph").hexdigest(),
        "plan_sha256": hashlib.sha256(b"plan").hexdigest(),
    }
    path = repository / "tiny_detector/1/model_sm89.plan.json"
    path.write_text(json.dumps(sidecar | changes))


def test_a_plan_as_built_passes(repository: Path) -> None:
    (check,) = checks.check_plans(repository, MANIFEST, SERVING_IMAGE)
    assert check.passed
    assert check.found == f"TensorRT 11.4.0.106, loads in {SERVING_IMAGE}"


def test_a_version_compatible_plan_wants_triton_told(repository: Path) -> None:
    _describe(repository, image="26.08", version_compatible=True)
    (check,) = checks.check_plans(repository, MANIFEST, SERVING_IMAGE)
    assert check.passed
    assert check.found.endswith("started with --backend-config=tensorrt,version-compatible=true")


@pytest.mark.parametrize(
    ("file", "found"),
    [
        ("model_sm89.plan", "not the plan its record describes"),
        ("model.onnx", "built from another model.onnx"),
    ],
)
def test_a_changed_file(repository: Path, file: str, found: str) -> None:
    (repository / "tiny_detector/1" / file).write_bytes(b"other")
    (check,) = checks.check_plans(repository, MANIFEST, SERVING_IMAGE)
    assert check.found == found
    assert check.stops


@pytest.mark.parametrize("text", ["", "{", "[]", "{}", '{"tensorrt": "new"}'])
def test_a_record_that_is_none(repository: Path, text: str) -> None:
    (repository / "tiny_detector/1/model_sm89.plan.json").write_text(text)
    (check,) = checks.check_plans(repository, MANIFEST, SERVING_IMAGE)
    assert "does not say what built the plan" in check.found
    assert "build-engines" in check.fix


def test_no_plan_yet(repository: Path) -> None:
    (repository / "tiny_detector/1/model_sm89.plan").unlink()
    (check,) = checks.check_plans(repository, MANIFEST, image("26.08"))
    assert check.found == "none"
    assert check.fix == f"build one: TRITON_IMAGE={image('26.08')} docker compose run --rm build-engines"


def test_other_targets_have_no_plans(repository: Path) -> None:
    assert checks.check_plans(repository, manifest(), SERVING_IMAGE) == []


@pytest.mark.parametrize(("release", "code"), [("26.11", 0), ("26.05", 1)])
def test_doctor_of_an_image(repository: Path, release: str, code: int) -> None:
    for name in ("tiny", "tiny_preprocess", "tiny_detector", "tiny_postprocess"):
        (repository / name).mkdir(exist_ok=True)
        (repository / name / "config.pbtxt").write_text(f'name: "{name}" backend: "tensorrt"')
    (repository / "tiny/detserve.json").write_text(MANIFEST.to_json())
    arguments = [f"--repository={repository}", f"--image={image(release)}"]
    result = CliRunner().invoke(app, arguments, env={"COLUMNS": "250"})
    assert result.exit_code == code, result.output
    assert ("has TensorRT 10" in result.output) == bool(code)


def test_doctor_of_an_image_and_no_repository(tmp_path: Path) -> None:
    arguments = [f"--repository={tmp_path}", f"--image={SERVING_IMAGE}"]
    assert CliRunner().invoke(app, arguments).exit_code == 1
