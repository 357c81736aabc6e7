"""docker-compose.yml and what it mounts: what can be known of them without a container engine."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import time
from pathlib import Path
from typing import Any
from urllib.request import ProxyHandler

import pytest
import yaml

from detserve_core.contract import GATEWAY_HEADER, SCOPE_HEADER
from detserve_server.doctor.plan_images import SERVING_IMAGE
from detserve_server.gateway.shared_secret import GATEWAY_PROTOCOLS
from detserve_server.triton.command_line import ALLOCATOR, CLOSED_PROTOCOLS
from detserve_server.triton.repository import ModelOutline, read_repository
from detserve_server.triton.shared_memory import MIB, shm_size_bytes

CHECKOUT = Path(__file__).parents[2]
COMPOSE: dict[str, Any] = yaml.safe_load((CHECKOUT / "docker-compose.yml").read_text())
SERVICES: dict[str, dict[str, Any]] = COMPOSE["services"]
DOCKERFILE = (CHECKOUT / "deploy/images/triton/Dockerfile").read_text()
ENGINES = (CHECKOUT / "deploy/images/engines/Dockerfile").read_text()
REST = (CHECKOUT / "deploy/images/rest/Dockerfile").read_text()
AUDIT = (CHECKOUT / "deploy/images/audit/Dockerfile").read_text()
SERVE = (CHECKOUT / "deploy/images/triton/serve.sh").read_text()


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
def test_each_profile_has_one_triton_and_all_around_it(profile: str) -> None:
    names = [name for name, service in SERVICES.items() if profile in service["profiles"]]
    assert names == [f"triton-{profile}", "gateway", "rest", "audit", "prometheus", "grafana"]


def test_who_reserves_a_gpu() -> None:
    with_gpu = [name for name, service in SERVICES.items() if "gpu" in str(service.get("deploy"))]
    assert with_gpu == ["triton-gpu", "build-engines"]


def test_every_mounted_file_of_the_checkout_exists() -> None:
    mounts = [
        (name, _resolved(volume))
        for name, service in SERVICES.items()
        for volume in service.get("volumes", [])
        if isinstance(volume, str) and _resolved(volume).startswith(".")
    ]
    assert mounts
    assert [mount for _, mount in mounts if not (CHECKOUT / mount.split(":")[0]).exists()] == []
    writable = [name for name, mount in mounts if not mount.endswith(":ro")]
    assert writable == ["build-engines"], "only who builds plans may write them"


def test_what_is_kept_is_never_made_by_the_engine() -> None:
    """A folder that the engine makes is root's, and the containers could not write it."""
    kept = [
        (name, volume)
        for name, service in SERVICES.items()
        for volume in service.get("volumes", [])
        if isinstance(volume, dict)
    ]
    assert len(kept) == 7
    assert all(volume["bind"] == {"create_host_path": False} for _, volume in kept)
    written = [(name, volume["target"]) for name, volume in kept if not volume.get("read_only")]
    assert written == [
        ("gateway", "/var/log/detserve"),
        ("audit", "/var/lib/detserve/audit"),
        ("audit", "/etc/detserve/audit"),
    ]


def test_only_the_gateway_is_published_and_on_loopback_unless_told() -> None:
    assert {name: service["ports"] for name, service in SERVICES.items() if "ports" in service} == {
        "gateway": ["${GATEWAY_LISTEN:-127.0.0.1:8443}:8443"]
    }
    dashboards = yaml.safe_load((CHECKOUT / "deploy/monitoring/dashboards.yml").read_text())["services"]
    assert dashboards["grafana"]["ports"] == ["${GRAFANA_LISTEN:-127.0.0.1:3000}:3000"]


def test_networks_but_the_gateways_are_internal() -> None:
    assert COMPOSE["networks"] == {
        "edge": None,
        "inference": {"internal": True},
        "metrics": {"internal": True},
    }
    on_edge = [name for name, service in SERVICES.items() if "edge" in service.get("networks", ())]
    assert on_edge == ["gateway"]
    assert all(service.get("networks") or service["network_mode"] == "none" for service in SERVICES.values())


