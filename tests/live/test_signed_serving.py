"""What Triton reads of a signed repository is what was signed, planted bytecode included."""

from __future__ import annotations

import importlib.util
import marshal
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from detserve_client import Client
from detserve_core.machine.ports import choose_ports
from detserve_server.errors import SignatureError
from detserve_server.signing.keys import create_key, read_private_key
from detserve_server.signing.repository import sign_repository
from detserve_server.triton.embedded import embedded_server
from tests.live.conftest import CHECKOUT, DEFAULT


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    folder = tmp_path / "repository"
    for model in (CHECKOUT / "model_repository").glob(f"{DEFAULT}*"):
        shutil.copytree(model, folder / model.name, ignore=shutil.ignore_patterns("__pycache__"))
    return folder


@pytest.fixture
def public(repository: Path, tmp_path: Path) -> Path:
    """The public key with which the repository is signed."""
    path = create_key(tmp_path / "key.pem")
    sign_repository(repository, read_private_key(tmp_path / "key.pem"))
    return path


def _plant_bytecode(repository: Path, trace: Path) -> None:
    """Bytecode for the preprocess step that leaves a trace; the source beside it stays as it was."""
    source = repository / f"{DEFAULT}_pipeline/1/detserve_preprocess.py"
    before = source.stat()
    original = source.read_bytes()
    evil = original + f"\nopen({str(trace)!r}, 'w').close()\n".encode()
    bytecode = Path(importlib.util.cache_from_source(str(source)))
    bytecode.parent.mkdir()
    code = compile(evil, str(source), "exec")
    header = importlib.util.MAGIC_NUMBER + b"\0" * 4
    header += int(before.st_mtime).to_bytes(4, "little") + before.st_size.to_bytes(4, "little")
    bytecode.write_bytes(header + marshal.dumps(code))
    assert source.read_bytes() == original


def test_planted_bytecode_is_never_served(repository: Path, public: Path, tmp_path: Path) -> None:
    trace = tmp_path / "trace"
    _plant_bytecode(repository, trace)
    steps = repository / f"{DEFAULT}_pipeline/1"
    subprocess.run([sys.executable, "-B", "-c", "import detserve_preprocess"], cwd=steps, check=True)
    assert trace.exists()  # the attack is real: every source file is as it was signed
    trace.unlink()
    with embedded_server(repository):
        pass
    assert not trace.exists()
    with pytest.raises(
        SignatureError, match="__pycache__ could be run in the place of the signed Python files"
    ):
        with embedded_server(repository, require_signature=public):
            pass
    assert not trace.exists()
    shutil.rmtree(steps / "__pycache__")
    with embedded_server(repository, require_signature=public) as server:
        with Client(server.grpc_url, DEFAULT) as client:
            assert len(client.detect(sorted((CHECKOUT / "zoo/samples").glob("*.jpg"))[0]))
        _plant_bytecode(repository, trace)  # too late: Triton reads its own copy
    assert not trace.exists()


def test_serving_a_signed_repository_leaves_it_as_signed(repository: Path, public: Path) -> None:
    for key in (None, public):
        with embedded_server(repository, require_signature=key):
            pass
    assert not list(repository.rglob("__pycache__"))


def test_the_command_refuses_a_changed_file_and_removes_its_copy_when_killed(
    repository: Path, public: Path, tmp_path: Path
) -> None:
    temporary = tmp_path / "tmp"
    temporary.mkdir()
    command = [sys.executable, "-m", "detserve.command", "serve", "--repository", str(repository)]
    for purpose, port in choose_ports({"grpc": None, "http": None, "metrics": None}).items():
        command += [f"--{purpose}-port", str(port)]
    command += ["--require-signature", str(public)]
    environment = {**os.environ, "TMPDIR": str(temporary)}
    process = subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    while "Serving until Ctrl-C" not in process.stdout.readline():
        assert process.poll() is None
    assert len(list(temporary.glob("detserve-verified-*/repository"))) == 1
    process.send_signal(signal.SIGKILL)
    process.wait()
    deadline_s = time.monotonic() + 10
    while list(temporary.glob("detserve-verified-*/repository")):
        assert time.monotonic() < deadline_s
        time.sleep(0.1)
    path = repository / f"{DEFAULT}_pipeline/1/model.onnx"
    path.write_bytes(path.read_bytes()[:-1] + b"!")
    refused = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert refused.returncode == 1
    assert refused.stderr.endswith("is not the file that was signed; restore it, or sign again\n")
    assert refused.stderr.count("\n") == 1
