"""The secret between the gateway and Triton: what a file that holds none is answered."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest
from typer.testing import CliRunner

from detserve_server.commands.gateway import app
from detserve_server.errors import GatewayError
from detserve_server.gateway.shared_secret import read_secret
from detserve_server.rollout.traffic import NEXT


@pytest.mark.parametrize("content", [b"", bytes(range(256)), b"DETSERVE_GATEWAY_SECRET=short\n"])
def test_a_file_without_a_secret_is_said(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "triton.env").write_bytes(content)
    with pytest.raises(GatewayError, match="has no secret; remove it and render the gateway again"):
        read_secret(tmp_path / "triton.env")


@pytest.mark.parametrize("make", [Path.mkdir, os.mkfifo])
def test_a_folder_or_a_pipe_in_its_place_is_said(tmp_path: Path, make: Callable[[Path], None]) -> None:
    make(tmp_path / "triton.env")
    result = CliRunner().invoke(app, ["render", f"--output={tmp_path}", "--triton=triton"])
    assert isinstance(result.exception, GatewayError)
    assert "triton.env is not a file; remove it" in str(result.exception)


def test_rendering_anew_ends_what_a_roll_out_left_unfinished(tmp_path: Path) -> None:
    (tmp_path / NEXT).touch()
    assert CliRunner().invoke(app, ["render", f"--output={tmp_path}", "--triton=triton"]).exit_code == 0
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "gateway.json",
        "nginx.conf",
        "secret.conf",
        "triton.env",
    ]
