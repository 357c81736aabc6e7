"""What a rolling update of Kubernetes does, with the shipped scripts around a real nginx and real Tritons.

The name "triton" has the address of each replica that is ready, as a headless service has; a pod that is
deleted loses its address, and at the same time its preStop hook begins. Then it is told to end.
"""

from __future__ import annotations

import os
import signal
import socket
import struct
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest
import yaml

from detserve_client import Security
from detserve_core.machine.ports import choose_ports, is_free
from detserve_server.gateway.certificates.authority import new_authority, new_server, write_certified
from detserve_server.gateway.configuration import render
from detserve_server.gateway.keys.key import new_key
from detserve_server.gateway.keys.store import KeyFile, change_keys
from detserve_server.gateway.settings import GatewaySettings, Upstream
from detserve_server.triton.command_line import server_environment
from detserve_server.triton.distribution import assembled_backends, find_distribution
from tests.live.behind_gateway import OPEN, Load, NginxGateway, load, served_at
from tests.live.echo_repository import NAME, write_echo_repository
from tests.live.gateway.conftest import CHECKOUT, wait_for

pytestmark = pytest.mark.slow

IMAGE = CHECKOUT / "deploy/images/triton"
ENDED_AFTER_LAST_ANSWER_S = 5


@dataclass
class Replica:
    """A Triton as a pod has it: an address of its own, the ports of all."""

    address: str
    ports: dict[str, int]
    process: subprocess.Popen[bytes]
    last_answer_s: float = 0.0
    _answers: int = field(default=0, repr=False)

    def watch(self) -> None:
        """Note when it answers, until it ends; its metrics are served longer than its models."""
        with suppress(OSError):
            while True:
                answers = served_at(f"http://{self.address}:{self.ports['metrics']}/metrics", NAME)
                if answers > self._answers:
                    self._answers, self.last_answer_s = answers, time.monotonic()
                time.sleep(0.1)

    def drain(self) -> None:
        """Run the container's preStop hook."""
        (of_triton,) = [
            one["spec"]["template"]["spec"]["containers"]
            for one in yaml.safe_load_all((CHECKOUT / "deploy/kubernetes/base/triton.yaml").read_text())
            if one["kind"] == "Deployment"
        ]
        (hook,) = of_triton[0]["lifecycle"]["preStop"]["exec"]["command"]
        (number,) = struct.unpack("=I", socket.inet_aton(self.address))
        ports = "|".join(f"{self.ports[name]:04X}" for name in ("http", "grpc"))
        environment = {**os.environ, "LOCAL": f"{number:08X}:({ports})$"}
        subprocess.run([IMAGE / Path(hook).name], env=environment, check=True)


