"""A compose project as ``docker compose`` itself understands it: settings, defaults and .env applied."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path
from typing import Annotated

from pydantic import BaseModel, BeforeValidator, ConfigDict, ValidationError

from detserve_core.card import first_mistake
from detserve_server.errors import ComposeError
from detserve_server.triton.shared_memory import MIB

#: The first with optional files of environment variables.
COMPOSE_NEEDED = (2, 24)

#: What tells detserve's own compose file from another.
_NEEDED = (
    ("triton-cpu", "/models"),
    ("gateway", "/etc/detserve/gateway"),
    ("audit", "/var/lib/detserve/audit"),
)


#: The names for which ``docker compose`` looks, and reads an override beside them.
_FOUND_BY_ITSELF = ("compose.yaml", "compose.yml", "docker-compose.yaml", "docker-compose.yml")
_EVERYWHERE = "0.0.0.0"  # noqa: S104

#: A container's /dev/shm where its service says nothing.
_ENGINE_SHM_BYTES = 64 * MIB

_Text = Annotated[str, BeforeValidator(str)]


class _Part(BaseModel):
    model_config = ConfigDict(extra="ignore", frozen=True)


class Build(_Part):
    """An image that is built; an argument without a value comes from the environment."""

    args: dict[str, str | None] = {}


class Port(_Part):
    """``published`` is a port, a range FROM-TO of which one is taken, or "" where the engine chooses one."""

    host_ip: str = ""
    published: _Text = ""


class Volume(_Part):
    """Where a container sees what; ``source`` is a path where ``type`` is bind."""

    type: str
    source: str = ""
    target: str


class Service(_Part):
    """What of a service is looked at here."""

    image: str = ""
    build: Build | None = None
    user: _Text = ""
    shm_size: int = _ENGINE_SHM_BYTES
    ports: tuple[Port, ...] = ()
    volumes: tuple[Volume, ...] = ()


class ComposeProject(_Part):
    """What ``docker compose config`` says."""

    name: str
    services: dict[str, Service]

    @property
    def triton(self) -> Service:
        """The service that serves, of the CPU profile; the GPU's differs by its GPUs alone."""
        return self._service("triton-cpu")

    @property
    def gateway(self) -> Service:
        """nginx."""
        return self._service("gateway")

    @property
    def user_id(self) -> int:
        """Whom the containers of Triton, the gateway and the audit log run as."""
        user = self.gateway.user
        if not user:
            raise ComposeError("the gateway has no user; give it user: ${DETSERVE_USER:-1000:1000}")
        number = user.partition(":")[0]
        if not (number.isascii() and number.isdecimal()) or int(number) == 0:
            raise ComposeError(f"DETSERVE_USER is {user}; put numbers into .env, of a user that is not root")
        return int(number)

    @property
    def repository(self) -> Path:
        """The model repository on this machine."""
        return self.mounted("triton-cpu", "/models")

    @property
    def published(self) -> list[tuple[str, range]]:
        """Addresses and the ports, of which one each, on which the gateway is to listen here."""
        return [(port.host_ip or _EVERYWHERE, _range(port)) for port in self.gateway.ports]

    def mounted(self, service: str, target: str) -> Path:
        """What of this machine a container sees as ``target``."""
        for volume in self._service(service).volumes:
            if volume.target == target:
                if volume.type == "bind":
                    return Path(volume.source)
                raise ComposeError(
                    f"{service} mounts the {volume.type} {volume.source or 'without a name'} at {target}; "
                    f"mount a folder of this machine there"
                )
        raise ComposeError(f"{service} mounts nothing at {target}; give detserve's own docker-compose.yml")

    def pulled_images(self) -> dict[str, str]:
        """The image that each service is pulled from or, where it is built, is built on; "" is none."""
        images = {}
        for name, service in self.services.items():
            args = service.build.args if service.build else {}
            bases = [value for key, value in args.items() if key.endswith("_IMAGE") and value]
            images[name] = bases[0] if bases else service.image
        return images

    def _service(self, name: str) -> Service:
        try:
            return self.services[name]
        except KeyError:
            raise ComposeError(
                f"the compose file has no service {name}; give detserve's own docker-compose.yml"
            ) from None


def _range(port: Port) -> range:
    """The ports of which one is published."""
    first, _, last = port.published.partition("-")
    try:
        return range(int(first), int(last or first) + 1)
    except ValueError:
        said = f"at {port.published!r}" if port.published else "at a port that the engine chooses"
        raise ComposeError(
            f"the gateway is published {said}; put GATEWAY_LISTEN=ADDRESS:PORT into .env"
        ) from None


def ask_docker(*arguments: str) -> str:
    """What ``docker`` prints; raises :class:`ComposeError` with the last line of its complaint."""
    if shutil.which("docker") is None:
        raise ComposeError("docker is not installed; install Docker Engine with its compose plugin")
    try:
        done = subprocess.run(["docker", *arguments], capture_output=True, text=True, errors="replace")
    except OSError as error:
        raise ComposeError(f"docker cannot be run ({error.strerror}); install Docker Engine") from None
    if done.returncode != 0:
        complaint = done.stderr.strip().splitlines() or [f"docker {arguments[0]} fails and does not say why"]
        raise ComposeError(complaint[-1])
    return done.stdout.strip()


def read_compose(file: Path) -> ComposeProject:
    """Let ``docker compose`` read a file with all its profiles; raises :class:`ComposeError`.

    A docker-compose.override.yml beside it is read too, as ``docker compose up`` does.
    """
    if not file.is_file():
        raise ComposeError(f"{file} does not exist; give the path of docker-compose.yml")
    files = [part for each in (file, *_overrides(file)) for part in ("--file", str(each))]
    text = ask_docker("compose", *files, "--profile", "*", "config", "--format", "json")
    try:
        project = ComposeProject.model_validate_json(text)
    except ValidationError as error:
        raise ComposeError(
            f"{first_mistake(error, str(file))}; give detserve's own docker-compose.yml"
        ) from None
    for service, target in _NEEDED:
        project.mounted(service, target)
    return project


def _overrides(file: Path) -> list[Path]:
    if file.name not in _FOUND_BY_ITSELF:
        return []
    beside = [file.with_name(f"{file.stem}.override.{end}") for end in ("yml", "yaml")]
    return [path for path in beside if path.is_file()][:1]
