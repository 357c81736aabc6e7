"""``import detserve``: its names, what they load, and that a strict type checker knows them."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

import detserve
import detserve_builder.errors
import detserve_core.errors
from detserve.building import Detector, build
from detserve.serving import detector_here
from tests.client.test_public_surface import loaded_by

CHECKOUT = Path(__file__).parents[2]
LINES = CHECKOUT / "tests/live/front_door.py"


def test_import_loads_nothing() -> None:
    assert {name for name in loaded_by("import detserve") if name.startswith("detserve")} == {"detserve"}
    assert "numpy" not in loaded_by("import detserve")


def test_every_name_is_there() -> None:
    assert list(detserve.__all__) == sorted(detserve.__all__) == dir(detserve)
    for name in detserve.__all__:
        assert getattr(detserve, name) is not None
    with pytest.raises(AttributeError, match="module 'detserve' has no attribute 'Klient'"):
        detserve.Klient  # type: ignore[attr-defined]  # noqa: B018


@pytest.mark.parametrize("module", [detserve_core.errors, detserve_builder.errors])
def test_every_error_is_there(module: object) -> None:
    errors = {
        name
        for name, value in vars(module).items()
        if isinstance(value, type) and issubclass(value, detserve.DetserveError)
    }
    assert errors <= set(detserve.__all__)


def test_the_ten_lines_are_typed(tmp_path: Path) -> None:
    """As in a user's project: another folder, no configuration of ours, the packages as installed."""
    mistakes = LINES.read_text() + (
        "\n\ndef wrong(client: detserve.Client, found: detserve.Detections, one: detserve.Outcome) -> None:\n"
        "    client.detect(7)\n"
        "    found[0].xyxy\n"
        "    one.detections.labels\n"
        "    detserve.klient\n"
    )
    (tmp_path / "user.py").write_text(mistakes)
    checked = subprocess.run(
        [sys.executable, "-m", "mypy", "--strict", "--cache-dir", CHECKOUT / ".mypy_cache/user", "user.py"],
        capture_output=True,
        text=True,
        check=False,
        cwd=tmp_path,
    )
    found = [
        line.rpartition("[")[2].rstrip("]") for line in checked.stdout.splitlines() if ": error:" in line
    ]
    assert found == ["call-overload", "attr-defined", "union-attr", "attr-defined"], checked.stdout


def test_the_detector_that_is_meant(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def built(*path: str) -> None:
        folder = tmp_path.joinpath(*path)
        folder.mkdir(parents=True)
        (folder / "detserve.json").touch()

    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    with pytest.raises(detserve.ServerStartError, match="no model_repository here with a detector to"):
        detector_here(None)
    built("cache", "detserve", "repositories", "1", "best")
    assert detector_here(None).name == "best"
    built("cache", "detserve", "repositories", "2", "best")
    for name in ("best", None):
        with pytest.raises(detserve.ServerStartError, match="2 detectors are called best, in .*ories/1, "):
            detector_here(name)
    built("cache", "detserve", "repositories", "1", "last")
    with pytest.raises(detserve.ServerStartError, match="repositories has 3 detectors, best, last; "):
        detector_here(None)
    built("model_repository", "codes")
    assert detector_here(None) == detector_here("codes") == Detector("codes", Path("model_repository"))
    built("model_repository", "faces")
    with pytest.raises(detserve.ServerStartError, match="^model_repository has 2 detectors, codes, faces"):
        detector_here(None)
    with pytest.raises(detserve.ServerStartError, match="with the detector 'cars' to serve; build one with"):
        detector_here("cars")


def test_a_missing_builder_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "onnx_graphsurgeon", None)
    with pytest.raises(detserve.MissingExtra, match=r"onnx-graphsurgeon .* 'detserve\[builder\]'"):
        build("yolo11n.onnx")