def test_images_are_pinned() -> None:
    base = SERVICES["triton-cpu"]["build"]["args"]["TRITON_IMAGE"]
    assert SERVICES["build-engines"]["build"]["args"]["TRITON_IMAGE"] == base
    assert _resolved(base) == SERVING_IMAGE, "detserve doctor checks plans against this image"
    python = SERVICES["audit"]["build"]["args"]["PYTHON_IMAGE"]
    images = [base, python, *(service["image"] for service in SERVICES.values() if "image" in service)]
    assert SERVICES["rest"]["build"]["args"]["PYTHON_IMAGE"] == python
    assert len(images) == 5
    for image in map(_resolved, images):
        assert re.search(r":v?\d+\.\d+[\w.-]*$", image), image
    assert all(f"ARG TRITON_IMAGE={_resolved(base)}\n" in text for text in (DOCKERFILE, ENGINES))
    assert all(f"ARG PYTHON_IMAGE={_resolved(python)}\n" in text for text in (AUDIT, REST))


@pytest.mark.parametrize("file", ["requirements.txt", "requirements-dali.txt"])
def test_packages_of_the_image_are_pinned(file: str) -> None:
    lines = (CHECKOUT / "deploy/images/triton" / file).read_text().splitlines()
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
    assert service["pids_limit"]
    assert "cpus" in service or name == "build-engines"
    assert not {"privileged", "cap_add", "network_mode", "pid", "ipc"} & (set(service) - {"network_mode"})
    assert service["logging"]["options"] == {"max-size": "16m", "max-file": "4"}
    assert "healthcheck" in service or name == "build-engines"
    assert re.match(r"[1-9]", _resolved(service["user"]))


@pytest.mark.parametrize(
    "dockerfile", [DOCKERFILE, ENGINES, AUDIT, REST], ids=["triton", "engines", "audit", "rest"]
)
def test_no_image_runs_as_root(dockerfile: str) -> None:
    assert re.search(r"^USER (?!0|root)\S+$", dockerfile, re.MULTILINE)


@pytest.mark.parametrize("dockerfile", [ENGINES, AUDIT, REST], ids=["engines", "audit", "rest"])
def test_all_that_the_wheel_is_made_of_is_copied(dockerfile: str) -> None:
    """hatchling ends a build that lacks a file it is told to include."""
    tomllib = pytest.importorskip("tomllib", reason="Python 3.10 reads no TOML")
    hatch = tomllib.loads((CHECKOUT / "pyproject.toml").read_text())["tool"]["hatch"]
    wheel = hatch["build"]["targets"]["wheel"]
    copied = {Path(source) for source in re.findall(r"^COPY (\S+) /tmp/detserve/", dockerfile, re.MULTILINE)}
    for needed in map(Path, [*wheel["packages"], *wheel["force-include"]]):
        assert copied & {needed, *needed.parents}, needed


