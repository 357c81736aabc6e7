"""Which pictures are calibrated with, and which sets are refused."""

from __future__ import annotations

import numpy as np
import pytest
from typer.testing import CliRunner

from detserve_builder.commands.build import app
from detserve_builder.errors import BuildError
from detserve_builder.precision.request import Precision, PrecisionRequest
from detserve_builder.quantise.calibration import CalibrationError, calibration_folder, calibration_source
from detserve_client import Card, DetserveError
from tests.builder.precision.networks import write_pictures
from tests.builder.tiny_networks import save_linear_network

CARD = Card.model_validate(
    {
        "name": "tiny",
        "family": "yolox",
        "input_wh": [64, 64],
        "preprocess": {"resize": "letterbox_topleft"},
        "labels": ["thing"],
    }
)


def test_a_folder_is_read_in_order_and_as_often_as_wanted(tmp_path) -> None:
    folder = write_pictures(tmp_path / "pictures", 5)
    seen = []
    source = calibration_folder(folder, CARD)
    first = list(source.images(lambda done, total: seen.append((done, total))))
    assert [image.shape for image in first] == [(1, 64, 64, 3)] * 5
    assert all(np.array_equal(a, b) for a, b in zip(first, source.images(), strict=True))
    assert seen == [(1, 5), (2, 5), (3, 5), (4, 5), (5, 5)]
    assert [path.name for path in source.pictures] == [f"{index:02}.png" for index in range(5)]


def test_the_hash_is_of_the_pictures_and_not_of_their_place(tmp_path) -> None:
    one, two, other = (
        write_pictures(tmp_path / name, 3, seed) for name, seed in (("a", 0), ("b", 0), ("c", 1))
    )
    hashes = [calibration_folder(folder, CARD).sha256 for folder in (one, two, other)]
    assert hashes[0] == hashes[1] != hashes[2]


def test_a_few_bad_pictures_are_skipped_and_counted(tmp_path) -> None:
    folder = write_pictures(tmp_path, 10)
    (folder / "05a.jpg").write_bytes(b"\xff\xd8\xff no picture")
    source = calibration_folder(folder, CARD)
    assert len(source.pictures) == 10
    assert [path.name for path, _ in source.skipped] == ["05a.jpg"]


def test_many_bad_pictures_are_an_error(tmp_path) -> None:
    folder = write_pictures(tmp_path, 8)
    (folder / "a.jpg").write_bytes(b"no picture")
    with pytest.raises(
        CalibrationError, match=r"1 of 9 .* more than 10%; the first is .*a\.jpg \(not a JPEG"
    ):
        calibration_folder(folder, CARD)


def test_one_picture_is_refused_unless_forced(tmp_path) -> None:
    folder = write_pictures(tmp_path, 1)
    with pytest.raises(CalibrationError, match="got one picture"):
        calibration_folder(folder, CARD)
    assert len(calibration_folder(folder, CARD, forced=True).pictures) == 1


def test_an_iterator_that_reads_once_is_refused(tmp_path) -> None:
    with pytest.raises(CalibrationError, match="a generator came, which can be read only once"):
        calibration_source((path for path in [tmp_path]), CARD)
    with pytest.raises(CalibrationError, match="got no picture"):
        calibration_source([], CARD)


def test_a_picture_that_vanishes_is_named(tmp_path) -> None:
    source = calibration_folder(write_pictures(tmp_path, 3), CARD)
    (tmp_path / "01.png").unlink()
    with pytest.raises(CalibrationError, match=r"01\.png changed during calibration"):
        list(source.images())


@pytest.mark.parametrize("what", ["empty", "absent", "a file"])
def test_the_command_refuses_a_folder_without_pictures(tmp_path, what) -> None:
    network = str(save_linear_network(tmp_path / "net.onnx", {"output": [84, 8]}))
    folder = tmp_path / what
    if what == "empty":
        folder.mkdir()
    elif what == "a file":
        folder.write_text("")
    arguments = [network, "--name", "tiny", "--repository", str(tmp_path / "repository")]
    outcome = CliRunner().invoke(app, [*arguments, "--precision", "int8", "--calibrate", str(folder)])
    assert isinstance(outcome.exception, DetserveError)
    assert "\n" not in str(outcome.exception)
    assert str(folder) in str(outcome.exception)
    assert not (tmp_path / "repository").exists()


@pytest.mark.parametrize("precision", [Precision.FP16, Precision.INT8, Precision.INT16])
def test_a_precision_without_pictures_is_refused(precision) -> None:
    with pytest.raises(BuildError, match=f"--precision {precision.value} .* --calibrate"):
        PrecisionRequest(precision)
