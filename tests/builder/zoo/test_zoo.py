"""The catalogue, and a detector of it from a mirror to a model repository."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from detserve.command import app
from detserve_builder.checkpoint import load_checkpoint
from detserve_builder.errors import BuildError
from detserve_builder.infer_card import read_card
from detserve_builder.zoo import CATALOGUE, committed_checkpoint, find_in_zoo
from detserve_builder.zoo.committed import COMMITTED
from detserve_builder.zoo.get import entry
from tests.shared_data import DARKNET, SHARED, YOLOX, needs_shared

FOUND = {
    "yolox_nano": [YOLOX],
    "yolo-fastest": [DARKNET / "yolo-fastest-1.1-xl.cfg", DARKNET / "yolo-fastest-1.1-xl.weights"],
    "nanodet_m": [SHARED / "models/todays/trained/nanodet_m_320.onnx"],
    "picodet_s": [SHARED / "models/todays/trained/picodet_s_320_coco.onnx"],
    "ultraface": [SHARED / "models/ssd/ultraface-RFB-320.onnx"],
    "yunet": [SHARED / "models/todays/trained/yunet_n_640_640.onnx"],
}


@pytest.fixture
def mirror(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder as a mirror of the catalogue, and an empty cache folder."""
    for name, sources in FOUND.items():
        (tmp_path / "mirror" / name).mkdir(parents=True)
        for file, source in zip(CATALOGUE[name].files, sources, strict=True):
            (tmp_path / "mirror" / name / file.name).symlink_to(source)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("DETSERVE_ZOO_URL", f"file://{tmp_path}/mirror/")
    return tmp_path / "mirror"


def test_every_address_is_of_a_fixed_commit() -> None:
    for detector in CATALOGUE.values():
        for file in detector.files:
            commit = str(file.url.path).split("/")[3]
            assert file.url.host == "raw.githubusercontent.com"
            assert len(bytes.fromhex(commit)) == 20


def test_the_committed_ones_are_there_too() -> None:
    assert all(committed_checkpoint(name) for name in COMMITTED)
    assert find_in_zoo("codes_yolo") == committed_checkpoint("codes_yolo")


@needs_shared
@pytest.mark.parametrize("name", FOUND)
def test_a_detector_of_the_zoo_needs_no_guess(mirror: Path, name: str) -> None:
    checkpoint = load_checkpoint(name)
    inferred = read_card(checkpoint)
    assert inferred.card.name == name
    assert inferred.guesses == {}
    assert inferred.card.origin.source == str(CATALOGUE[name].files[-1].url)
    weights = FOUND[name][-1].read_bytes()
    assert inferred.card.origin.sha256 == hashlib.sha256(weights).hexdigest()


@needs_shared
def test_get_and_build_by_name(mirror: Path, tmp_path: Path) -> None:
    run = CliRunner().invoke(app, ["zoo", "get", "ultraface"])
    path = tmp_path / "cache/detserve/zoo/ultraface/version-RFB-320.onnx"
    assert run.exit_code == 0, run.output
    assert run.stdout.strip() == str(path)
    repository = tmp_path / "repository"
    run = CliRunner().invoke(app, ["build", "ultraface", "--name", "faces", "--repository", str(repository)])
    assert run.exit_code == 0, run.output
    manifest = json.loads((repository / "faces/detserve.json").read_text())
    assert manifest["card"]["labels"] == ["face"]


def test_the_list_fits_a_terminal(mirror: Path) -> None:
    run = CliRunner().invoke(app, ["zoo", "list"], env={"COLUMNS": "80"})
    assert run.exit_code == 0, run.output
    assert all(name in run.output for name in (*CATALOGUE, *COMMITTED))
    assert "…" not in run.output


def test_a_mistyped_name_is_told_the_nearest() -> None:
    with pytest.raises(BuildError, match="did you mean yolox_nano"):
        entry("yolox-nano")
    with pytest.raises(BuildError, match="no such file, and no detector of that name in the zoo"):
        load_checkpoint("nothing.onnx")


def test_a_mirror_that_is_no_address_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DETSERVE_ZOO_URL", "mirror.example/zoo")
    with pytest.raises(BuildError, match="DETSERVE_ZOO_URL: got 'mirror.example/zoo', expected"):
        find_in_zoo("yunet")
