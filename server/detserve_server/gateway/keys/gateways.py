"""Which gateways take their keys from a file: those that say so beside it, or the one rendered for it."""

from __future__ import annotations

import contextlib
import glob
import os
import re
import socket
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

from pydantic import BaseModel, Field, ValidationError

from detserve_core.errors import OutputError
from detserve_core.machine.ports import LOOPBACK
from detserve_core.machine.whole_files import link_target, write_whole
from detserve_server.errors import GatewayError
from detserve_server.gateway.settings import SETTINGS, GatewaySettings

_URL = re.compile(r"https://(?:[A-Za-z0-9_.-]+|\[[0-9A-Fa-f:]+\]):\d{1,5}")
_EVERY_ADDRESS = ("", "*", "0.0.0.0", "[::]")  # noqa: S104


class Announcement(BaseModel):
    """What a running gateway writes beside the file of keys that it goes by."""

    url: str
    pid: int = Field(gt=0, lt=2**31)
    host: str

    def ended(self) -> bool:
        """Whether its process ran on this machine and runs no more."""
        if self.host != socket.gethostname():
            return False
        try:
            os.kill(self.pid, 0)
        except ProcessLookupError:
            return True
        except PermissionError:  # another user's
            pass
        return False


class KnownGateway(NamedTuple):
    """Where a gateway is asked; ``guessed_from`` is the file that only suggests it, if one does."""

    url: str
    guessed_from: Path | None = None


@contextmanager
def announced(keys: Path, host: str, port: int, pid: int) -> Iterator[None]:
    """Say beside a file of keys that a gateway goes by it; not where the folder cannot be written."""
    target = link_target(keys)
    path = target.with_name(f".{target.name}.gateway-{socket.gethostname()}-{pid}")
    announcement = Announcement(url=_url(host, port), pid=pid, host=socket.gethostname())
    with contextlib.suppress(OutputError):
        write_whole(path, announcement.model_dump_json().encode())
    try:
        yield
    finally:
        with contextlib.suppress(OSError):
            path.unlink(missing_ok=True)


def known_gateways(keys: Path, named: Sequence[str]) -> list[KnownGateway]:
    """The gateways that are named, else those announced beside the file and one rendered for its folder.

    Raises :class:`GatewayError` for a name that is not an https address.
    """
    for url in named:
        if not _URL.fullmatch(url.rstrip("/")):
            raise GatewayError(f"--gateway: got {url!r}, expected https://HOST:PORT of a running gateway")
    if named:
        return [KnownGateway(url.rstrip("/")) for url in named]
    found = _announced_beside(link_target(keys))
    for folder in dict.fromkeys([keys.absolute().parent, link_target(keys).parent]):
        path = folder.parent / "gateway" / SETTINGS
        with contextlib.suppress(OSError, ValidationError):
            listen = GatewaySettings.model_validate_json(path.read_bytes()).listen[0]
            host, _, port = listen.rpartition(":")
            url = _url(host, int(port))
            if url not in {gateway.url for gateway in found}:
                found.append(KnownGateway(url, guessed_from=path))
            break
    return found


def _announced_beside(target: Path) -> list[KnownGateway]:
    found = []
    for path in sorted(target.parent.glob(f".{glob.escape(target.name)}.gateway-*")):
        with contextlib.suppress(OSError, ValidationError):
            announcement = Announcement.model_validate_json(path.read_bytes())
            if announcement.ended():
                path.unlink()
            else:
                found.append(KnownGateway(announcement.url))
    return found


def _url(host: str, port: int) -> str:
    return f"https://{LOOPBACK if host in _EVERY_ADDRESS else host}:{port}"
