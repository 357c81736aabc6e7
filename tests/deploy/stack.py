"""The shipped docker-compose.yml, started with other base images."""

from __future__ import annotations

import json
import os
import secrets
import subprocess
import sys
import time
import urllib.parse
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from detserve_client import Client, Security
from detserve_core.machine.ports import choose_ports
from detserve_server.audit.record import record_of
from tests.deploy.base_images import base_images

CHECKOUT = Path(__file__).parents[2]
#: All of the cpu profile but Grafana, which cannot be had.
SERVICES = ("triton-cpu", "gateway", "audit", "prometheus")
USER = 1000
DETSERVE = Path(sys.executable).parent / "detserve"


class Stack:
    """One compose project with a name, a state folder and its own port."""

    def __init__(self, state: Path, images: dict[str, str]) -> None:
        self.project = f"detserve-test-{secrets.token_hex(4)}"
        self.state = state
        self.port = choose_ports({"gateway": None})["gateway"]
        self.settings = {
            "COMPOSE_PROJECT_NAME": self.project,
            "COMPOSE_PROFILES": "cpu",
            "DETSERVE_STATE": str(state),
            "DETSERVE_USER": f"{USER}:{USER}",
            "GATEWAY_LISTEN": f"127.0.0.1:{self.port}",
            **images,
        }
        self.key = ""

    def compose(self, *arguments: str) -> str:
        """Run ``docker compose``; its standard output."""
        command = ["docker", "compose", "--ansi", "never", "--progress", "plain", *arguments]
        done = subprocess.run(
            command, cwd=CHECKOUT, env={**os.environ, **self.settings}, capture_output=True, text=True
        )
        if done.returncode != 0:
            raise RuntimeError(f"{' '.join(command)}:\n{(done.stdout + done.stderr)[-6000:]}")
        return done.stdout

    def detserve(self, command: str, *arguments: str) -> str:
        """Run a subcommand on the state folder, as the operator would, with files of the containers' user."""
        done = subprocess.run(
            [str(DETSERVE), command, *arguments], cwd=self.state, capture_output=True, text=True, check=True
        )
        for path in (self.state, *self.state.rglob("*")):
            os.chown(path, USER, USER)
        return done.stdout.strip()

    def doctor(self) -> subprocess.CompletedProcess[str]:
        """``detserve doctor --compose`` with this project's settings."""
        return subprocess.run(
            [str(DETSERVE), "doctor", "--compose", "docker-compose.yml"],
            cwd=CHECKOUT,
            env={**os.environ, **self.settings, "COLUMNS": "200"},
            capture_output=True,
            text=True,
        )

    def prepare(self) -> None:
        """The steps of docs/tutorial/production.md before the first start."""
        for folder in ("log", "audit", "audit-key"):
            (self.state / folder).mkdir(parents=True)
        self.detserve("certs", "init")
        self.detserve("certs", "issue", "server", "--host", "localhost", "--host", "127.0.0.1")
        self.detserve("gateway", "render", "--output", "gateway", "--triton", "triton")
        self.key = self.new_key("warehouse")

    def new_key(self, client: str, *options: str) -> str:
        """An API key for a client."""
        return self.detserve("keys", "create", "--keys", "keys/keys.json", "--client", client, *options)

    def client(
        self, protocol: str, model: str = "codes_yolo", *, key: str = "", timeout_s: float = 20
    ) -> Client:
        """A client of the gateway with a key; ``protocol`` is grpcs or https."""
        security = Security(api_key=key or self.key, ca=self.state / "tls/ca/ca.crt")
        return Client(f"{protocol}://localhost:{self.port}", model, security=security, timeout_s=timeout_s)

    def container(self, service: str) -> dict[str, Any]:
        """What ``docker inspect`` says of the container of a service."""
        name = f"{self.project}-{service}-1"
        done = subprocess.run(["docker", "inspect", name], capture_output=True, text=True, check=True)
        inspected: dict[str, Any] = json.loads(done.stdout)[0]
        return inspected

    def python(self, service: str, code: str) -> str:
        """Run Python in the container of a service; what it prints."""
        return self.compose("exec", "-T", service, "python3", "-c", code).strip()

    def log(self) -> list[dict[str, Any]]:
        """The requests in the gateway's access log."""
        return [record_of(line) for line in (self.state / "log/access.jsonl").read_bytes().splitlines()]

    def prometheus(self, path: str, **parameters: str) -> Any:
        """Ask Prometheus, which is not published, from the audit container beside it."""
        url = f"http://prometheus:9090/api/v1/{path}?{urllib.parse.urlencode(parameters)}"
        answer = self.python(
            "audit", f"import urllib.request as u; print(u.urlopen({url!r}, timeout=5).read().decode())"
        )
        return json.loads(answer)["data"]

    def left_over(self, kind: str) -> list[str]:
        """Containers, networks or volumes of this project."""
        command = ["docker", kind, "ls", "--filter", f"label=com.docker.compose.project={self.project}"]
        if kind == "container":
            command.append("--all")
        done = subprocess.run(
            [*command, "--format", "{{json .}}"], capture_output=True, text=True, check=True
        )
        return sorted(
            json.loads(line)["Names" if kind == "container" else "Name"] for line in done.stdout.splitlines()
        )


def wait_for(question: Any, timeout_s: float = 30) -> Any:
    """Ask until the answer is true; the answer."""
    end_s = time.monotonic() + timeout_s
    while True:
        answer = question()
        if answer or time.monotonic() > end_s:
            return answer
        time.sleep(0.5)


@contextmanager
def running_stack(state: Path) -> Iterator[Stack]:
    """``docker compose up --wait`` of the cpu profile; taken down with its volumes afterwards."""
    stack = Stack(state, base_images())
    stack.prepare()
    try:
        stack.compose("build", "--quiet", "triton-cpu", "audit")
        stack.compose("up", "--detach", "--wait", "--wait-timeout", "180", *SERVICES)
        yield stack
    except RuntimeError as error:
        logs = subprocess.run(
            ["docker", "compose", "logs", "--tail", "30"],
            cwd=CHECKOUT, env={**os.environ, **stack.settings}, capture_output=True, text=True,
        )  # fmt: skip
        raise RuntimeError(f"{error}\n{logs.stdout}") from None
    finally:
        stack.compose("down", "--volumes", "--rmi", "local", "--timeout", "20")
