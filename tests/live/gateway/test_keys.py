"""Who enters, and for which model."""

from __future__ import annotations

import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta

import grpc
import numpy as np
import pytest
import tritonclient.grpc as grpcclient

from detserve_client import AccessDenied, Client, Overloaded
from detserve_core.errors import EndpointError
from detserve_server.gateway.keys.key import utc_now
from detserve_server.gateway.keys.store import change_keys, nginx_file
from detserve_server.gateway.settings import RateLimits
from tests.live.gateway.conftest import SSD, UNLIMITED, YOLO, Site, wait_for


def test_a_key_opens(site: Site, protocol, sample) -> None:
    with site.client(protocol) as client, site.client(protocol, "bob", SSD) as other:
        assert len(client.detect(sample)) > 0
        assert other.ready()


def test_a_client_that_names_no_detector(site: Site, protocol, sample) -> None:
    with Client(site.url(protocol), security=site.security()) as client:
        with pytest.raises(AccessDenied, match="does not list its detectors to this client, so name yours"):
            client.detect(sample)


@pytest.mark.parametrize(
    ("key", "reason"),
    [
        (None, "no key was sent"),
        ("wrong", "unknown: it is wrong or revoked"),
        ("mixed", "unknown: it is wrong or revoked"),
        ("nonsense", "unknown: it is wrong or revoked"),
        ("expired", "has expired"),
        ("revoked", "unknown: it is wrong or revoked"),
    ],
)
def test_no_key_and_bad_keys(site: Site, protocol, sample, key, reason) -> None:
    with site.client(protocol, key) as client, pytest.raises(AccessDenied, match=reason):
        client.detect(sample)


def test_a_key_does_not_go_over_a_plain_connection(site: Site) -> None:
    with pytest.raises(EndpointError, match="need TLS"):
        Client(site.triton.grpc_url, YOLO, security=site.security())


def test_a_key_of_another_model(site: Site, protocol, sample) -> None:
    with site.client(protocol, "bob", YOLO) as client:
        with pytest.raises(AccessDenied, match="key is not for this model"):
            client.detect(sample)
    last = site.last()
    assert (last["client"], last["model"], last["upstream_s"]) == ("bob", YOLO, None)


def test_expiry_takes_effect_at_once_and_needs_no_reload(site: Site) -> None:
    expires = utc_now() + timedelta(seconds=8)
    key_id = site.add_key("short", expires=expires)
    in_force = nginx_file(site.keys_file).read_text()
    with site.client("grpc", "short") as one, site.client("http", "short") as other:
        for client in (one, other):
            assert client.ready()
        wait_for(lambda: utc_now() > expires + timedelta(seconds=1))
        for client in (one, other):
            with pytest.raises(AccessDenied, match="expired"):
                client.card()
    assert key_id in in_force
    assert nginx_file(site.keys_file).read_text() == in_force


def test_revocation_reaches_an_open_connection(site: Site, protocol) -> None:
    key_id = site.add_key(f"leaver_{protocol}")
    with site.client(protocol, f"leaver_{protocol}") as client:
        assert client.ready()
        revoke(site, key_id)

        def refused() -> bool:
            try:
                client.ready()
            except AccessDenied:
                return True
            return False

        wait_for(refused)


@pytest.mark.slow
def test_revocation_reaches_a_connection_that_is_never_idle(site: Site, protocol) -> None:
    """nginx's old worker, which knows the old keys, keeps a busy HTTP/2 connection for 15 s at most."""
    name = f"busy_{protocol}"
    key_id = site.add_key(name, limits=UNLIMITED)
    answered = Counter[str]()

    def busy(client: Client) -> None:
        ends_s = time.monotonic() + 120
        while time.monotonic() < ends_s:
            try:
                client.ready()
            except AccessDenied:
                answered["refused"] += 1
                return
            answered["let in"] += 1

    with site.client(protocol, name) as client, ThreadPoolExecutor(4) as pool:
        running = [pool.submit(busy, client) for _ in range(4)]
        wait_for(lambda: answered["let in"] > 20)
        revoke(site, key_id)
        for future in running:
            future.result()
    assert answered["refused"] == 4


def test_a_rate_above_the_key_s(site: Site, protocol) -> None:
    site.add_key(f"slow_{protocol}", limits=RateLimits(rate_per_s=5, concurrency=4))
    with site.client(protocol, f"slow_{protocol}") as client:
        let_through, started_s = 0, time.monotonic()
        with pytest.raises(Overloaded, match="over its rate"):
            for _ in range(300):
                client.ready()
                let_through += 1
        seconds = time.monotonic() - started_s
    assert 4 <= let_through <= 7 + 5 * seconds  # one second's burst, and what the clock gives meanwhile


def test_no_key_is_written_anywhere(site: Site, protocol, sample) -> None:
    with site.client(protocol) as client:
        client.detect(sample)
    with site.client(protocol, "wrong") as client, pytest.raises(AccessDenied):
        client.card()
    secrets = [key.split("_", 2)[2] for name, key in site.keys.items() if key.startswith("dsk_")]
    files = [site.keys_file, nginx_file(site.keys_file), site.gateway.access_log, site.triton.log_file]
    for file in files:
        text = file.read_text()
        assert not [secret for secret in secrets if secret in text], file
    assert site.keys_file.stat().st_mode & 0o777 == 0o600
    assert nginx_file(site.keys_file).stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize("parameters", [None, {"detserve-models": "*"}, {"detserve-models": 1}])
@pytest.mark.parametrize("declared", [None, SSD])
@pytest.mark.parametrize("model", [YOLO, f"{YOLO}_pipeline"])
def test_grpc_model_scope_without_a_true_declaration(site: Site, sample, parameters, declared, model) -> None:
    """gRPC names the model in the message: the model's own step refuses, whatever the client claims."""
    credentials = site.security().grpc_credentials()
    headers = {"authorization": f"Bearer {site.keys['bob']}", "detserve-models": "*"}
    if declared:
        headers["detserve-model"] = declared
    tensor = grpcclient.InferInput("IMAGE", [1, 1], "BYTES")
    tensor.set_data_from_numpy(np.array([[sample.read_bytes()]], dtype=object))
    address = site.gateway.grpc_url.removeprefix("grpcs://")
    with grpcclient.InferenceServerClient(address, creds=credentials) as connection:
        with pytest.raises(grpcclient.InferenceServerException, match="key is not for"):
            connection.infer(model, [tensor], headers=headers, parameters=parameters)


def test_any_grpc_client_of_an_unscoped_key_works_without_our_header(site: Site, sample) -> None:
    tensor = grpcclient.InferInput("IMAGE", [1, 1], "BYTES")
    tensor.set_data_from_numpy(np.array([[sample.read_bytes()]], dtype=object))
    address = site.gateway.grpc_url.removeprefix("grpcs://")
    with grpcclient.InferenceServerClient(address, creds=site.security().grpc_credentials()) as connection:
        headers = {"authorization": f"Bearer {site.keys['alice']}"}
        assert connection.infer(YOLO, [tensor], headers=headers).as_numpy("num_detections")[0, 0] > 0
        with pytest.raises(grpcclient.InferenceServerException) as caught:
            connection.infer(YOLO, [tensor], headers={})
    assert caught.value.status() == str(grpc.StatusCode.UNAUTHENTICATED)


def revoke(site: Site, key_id: str) -> None:
    change_keys(
        site.keys_file,
        lambda file: file.replaced(file.find(key_id).model_copy(update={"revoked": utc_now()})),
    )
