"""Three servers behind the gateway: even load, and nothing that happens to one of them loses a request.

Inference changes nothing, so a request may be sent again: nginx does where the server took no connection, the
client where the connection broke (it tries four times in all).
"""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest
import urllib3

from detserve_client import Client
from detserve_server.rollout.traffic import Gateway
from detserve_server.triton.embedded import RunningServer, embedded_server
from tests.live.behind_gateway import NginxGateway, load, nginx_gateway, served, upstream
from tests.live.conftest import CHECKOUT, DEFAULT, SAMPLES

pytestmark = pytest.mark.slow

PICTURE = SAMPLES / "scene_2.jpg"


@pytest.fixture(scope="module")
def replicas() -> Iterator[list[RunningServer]]:
    """Three of one model; the tests of this module kill one of them last."""
    with ExitStack() as stack:
        yield [
            stack.enter_context(embedded_server(CHECKOUT / "model_repository", models=[DEFAULT]))
            for _ in range(3)
        ]


@pytest.fixture
def gateway(replicas: list[RunningServer], tmp_path: Path) -> Iterator[NginxGateway]:
    with nginx_gateway(tmp_path / "gateway", [upstream(replica) for replica in replicas]) as running:
        yield running


@pytest.fixture(scope="module")
def boxes(replicas: list[RunningServer]) -> int:
    """What every replica finds in the picture."""
    with Client(replicas[0].grpc_url, DEFAULT) as client:
        return len(client.detect(PICTURE))


def _served(replicas: list[RunningServer]) -> list[int]:
    return [_counted(replica) for replica in replicas]


def _counted(replica: RunningServer) -> int:
    """What one has served, once that stands still: Triton answers a request before it counts it."""
    count, still_since_s = served(replica, DEFAULT), time.monotonic()
    while time.monotonic() - still_since_s < 0.3:
        time.sleep(0.05)
        if (now := served(replica, DEFAULT)) != count:
            count, still_since_s = now, time.monotonic()
    return count


def test_the_load_is_even(gateway: NginxGateway, replicas: list[RunningServer], boxes: int) -> None:
    before = _served(replicas)
    with load(gateway, DEFAULT, PICTURE, boxes, pause_s=0.12) as sent:
        sent.wait_for(900)
    shares = [after - old for after, old in zip(_served(replicas), before, strict=True)]
    assert sent.errors == []
    assert sum(shares) == sent.answered
    print(f"shares {shares}")
    assert max(abs(share / (sent.answered / 3) - 1) for share in shares) <= 0.2, shares


@contextmanager
def _slowed(server: RunningServer) -> Iterator[None]:
    """Triton itself runs a quarter of the time. (Its Python stubs run on: it would take them for dead.)"""
    going = True

    def hinder() -> None:
        while going:
            os.kill(server.pid, signal.SIGSTOP)
            time.sleep(0.15)
            os.kill(server.pid, signal.SIGCONT)
            time.sleep(0.05)

    thread = threading.Thread(target=hinder)
    thread.start()
    try:
        yield
    finally:
        going = False
        thread.join()


def test_a_slow_one_gets_less_and_loses_nothing(
    gateway: NginxGateway, replicas: list[RunningServer], boxes: int
) -> None:
    before = _served(replicas)
    with load(gateway, DEFAULT, PICTURE, boxes) as sent, _slowed(replicas[1]):
        sent.wait_for(400)
    shares = [after - old for after, old in zip(_served(replicas), before, strict=True)]
    assert sent.errors == []
    print(f"shares {shares}, slowest {sent.slowest_s:.2f} s")
    assert shares[1] < min(shares[0], shares[2]), shares


def test_a_hanging_one_holds_up_few_and_loses_nothing(
    gateway: NginxGateway, replicas: list[RunningServer], boxes: int
) -> None:
    with load(gateway, DEFAULT, PICTURE, boxes) as sent:
        sent.wait_for(50)
        os.kill(replicas[1].pid, signal.SIGSTOP)
        try:
            sent.wait_for(150)  # the other two go on
        finally:
            os.kill(replicas[1].pid, signal.SIGCONT)
        sent.wait_for(50)
    assert sent.errors == []
    print(f"{sent.answered} answered, slowest {sent.slowest_s:.2f} s")


@pytest.mark.parametrize("header", [{"grpc-timeout": "soon"}, {"picture-bin": "%%%"}])
def test_a_client_s_header_takes_no_server_from_the_others(
    gateway: NginxGateway, boxes: int, header: dict[str, str]
) -> None:
    """Triton breaks a call with such a header, which is the client's fault and not the server's."""
    call = f"https://{gateway.url.partition('://')[2]}/inference.GRPCInferenceService/ModelInfer"
    with (
        load(gateway, DEFAULT, PICTURE, boxes) as sent,
        urllib3.PoolManager(ca_certs=str(gateway.folder / "ca.crt"), retries=False) as pool,
    ):
        sent.wait_for(30)
        for _ in range(30):
            pool.request("POST", call, body=bytes(5), headers={**gateway.security.headers(), **header})
            time.sleep(0.1)
        sent.wait_for(30)
    failed = [record for record in gateway.inferences() if record["outcome"] != "ok"]
    assert sent.errors == []
    assert len(failed) == 30, "those of the one client, and none that another had to send again"


def test_one_drained_under_load_loses_nothing(
    gateway: NginxGateway, replicas: list[RunningServer], boxes: int
) -> None:
    behind = Gateway(gateway.folder)
    with load(gateway, DEFAULT, PICTURE, boxes) as sent:
        for _ in range(2):
            sent.wait_for(60)
            behind.direct([upstream(replicas[0]), upstream(replicas[2])])
            assert behind.wait_until_drained()
            drained = _counted(replicas[1])
            sent.wait_for(60)
            assert served(replicas[1], DEFAULT) == drained
            behind.direct([upstream(replica) for replica in replicas])
            assert behind.wait_until_drained()
            sent.wait_for(60)
            assert served(replicas[1], DEFAULT) > drained
    assert sent.errors == []
    assert all(record["outcome"] == "ok" for record in gateway.inferences())  # no client had to try again


def test_one_killed_under_load_loses_nothing(
    gateway: NginxGateway, replicas: list[RunningServer], boxes: int
) -> None:
    with load(gateway, DEFAULT, PICTURE, boxes) as sent:
        sent.wait_for(100)
        os.killpg(replicas[2].pid, signal.SIGKILL)
        sent.wait_for(400)
    tried = gateway.inferences()
    failed = [record for record in tried if record["outcome"] != "ok"]
    assert sent.errors == []
    assert len(tried) == sent.answered + len(failed)
    print(
        f"{sent.answered} answered, {len(failed)} tried again by the client, slowest {sent.slowest_s:.2f} s"
    )
    assert len(failed) <= 12  # what was in flight there, twice over
