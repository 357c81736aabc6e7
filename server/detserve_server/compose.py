"""A compose project as ``docker compose`` itself understands it: settings, defaults and .env applied."""

from __future__ import annotations

import json
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from detserve_server.errors import ComposeError

#: The first with optional files of environment variables.
COMPOSE_NEEDED = (2, 24)

#: What tells detserve's own compose file from another.
_NEEDED = (
    ("triton-cpu", "/models"),
    ("gateway", "/etc/detserve/gateway"),
    ("audit", "/var/lib/detserve/audit"),
)


@dataclass(frozen=True)
class ComposeProject:
    """What ``docker compose config`` says."""

    name: str
    services: dict[str, dict[str, Any]]

    @property
    def triton(self) -> dict[str, Any]:
        """The service that serves, of the CPU profile; the GPU's differs by its GPUs alone."""
        return self._service("triton-cpu")

    @property
    def gateway(self) -> dict[str, Any]:
        """nginx."""
        return self._service("gateway")

    @property
    def user_id(self) -> int:
        """Whom the containers of Triton, the gateway and the audit log run as."""
        user = str(self.gateway["user"])
        number = user.partition(":")[0]
        if not number.isdecimal() or int(number) == 0:
            raise ComposeError(f"DETSERVE_USER is {user}; put numbers into .env, of a user that is not root")
        return int(number)

    @property
    def repository(self) -> Path:
        """The model repository on this machine."""
        return self.mounted("triton-cpu", "/models")

    @property
    def published(self) -> list[tuple[str, int]]:
        """Addresses and ports on which the gateway is to listen here."""
        return [(port.get("host_ip", "0.0.0.0"), int(port["published"])) for port in self.gateway["ports"]]  # noqa: S104

    def mounted(self, service: str, target: str) -> Path:
        """What of this machine a container sees as ``target``."""
        for volume in self._service(service).get("volumes", []):
            if volume["target"] == target:
                return Path(volume["source"])
        raise ComposeError(f"{service} mounts nothing at {target}; give detserve's own docker-compose.yml")

    def pulled_images(self) -> dict[str, str]:
        """The image that each service is pulled from or, where it is built, is built on."""
        images = {}
        for name, service in self.services.items():
            bases = [
                value
                for key, value in service.get("build", {}).get("args", {}).items()
                if key.endswith("_IMAGE")
            ]
            images[name] = bases[0] if bases else service.get("image", "")
        return images

    def _service(self, name: str) -> dict[str, Any]:
        try:
            return self.services[name]
        except KeyError:
            raise ComposeError(
                f"the compose file has no service {name}; give detserve's own docker-compose.yml"
            ) from None


def ask_docker(*arguments: str) -> str:
    """What ``docker`` prints; raises :class:`ComposeError` with the last line of its complaint."""
    if shutil.which("docker") is None:
        raise ComposeError("docker is not installed; install Docker Engine with its compose plugin")
    done = subprocess.run(["docker", *arguments], capture_output=True, text=True)
    if done.returncode != 0:
        complaint = done.stderr.strip().splitlines() or [f"docker {arguments[0]} fails and does not say why"]
        raise ComposeError(complaint[-1])
    return done.stdout.strip()


def read_compose(file: Path) -> ComposeProject:
    """Let ``docker compose`` read a file with all its profiles; raises :class:`ComposeError`."""
    if not file.is_file():
        raise ComposeError(f"{file} does not exist; give the path of docker-compose.yml")
    text = ask_docker("compose", "--file", str(file), "--profile", "*", "config", "--format", "json")
    config = json.loads(text)
    project = ComposeProject(config["name"], config["services"])
    for service, target in _NEEDED:
        project.mounted(service, target)
    return project
