"""Nothing is lost when certificates, keys and Triton change."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import urllib3

from detserve_client import Client, Detections, RequestRejected, Security, ServerUnavailable
from detserve_core.machine.ports import choose_ports, is_free
from detserve_server.audit.record import is_inference, record_of
from detserve_server.gateway.certificates.authority import new_server, write_certified
from detserve_server.gateway.keys.key import new_key
from detserve_server.gateway.keys.store import KeyFile, change_keys
from detserve_server.gateway.process import running_gateway
from detserve_server.gateway.settings import RateLimits, Upstream
from detserve_server.triton.embedded import embedded_server
from tests.live.gateway.conftest import CHECKOUT, YOLO, Site, upstream, wait_for

NO_PICTURE = b"no picture: Triton answers with a refusal, and fast"


def serial_shown(site: Site) -> int:
    from cryptography import x509

    with site.connect() as connection:
        shown = connection.getpeercert(binary_form=True)
    return x509.load_der_x509_certificate(shown).serial_number


@pytest.mark.slow
def test_rotation_and_reloads_under_load_lose_nothing(site: Site, sample) -> None:
    """At least 5,000 requests on both protocols while certificates and keys change, each with a reload."""
    ending_s = time.monotonic() + 12
    logged_before = site.gateway.access_log.stat().st_size
    first_serial = serial_shown(site)

    def load(protocol: str) -> tuple[int, int]:
        lost = 0
        with site.client(protocol) as client:
            expected = client.detect(sample)
            answered = 1
            while time.monotonic() < ending_s or answered < 700:
                try:
                    client.detect(NO_PICTURE)
                except RequestRejected as refusal:
                    lost += "not a JPEG" not in str(refusal)
                answered += 1
                if answered % 100 == 0:
                    lost += client.detect(sample) != expected
                    answered += 1
        return answered, lost

    with ThreadPoolExecutor(8) as pool:
        running = [pool.submit(load, protocol) for protocol in ("grpc", "http") * 4]
        rotations = 0
        while not all(future.done() for future in running):
            write_certified(site.tls.server, new_server(site.authority, ["localhost", "127.0.0.1"]))
            _, record = new_key(f"new_{rotations}")
            change_keys(site.keys_file, lambda file, record=record: KeyFile(keys=(*file.keys, record)))
            rotations += 1
            time.sleep(1.2)
        outcomes = [future.result() for future in running]
    requests = sum(answered for answered, _ in outcomes)
    assert requests >= 5000
    assert sum(lost for _, lost in outcomes) == 0
    assert rotations >= 8
    assert serial_shown(site) != first_serial
    print(f"{requests} requests, {rotations} rotations", file=sys.stderr)
    logged = site.gateway.access_log.read_bytes()[logged_before:]
    sent = [record for record in map(record_of, logged.splitlines()) if is_inference(record)]
    kinds = Counter(str(record["outcome"]) for record in sent)
    assert set(kinds) == {"ok", "rejected"}, kinds
    assert len(sent) == requests, "no client had to send one again"


@pytest.mark.slow
def test_triton_killed_and_back(site: Site, protocol, sample, tmp_path) -> None:
    ports = choose_ports({"gRPC": None, "HTTP": None})
    options = {"grpc_port": ports["gRPC"], "http_port": ports["HTTP"], "models": [YOLO]}
    repository = CHECKOUT / "model_repository"
    with embedded_server(repository, gateway_secret=site.secret, **options) as triton:
        with running_gateway(
            [upstream(triton)],
            tls=site.tls.gateway,
            keys=site.keys_file,
            secret=site.secret,
            access_log=tmp_path / "access.jsonl",
        ) as gateway:
            url = gateway.grpc_url if protocol == "grpc" else gateway.http_url
            with Client(url, YOLO, security=site.security(), timeout_s=3) as client:
                expected = client.detect(sample)
                os.killpg(triton.pid, signal.SIGKILL)
                with pytest.raises(ServerUnavailable, match="gateway cannot reach Triton"):
                    client.detect(sample)
                assert health(gateway.http_url, site) == 503
                wait_for(lambda: is_free(ports["gRPC"]) and is_free(ports["HTTP"]))
                with embedded_server(repository, gateway_secret=site.secret, **options):
                    wait_for(lambda: found_by(client, sample) == expected)
                    assert health(gateway.http_url, site) == 200


def found_by(client: Client, sample: Path) -> Detections | None:
    """None while the client takes the outage to last: it asks again every two seconds."""
    try:
        return client.detect(sample)
    except ServerUnavailable:
        return None


def health(url: str, site: Site) -> int:
    pool = urllib3.PoolManager(ca_certs=str(site.tls.authority))
    return int(pool.request("GET", f"{url}/gateway/health", retries=False).status)


@pytest.mark.parametrize("ending", [signal.SIGTERM, signal.SIGKILL])
def test_the_serve_command(site: Site, sample, tmp_path, ending) -> None:
    """Certificates, key, serve, detect by commands; nothing is left behind whatever ends it."""
    key_file, ca = tmp_path / "key", site.tls.authority
    key_file.write_text(site.keys["alice"] + "\n")
    port = choose_ports({"gateway": None})["gateway"]
    metrics = choose_ports({"metrics": None})["metrics"]
    options = f"--repository {CHECKOUT / 'model_repository'} --model {YOLO} --metrics-port {metrics}"
    options += f" --gateway-port {port} --tls {site.tls.gateway} --keys {site.keys_file}"
    serving = subprocess.Popen(
        detserve("serve", *options.split(), "--access-log", str(tmp_path / "access.jsonl")),
        env={**os.environ, "TMPDIR": str(tmp_path)},
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        for line in serving.stdout:
            if "until Ctrl-C" in line:
                break
        assert list(tmp_path.glob("detserve-gateway-*"))
        url = f"grpcs://127.0.0.1:{port}"
        detect = detserve("detect", str(sample), "--model", YOLO, "--url", url)
        environment = {**os.environ, "DETSERVE_CA": str(ca)}
        allowed = subprocess.run(
            [*detect, "--api-key-file", str(key_file)], env=environment, capture_output=True, text=True
        )
        refused = subprocess.run(detect, env=environment, capture_output=True, text=True)
    finally:
        serving.send_signal(ending)
        serving.wait(30)
    assert allowed.returncode == 0, allowed.stderr
    assert refused.returncode == 1
    assert "no key was sent" in refused.stderr
    wait_for(lambda: is_free(port))
    wait_for(lambda: not list(tmp_path.glob("detserve-gateway-*")))


def test_the_container_s_script(site: Site, tmp_path) -> None:
    """deploy/gateway/serve.sh: renders' files in, changes taken up, ended by a signal."""
    folder = tmp_path / "etc"
    for part in ("gateway", "tls", "keys", "run"):
        (folder / part).mkdir(parents=True)
    port = choose_ports({"gateway": None})["gateway"]
    keys = folder / "keys/keys.json"
    text, record = new_key("carol")
    change_keys(keys, lambda _: KeyFile(keys=(record,)))
    write_certified(folder / "tls/server.crt", new_server(site.authority, ["localhost"]))
    subprocess.run(
        detserve(
            "gateway", "render", "--output", str(folder / "gateway"), "--triton", "127.0.0.1",
            "--listen", f"127.0.0.1:{port}", "--tls", str(folder / "tls"),
            "--keys", str(folder / "keys/keys.conf"),
            "--configuration", str(folder / "gateway"), "--access-log", str(tmp_path / "access.jsonl"),
        ),
        check=True,
    )  # fmt: skip
    environment = {
        **os.environ,
        "PATH": os.pathsep.join([os.environ["PATH"], "/usr/sbin"]),
        "GATEWAY_DIR": str(folder),
        "ACCESS_LOG": str(tmp_path / "access.jsonl"),
        "RUN_DIR": str(tmp_path / "run"),
        "WATCH_S": "1",
    }
    script = subprocess.Popen([str(CHECKOUT / "deploy/gateway/serve.sh")], env=environment)
    try:
        wait_for(lambda: not is_free(port))
        security = Security(api_key=text, ca=site.tls.authority)
        with Client(f"https://localhost:{port}", YOLO, security=security, timeout_s=2) as client:
            with pytest.raises(ServerUnavailable, match="cannot reach Triton"):
                client.card()
            change_keys(keys, lambda file: KeyFile())
            wait_for(lambda: "wrong or revoked" in reason_of(client))
    finally:
        script.terminate()
        assert script.wait(10) == 0
    wait_for(lambda: is_free(port))


