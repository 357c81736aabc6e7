from __future__ import annotations

import hashlib
import json
import socket
from pathlib import Path

import pytest
from typer.testing import CliRunner

from detserve_server import checks
from detserve_server.commands.doctor import app
from detserve_server.errors import ManifestError
from detserve_server.manifest import Manifest, read_manifests
from detserve_server.ports import LOOPBACK, choose_ports
from detserve_server.repository import ModelOutline, read_repository
from detserve_server.shared_memory import MIB
from tests.server.models import write_repository

PYTHON_STEP = ModelOutline("m", "python", 8, instances=2, fixed_tensor_bytes=MIB)


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    """The four folders of a detector ``tiny`` with their manifest."""
    write_repository(tmp_path)
    (tmp_path / "tiny_detector").mkdir()
    (tmp_path / "tiny_detector/1").mkdir()
    (tmp_path / "tiny_detector/1/model.py").write_text("")
    (tmp_path / "tiny_detector/config.pbtxt").write_text('name: "tiny_detector" backend: "python"')
    files = [path for path in tmp_path.rglob("*") if path.is_file()]
    manifest = {
        "target": "embedded",
        "versions": {"onnxruntime": "1.20.0"},
        "sha256": {
            path.relative_to(tmp_path).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
            for path in files
        },
    }
    (tmp_path / "tiny/detserve.json").write_text(json.dumps(manifest))
    return tmp_path


def _manifest(**versions: str) -> Manifest:
    return Manifest("tiny", "embedded", {}, versions)


@pytest.mark.parametrize(("found", "passed"), [("2.36", True), ("2.35", True), ("2.31", False), ("", False)])
def test_glibc(found: str, passed: bool) -> None:
    assert checks.check_glibc(found).passed is passed


@pytest.mark.parametrize(
    ("installed", "passed"), [("1.32.0", True), ("1.33", True), ("2.0", True), ("1.9.0", False), ("", False)]
)
def test_a_package_may_be_newer_but_not_older_than_the_build(installed: str, passed: bool) -> None:
    check = checks.check_package(_manifest(onnxruntime="1.32.0"), "onnxruntime", installed)
    assert check.passed is passed


@pytest.mark.parametrize(
    ("free_mib", "passed", "stops"),
    [(512, True, True), (64, True, True), (10, False, False), (1, False, True)],
)
def test_shared_memory_stops_only_below_what_loading_needs(free_mib: int, passed: bool, stops: bool) -> None:
    check = checks.check_shared_memory([PYTHON_STEP], free_mib * MIB)
    assert check.passed is passed
    assert check.stops is stops


def test_a_repository_as_built_passes(repository: Path) -> None:
    (manifest,) = read_manifests(repository)
    assert checks.check_layout(repository, manifest).passed
    assert checks.check_hashes(repository, manifest).passed
    assert checks.check_models(repository, read_repository(repository)).passed


def test_a_changed_file_is_named(repository: Path) -> None:
    (repository / "tiny_preprocess/1/model.py").write_text("edited")
    (manifest,) = read_manifests(repository)
    check = checks.check_hashes(repository, manifest)
    assert check.found == "tiny_preprocess/1/model.py changed since the build"


def test_a_missing_step_is_named(repository: Path) -> None:
    (repository / "tiny_detector/config.pbtxt").unlink()
    (manifest,) = read_manifests(repository)
    assert checks.check_layout(repository, manifest).found == "no tiny_detector"


def test_a_backend_the_embedded_server_lacks_is_named(tmp_path: Path) -> None:
    check = checks.check_models(tmp_path, [ModelOutline("m", "tensorrt")])
    assert check.found == "m wants the backend 'tensorrt'"


@pytest.mark.parametrize("text", ["{", "[]", "{}", '{"target": "embedded", "sha256": [], "versions": {}}'])
def test_a_file_that_is_no_manifest_is_named(tmp_path: Path, text: str) -> None:
    (tmp_path / "m").mkdir()
    (tmp_path / "m/detserve.json").write_text(text)
    with pytest.raises(ManifestError, match=r"m/detserve\.json is no manifest"):
        read_manifests(tmp_path)


def _run(repository: Path, **ports: int) -> tuple[int, str]:
    options = [f"--{name}-port={port}" for name, port in ports.items()]
    result = CliRunner().invoke(app, [f"--repository={repository}", *options], env={"COLUMNS": "200"})
    return result.exit_code, result.output


def test_doctor_exits_1_and_names_the_mend_when_a_port_is_taken(repository: Path) -> None:
    ports = choose_ports({"http": None, "metrics": None})
    with socket.socket() as listener:
        listener.bind((LOOPBACK, 0))
        listener.listen()
        taken = listener.getsockname()[1]
        code, output = _run(repository, grpc=taken, **ports)
    assert code == 1
    assert f"127.0.0.1:{taken} is in use" in output
    assert "--grpc-port" in output


def test_doctor_exits_0_where_nothing_stops_serving(repository: Path) -> None:
    code, output = _run(repository, **choose_ports({"grpc": None, "http": None, "metrics": None}))
    assert code == 0, output


def test_doctor_of_no_repository_exits_1(tmp_path: Path) -> None:
    code, output = _run(tmp_path / "nowhere")
    assert code == 1
    assert "does not exist" in output
