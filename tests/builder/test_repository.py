"""What a build writes, and that it writes all of it or nothing."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import pytest
from google.protobuf import text_format
from tritonclient.grpc import model_config_pb2

from detserve_builder.build import build
from detserve_builder.errors import BuildError
from detserve_builder.triton_config import Placement, Preprocess, Target
from detserve_client import Card
from tests.builder.tiny_networks import save_yolox

ANSWERING = ("requests", "cores", "queue", "metrics", "scope")


@pytest.fixture
def network(tmp_path: Path) -> str:
    return str(save_yolox(tmp_path / "net.onnx"))


def config(repository: Path, name: str) -> model_config_pb2.ModelConfig:
    return text_format.Parse((repository / name / "config.pbtxt").read_text(), model_config_pb2.ModelConfig())


def contents(folder: Path) -> dict[str, str]:
    return {
        path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in folder.rglob("*")
        if path.is_file()
    }


def test_one_model_for_all_steps_is_the_default_of_the_embedded_target(tmp_path, network) -> None:
    built = build(network, name="tiny", repository=tmp_path)
    assert [folder.name for folder in built.folders] == ["tiny", "tiny_pipeline"]
    ensemble, pipeline = config(tmp_path, "tiny"), config(tmp_path, "tiny_pipeline")
    assert [step.model_name for step in ensemble.ensemble_scheduling.step] == ["tiny_pipeline"]
    assert (pipeline.input, pipeline.output) == (ensemble.input, ensemble.output)
    assert not pipeline.HasField("dynamic_batching")  # the pipeline has its own queue
    assert int(pipeline.parameters["max_waiting"].string_value) > 0
    assert {path.name for path in (tmp_path / "tiny_pipeline/1").iterdir()} == {
        "model.onnx",
        "model.py",
        *(f"detserve_{file}.py" for file in (*ANSWERING, "preprocess", "upright", "detector", "postprocess")),
    }
    assert json.loads((tmp_path / "tiny/detserve.json").read_text())["placement"] == "pipeline"


@pytest.mark.parametrize("target", [Target.ONNXRUNTIME, Target.TENSORRT])
def test_one_pipeline_for_all_targets_calls_the_detector(tmp_path, network, target) -> None:
    built = build(network, name="tiny", repository=tmp_path, target=target)
    assert [folder.name for folder in built.folders] == ["tiny", "tiny_detector", "tiny_pipeline"]
    ensemble, pipeline, detector = (
        config(tmp_path, f"tiny{step}") for step in ("", "_pipeline", "_detector")
    )
    assert [step.model_name for step in ensemble.ensemble_scheduling.step] == ["tiny_pipeline"]
    assert (pipeline.input, pipeline.output) == (ensemble.input, ensemble.output)
    assert detector.HasField("dynamic_batching")
    assert not detector.dynamic_batching.HasField("default_queue_policy"), "Triton's batcher would stall"
    said = {name: parameter.string_value for name, parameter in pipeline.parameters.items()}
    assert said["detector"] == "tiny_detector"
    # what runs and what fills the next batch
    assert int(said["in_flight"]) == detector.max_batch_size * (detector.instance_group[0].count + 1) == 16
    assert said["in_flight_because"] == "a batch of 8 runs in each of 1 instances and the next waits"
    # Triton may load the pipeline first, and a warm-up would call a detector that is not there yet
    assert not pipeline.model_warmup
    assert detector.model_warmup
    assert {path.name for path in (tmp_path / "tiny_pipeline/1").iterdir()} == {
        "model.py",
        *(f"detserve_{file}.py" for file in (*ANSWERING, "preprocess", "upright", "postprocess", "calls")),
    }
    assert {path.name for path in (tmp_path / "tiny_detector/1").iterdir()} == {"model.onnx"}


def test_dali_decodes_for_the_pipeline_too(tmp_path, network) -> None:
    (tmp_path / "card.json").write_text('{"preprocess": {"decode": "whole"}}')
    repository = tmp_path / "repository"
    build(network, name="tiny", repository=repository, target=Target.TENSORRT, preprocess=Preprocess.DALI)
    pipeline, decoder = config(repository, "tiny_pipeline"), config(repository, "tiny_preprocess")
    assert pipeline.parameters["preprocess"].string_value == "tiny_preprocess"
    assert decoder.model_warmup
    assert "first_step" not in decoder.parameters, "the pipeline counts the requests"
    assert {path.name for path in (repository / "tiny_preprocess/1").iterdir()} == {
        "model.py",
        *(f"detserve_{file}.py" for file in ("scope", "dali", "metrics", "preprocess", "upright")),
    }


def test_another_placement_leaves_nothing_of_the_earlier_build(tmp_path, network) -> None:
    for placement in (Placement.STEPS, Placement.PIPELINE, Placement.STEPS, Placement.PIPELINE):
        build(network, name="tiny", repository=tmp_path / "r", placement=placement)
        build(network, name="tiny_too", repository=tmp_path / "r", placement=Placement.STEPS)
    steps = ("detector", "postprocess", "preprocess")
    expected = ["tiny", "tiny_pipeline", "tiny_too", *(f"tiny_too_{step}" for step in steps)]
    assert sorted(path.name for path in (tmp_path / "r").iterdir()) == expected


@pytest.mark.parametrize("target", list(Target))
def test_the_four_models(tmp_path, network, target) -> None:
    repository = tmp_path / "repository"
    built = build(network, name="tiny", repository=repository, target=target, placement=Placement.STEPS)
    assert sorted(path.name for path in repository.iterdir()) == sorted(f.name for f in built.folders)
    ensemble = config(repository, "tiny")
    assert [step.model_name for step in ensemble.ensemble_scheduling.step] == [
        "tiny_preprocess",
        "tiny_detector",
        "tiny_postprocess",
    ]
    assert Card.from_json(ensemble.parameters["detserve_card"].string_value) == built.card
    detector = config(repository, "tiny_detector")
    assert detector.backend == ("python" if target is Target.EMBEDDED else target.value)
    assert (repository / "tiny_detector/1/model.py").exists() == (target is Target.EMBEDDED)
    for step in ("preprocess", "detector", "postprocess"):
        model = config(repository, f"tiny_{step}")
        assert model.max_batch_size == 8
        assert not model.dynamic_batching.HasField("default_queue_policy"), "Triton's batcher would stall"
        assert model.instance_group[0].count >= 1
        for tensor in model.input:
            file = repository / f"tiny_{step}" / "warmup" / tensor.name
            assert model.model_warmup[0].inputs[tensor.name].input_data_file == tensor.name
            assert file.stat().st_size > 0
        assert all(-1 not in tensor.dims for tensor in (*model.input, *model.output))


def test_the_manifest_has_every_file_but_itself(tmp_path, network) -> None:
    build(network, name="tiny", repository=tmp_path / "repository")
    manifest = json.loads((tmp_path / "repository/tiny/detserve.json").read_text())
    found = contents(tmp_path / "repository")
    del found["tiny/detserve.json"], found["tiny/1/.keep"]
    assert manifest["sha256"] == found
    assert manifest["card"]["origin"]["sha256"] == hashlib.sha256(Path(network).read_bytes()).hexdigest()


def test_a_build_is_reproducible_and_replaces_itself(tmp_path, network) -> None:
    for name in ("one", "two", "two"):
        build(network, name="tiny", repository=tmp_path / name)
    assert contents(tmp_path / "one") == contents(tmp_path / "two")
    assert not [path for path in tmp_path.iterdir() if path.name.startswith(".")]


def test_a_card_that_accepts_small_pictures_only(tmp_path, network) -> None:
    (tmp_path / "card.json").write_text('{"max_picture_pixels": 10000}')
    build(network, name="tiny", repository=tmp_path / "repository")
    assert (tmp_path / "repository/tiny_pipeline/warmup/IMAGE").stat().st_size < 20_000


def test_a_failed_build_leaves_the_old_repository(tmp_path, network) -> None:
    repository = tmp_path / "repository"
    build(network, name="tiny", repository=repository)
    before = contents(repository)
    broken = tmp_path / "broken.onnx"
    broken.write_bytes(Path(network).read_bytes()[:500])
    with pytest.raises(BuildError):
        build(str(broken), name="tiny", repository=repository)
    assert contents(repository) == before


def test_a_build_that_cannot_be_put_in_place_is_taken_back(tmp_path, network) -> None:
    repository = tmp_path / "repository"
    other = str(save_yolox(tmp_path / "other.onnx", seed=5))
    build(network, name="tiny", repository=repository)
    before = contents(repository)
    # A rename that the system refuses when the first folder has moved, as for a mount point.
    real_rename = Path.rename

    def rename(self: Path, target: Path) -> Path:
        if self.name == "tiny_pipeline" and self.parent.name.startswith(".repository"):
            raise OSError(16, "Device or resource busy")
        return real_rename(self, target)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Path, "rename", rename)
        with pytest.raises(BuildError, match="cannot be put in place"):
            build(other, name="tiny", repository=repository)
    assert contents(repository) == before


def test_a_repository_that_cannot_be_written(tmp_path, network) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(BuildError, match="the repository cannot be written"):
        build(network, name="tiny", repository=tmp_path / "file" / "repository")
    with pytest.raises(BuildError, match="the repository cannot be written"):
        build(network, name="tiny", repository=Path("/proc/detserve"))


def test_a_folder_that_is_not_of_this_build_stays(tmp_path, network) -> None:
    build(network, name="tiny_detector", repository=tmp_path)
    before = contents(tmp_path / "tiny_detector")
    with pytest.raises(BuildError, match="tiny_detector is there already and not of an earlier build"):
        build(network, name="tiny", repository=tmp_path, placement=Placement.STEPS)
    assert contents(tmp_path / "tiny_detector") == before
    assert not (tmp_path / "tiny").exists()


@pytest.mark.parametrize(
    ("target", "cores", "processes", "in_flight"),
    [(Target.EMBEDDED, 8, 1, None), (Target.EMBEDDED, 9, 2, None), (Target.ONNXRUNTIME, 16, 4, 4)],
)
def test_more_cores_get_more_processes_of_the_pipeline(
    tmp_path, network, monkeypatch, target, cores, processes, in_flight
) -> None:
    """All together they queue as many pictures as one, and give the detector as many."""
    monkeypatch.setattr("detserve_core.machine.cores.cores", lambda: cores)
    build(network, name="tiny", repository=tmp_path / "r", target=target)
    pipeline = config(tmp_path / "r", "tiny_pipeline")
    said = {name: parameter.string_value for name, parameter in pipeline.parameters.items()}
    assert pipeline.instance_group[0].count == processes
    assert f"the {cores} cores of the building machine" in said["processes_because"]
    assert int(said["max_waiting"]) * processes == (32 if in_flight is None else 80)
    assert in_flight is None or int(said["in_flight"]) == in_flight
