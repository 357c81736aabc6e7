from __future__ import annotations

import json
import os
import shutil
import socket
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from detserve_core.errors import RepositoryError
from detserve_core.machine.ports import LOOPBACK, choose_ports
from detserve_core.machine.sha256 import file_sha256
from detserve_core.repository.manifest import Manifest, read_manifests
from detserve_server.commands.doctor import app
from detserve_server.doctor import checks
from detserve_server.triton.repository import ModelOutline, read_repository
from detserve_server.triton.shared_memory import MIB
from tests.manifests import manifest
from tests.server.triton.models import write_repository

COMMITTED = Path(__file__).parents[3] / "model_repository"
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
    built = manifest(
        versions={"onnxruntime": "1.20.0"},
        sha256={path.relative_to(tmp_path).as_posix(): file_sha256(path) for path in files},
    )
    (tmp_path / "tiny/detserve.json").write_text(built.to_json())
    return tmp_path


def _manifest(**versions: str) -> Manifest:
    return manifest(versions=versions)


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


@pytest.mark.parametrize("image", ["", "nvcr.io/nvidia/tritonserver:26.11-py3"])
def test_a_cached_detector_is_refused(tmp_path: Path, image: str) -> None:
    repository = shutil.copytree(COMMITTED, tmp_path / "repository")
    before = [check for check in checks.run_checks(repository, {}, image) if check.name == "response cache"]
    with (repository / "codes_yolo/config.pbtxt").open("a") as config:
        config.write("response_cache { enable: true }\n")
    after = [check for check in checks.run_checks(repository, {}, image) if check.name == "response cache"]
    assert [check.passed for check in before] == [True]
    assert [(check.found, check.stops) for check in after] == [("on for codes_yolo", True)]
    assert "score_threshold 0.9 gets the answer for 0.1" in after[0].fix


@pytest.mark.parametrize(
    ("fields", "here", "found", "passed"),
    [
        ({}, "AMX", "int8 chosen on a CPU with AMX, as this one has", True),
        ({}, "VNNI", "int8 chosen on a CPU with AMX, this one has VNNI", False),
        ({"measured": {}}, "VNNI", None, True),
        ({"measured": {"precision": "fp32"}}, "VNNI", None, True),
        ({"measured": {"precision": {"machine": None}}}, "VNNI", None, True),
        ({"target": "tensorrt"}, "VNNI", None, True),
    ],
)
def test_a_precision_chosen_by_the_speed_of_another_kind_of_cpu_is_warned_of(
    fields: dict[str, Any], here: str, found: str | None, passed: bool
) -> None:
    measured = {"precision": {"machine": {"cpu_kind": "AMX"}}}
    rows = checks.check_cpu_kind(manifest(**({"precision": "int8", "measured": measured} | fields)), here)
    assert [row.found for row in rows] == ([found] if found else [])
    assert all(row.passed is passed and not (row.stops and row.fix) for row in rows)
    assert passed or "build it again on this machine" in rows[0].fix


def test_the_cpu_is_among_what_is_asked_of_every_build(repository: Path, monkeypatch) -> None:
    path = repository / "tiny/detserve.json"
    built = json.loads(path.read_bytes())
    built["measured"] = {"precision": {"machine": {"cpu_kind": "AMX"}}}
    path.write_text(json.dumps(built))
    monkeypatch.setattr(checks, "cpuinfo", lambda: "flags : avx2")
    for image in ("", "nvcr.io/nvidia/tritonserver:26.07-py3"):
        (row,) = [row for row in checks.run_checks(repository, {}, image) if row.name == "tiny: CPU"]
        assert row.found == "fp32 chosen on a CPU with AMX, this one has AVX2"
        assert row.fix
        assert not row.stops


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
    with pytest.raises(RepositoryError, match=r"m/detserve\.json is not a manifest"):
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


@pytest.mark.parametrize(
    "name",
    ["1/cv2.py", "1/cv2/__init__.py", "1/numpy.so", "1/json.pyc", "2/model.py", "1/model.plan", "notes.txt"],
)
def test_a_file_that_no_build_wrote_is_warned_of(repository: Path, name: str) -> None:
    (manifest,) = read_manifests(repository)
    assert checks.check_foreign_files(repository, manifest).passed
    path = repository / "tiny_detector" / name
    path.parent.mkdir(exist_ok=True)
    path.touch()
    check = checks.check_foreign_files(repository, manifest)
    assert check.found == f"tiny_detector/{name}"
    assert not check.stops
    code, output = _run(repository, **choose_ports({"grpc": None, "http": None, "metrics": None}))
    assert code == 0
    assert name in output