@dataclass
class Cluster:
    """The replicas, their one name and the gateway in front of them."""

    folder: Path
    ports: dict[str, int]
    environment: dict[str, str]
    backends: Path
    gateway: NginxGateway
    gateway_process: subprocess.Popen[bytes]
    ready: list[Replica]

    def start(self, number: int) -> Replica:
        """A new replica, in the name once it is ready."""
        address = f"127.0.0.{number}"
        options = [f"--{name}-{what}" for name in self.ports for what in ("port", "address")]
        values = [value for port in self.ports.values() for value in (port, address)]
        process = subprocess.Popen(
            [
                *(
                    "sh",
                    IMAGE / "serve.sh",
                    f"--backend-directory={self.backends}",
                    "--allow-gpu-metrics=false",
                ),
                f"--backend-config=python,shm-region-prefix-name=rolling_{os.getpid()}_{number}_",
                *(f"{option}={value}" for option, value in zip(options, values, strict=True)),
            ],
            env=self.environment,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        replica = Replica(address, self.ports, process)
        wait_for(lambda: process.poll() is not None or _answers(address, self.ports["http"]))
        self.ready.append(replica)
        self.publish()
        return replica

    def publish(self) -> None:
        """Have the name mean the replicas that are ready."""
        lines = "".join(f"{replica.address} STREAM triton\n" for replica in self.ready)
        (self.folder / "addresses.new").write_text(lines)
        (self.folder / "addresses.new").replace(self.folder / "addresses")

    def restart(self, replica: Replica) -> None:
        """Tell it to end, which it does as it should, and start it anew; its address stays."""
        replica.process.send_signal(signal.SIGTERM)
        assert replica.process.wait(60) == 0
        self.ready.remove(replica)
        self.start(int(replica.address.rpartition(".")[2]))

    def delete(self, replica: Replica) -> float:
        """As a cluster deletes a pod; the seconds from its last answer to its end, with status 0."""
        watching = threading.Thread(target=replica.watch)
        watching.start()
        self.ready.remove(replica)
        self.publish()
        replica.drain()
        replica.process.send_signal(signal.SIGTERM)
        assert replica.process.wait(60) == 0
        ended_s = time.monotonic()
        watching.join()
        return ended_s - replica.last_answer_s


def _answers(address: str, port: int) -> bool:
    from urllib.request import urlopen

    with suppress(OSError):
        return bool(urlopen(f"http://{address}:{port}/v2/health/ready").status == 200)
    return False


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[Cluster]:
    with ExitStack() as stack:
        yield stack.enter_context(_running(tmp_path))


@contextmanager
def _running(folder: Path) -> Iterator[Cluster]:
    folder.chmod(0o755)
    found = find_distribution()
    ports = choose_ports({"http": None, "grpc": None, "metrics": None})
    programs = folder / "programs"
    programs.mkdir()
    _write_program(programs / "tritonserver", f'exec {found.binary} "$@"')
    _write_program(programs / "getent", f"cat {folder / 'addresses'}")
    environment = server_environment(found, os.environ)
    environment |= {
        "PATH": os.pathsep.join([str(programs), environment["PATH"], "/usr/sbin"]),
        "MODEL_REPOSITORY": str(write_echo_repository(folder / "repository")),
        "DETSERVE_GATEWAY_SECRET": "none",
    }
    gateway = _written_gateway(folder, ports)
    with assembled_backends(found) as backends:
        process = subprocess.Popen(
            ["sh", CHECKOUT / "deploy/gateway/serve.sh"],
            env={
                **environment,
                "GATEWAY_DIR": str(folder / "etc"),
                "RUN_DIR": str(folder / "run"),
                "ACCESS_LOG": str(gateway.access_log),
            },
            start_new_session=True,
        )
        made = Cluster(folder, ports, environment, backends, gateway, process, [])
        started: list[Replica] = made.ready
        try:
            yield made
        finally:
            for one in (process, *(replica.process for replica in started)):
                with suppress(ProcessLookupError):
                    os.killpg(one.pid, signal.SIGKILL)
                one.wait()


def _write_program(path: Path, line: str) -> None:
    path.write_text(f"#!/bin/sh\n{line}\n")
    path.chmod(0o755)


def _written_gateway(folder: Path, ports: dict[str, int]) -> NginxGateway:
    etc = folder / "etc"
    for name in ("gateway", "tls", "keys"):
        (etc / name).mkdir(parents=True)
    authority = new_authority("a")
    write_certified(folder / "ca.crt", authority)
    write_certified(etc / "tls/server.crt", new_server(authority, ["127.0.0.1"]))
    key, record = new_key("shop", limits=OPEN)
    change_keys(etc / "keys/keys.json", lambda _: KeyFile(keys=(record,)))
    port = choose_ports({"gateway": None})["gateway"]
    settings = GatewaySettings(
        listen=(f"127.0.0.1:{port}",),
        upstreams=(Upstream(grpc=f"triton:{ports['grpc']}", http=f"triton:{ports['http']}"),),
        certificate=etc / "tls/server.crt",
        certificate_key=etc / "tls/server.key",
        keys=etc / "keys/keys.conf",
        access_log=str(folder / "access.jsonl"),
        run_dir=folder,
        workers=2,
    )
    (etc / "gateway/nginx.conf").write_text(render(settings))
    security = Security(api_key=key, ca=folder / "ca.crt")
    return NginxGateway(folder, f"grpcs://127.0.0.1:{port}", security, folder / "access.jsonl")


@contextmanager
def _load(cluster: Cluster) -> Iterator[tuple[Load, Load]]:
    """Clients of the gateway over gRPC and over HTTP."""
    over_grpc = cluster.gateway
    over_http = replace(over_grpc, url=over_grpc.url.replace("grpcs", "https"))
    port = int(over_grpc.url.rpartition(":")[2])
    wait_for(lambda: not is_free(port))
    picture = cluster.folder / "picture"
    picture.write_bytes(b"17 5")
    with (
        load(over_grpc, NAME, picture, 1, clients=3) as by_grpc,
        load(over_http, NAME, picture, 1, clients=3) as by_http,
    ):
        yield by_grpc, by_http


def test_two_replicas_are_replaced_under_load_and_no_request_fails(cluster: Cluster) -> None:
    old = [cluster.start(2), cluster.start(3)]
    with _load(cluster) as loads:
        for number, replica in enumerate(old, start=4):
            for one in loads:
                one.wait_for(50)
            cluster.start(number)
            after_s = cluster.delete(replica)
            print(f"a replica ended {after_s:.1f} s after its last answer")
            assert after_s < ENDED_AFTER_LAST_ANSWER_S
        for one in loads:
            one.wait_for(50)
    assert [one.errors for one in loads] == [[], []]
    assert {record["outcome"] for record in cluster.gateway.inferences()} == {"ok"}, "nobody had to try again"
    cluster.gateway_process.send_signal(signal.SIGTERM)
    assert cluster.gateway_process.wait(20) == 0


@pytest.mark.parametrize("busy", [False, True])
def test_the_only_one_ends_well_while_the_gateway_stays(cluster: Cluster, busy: bool) -> None:
    """As in docker compose restart triton-cpu: the gateway knows nothing, and lets go of its connections."""
    only = cluster.start(2)
    with _load(cluster) as loads:
        for one in loads:
            one.wait_for(50)
        if busy:
            cluster.restart(only)
            for one in loads:
                one.wait_for(50)
    if not busy:
        cluster.restart(only)
    assert [one.errors for one in loads] == [[], []]


def test_one_that_is_told_before_the_gateway_knows_ends_well_too(cluster: Cluster) -> None:
    """The gateway lets go of its connections; HTTP goes to the other at once, gRPC if sent again."""
    told = cluster.start(2)
    cluster.start(3)
    with _load(cluster) as loads:
        for one in loads:
            one.wait_for(50)
        told.process.send_signal(signal.SIGTERM)
        assert told.process.wait(60) == 0
        for one in loads:
            one.wait_for(50)
    assert [one.errors for one in loads] == [[], []]
    failed = [record for record in cluster.gateway.inferences() if record["outcome"] != "ok"]
    assert {record["protocol"] for record in failed} <= {"grpc"}
