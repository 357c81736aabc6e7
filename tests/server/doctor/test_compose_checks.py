"""The questions of ``detserve doctor --compose``, on a state folder and without an engine."""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from detserve_server.doctor import compose_checks as checks
from detserve_server.doctor.compose import ComposeProject, ask_docker, read_compose
from detserve_server.errors import ComposeError
from detserve_server.gateway.certificates.authority import new_authority, new_server, write_certified
from detserve_server.gateway.certificates.folder import CertificateFolder
from detserve_server.gateway.certificates.revocation import write_list
from detserve_server.gateway.keys.key import new_key, utc_now
from detserve_server.gateway.keys.store import KeyFile, change_keys
from detserve_server.gateway.prom_file import write_state
from detserve_server.gateway.shared_secret import write_secret

CHECKOUT = Path(__file__).parents[3]
USER = os.getuid() or 1000
IMAGE = "nvcr.io/nvidia/tritonserver:26.11-py3"


def _project(state: Path, *, user: int | None = None, shm_mib: int = 768, port: int = 1) -> ComposeProject:
    def mount(source: Path, target: str) -> dict[str, str]:
        return {"type": "bind", "source": str(source), "target": target}

    return _read(
        {
            "triton-cpu": {
                "build": {"args": {"TRITON_IMAGE": IMAGE, "PREPROCESS": "python"}},
                "shm_size": str(shm_mib * 2**20),
                "volumes": [mount(CHECKOUT / "model_repository", "/models")],
            },
            "gateway": {
                "image": "nginx:1.28.0",
                "user": f"{USER if user is None else user}:0",
                "ports": [{"host_ip": "127.0.0.1", "published": str(port), "target": 8443}],
                "volumes": [
                    mount(state / "gateway", "/etc/detserve/gateway"),
                    mount(state / "tls/gateway", "/etc/detserve/tls"),
                    mount(state / "keys", "/etc/detserve/keys"),
                    mount(state / "log", "/var/log/detserve"),
                ],
            },
            "audit": {
                "build": {"args": {"PYTHON_IMAGE": "python:3.12.12-slim-bookworm"}},
                "volumes": [
                    mount(state / "log", "/var/log/detserve"),
                    mount(state / "audit", "/var/lib/detserve/audit"),
                    mount(state / "audit-key", "/etc/detserve/audit"),
                ],
            },
        }
    )


def _read(services: dict[str, Any]) -> ComposeProject:
    return ComposeProject.model_validate({"name": "shop", "services": services})


def _changed(project: ComposeProject, service: str, **fields: Any) -> ComposeProject:
    """With other fields of one service."""
    services = project.model_dump()["services"]
    services[service].update(fields)
    return _read(services)


@pytest.fixture
def state(tmp_path: Path) -> Path:
    """As the steps of docs/tutorial/production.md leave it."""
    for folder in ("gateway", "log", "audit", "audit-key"):
        (tmp_path / folder).mkdir()
    authority = new_authority("authority", days=100)
    write_certified(tmp_path / "tls/gateway/server.crt", new_server(authority, ["localhost"], days=90))
    change_keys(tmp_path / "keys/keys.json", lambda _: KeyFile(keys=(new_key("warehouse")[1],)))
    write_secret(tmp_path / "gateway/secret.conf", tmp_path / "gateway/triton.env", "a" * 64)
    (tmp_path / "gateway/nginx.conf").touch()
    if os.getuid() == 0:  # the containers' user is not root, so the files are not root's
        for path in tmp_path.rglob("*"):
            os.chown(path, USER, USER)
    return tmp_path


def _checks(project: ComposeProject) -> list[checks.Check]:
    questions: list[Callable[[ComposeProject], checks.Check]] = [
        checks.check_shm_size,
        lambda project: checks.check_certificate(project, utc_now()),
        lambda project: checks.check_revoked(project, utc_now()),
        checks.check_keys,
        checks.check_gateway_configuration,
        checks.check_gateway_state,
        checks.check_folders,
    ]
    return [question(project) for question in questions]


def test_a_prepared_state_passes(state: Path) -> None:
    assert [check for check in _checks(_project(state)) if not check.passed] == []