@pytest.mark.parametrize("dockerfile", [ENGINES, AUDIT, REST], ids=["engines", "audit", "rest"])
def test_what_is_copied_is_let_through_to_the_build(dockerfile: str) -> None:
    copied = re.findall(r"^COPY (.+) \S+$", dockerfile, re.MULTILINE)
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
    script = ["sh", CHECKOUT / "deploy/images/engines/install_tensorrt.sh"]
    done = subprocess.run(script, env=environment, capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == wheel
    assert "--no-deps" in done.stdout


def test_prometheus_scrapes_services_on_its_network() -> None:
    config = yaml.safe_load((CHECKOUT / "deploy/monitoring/prometheus/prometheus.yml").read_text())
    targets = {
        target
        for job in config["scrape_configs"]
        for each in job["static_configs"]
        for target in each["targets"]
    }
    assert targets == {"triton:8002", "audit:9400", "localhost:9090"}
    assert all(
        SERVICES[f"triton-{kind}"]["networks"]["metrics"] == {"aliases": ["triton"]}
        for kind in ("gpu", "cpu")
    )
    assert "metrics" in SERVICES["audit"]["networks"]
    assert "metrics" in SERVICES["prometheus"]["networks"]
    assert '"--metrics-port", "9400", "--metrics-host", "0.0.0.0"' in AUDIT  # not of this container alone


def test_plain_http_is_for_the_gateway_alone() -> None:
    """It shares a network with the gateway and Triton, has no other, and is given the gateway's secret."""
    service, triton = SERVICES["rest"], SERVICES["triton-cpu"]
    assert service["networks"] == ["inference"]
    assert "inference" in SERVICES["gateway"]["networks"]
    assert service["env_file"] == triton["env_file"]
    assert json.loads(REST.rpartition("CMD ")[2])[-1] == "http://triton:8000"
    assert ProxyHandler.__name__ in service["healthcheck"]["test"][-1]
    compile(service["healthcheck"]["test"][-1], "healthcheck", "exec")


def test_triton_starts_like_the_embedded_server() -> None:
    for option in (
        "--model-control-mode=none",
        "--disable-auto-complete-config",
        "--strict-readiness=true",
        "--exit-on-error=true",
        f"--grpc-header-forward-pattern={SCOPE_HEADER}",
        f"--http-header-forward-pattern={SCOPE_HEADER}",
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
            [CHECKOUT / "deploy/images/triton/serve.sh", "--log-verbose=1"],
            env={"PATH": f"{tmp_path}:/usr/bin:/bin", **environment},
            capture_output=True,
            text=True,
            check=True,
        ).stdout.splitlines()

    closed, guarded = ",".join(CLOSED_PROTOCOLS), ",".join(GATEWAY_PROTOCOLS)
    arguments = run(DETSERVE_ADMIN_KEY="s3cret", DETSERVE_GATEWAY_SECRET="proof")  # noqa: S106
    assert f"--grpc-restricted-protocol={closed}:detserve-admin-key=s3cret" in arguments
    for option in ("--grpc-restricted-protocol", "--http-restricted-api"):
        assert f"{option}={guarded}:{GATEWAY_HEADER}=proof" in arguments
    free = {"DETSERVE_GATEWAY_SECRET": "none"}
    assert run(**free)[-1] == "--log-verbose=1"
    assert set(run(**free)) != set(run(**free)), "without a key each start must draw its own"
    with pytest.raises(subprocess.CalledProcessError, match="exit status 1"):
        run()


def test_the_gateways_log_is_turned_over_and_the_oldest_removed(tmp_path: Path) -> None:
    """The script with an nginx that writes lines to the access log and opens it anew when it is told to."""
    log = tmp_path / "access.jsonl"
    nginx = [
        "#!/usr/bin/env python3",
        "import os, pathlib, signal, sys, time",
        "'-t' in sys.argv and sys.exit(0)",
        "log = pathlib.Path(os.environ['ACCESS_LOG'])",
        "opened = [log.open('a')]",
        "signal.signal(signal.SIGUSR1, lambda *_: opened.__setitem__(0, log.open('a')))",
        "signal.signal(signal.SIGQUIT, lambda *_: os._exit(0))",
        "for number in range(10**9):",
        "    opened[0].write(f'{number:07d}' + 'x' * 2**20 + chr(10)); opened[0].flush(); time.sleep(0.3)",
    ]
    (tmp_path / "nginx").write_text("\n".join(nginx))
    (tmp_path / "nginx").chmod(0o755)
    environment = {
        **{
            "PATH": f"{tmp_path}:{os.environ['PATH']}",
            "GATEWAY_DIR": str(tmp_path / "conf"),
            "ACCESS_LOG": str(log),
            "RUN_DIR": str(tmp_path / "run"),
        },
        **{"LOG_MIB": "1", "LOGS_KEPT": "2", "WATCH_S": "1"},
    }
    (tmp_path / "conf/gateway").mkdir(parents=True)
    (tmp_path / "conf/gateway/nginx.conf").write_text(
        "    upstream triton_http {\n        server localhost:8000 weight=1;\n    }\n"
    )
    with subprocess.Popen(["sh", CHECKOUT / "deploy/gateway/serve.sh"], env=environment) as gateway:
        time.sleep(6.5)
        gateway.terminate()
        assert gateway.wait(5) == 0
    turned_over = sorted(tmp_path.glob("access.jsonl.*"))
    assert len(turned_over) == 2
    lines = "".join(path.read_text() for path in [*turned_over, log] if path.exists()).splitlines()
    numbers = [int(line[:7]) for line in lines]
    assert numbers == list(range(numbers[0], numbers[0] + len(numbers))), "no line is lost between files"
    assert numbers[0] > 0


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
