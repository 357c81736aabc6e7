"""A repository under any path, served without a C++ compiler; and a stub that dies without a word."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from detserve_client import Client
from detserve_core.errors import ServerStartError
from detserve_server.triton import embedded
from tests.live.conftest import CHECKOUT, DEFAULT


@pytest.fixture
def no_compiler(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Steps run in their own processes, whose stubs a shell starts."""
    monkeypatch.setenv("CXX", "no-such-compiler")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


@pytest.mark.usefixtures("no_compiler")
@pytest.mark.parametrize("name", ["a space", "üñ", "$HOME'\"(1)"])
def test_a_repository_under_any_path(tmp_path: Path, name: str, sample: Path) -> None:
    repository = tmp_path / name / "repository"
    shutil.copytree(CHECKOUT / "model_repository", repository)
    with embedded.embedded_server(repository, models=[DEFAULT]) as server:
        assert "their own processes" in server.steps_run
        with Client(server.grpc_url, DEFAULT) as client:
            assert len(client.detect(sample))


@pytest.mark.usefixtures("no_compiler")
def test_temporary_files_under_any_path(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, sample: Path
) -> None:
    (tmp_path / "t mp").mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "t mp"))
    with embedded.embedded_server(CHECKOUT / "model_repository", models=[DEFAULT]) as server:
        with Client(server.grpc_url, DEFAULT) as client:
            assert len(client.detect(sample))


@pytest.mark.usefixtures("no_compiler")
def test_a_dead_stub_is_noticed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stub = tmp_path / "triton_python_backend_stub"
    stub.write_text("#!/bin/sh\necho the stub cannot run here >&2\nexit 1\n")
    stub.chmod(0o755)
    found = replace(embedded.find_distribution(), stub=stub)
    monkeypatch.setattr(embedded, "find_distribution", lambda: found)
    with (
        pytest.raises(ServerStartError, match="lost the process of a Python model.*stub cannot run here"),
        embedded.embedded_server(CHECKOUT / "model_repository", models=[DEFAULT], ready_timeout_s=600),
    ):
        pass
