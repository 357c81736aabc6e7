"""``import detserve``: a checkpoint becomes detections in ten lines."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

import detserve
from detserve.building import detectors_in_cache
from detserve_client import Client
from tests.client.video.clips import write_clip
from tests.live.front_door import ten_lines

CHECKOUT = Path(__file__).parents[2]
SAMPLES = CHECKOUT / "zoo/samples"


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache for this test, with the backend that this machine has compiled."""
    compiled = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "detserve"
    cache = tmp_path / "cache/detserve"
    cache.mkdir(parents=True)
    for entry in compiled.iterdir() if compiled.is_dir() else ():
        if entry.name != "repositories":
            (cache / entry.name).symlink_to(entry)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return cache


def test_ten_lines(cache: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    checkpoint = tmp_path / "my codes (1).onnx"
    shutil.copy(CHECKOUT / "zoo/codes_yolo/checkpoint.onnx", checkpoint)
    shutil.copy(CHECKOUT / "zoo/codes_yolo/card.json", tmp_path / "card.json")
    clip = write_clip(tmp_path / "clip.mp4", 5)
    photo, annotations = SAMPLES / "scene_1.jpg", SAMPLES / "instances.json"
    ten_lines(str(checkpoint), str(photo), str(clip), str(annotations), str(SAMPLES), tmp_path)
    assert (tmp_path / "out.jpg").is_file()
    (detector,) = detectors_in_cache()
    assert detector.name == "my_codes_1"
    assert cache in detector.repository.parents
    assert "Client('grpc://127.0.0.1:" in capsys.readouterr().out


def test_a_repository_is_served_and_ends_with_an_error_too() -> None:
    with pytest.raises(RuntimeError, match="mine"):
        with detserve.serve(CHECKOUT / "model_repository") as client:
            assert client.models() == ["codes_rcnn", "codes_ssd", "codes_yolo"]
            with pytest.raises(detserve.ModelNotFound, match="3 detectors, codes_rcnn, codes_ssd, "):
                client.detect(SAMPLES / "scene_1.jpg")
            raise RuntimeError("mine")
    assert not Client(str(client.endpoint), "codes_yolo", timeout_s=1).ready()


def test_what_cannot_be_served(tmp_path: Path) -> None:
    (tmp_path / "a.onnx").touch()
    with pytest.raises(detserve.ServerStartError, match=r"a\.onnx is a file; .* serve\(build\("):
        with detserve.serve(tmp_path / "a.onnx"):
            pass
    with pytest.raises(detserve.ServerStartError, match="does not exist"):
        with detserve.serve(detserve.Detector("codes", tmp_path / "absent")):
            pass


def test_the_detectors_that_there_are(url: str) -> None:
    with Client(url) as client:
        names = client.models()
    assert {"codes_rcnn", "codes_ssd", "codes_yolo"} <= set(names)
    assert not any(name.endswith(("_pipeline", "_detector")) for name in names)
    with Client(url, "absent") as other:
        with pytest.raises(detserve.ModelNotFound, match=f"the detectors there: {', '.join(names)} "):
            other.card()
