from __future__ import annotations

import os
from pathlib import Path

from detserve_server.triton.command_line import ALLOCATOR, server_arguments, server_environment
from detserve_server.triton.distribution import TritonDistribution


def _arguments(models: list[str] | None = None, *, shared_memory: bool = False) -> list[str]:
    return server_arguments(
        Path("/bin/tritonserver"),
        Path("/models"),
        backends=Path("/backends"),
        grpc_port=1,
        http_port=2,
        metrics_port=3,
        region_prefix="mine_",
        models=models,
        allow_shared_memory=shared_memory,
    )


def test_every_service_listens_on_loopback_only() -> None:
    addresses = [argument for argument in _arguments() if "-address=" in argument]
    assert addresses == [f"--{service}-address=127.0.0.1" for service in ("grpc", "http", "metrics")]


def test_the_repository_is_loaded_once_unless_models_are_named() -> None:
    assert "--model-control-mode=none" in _arguments()
    named = _arguments(["a", "b"])
    assert "--model-control-mode=explicit" in named
    assert [argument for argument in named if argument.startswith("--load")] == [
        "--load-model=a",
        "--load-model=b",
    ]


def test_what_changes_the_server_is_closed_by_a_key_of_this_start() -> None:
    first, second = (
        [argument for argument in _arguments() if "-restricted-" in argument] for _start in range(2)
    )
    assert [argument.split(":")[0] for argument in first] == [
        "--grpc-restricted-protocol=shared-memory,model-repository,trace,logging",
        "--http-restricted-api=shared-memory,model-repository,trace,logging",
    ]
    assert set(first).isdisjoint(second)


def test_shared_memory_alone_is_opened_when_it_is_allowed() -> None:
    restricted = [argument for argument in _arguments(shared_memory=True) if "-restricted-" in argument]
    assert [argument.split(":")[0].partition("=")[2] for argument in restricted] == [
        "model-repository,trace,logging",
        "model-repository,trace,logging",
    ]


def test_the_environment_puts_this_python_first_and_keeps_the_rest() -> None:
    found = TritonDistribution(
        version="0",
        binary=Path("/t/bin"),
        libs_dir=Path("/t/libs"),
        python_backend_dir=Path("/t/backend"),
        stub=Path("/t/stub"),
        interpreter_dir=Path("/venv/bin"),
        libpython_dir=Path("/python/lib"),
    )
    environment = server_environment(found, {"PATH": "/usr/bin", "LD_LIBRARY_PATH": "/own", "HOME": "/root"})
    assert environment["PATH"] == os.pathsep.join(["/venv/bin", "/usr/bin"])
    assert environment["LD_LIBRARY_PATH"] == os.pathsep.join(["/t/libs", "/python/lib", "/own"])
    assert environment["HOME"] == "/root"
    assert ALLOCATOR.items() <= environment.items()
