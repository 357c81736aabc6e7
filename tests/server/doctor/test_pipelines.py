from __future__ import annotations

import re
import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from detserve_builder.build import build
from detserve_builder.triton_config import Placement, Target
from detserve_core.machine.cores import cores
from detserve_server.doctor import checks
from detserve_server.doctor.pipelines import check_in_flight, check_pipelines, check_processes
from detserve_server.triton.repository import ModelOutline, read_repository

ROOT = Path(__file__).parents[3]
IMAGES = ["", "nvcr.io/nvidia/tritonserver:26.11-py3"]
PIPELINE = ModelOutline(
    "a_pipeline", "python", 8, calls="a_detector", in_flight="16", max_picture_pixels=1, kind="KIND_CPU"
)
DETECTOR = ModelOutline("a_detector", "onnxruntime", 8, kind="KIND_GPU")


@pytest.fixture(scope="module")
def built(tmp_path_factory) -> dict[Placement, Path]:
    """A detector for Triton's ONNX Runtime, in both placements."""
    folder = tmp_path_factory.mktemp("built")
    for placement in Placement:
        build(
            str(ROOT / "zoo/codes_yolo/checkpoint.onnx"),
            name="a",
            repository=folder / placement.value,
            target=Target.ONNXRUNTIME,
            placement=placement,
        )
    return {placement: folder / placement.value for placement in Placement}


@pytest.mark.parametrize("placement", list(Placement))
def test_what_a_build_writes_fits(built, placement: Placement) -> None:
    rows = check_pipelines(read_repository(built[placement]), cores=cores(), gpus=1)
    assert [row.fix for row in rows] == [""] * len(rows)
    rows_of_pipeline = ["a_pipeline: in flight", "a_pipeline: cores"]
    assert [row.name for row in rows[1:]] == (rows_of_pipeline if placement is Placement.PIPELINE else [])


@pytest.mark.parametrize("image", IMAGES)
@pytest.mark.parametrize(
    ("policy", "found"),
    [
        ("default_queue_policy { max_queue_size: 32 }", "max_queue_size"),
        ("default_queue_policy { default_timeout_microseconds: 9 }", "default_timeout_microseconds"),
        ("default_queue_policy { allow_timeout_override: true }", "allow_timeout_override"),
        ("priority_queue_policy { key: 1 value { max_queue_size: 4 } }", "max_queue_size"),
        ("preferred_batch_size: 4", None),
    ],
)
def test_a_bound_of_tritons_queue_is_warned_of(
    built, tmp_path: Path, image: str, policy: str, found: str | None
) -> None:
    repository = shutil.copytree(built[Placement.PIPELINE], tmp_path / "repository")
    config = repository / "a_detector/config.pbtxt"
    text = config.read_text()
    config.write_text(re.sub(r"dynamic_batching \{\s*\}", f"dynamic_batching {{ {policy} }}", text))
    assert policy in config.read_text()
    (row,) = [row for row in checks.run_checks(repository, {}, image) if row.name == "queue policy"]
    assert row.found.startswith(f"a_detector ({found})" if found else "none")
    assert not row.stops or row.passed
    assert ("build it again" in row.fix) == bool(found)


def test_a_queue_policy_of_a_model_that_is_no_detector_is_its_owners() -> None:
    stranger = ModelOutline("other", "onnxruntime", 8, queue_policy=("max_queue_size",))
    (row,) = check_pipelines([stranger], cores=8, gpus=0)
    assert row.passed


@pytest.mark.parametrize(
    ("in_flight", "pipelines", "instances", "kind", "gpus", "wanted"),
    [
        ("16", 1, 1, "KIND_GPU", 1, None),
        ("16", 1, 2, "KIND_GPU", 1, 24),  # instance_group by hand
        ("24", 1, 2, "KIND_GPU", 1, None),
        ("16", 1, 1, "KIND_GPU", 4, 40),  # Triton runs one on each GPU
        ("16", 1, 1, "KIND_AUTO", 0, None),
        ("16", 1, 1, "KIND_CPU", 4, None),
        ("16", 2, 1, "KIND_GPU", 1, 8),
        ("8", 2, 1, "KIND_GPU", 1, None),
        ("17", 1, 1, "KIND_GPU", 1, 16),
        ("many", 1, 1, "KIND_GPU", 1, 16),
        ("", 1, 1, "KIND_GPU", 1, 16),
        ("0", 1, 1, "KIND_GPU", 1, 16),
    ],
)
def test_in_flight_fills_the_instances_and_the_next_batch(
    in_flight: str, pipelines: int, instances: int, kind: str, gpus: int, wanted: int | None
) -> None:
    pipeline = replace(PIPELINE, in_flight=in_flight, instances=pipelines)
    detector = replace(DETECTOR, instances=instances, kind=kind)
    (row,) = check_in_flight(pipeline, [pipeline, detector], gpus)
    assert row.name == "a_pipeline: in flight"
    assert row.passed is (wanted is None)
    if wanted is not None:
        assert row.fix.startswith(f"put {wanted} in the parameter in_flight of its config.pbtxt")
        assert row.stops is not (in_flight.isdecimal() and in_flight != "0")


@pytest.mark.parametrize(
    ("calls", "cores", "processes", "wanted"),
    [
        ("", 1, 1, ""),
        ("", 8, 1, ""),
        ("", 9, 1, "2 processes"),
        ("", 64, 8, ""),
        ("", 4, 8, "1 process"),  # built on a larger machine
        ("a_detector", 4, 1, ""),
        ("a_detector", 8, 1, "2 processes"),
        ("a_detector", 64, 16, ""),
    ],
)
def test_processes_of_a_pipeline_beside_the_cores(
    calls: str, cores: int, processes: int, wanted: str
) -> None:
    row = check_processes(replace(PIPELINE, calls=calls, instances=processes), cores)
    assert row.passed is not bool(wanted)
    assert not (row.fix and row.stops)
    assert row.found.endswith(f"for {cores} core{'s' * (cores > 1)}")
    assert f"which gives it {wanted}:" in row.fix or not wanted


def test_a_pipeline_that_calls_a_detector_is_no_ensemble(built, tmp_path: Path) -> None:
    repository = shutil.copytree(built[Placement.PIPELINE], tmp_path / "repository")
    models = [ModelOutline("a", steps=("a_pipeline",), backend=""), replace(PIPELINE, steps=("a_detector",))]
    refused = checks.check_models(repository, [*models, DETECTOR])
    assert refused.found == "a_detector wants the backend 'onnxruntime'"
    (repository / "a_detector/1/model.py").touch()
    served = checks.check_models(repository, [*models, replace(DETECTOR, backend="python")])
    assert served.found == "3, of them ensembles: a"
