"""What is recommended, and copies with other instance counts."""

from pathlib import Path

import pytest
from google.protobuf import text_format
from tritonclient.grpc import model_config_pb2

from detserve_perf.capacity.placement import (
    GRPC,
    HTTP,
    JPEG,
    RAW,
    SHARED_MEMORY,
    Choice,
    ChoiceRun,
    recommend,
)
from detserve_perf.capacity.placement_report import choices_table
from detserve_perf.capacity.variants import copy_with_instances, instances_of, placement_of
from detserve_perf.errors import MeasurementError

REPOSITORY = Path(__file__).parents[2] / "model_repository"
BUILT = Choice("steps", 2, JPEG, GRPC)
OTHER = Choice("pipeline", 1, JPEG, HTTP)
FRAMES = Choice("steps", 2, RAW, SHARED_MEMORY)


def _runs(choice: Choice, *speeds: float) -> list[ChoiceRun]:
    return [ChoiceRun(choice, speed, 10, 20, 5) for speed in speeds]


def test_what_was_built_is_kept_unless_another_is_faster_beyond_the_noise() -> None:
    near = recommend([*_runs(BUILT, 100, 110), *_runs(OTHER, 104, 112)], BUILT, 3)
    assert near == [
        "Encoded pictures: keep steps with 2 instances over gRPC, 105.0 pictures/s; "
        "pipeline with 1 instances over HTTP gains 3%, within the noise."
    ]
    far = recommend([*_runs(BUILT, 100, 110), *_runs(OTHER, 150, 150)], BUILT, 3)
    assert far[0].startswith(
        "Encoded pictures: take pipeline with 1 instances over HTTP, 150.0 pictures/s, 43%"
    )
    assert "nothing is faster" in recommend([*_runs(BUILT, 100, 110), *_runs(OTHER, 50, 50)], BUILT, 3)[0]


@pytest.mark.parametrize(
    ("raw_per_s", "wanted"), [(99, "send them raw over shared memory"), (20, "make JPEGs")]
)
def test_raw_frames_pay_for_their_jpeg(raw_per_s: float, wanted: str) -> None:
    _, sentence = recommend([*_runs(BUILT, 100, 100), *_runs(FRAMES, raw_per_s, raw_per_s)], BUILT, 10)
    assert wanted in sentence
    assert "10.0 ms of a core" in sentence


def test_the_fastest_choice_is_the_first_row() -> None:
    rows = choices_table([*_runs(BUILT, 100, 110), *_runs(OTHER, 150, 150)]).rows
    assert rows[0][:5] == ["pipeline", 1, JPEG, HTTP, 150]
    assert rows[1][4:6] == pytest.approx([105, 100 * 10 / 105])


@pytest.mark.parametrize("count", [1, 3])
def test_a_copy_differs_in_its_instances_only(tmp_path: Path, count: int) -> None:
    copy = copy_with_instances(REPOSITORY, "codes_yolo", count, tmp_path)
    assert instances_of(copy, "codes_yolo") == count
    assert placement_of(copy, "codes_yolo") == placement_of(REPOSITORY, "codes_yolo")
    copied = {path.relative_to(copy) for path in copy.rglob("*")}
    assert copied == {path.relative_to(REPOSITORY) for path in REPOSITORY.glob("codes_yolo*/**/*")} | {
        Path(folder.name) for folder in REPOSITORY.glob("codes_yolo*")
    }
    for file in copy.rglob("config.pbtxt"):
        before, after = (
            text_format.Parse(one.read_text(), model_config_pb2.ModelConfig())
            for one in (REPOSITORY / file.relative_to(copy), file)
        )
        for config in (before, after):
            for group in config.instance_group:
                group.count = 1
        assert before == after


def test_a_repository_without_the_detector_is_named(tmp_path: Path) -> None:
    with pytest.raises(MeasurementError, match=r"config\.pbtxt cannot be read"):
        copy_with_instances(tmp_path, "codes_yolo", 1, tmp_path / "copy")