def reason_of(client: Client) -> str:
    try:
        client.ready()
        client.card()
    except Exception as error:
        return str(error)
    return ""


def detserve(*arguments: str) -> list[str]:
    return [sys.executable, "-m", "detserve.command", *arguments]


def test_a_killed_worker_s_counts_do_not_stay(site: Site, tmp_path, capfd) -> None:
    """A key with one request at a time whose worker is killed under it may send again."""
    text, record = new_key("lone", limits=RateLimits(rate_per_s=1000, concurrency=1))
    keys = tmp_path / "keys.json"
    change_keys(keys, lambda _: KeyFile(keys=(record,)))
    with socket.socket() as hanging:
        hanging.bind(("127.0.0.1", 0))
        hanging.listen(50)
        hanging.settimeout(10)
        address = f"127.0.0.1:{hanging.getsockname()[1]}"
        with running_gateway(
            [Upstream(grpc=address, http=address)],
            tls=site.tls.gateway,
            keys=keys,
            access_log=tmp_path / "access.jsonl",
            inference_timeout_s=5,
            workers=1,
        ) as gateway:
            pool = urllib3.PoolManager(ca_certs=str(site.tls.authority), retries=False)
            headers = {"Authorization": f"Bearer {text}"}

            def status() -> int:
                return int(pool.request("GET", f"{gateway.http_url}/v2", headers=headers).status)

            with ThreadPoolExecutor(1) as other:
                held = other.submit(status)
                reached, _ = hanging.accept()  # the request is nginx's, and counted
                assert status() == 429
                for worker in workers_of(gateway.pid):
                    os.kill(worker, signal.SIGKILL)
                assert isinstance(held.exception(), urllib3.exceptions.HTTPError)
            reached.close()
            hanging.close()
            wait_for(lambda: status() == 503)  # nobody listens there any more; no longer 429
            said = capfd.readouterr().err
            assert "1 workers of nginx were killed" in said
            wait_for(lambda: "workers_lost_total 1" in (tmp_path / "gateway.prom").read_text())


def workers_of(master: int) -> list[int]:
    children = Path(f"/proc/{master}/task/{master}/children").read_text()
    return [int(pid) for pid in children.split()]
