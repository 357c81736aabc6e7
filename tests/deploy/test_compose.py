"""docker-compose.yml: what can be known of it without a container engine."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from detserve_server.command_line import ALLOCATOR, CLOSED_PROTOCOLS
from detserve_server.plans import SERVING_IMAGE
from detserve_server.repository import ModelOutline, read_repository
from detserve_server.shared_memory import MIB, shm_size_bytes

CHECKOUT = Path(__file__).parents[2]
COMPOSE: dict[str, Any] = yaml.safe_load((CHECKOUT / "docker-compose.yml").read_text())
SERVICES: dict[str, dict[str, Any]] = COMPOSE["services"]
DOCKERFILE = (CHECKOUT / "deploy/triton/Dockerfile").read_text()
ENGINES = (CHECKOUT / "deploy/engines/Dockerfile").read_text()
SERVE = (CHECKOUT / "deploy/triton/serve.sh").read_text()


def _resolved(text: str) -> str:
    """Compose's ``${NAME:-default}`` with nothing set."""
    return re.sub(r"\$\{\w+:-([^}]*)\}", r"\1", text)


def _compose_plugin() -> bool:
    docker = shutil.which("docker")
    return (
        docker is not None
        and subprocess.run([docker, "compose", "version"], capture_output=True).returncode == 0
    )


@pytest.mark.skipif(not _compose_plugin(), reason="the docker compose plugin is not installed")
@pytest.mark.parametrize("profile", ["gpu", "cpu"])
def test_compose_accepts_the_file(profile: str) -> None:
    subprocess.run(["docker", "compose", "--profile", profile, "config", "-q"], cwd=CHECKOUT, check=True)


@pytest.mark.parametrize("profile", ["gpu", "cpu"])
def test_each_profile_has_one_triton_and_one_prometheus(profile: str) -> None:
    names = [name for name, service in SERVICES.items() if profile in service["profiles"]]
    assert names == [f"triton-{profile}", "prometheus"]


def test_who_reserves_a_gpu() -> None:
    with_gpu = [name for name, service in SERVICES.items() if "gpu" in str(service.get("deploy"))]
    assert with_gpu == ["triton-gpu", "build-engines"]


def test_every_mounted_file_exists() -> None:
    mounts = [
        (name, _resolved(volume))
        for name, service in SERVICES.items()
        for volume in service.get("volumes", [])
        if _resolved(volume).startswith(".")
    ]
    assert mounts
    assert [mount for _, mount in mounts if not (CHECKOUT / mount.split(":")[0]).exists()] == []
    writable = [name for name, mount in mounts if not mount.endswith(":ro")]
    assert writable == ["build-engines"], "only who builds plans may write them"


def test_every_port_is_published_on_loopback() -> None:
    ports = [port for service in SERVICES.values() for port in service.get("ports", [])]
    assert ports
    assert all(port.startswith("127.0.0.1:") for port in ports)


def test_images_are_pinned() -> None:
    base = SERVICES["triton-cpu"]["build"]["args"]["TRITON_IMAGE"]
    assert SERVICES["build-engines"]["build"]["args"]["TRITON_IMAGE"] == base
    assert _resolved(base) == SERVING_IMAGE, "detserve doctor checks plans against this image"
    images = [_resolved(base), SERVICES["prometheus"]["image"]]
    for image in images:
        assert re.search(r":[\w.-]*\d[\w.-]*$", image), image
        assert not image.endswith("latest")
    assert all(f"ARG TRITON_IMAGE={_resolved(base)}\n" in text for text in (DOCKERFILE, ENGINES))


@pytest.mark.parametrize("file", ["requirements.txt", "requirements-dali.txt"])
def test_packages_of_the_image_are_pinned(file: str) -> None:
    lines = (CHECKOUT / "deploy/triton" / file).read_text().splitlines()
    packages = [line for line in lines if line and not line.startswith("#")]
    assert all(re.fullmatch(r"[a-z0-9-]+==[\d.]+", line) for line in packages)
    assert file in DOCKERFILE


@pytest.mark.parametrize("name", SERVICES)
def test_services_are_confined(name: str) -> None:
    service = SERVICES[name]
    assert service["read_only"] is True
    assert service["cap_drop"] == ["ALL"]
    assert service["security_opt"] == ["no-new-privileges:true"]
    assert service["restart"] == ("no" if name == "build-engines" else "unless-stopped")
    assert service["mem_limit"]
    assert "privileged" not in service


@pytest.mark.parametrize("dockerfile", [DOCKERFILE, ENGINES], ids=["triton", "engines"])
def test_no_image_runs_as_root(dockerfile: str) -> None:
    assert re.search(r"^USER (?!0|root)\S+$", dockerfile, re.MULTILINE)


def test_engines_copies_what_the_build_context_lets_through() -> None:
    copied = re.findall(r"^COPY (.+) \S+$", ENGINES, re.MULTILINE)
    sources = [source for line in copied for source in line.split()]
    ignored = (CHECKOUT / ".dockerignore").read_text().splitlines()
    for source in sources:
        assert (CHECKOUT / source).exists()
        assert any(line.startswith("!") and source.startswith(line[1:]) for line in ignored), source