def test_an_empty_state_names_every_first_step(tmp_path: Path) -> None:
    fixes = [check.fix for check in _checks(_project(tmp_path)) if not check.passed]
    commands = ("detserve certs init", "detserve keys create", "detserve gateway render", "mkdir -p")
    assert [fix.startswith(command) for fix, command in zip(fixes, commands, strict=True)] == [True] * 4


def test_too_little_shared_memory(state: Path) -> None:
    check = checks.check_shm_size(_project(state, shm_mib=64))
    assert check.fix == "put TRITON_SHM_SIZE=256m into .env"


@pytest.mark.parametrize(("later_days", "stops"), [(0, False), (80, False), (91, True)])
def test_a_certificate_that_ends(state: Path, later_days: int, stops: bool) -> None:
    check = checks.check_certificate(_project(state), utc_now() + timedelta(days=later_days))
    assert check.passed == (later_days == 0)
    assert later_days == 0 or (
        check.stops == stops and check.fix == f"detserve certs rotate --tls {state}/tls"
    )


CLIENTS_WANTED = "ssl_client_certificate clients.crt; ssl_session_cache off;"


@pytest.fixture
def revoked(state: Path) -> CertificateFolder:
    """With client certificates, one of which was revoked."""
    tls = CertificateFolder(state / "tls")
    authority = new_authority("authority", days=100)
    write_certified(tls.authority, authority)
    tls.client_authorities.write_bytes(tls.authority.read_bytes())
    (state / "gateway/nginx.conf").write_text(CLIENTS_WANTED)
    write_list(tls, authority, [7], utc_now())
    return tls


def test_revoked_clients_are_counted(state: Path, revoked: CertificateFolder) -> None:
    check = checks.check_revoked(_project(state), utc_now())
    assert (check.found, check.fix) == ("1 client certificates", "")


def test_an_authority_without_a_list(state: Path, revoked: CertificateFolder) -> None:
    write_certified(state / "company.crt", new_authority("company"))
    with revoked.client_authorities.open("ab") as file:
        file.write((state / "company.crt").read_bytes())
    check = checks.check_revoked(_project(state), utc_now())
    assert check.stops
    assert "no list of that authority" in check.found
    assert check.fix.startswith("append its list")


def test_a_configuration_of_an_earlier_version(state: Path, revoked: CertificateFolder) -> None:
    (state / "gateway/nginx.conf").write_text("ssl_client_certificate clients.crt;")
    assert checks.check_revoked(_project(state), utc_now()).fix.startswith("detserve gateway render")


def test_a_list_that_nginx_does_not_know_of(state: Path, revoked: CertificateFolder) -> None:
    revoked.revoked_directive.unlink()
    check = checks.check_revoked(_project(state), utc_now())
    subprocess.run(["sh", "-c", check.fix], check=True)
    assert checks.check_revoked(_project(state), utc_now()).passed


def test_a_list_that_is_gone(state: Path, revoked: CertificateFolder) -> None:
    revoked.revoked.unlink()
    assert checks.check_revoked(_project(state), utc_now()).fix == "put it back"


@pytest.mark.parametrize(("later_days", "passed", "stops"), [(10, True, True), (80, False, False)])
def test_a_list_that_ends(state: Path, revoked: CertificateFolder, later_days, passed, stops) -> None:
    check = checks.check_revoked(_project(state), utc_now() + timedelta(days=later_days))
    assert (check.passed, check.stops) == (passed, stops)


def test_keys_that_let_nobody_in(state: Path) -> None:
    change_keys(state / "keys/keys.json", lambda _: KeyFile())
    assert "nobody could enter" in checks.check_keys(_project(state)).found


def test_two_secrets(state: Path) -> None:
    (state / "gateway/secret.conf").write_text("b" * 64)
    assert "different secrets" in checks.check_gateway_configuration(_project(state)).found


