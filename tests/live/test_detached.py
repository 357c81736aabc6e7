"""``detserve serve --detach`` and ``--stop``."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from detserve_client import Client
from detserve_core.machine.cache import cache_folder
from detserve_core.machine.ports import choose_ports
from tests.live.conftest import CHECKOUT, COMMITTED, DEFAULT

Run = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture
def run(tmp_path: Path) -> Run:
    """The command with a cache of its own, but for the compiled backend."""
    (tmp_path / "detserve").mkdir()
    for compiled in cache_folder().glob("in-process-*"):
        (tmp_path / "detserve" / compiled.name).symlink_to(compiled)

    def run(*arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "detserve.command", "serve", *arguments],
            env={**os.environ, "XDG_CACHE_HOME": str(tmp_path), "COLUMNS": "80"},
            cwd=CHECKOUT,
            capture_output=True,
            text=True,
        )

    return run


@pytest.fixture
def ports() -> dict[str, int]:
    return choose_ports({"grpc": None, "http": None, "metrics": None})


@pytest.fixture
def named(ports: dict[str, int]) -> list[str]:
    return [part for name, port in ports.items() for part in (f"--{name}-port", str(port))]


def test_it_goes_on_until_it_is_stopped(
    run: Run, sample: Path, ports: dict[str, int], named: list[str]
) -> None:
    start = ["--detach", "--repository", "model_repository", "--model", DEFAULT, *named]
    try:
        started = run(*start)
        assert started.returncode == 0, started.stderr
        assert f"grpc://127.0.0.1:{ports['grpc']}" in started.stdout
        assert "detserve serve --stop" in started.stdout
        with Client(f"grpc://127.0.0.1:{ports['grpc']}", DEFAULT) as client:
            assert len(client.detect(sample))
        again = run(*start)
        assert again.returncode == 0
        assert "It is running already." in again.stdout
        other = run("--detach", "--repository", "elsewhere")
        assert other.returncode == 1
        assert "another detached server runs" in other.stderr
    finally:
        stopped = run("--stop")
    assert stopped.returncode == 0, stopped.stderr
    assert choose_ports(dict(ports)) == ports
    assert run("--stop").stderr == (
        "detserve: no detached server runs; start one with: detserve serve --detach\n"
    )


def test_what_was_built_since_is_not_taken_for_what_runs(run: Run, tmp_path: Path, named: list[str]) -> None:
    repository = shutil.copytree(COMMITTED, tmp_path / "repository")
    start = ["--detach", "--repository", str(repository), "--model", "codes_ssd", *named]
    try:
        assert run(*start).returncode == 0
        assert run(*start).returncode == 0
        manifest = repository / "codes_ssd/detserve.json"
        manifest.write_text(manifest.read_text().replace('"thing"', '"other"') + "\n")
        refused = run(*start)
        assert refused.returncode == 1
        assert "has changed since it was started; stop it with detserve serve --stop" in refused.stderr
    finally:
        run("--stop")


def test_a_cache_that_cannot_be_written_is_a_sentence(run: Run, tmp_path: Path, named: list[str]) -> None:
    (tmp_path / "file").write_text("")
    command = [sys.executable, "-m", "detserve.command", "serve", "--detach", "--repository", "x", *named]
    environment = {**os.environ, "XDG_CACHE_HOME": str(tmp_path / "file")}
    refused = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert refused.returncode == 1
    assert "cannot be used as a cache (Not a directory); set XDG_CACHE_HOME" in refused.stderr


def test_what_keeps_it_from_starting_is_said(run: Run, tmp_path: Path, named: list[str]) -> None:
    refused = run("--detach", "--repository", str(tmp_path / "nowhere"), *named)
    assert refused.returncode == 1
    assert refused.stderr == (
        f"detserve: the model repository {tmp_path}/nowhere does not exist; give the folder that holds the "
        "models\n"
    )