def test_a_link_to_a_package_elsewhere_is_warned_of(
    repository: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    elsewhere = tmp_path_factory.mktemp("cv2")
    (elsewhere / "__init__.py").touch()
    (repository / "tiny_detector/1/cv2").symlink_to(elsewhere)
    (manifest,) = read_manifests(repository)
    assert checks.check_foreign_files(repository, manifest).found == "tiny_detector/1/cv2"


def test_what_our_tools_and_python_write_is_no_foreign_file(repository: Path) -> None:
    (manifest,) = read_manifests(repository)
    version = repository / "tiny_detector/1"
    (version / "__pycache__").mkdir()
    (version / "__pycache__/model.cpython-311.pyc").touch()
    (repository / "tiny/1/.keep").touch()
    for plan in ("model.plan", "model.plan.json", "model_89.plan", "model_89.plan.json"):
        (version / plan).touch()
    assert checks.check_foreign_files(repository, manifest.model_copy(update={"target": "tensorrt"})).passed
    found = checks.check_foreign_files(repository, manifest)  # an embedded server reads no plan
    assert found.found == "tiny_detector/1/model.plan and 3 more"


def test_the_committed_repository_holds_nothing_foreign() -> None:
    committed = Path(__file__).parents[3] / "model_repository"
    found = [checks.check_foreign_files(committed, manifest) for manifest in read_manifests(committed)]
    assert [check.found for check in found] == ["none"] * 3


@pytest.mark.parametrize("name", ["/etc/passwd", "../other/model.py", "tiny/\0", "", "\ud800/a", "tiny"])
def test_a_manifest_that_names_no_file_of_a_model_is_refused(repository: Path, name: str) -> None:
    path = repository / "tiny/detserve.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "sha256": {name: "0"}}))
    with pytest.raises(RepositoryError, match="is not a manifest of a build"):
        read_manifests(repository)


@pytest.mark.parametrize("content", ["[" * 2_000, '{"a":' * 2_000])
def test_a_manifest_nested_too_deeply_is_refused(repository: Path, content: str) -> None:
    (repository / "tiny/detserve.json").write_text(content)
    with pytest.raises(RepositoryError, match="is not a manifest of a build"):
        read_manifests(repository)


def test_names_that_no_terminal_shows_are_written_out(repository: Path) -> None:
    manifest = (repository / "tiny/detserve.json").read_bytes()
    for name in (b"[", b"[bold]", b"\xff\xfe", b"\x1b[31m"):
        odd = repository / os.fsdecode(name)
        odd.mkdir()
        (odd / "detserve.json").write_bytes(manifest)
    code, output = _run(repository, **choose_ports({"grpc": None, "http": None, "metrics": None}))
    assert code == 1
    assert "[bold]: models" in output
    assert "\\udcff\\udcfe: models" in output
    assert "\\x1b[31m: models" in output


@pytest.mark.parametrize("text", ["input { data_type: 99 }", "max_batch_size: x", "\0", "input { dims: -5 }"])
def test_an_odd_configuration_is_no_traceback(repository: Path, text: str) -> None:
    (repository / "tiny_detector/config.pbtxt").write_text(text)
    code, output = _run(repository, **choose_ports({"grpc": None, "http": None, "metrics": None}))
    assert code == 1
    assert "build the model again" in output.replace("\n", " ")


def test_a_configuration_that_is_a_folder_is_no_traceback(repository: Path) -> None:
    (repository / "tiny_detector/config.pbtxt").unlink()
    (repository / "tiny_detector/config.pbtxt").mkdir()
    code, output = _run(repository, **choose_ports({"grpc": None, "http": None, "metrics": None}))
    assert code == 1
    assert "config.pbtxt is not a file" in output


@pytest.mark.parametrize(
    "name", ["tiny/detserve.json", "tiny_detector/config.pbtxt", "tiny_detector/1/model.py"]
)
def test_a_pipe_is_not_waited_for(repository: Path, name: str) -> None:
    (repository / name).unlink()
    os.mkfifo(repository / name)
    code, output = _run(repository, **choose_ports({"grpc": None, "http": None, "metrics": None}))
    assert code == 1
    assert "build the model again" in output


def test_doctor_of_no_repository_exits_1(tmp_path: Path) -> None:
    code, output = _run(tmp_path / "nowhere")
    assert code == 1
    assert "does not exist" in output


def test_a_card_that_differs_from_the_served_one_is_named(tmp_path: Path) -> None:
    committed = Path(__file__).parents[3] / "model_repository"
    shutil.copytree(committed / "codes_ssd", tmp_path / "codes_ssd")
    (as_built,) = read_manifests(tmp_path)
    assert checks.check_card(tmp_path, as_built).passed
    card = as_built.card.model_copy(update={"labels": [f"{label}?" for label in as_built.card.labels]})
    edited = as_built.model_copy(update={"card": card})
    check = checks.check_card(tmp_path, edited)
    assert check.found == "detserve.json has another card than config.pbtxt, which is what is served"
    assert check.stops