@pytest.mark.parametrize(
    ("refused", "lost", "found", "stops"),
    [
        (1, 0, "a change of its files is refused", True),
        (0, 2, "2 workers of nginx were killed", False),
        (0, 0, "says nothing is wrong", None),
    ],
)
def test_what_a_running_gateway_says(
    state: Path, refused: int, lost: int, found: str, stops: bool | None
) -> None:
    assert checks.check_gateway_state(_project(state)).found == "has not run yet"
    values = {
        "detserve_gateway_change_refused": refused,
        "detserve_gateway_changes_total": 5,
        "detserve_gateway_workers_lost_total": lost,
    }
    write_state(state / "log/access.jsonl", values)
    check = checks.check_gateway_state(_project(state))
    assert found in check.found
    assert check.passed if stops is None else (check.stops, bool(check.fix)) == (stops, True)


def test_folders_of_another_user(state: Path) -> None:
    check = checks.check_folders(_project(state, user=USER + 1))
    assert check.fix.startswith(f"put DETSERVE_USER={USER}:")


@pytest.mark.parametrize("user", ["0:0", "root", "app:app"])
def test_a_user_that_is_root_or_a_name(state: Path, user: str) -> None:
    project = _changed(_project(state), "gateway", user=user)
    with pytest.raises(ComposeError, match=f"DETSERVE_USER is {user}; put numbers"):
        checks.check_folders(project)


def test_another_compose_file() -> None:
    with pytest.raises(ComposeError, match="no service triton-cpu"):
        _ = _read({"web": {}}).triton
    with pytest.raises(ComposeError, match="mounts nothing at /models"):
        _ = _read({"triton-cpu": {}}).repository


def test_a_key_that_others_can_read(state: Path) -> None:
    (state / "tls/gateway/server.key").chmod(0o644)
    assert checks.check_folders(_project(state)).fix == f"chmod 600 {state}/tls/gateway/server.key"


