"""model_repository/ is what the builder makes of zoo/ today."""

from __future__ import annotations

import json
from importlib.metadata import version
from pathlib import Path

import pytest

from detserve_builder.build import build

CHECKOUT = Path(__file__).parents[2]
COMMITTED = CHECKOUT / "model_repository"
DETECTORS = sorted(path.parent.name for path in COMMITTED.glob("*/detserve.json"))


def files(folder: Path) -> dict[str, bytes]:
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }


@pytest.mark.parametrize("name", DETECTORS)
def test_it_equals_a_fresh_build(tmp_path, monkeypatch, name) -> None:
    monkeypatch.setattr("detserve_core.machine.cores.cores", lambda: 1)  # as make repository has
    build(name, name=name, repository=tmp_path / "fresh")
    fresh = files(tmp_path / "fresh")
    committed = {path: data for path, data in files(COMMITTED).items() if path in fresh}
    manifest = json.loads(committed.pop(f"{name}/detserve.json"))
    del fresh[f"{name}/detserve.json"]
    if any(version(library) != built for library, built in manifest["versions"].items()):
        # Another release of onnx or ONNX Runtime may write the same graph in other bytes.
        fresh = {path: data for path, data in fresh.items() if path.endswith((".py", ".pbtxt", "IMAGE"))}
        committed = {path: data for path, data in committed.items() if path in fresh}
    different = sorted(path for path in fresh if committed.get(path) != fresh[path])
    assert not different, f"{different} differ from a fresh build; run: make repository"


def test_the_committed_detectors_and_nothing_else() -> None:
    assert DETECTORS
    manifests = [json.loads((COMMITTED / name / "detserve.json").read_text()) for name in DETECTORS]
    built = {file.partition("/")[0] for manifest in manifests for file in manifest["sha256"]}
    assert {path.name for path in COMMITTED.iterdir()} == built
