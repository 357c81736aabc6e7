"""``detserve serve --rest-port``: plain HTTP beside the embedded server, with and without the gateway."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import urllib3

from detserve_core.machine.ports import LOOPBACK, choose_ports, is_free
from detserve_server.gateway.certificates.folder import CertificateFolder
from detserve_server.gateway.keys.key import new_key
from detserve_server.gateway.keys.store import KeyFile, change_keys
from tests.live.conftest import COMMITTED, DEFAULT
from tests.live.gateway.conftest import own_certificates, wait_for
from tests.needs import needs_nginx


@contextmanager
def serving(*options: str) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """The command, and what it prints until it serves; it is stopped at the end."""
    command = [sys.executable, "-m", "detserve.command", "serve", f"--repository={COMMITTED}"]
    process = subprocess.Popen(
        [*command, f"--model={DEFAULT}", *options],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env={**os.environ, "COLUMNS": "200"},
        text=True,
    )
    assert process.stdout is not None
    printed = ""
    for line in process.stdout:
        printed += line
        if "Serving until Ctrl-C" in line:
            break
    try:
        yield process, printed
    finally:
        if process.poll() is None:
            process.send_signal(signal.SIGTERM)
        process.communicate(timeout=120)


def free_ports(*names: str) -> tuple[dict[str, int], list[str]]:
    ports = choose_ports(dict.fromkeys(names))
    return ports, [f"--{name}-port={port}" for name, port in ports.items()]


def test_it_answers_until_the_server_is_stopped(sample: Path) -> None:
    ports, options = free_ports("grpc", "http", "metrics", "rest")
    url = f"http://{LOOPBACK}:{ports['rest']}"
    with serving(*options) as (process, printed):
        assert url in printed
        answer = urllib3.request(
            "POST", f"{url}/v1/models/{DEFAULT}/detect", fields={"image": ("a.jpg", sample.read_bytes())}
        )
        assert len(answer.json()["detections"]) > 0
        assert urllib3.request("GET", url).status == 200
    assert process.returncode == 0
    assert is_free(ports["rest"])


def test_its_end_is_noticed() -> None:
    ports, options = free_ports("grpc", "http", "metrics", "rest")
    with serving(*options) as (process, _):
        os.kill(_listening_on(ports["rest"]), signal.SIGKILL)
        _, words = process.communicate(timeout=60)
    assert process.returncode == 1
    assert re.fullmatch(r"detserve: detserve rest ended with status -9: .*\n", words)


def test_a_taken_port_is_said_before_the_server_starts() -> None:
    ports, options = free_ports("grpc", "http", "metrics")
    with serving(*options, f"--rest-port={ports['grpc']}") as (process, printed):
        _, words = process.communicate(timeout=60)
    assert process.returncode == 1
    assert "Serving" not in printed
    assert f"port {ports['grpc']}" in words


def test_open_wants_a_page() -> None:
    with serving("--open") as (process, _):
        _, words = process.communicate(timeout=60)
    assert process.returncode == 2
    assert "--rest-port" in words


@needs_nginx
def test_behind_the_gateway(tmp_path: Path, sample: Path) -> None:
    tls = CertificateFolder(tmp_path / "tls")
    own_certificates(tls)
    key, record = new_key("alice")
    change_keys(tmp_path / "keys.json", lambda _: KeyFile(keys=(record,)))
    ports, options = free_ports("gateway", "metrics", "rest")
    options += [f"--tls={tls.gateway}", f"--keys={tmp_path / 'keys.json'}"]
    url = f"https://{LOOPBACK}:{ports['gateway']}"
    with (
        serving(*options, f"--access-log={tmp_path / 'access.jsonl'}") as (process, printed),
        urllib3.PoolManager(ca_certs=str(tls.authority)) as pool,
    ):
        assert url in printed
        detect = f"/v1/models/{DEFAULT}/detect"
        form = {"image": ("a.jpg", sample.read_bytes())}
        said = {"authorization": f"Bearer {key}"}
        assert pool.request("POST", f"{url}{detect}", fields=form, headers=said).status == 200
        assert pool.request("POST", f"{url}{detect}", fields=form).status == 401
        assert pool.request("GET", url).status == 200
        beside = f"http://{LOOPBACK}:{ports['rest']}{detect}"
        assert urllib3.request("POST", beside, fields=form, headers=said).status == 403
    assert process.returncode == 0
    wait_for(lambda: is_free(ports["rest"]))


def _listening_on(port: int) -> int:
    import psutil

    (found,) = {
        one.pid for one in psutil.net_connections("tcp") if one.status == "LISTEN" and one.laddr.port == port
    }
    assert found is not None
    return int(found)