def test_engines_runs_the_command_that_the_service_runs() -> None:
    service = SERVICES["build-engines"]
    assert json.loads(ENGINES.rpartition("CMD ")[2]) == service["command"]
    targets = [volume.split(":")[-1] for volume in service["volumes"]]
    assert targets == [service["command"][3], service["command"][5]]


@pytest.mark.parametrize(
    ("library", "cuda", "wheel"),
    [
        ("libnvinfer.so.11.4.0", "13.4.1", "tensorrt-cu13-bindings==11.4.0.*"),
        ("libnvinfer.so.10.9.0", "12.8.0.38", "tensorrt-cu12-bindings==10.9.0.*"),
    ],
)
def test_the_api_fits_the_library_of_the_image(tmp_path: Path, library: str, cuda: str, wheel: str) -> None:
    """The script with a python3 that prints its arguments."""
    (tmp_path / "lib").mkdir()
    for name in (library, "libnvinfer.so", f"libnvinfer.so.{library.split('.')[2]}"):
        (tmp_path / "lib" / name).touch()
    (tmp_path / "python3").write_text('#!/bin/sh\nprintf "%s\\n" "$@"\n')
    (tmp_path / "python3").chmod(0o755)
    environment = {
        "PATH": f"{tmp_path}:/usr/bin:/bin",
        "TENSORRT_LIBRARIES": str(tmp_path / "lib"),
        "CUDA_VERSION": cuda,
    }
    script = ["sh", CHECKOUT / "deploy/engines/install_tensorrt.sh"]
    done = subprocess.run(script, env=environment, capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == wheel
    assert "--no-deps" in done.stdout


def test_prometheus_scrapes_triton() -> None:
    config = yaml.safe_load((CHECKOUT / "deploy/prometheus/prometheus.yml").read_text())
    targets = [
        target
        for job in config["scrape_configs"]
        for each in job["static_configs"]
        for target in each["targets"]
    ]
    for name in ("triton-gpu", "triton-cpu"):
        aliases = SERVICES[name]["networks"]["default"]["aliases"]
        inner_ports = {port.split(":")[-1] for port in SERVICES[name]["ports"]}
        assert all(
            target.split(":")[0] in aliases and target.split(":")[1] in inner_ports for target in targets
        )
    assert targets == ["triton:8002"]


def test_triton_starts_like_the_embedded_server() -> None:
    for option in (
        "--model-control-mode=none",
        "--disable-auto-complete-config",
        "--strict-readiness=true",
        "--exit-on-error=true",
    ):
        assert option in SERVE
    assert f'closed="{",".join(CLOSED_PROTOCOLS)}:' in SERVE
    for name, value in ALLOCATOR.items():
        assert f"{name}={value}" in DOCKERFILE


def test_serve_passes_a_key_and_further_arguments_on(tmp_path: Path) -> None:
    """The script with a tritonserver that prints its arguments."""
    (tmp_path / "tritonserver").write_text('#!/bin/sh\nprintf "%s\\n" "$@"\n')
    (tmp_path / "tritonserver").chmod(0o755)

    def run(**environment: str) -> list[str]:
        return subprocess.run(
            [CHECKOUT / "deploy/triton/serve.sh", "--log-verbose=1"],
            env={"PATH": f"{tmp_path}:/usr/bin:/bin", **environment},
            capture_output=True,
            text=True,
            check=True,
        ).stdout.splitlines()

    closed = ",".join(CLOSED_PROTOCOLS)
    assert f"--grpc-restricted-protocol={closed}:detserve-admin-key=s3cret" in run(
        DETSERVE_ADMIN_KEY="s3cret"
    )
    assert run()[-1] == "--log-verbose=1"
    assert set(run()) != set(run()), "without a key each start must draw its own"


def _detector(name: str) -> list[ModelOutline]:
    """The python steps of a 640x640 detector as the builder configures them."""
    image_bytes, candidates_bytes, rows_bytes = 640 * 640 * 3, 1000 * 6 * 4, 100 * 6 * 4 + 4
    return [
        ModelOutline(f"{name}_preprocess", "python", 8, 2, image_bytes + 24, 1),
        ModelOutline(f"{name}_detector", "python", 8, 1, image_bytes + candidates_bytes),
        ModelOutline(f"{name}_postprocess", "python", 8, 1, candidates_bytes + 24 + rows_bytes),
    ]


def test_shm_size_is_enough_for_four_large_detectors() -> None:
    needed = shm_size_bytes([model for name in "abcd" for model in _detector(name)])
    for name in ("triton-gpu", "triton-cpu"):
        assert _resolved(SERVICES[name]["shm_size"]) == f"{needed // MIB}m", (
            "set TRITON_SHM_SIZE's default to this"
        )


@pytest.mark.skipif(
    not any((CHECKOUT / "model_repository").glob("*/config.pbtxt")), reason="no committed models"
)
def test_shm_size_is_enough_for_the_committed_repository() -> None:
    default = int(_resolved(SERVICES["triton-cpu"]["shm_size"]).removesuffix("m")) * MIB
    assert shm_size_bytes(read_repository(CHECKOUT / "model_repository")) <= default
