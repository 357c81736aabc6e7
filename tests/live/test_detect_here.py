"""``detserve detect`` where no server runs: it serves what was built, for the call."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from detserve_core.machine.ports import GRPC_PORT

CHECKOUT = Path(__file__).parents[2]
SCENE = CHECKOUT / "zoo/samples/scene_1.jpg"


def detect(folder: Path, *arguments: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "detserve.command", "detect", str(SCENE), *map(str, arguments)]
    return subprocess.run(
        command,
        capture_output=True,
        text=True,
        check=False,
        cwd=folder,
        env={**os.environ, "COLUMNS": "200"},
    )


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    with socket.socket() as probe:
        if probe.connect_ex(("127.0.0.1", GRPC_PORT)) == 0:
            pytest.skip(f"a server listens on port {GRPC_PORT} of this machine")
    shutil.copytree(CHECKOUT / "model_repository", tmp_path / "model_repository")
    return tmp_path


def test_the_only_detector_is_served_for_the_call(folder: Path) -> None:
    for name in ("codes_rcnn", "codes_ssd"):
        shutil.rmtree(folder / "model_repository" / name)
        shutil.rmtree(folder / "model_repository" / f"{name}_pipeline")
    done = detect(folder)
    assert done.returncode == 0, done.stderr
    assert "pictures 1, detections 1, failed 0" in done.stdout
    assert done.stderr.splitlines() == [
        "no server runs on this machine: serving codes_yolo of model_repository for this call"
    ]


def test_one_of_several_has_to_be_named(folder: Path) -> None:
    done = detect(folder)
    assert done.returncode == 1
    assert done.stderr == (
        "detserve: model_repository has 3 detectors, codes_rcnn, codes_ssd, codes_yolo; "
        "say which with --model NAME\n"
    )
    assert "detections 1," in detect(folder, "--model", "codes_yolo").stdout


def test_an_address_that_is_given_starts_nothing(folder: Path) -> None:
    done = detect(folder, "--url", "localhost:8001", "--model", "codes_yolo")
    assert done.returncode == 1
    assert "grpc://localhost:8001 cannot be reached: Connection refused" in done.stderr