def test_a_port_in_use(state: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        project = _project(state, port=other.getsockname()[1])
        assert "GATEWAY_LISTEN=127.0.0.1:OTHER" in checks.check_gateway_port(project, running=False).fix
        assert checks.check_gateway_port(project, running=True).passed


@pytest.mark.parametrize("image", ["nginx", "nginx:latest", "registry:5000/nginx"])
def test_an_image_without_a_version(state: Path, image: str) -> None:
    project = _changed(_project(state), "gateway", image=image)
    check = checks.check_images(project, lambda _: True)
    assert check.found == f"{image} has no fixed version"
    assert check.stops


def test_images_that_are_still_to_be_pulled(state: Path) -> None:
    check = checks.check_images(_project(state), lambda image: image != IMAGE)
    assert check.fix.startswith(f"docker pull {IMAGE}")
    assert not check.stops
    project = _changed(_project(state), "gateway", image=f"registry:5000/nginx@sha256:{'0' * 64}")
    assert checks.check_images(project, lambda _: True).passed


def test_no_compose_file_and_no_docker(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ComposeError, match="does not exist"):
        read_compose(tmp_path / "docker-compose.yml")
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(ComposeError, match="install Docker"):
        ask_docker("version")
    found = checks.run_compose_checks(CHECKOUT / "docker-compose.yml")
    assert [check.passed for check in found] == [False, False]
    assert found[0].fix.startswith("install Docker Engine")


def _folder(path: Path) -> None:
    path.unlink(missing_ok=True)
    path.mkdir()


def _a_file(path: Path) -> None:
    shutil.rmtree(path)
    path.touch()


def _link(path: Path) -> None:
    shutil.rmtree(path)
    path.symlink_to(path)


BINARY = bytes(range(256))
ODD_STATE: dict[str, tuple[str, Callable[[Path], object], str]] = {
    "a certificate that is not PEM": (
        "tls/gateway/server.crt",
        lambda path: path.write_text("hello"),
        "is not a certificate in PEM form",
    ),
    "a certificate that is empty": (
        "tls/gateway/server.crt",
        lambda path: path.write_bytes(b""),
        "is not a certificate",
    ),
    "a certificate that is a folder": ("tls/gateway/server.crt", _folder, "server.crt is a folder"),
    "a key that is a folder": ("tls/gateway/server.key", _folder, "server.key is a folder"),
    "keys of bytes": ("keys/keys.json", lambda path: path.write_bytes(BINARY), "is not a file of keys"),
    "keys nested deeply": (
        "keys/keys.json",
        lambda path: path.write_text("[" * 2_000),
        "is not a file of keys",
    ),
    "keys that are a folder": ("keys/keys.json", _folder, "keys.json is a folder"),
    "nginx's secret of bytes": (
        "gateway/secret.conf",
        lambda path: path.write_bytes(BINARY),
        "different secrets",
    ),
    "Triton's secret of bytes": (
        "gateway/triton.env",
        lambda path: path.write_bytes(BINARY),
        "has no secret",
    ),
    "Triton's secret a folder": ("gateway/triton.env", _folder, "triton.env is a folder"),
    "nginx's configuration of bytes": (
        "gateway/nginx.conf",
        lambda path: path.write_bytes(b"ssl_client_certificate" + BINARY),
        "is of an earlier version",
    ),
    "the log a file": ("log", _a_file, "log is not a folder"),
    "the log a link to itself": ("log", _link, "no "),
    "the gateway's folder a file": ("gateway", _a_file, "no "),
}


@pytest.mark.parametrize("case", ODD_STATE)
def test_an_odd_state_is_said(state: Path, case: str) -> None:
    name, change, found = ODD_STATE[case]
    change(state / name)
    failed = [
        check for check in checks.run_project_checks(_project(state)) if not check.passed and check.stops
    ]
    assert any(found in check.found for check in failed), failed


def test_a_state_that_this_user_may_not_read_is_said(state: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(path: Path) -> bool:
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(Path, "is_file", refuse)  # root, who runs the tests here, may read everything
    found = checks._answer("API keys", lambda: checks.check_keys(_project(state)))
    assert found.found == f"{state}/keys/keys.json cannot be read (Permission denied)"
    assert found.fix == "look as the user who owns it, or as root"


ODD_SERVICES: dict[str, tuple[str, dict[str, Any], str, str]] = {
    "no user": ("gateway", {"user": None}, "folders", "the gateway has no user"),
    "a user that is a name": ("gateway", {"user": "app"}, "folders", "DETSERVE_USER is app"),
    "a user of an empty variable": ("gateway", {"user": "${NOT_SET_ANYWHERE}"}, "folders", "has no user"),
    "no ports": ("gateway", {"ports": []}, "gateway port", "none is published"),
    "a port that the engine chooses": (
        "gateway",
        {"ports": ["8443"]},
        "gateway port",
        "that the engine chooses",
    ),
    "the same, in full": (
        "gateway",
        {"ports": [{"target": 8443}]},
        "gateway port",
        "that the engine chooses",
    ),
    "a range": ("gateway", {"ports": ["18443-18450:8443"]}, "gateway port", "0.0.0.0:18443-18450, "),
    "a range of IPv6": ("gateway", {"ports": ["[::1]:18443-18445:8443-8445"]}, "gateway port", "::1:18443, "),
    "a number": (
        "gateway",
        {"ports": [{"target": 8443, "published": 18443}]},
        "gateway port",
        "0.0.0.0:18443",
    ),
    "too large": (
        "gateway",
        {"ports": [{"target": 1, "published": "70000"}]},
        "gateway port",
        "70000 is in use",
    ),
    "a word": ("gateway", {"ports": [{"target": 1, "published": "https"}]}, "gateway port", "at 'https'"),
    "another machine's": (
        "gateway",
        {"ports": ["203.0.113.9:1844:1"]},
        "gateway port",
        "not of this machine",
    ),
    "no volumes": ("triton-cpu", {"volumes": []}, "compose file", "triton-cpu mounts nothing at /models"),
    "a named volume": (
        "triton-cpu",
        {"volumes": ["kept:/models"]},
        "compose file",
        "mounts the volume kept at",
    ),
    "a volume without a name": (
        "triton-cpu",
        {"volumes": ["/models"]},
        "compose file",
        "volume without a name",
    ),
    "no log": ("gateway", {"volumes": []}, "compose file", "gateway mounts nothing at /etc/detserve/gateway"),
    "no shm_size": ("triton-cpu", {"shm_size": None}, "shared memory", "64 MiB, 256 MiB needed"),
    "shm_size in text": ("triton-cpu", {"shm_size": "1 GiB"}, "shared memory", "1024 MiB"),
    "mem_limit in text": ("triton-cpu", {"mem_limit": "8GiB"}, "shared memory", "768 MiB"),
    "no image": ("gateway", {"image": None}, "compose file", "neither an image nor a build context"),
    "built without arguments": ("triton-cpu", {"build": {"context": "."}}, "images", ""),
    "built in short": ("triton-cpu", {"build": "."}, "images", ""),
    "arguments as a list": (
        "triton-cpu",
        {"build": {"context": ".", "args": [f"TRITON_IMAGE={IMAGE}"]}},
        "images",
        IMAGE,
    ),
    "one without a value": (
        "triton-cpu",
        {"build": {"context": ".", "args": ["TRITON_IMAGE"]}},
        "images",
        "",
    ),
    "an empty one": ("triton-cpu", {"build": {"context": ".", "args": {"TRITON_IMAGE": ""}}}, "images", ""),
    "no profiles, no networks": (
        "gateway",
        {"profiles": None, "networks": None},
        "gateway configuration",
        "in ",
    ),
    "the host's network": (
        "gateway",
        {"ports": [], "network_mode": "host"},
        "gateway port",
        "none is published",
    ),
}


def _compose_file(state: Path) -> dict[str, Any]:
    """What a user would have written for :func:`_project`."""
    services = _project(state, port=18443).model_dump(mode="json")["services"]
    for service in services.values():
        service["build"] = service["build"] and {"context": ".", **service["build"]}
        service["volumes"] = [f"{one['source']}:{one['target']}" for one in service["volumes"]]
        service["ports"] = [{**port, "target": 8443} for port in service["ports"]]
    return {"name": "shop", "services": services, "volumes": {"kept": None}}


def _written(content: Any, file: Path) -> Path:
    def without_nothing(value: Any) -> Any:
        if isinstance(value, dict):
            return {key: without_nothing(each) for key, each in value.items() if each not in (None, "")}
        return value

    file.write_text(json.dumps({**content, "services": without_nothing(content["services"])}))
    return file


needs_compose = pytest.mark.skipif(
    shutil.which("docker") is None
    or any(
        subprocess.run(["docker", *words]).returncode != 0 for words in (["compose", "version"], ["info"])
    ),
    reason="no Docker engine with compose: .ci/docker-engine start",
)


def _all_checks(file: Path) -> list[checks.Check]:
    try:
        return checks.run_project_checks(read_compose(file))
    except ComposeError as error:
        return [checks.Check("compose file", str(error), "fix")]


@needs_compose
@pytest.mark.parametrize("case", ODD_SERVICES)
def test_an_odd_compose_file_is_said(state: Path, tmp_path: Path, case: str) -> None:
    service, fields, name, found = ODD_SERVICES[case]
    content = _compose_file(state)
    content["services"][service].update(fields)
    answers = {check.name: check for check in _all_checks(_written(content, tmp_path / "docker-compose.yml"))}
    assert found in answers[name].found, answers[name]


@needs_compose
@pytest.mark.parametrize("text", ["", "hello", "[1, 2]", "services:", "a: [b", "services: {}", "\0"])
def test_a_file_that_is_no_compose_file_is_said(tmp_path: Path, text: str) -> None:
    (tmp_path / "docker-compose.yml").write_text(text)
    with pytest.raises(ComposeError):
        read_compose(tmp_path / "docker-compose.yml")


@needs_compose
def test_an_override_beside_the_file_counts(state: Path, tmp_path: Path) -> None:
    file = _written(_compose_file(state), tmp_path / "docker-compose.yml")
    override = {"services": {"gateway": {"user": "0"}}}
    (tmp_path / "docker-compose.override.yml").write_text(json.dumps(override))
    assert read_compose(file).gateway.user == "0"
    assert read_compose(file.rename(tmp_path / "another.yml")).gateway.user == f"{USER}:0"
