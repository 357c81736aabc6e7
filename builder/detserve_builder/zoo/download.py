"""One file over HTTP, resumed where it broke off, and whole or not there."""

from __future__ import annotations

import fcntl
import http.client
import urllib.error
import urllib.request
from collections.abc import Callable
from dataclasses import dataclass
from http import HTTPStatus
from pathlib import Path
from typing import Any

from detserve_builder.errors import BuildError
from detserve_core.machine.sha256 import file_sha256
from detserve_core.machine.whole_files import blamed_on

_CHUNK_BYTES = 1 << 16
_TIMEOUT_S = 30
_ATTEMPTS = 5


@dataclass(frozen=True)
class Download:
    """What to get, where to put it, and how to know that it is the right file."""

    url: str
    target: Path
    sha256: str
    size_bytes: int

    @property
    def part(self) -> Path:
        """What has arrived so far."""
        return self.target.with_name(f"{self.target.name}.part")

    @property
    def etag(self) -> Path:
        """The server's name for the version that ``part`` is of."""
        return self.target.with_name(f"{self.target.name}.etag")

    @property
    def arrived_bytes(self) -> int:
        """How much of the file is here."""
        return self.part.stat().st_size if self.part.is_file() else 0


def download(wanted: Download, on_bytes: Callable[[int], None] = lambda count: None) -> None:
    """Get a file, unless its target is there with the right content.

    What arrived before a connection broke is kept in ``TARGET.part``; the next attempt or call asks for the
    rest. ``on_bytes`` is told how many bytes are here. Proxies are those of HTTP_PROXY, HTTPS_PROXY and
    NO_PROXY. Two downloads of one file take turns.

    Raises:
        BuildError: no server there, no such file, the connection broke too often, or other content came.
        OutputError: the file cannot be written.
    """
    target = wanted.target
    with blamed_on(target):
        target.parent.mkdir(parents=True, exist_ok=True)
        with target.with_name(f"{target.name}.lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            if file_sha256(target) != wanted.sha256:
                _complete(wanted, on_bytes)
                wanted.part.replace(target)
                wanted.etag.unlink(missing_ok=True)
    on_bytes(wanted.size_bytes)


def _complete(wanted: Download, on_bytes: Callable[[int], None]) -> None:
    """Ask until the part is the whole file."""
    reason = "it ended early"
    for _ in range(_ATTEMPTS):
        in_one_go = False
        if wanted.arrived_bytes < wanted.size_bytes:
            try:
                in_one_go = _ask(wanted, on_bytes)
            except (http.client.HTTPException, ConnectionError, TimeoutError) as error:
                reason = str(error) or type(error).__name__
            if wanted.arrived_bytes < wanted.size_bytes:
                continue
        if file_sha256(wanted.part) == wanted.sha256:
            return
        wanted.part.unlink()
        wanted.etag.unlink(missing_ok=True)
        if in_one_go:
            raise _other_content(wanted, f"the sha256 is not {wanted.sha256[:12]}…")
    raise BuildError(
        f"{wanted.url}: the connection broke {_ATTEMPTS} times ({reason}); {wanted.arrived_bytes} of "
        f"{wanted.size_bytes} bytes are here, and the same command goes on from there"
    )


def _ask(wanted: Download, on_bytes: Callable[[int], None]) -> bool:
    """Append what is missing, or begin again where the server sends the whole; True for the whole."""
    have = wanted.arrived_bytes
    headers = {"User-Agent": "detserve", "Accept-Encoding": "identity"}
    if have:
        headers["Range"] = f"bytes={have}-"
        if wanted.etag.is_file():
            headers["If-Range"] = wanted.etag.read_text()
    with _opened(wanted, headers) as response:
        goes_on = response.headers.get("Content-Range", "").startswith(f"bytes {have}-")
        if response.status != HTTPStatus.PARTIAL_CONTENT or not goes_on:
            have = 0
        length = response.headers.get("Content-Length")
        if length is not None and have + int(length) != wanted.size_bytes:
            wanted.part.unlink(missing_ok=True)
            raise _other_content(wanted, f"{have + int(length)} bytes instead of {wanted.size_bytes}")
        _keep_etag(wanted, response.headers.get("ETag", ""))
        with wanted.part.open("ab" if have else "wb") as file:
            arrived = have
            while arrived <= wanted.size_bytes and (chunk := response.read1(_CHUNK_BYTES)):
                file.write(chunk)
                arrived += len(chunk)
                on_bytes(min(arrived, wanted.size_bytes))
    return have == 0


def _opened(wanted: Download, headers: dict[str, str]) -> Any:
    """The response, once it is one with content."""
    request = urllib.request.Request(wanted.url, headers=headers)  # noqa: S310 - the scheme was checked
    try:  # urlopen would keep the proxies of its first call
        return urllib.request.build_opener().open(request, timeout=_TIMEOUT_S)
    except urllib.error.HTTPError as error:
        if error.code == HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE:
            wanted.part.unlink(missing_ok=True)
            raise ConnectionError("the server has no such range") from None
        if error.code >= HTTPStatus.INTERNAL_SERVER_ERROR:
            raise ConnectionError(f"{error.code} {error.reason}") from None
        raise BuildError(
            f"{wanted.url}: the server answers {error.code} {error.reason}; a mirror named by "
            "DETSERVE_ZOO_URL must hold NAME/FILE as the cache folder does"
        ) from None
    except urllib.error.URLError as error:
        reason = getattr(error.reason, "strerror", None) or error.reason
        raise BuildError(
            f"{wanted.url}: no connection ({reason}); behind a proxy set HTTPS_PROXY, "
            "or name a mirror with DETSERVE_ZOO_URL"
        ) from None


def _keep_etag(wanted: Download, etag: str) -> None:
    """For the next ``If-Range``, which takes strong tags only."""
    if etag and not etag.startswith("W/"):
        wanted.etag.write_text(etag)
    else:
        wanted.etag.unlink(missing_ok=True)


def _other_content(wanted: Download, how: str) -> BuildError:
    return BuildError(
        f"{wanted.url}: other content than expected came ({how}); nothing was kept; a proxy or a mirror may "
        "have answered in its place"
    )
