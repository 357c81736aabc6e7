"""nginx as the gateway of this machine, for as long as a ``with`` block runs."""

from __future__ import annotations

import contextlib
import os
import secrets
import shutil
import signal
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from pydantic import ValidationError

from detserve_client.files import write_whole
from detserve_server import guard
from detserve_server.certificates.revocation import check_lists
from detserve_server.errors import GatewayError, ServerStopped
from detserve_server.gateway.configuration import render
from detserve_server.gateway.secret import write_secret
from detserve_server.gateway.settings import GatewaySettings, Upstream
from detserve_server.keys.key import utc_now
from detserve_server.keys.store import nginx_keys, read_keys
from detserve_server.ports import LOOPBACK, choose_ports, is_free

_POLL_S = 0.05
_WATCH_S = 0.5
_START_S = 10.0
_STOP_S = 5.0

#: The file names of ``--tls DIR``, as ``detserve certs`` writes them.
SERVER_CERTIFICATE, SERVER_KEY, CLIENT_AUTHORITIES = "server.crt", "server.key", "clients.crt"
CLIENT_CRL = "clients.crl"


@dataclass(frozen=True)
class RunningGateway:
    """Where the gateway listens; both protocols share the port."""

    host: str
    port: int
    pid: int
    access_log: Path
    _process: subprocess.Popen[bytes] = field(repr=False, compare=False)
    _refresh: Callable[[], None] = field(repr=False, compare=False)

    @property
    def grpc_url(self) -> str:
        """``grpcs://HOST:PORT``."""
        return f"grpcs://{self.host}:{self.port}"

    @property
    def http_url(self) -> str:
        """``https://HOST:PORT``."""
        return f"https://{self.host}:{self.port}"

    def reload(self) -> None:
        """Take up changed keys and certificates now; requests under way are finished by the old workers.

        Raises :class:`GatewayError` when nginx refuses them, and goes on with the old ones.
        """
        self._refresh()
        self._process.send_signal(signal.SIGHUP)

    def check_running(self) -> None:
        """Raise :class:`ServerStopped` when nginx has ended by itself."""
        if self._process.poll() is not None:
            raise ServerStopped(f"the gateway ended with status {self._process.returncode}")


@contextmanager
def running_gateway(
    upstreams: Sequence[Upstream],
    *,
    tls: Path,
    keys: Path | None,
    require_client_certificate: bool = False,
    host: str = LOOPBACK,
    port: int | None = None,
    secret: str | None = None,
    access_log: Path,
    **limits: int,
) -> Iterator[RunningGateway]:
    """Run nginx in front of ``upstreams``; changed keys and certificates are taken up within a second.

    ``tls`` holds server.crt, server.key and, for client certificates, clients.crt, with clients.crl from the
    first revocation on; ``keys`` is a keys.json.
    ``limits`` are further fields of :class:`GatewaySettings`.

    Raises :class:`GatewayError`: nginx is not installed, refuses the configuration or does not start.
    Raises :class:`CertificateError`: clients.crl is gone, or lacks the list of an authority of clients.crt.
    """
    nginx = find_nginx()
    port = choose_ports({"the gateway": port})["the gateway"]
    access_log = access_log.resolve()
    access_log.parent.mkdir(parents=True, exist_ok=True)
    folder = Path(tempfile.mkdtemp(prefix="detserve-gateway-"))
    folder.chmod(0o711)  # nginx's workers run as nobody where its master is root
    try:
        settings = _settings(
            listen=(f"{host}:{port}",),
            upstreams=tuple(upstreams),
            certificate=_present(tls, SERVER_CERTIFICATE),
            certificate_key=_present(tls, SERVER_KEY),
            client_authorities=_present(tls, CLIENT_AUTHORITIES) if require_client_certificate else None,
            keys=folder / "keys.conf" if keys else None,
            secret=folder / "secret.conf" if secret else None,
            access_log=str(access_log),
            error_log=folder / "error.log",
            run_dir=folder,
            **limits,
        )
        if secret:
            write_secret(folder / "secret.conf", folder / "triton.env", secret)

        def refresh() -> None:
            if keys is not None:
                write_whole(folder / "keys.conf", nginx_keys(read_keys(keys)).encode(), mode=0o600)
            write_whole(folder / "nginx.conf", render(_with_revoked(settings, tls)).encode(), mode=0o600)
            check_configuration(nginx, folder)

        refresh()
        with _process(nginx, folder) as process:
            _wait_until_listening(process, host, port, folder)
            running = RunningGateway(host, port, process.pid, access_log, process, refresh)
            watched = [settings.certificate, settings.certificate_key, settings.client_authorities, keys]
            watched.append((tls / CLIENT_CRL).resolve())
            with _watching([path for path in watched if path is not None], running):
                yield running
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def find_nginx() -> str:
    """The nginx program; raises :class:`GatewayError` when it is not installed."""
    found = shutil.which("nginx", path=os.pathsep.join([os.environ.get("PATH", ""), "/usr/sbin", "/sbin"]))
    if found is None:
        raise GatewayError("nginx is not installed; install it with: apt-get install nginx-light")
    return found


def check_configuration(nginx: str, folder: Path) -> None:
    """``nginx -t`` on ``folder/nginx.conf``; raises :class:`GatewayError` with nginx's first complaint."""
    checked = subprocess.run([*_command(nginx, folder), "-t", "-q"], capture_output=True, text=True)
    if checked.returncode:
        complaints = [line for line in checked.stderr.splitlines() if "[emerg]" in line]
        reason = complaints[0].partition("[emerg] ")[2] if complaints else checked.stderr.strip()
        raise GatewayError(f"nginx refuses the gateway's configuration: {reason}")


def _settings(**fields: object) -> GatewaySettings:
    try:
        return GatewaySettings.model_validate(fields)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"]))
        raise GatewayError(f"the gateway's {where or 'settings'}: {first['msg']}") from None


def _present(tls: Path, name: str) -> Path:
    path = (tls / name).resolve()
    if not path.is_file():
        raise GatewayError(f"{path} is missing; make it with detserve certs, or put your own file there")
    return path


def _with_revoked(settings: GatewaySettings, tls: Path) -> GatewaySettings:
    crl = (tls / CLIENT_CRL).resolve()
    if settings.client_authorities is None or not (crl.exists() or (tls / f"{CLIENT_CRL}.conf").exists()):
        return settings
    check_lists(settings.client_authorities, crl, utc_now())
    return settings.model_copy(update={"client_crl": crl})


def _command(nginx: str, folder: Path) -> list[str]:
    return [nginx, "-p", str(folder), "-c", str(folder / "nginx.conf"), "-e", str(folder / "error.log")]


@contextmanager
def _process(nginx: str, folder: Path) -> Iterator[subprocess.Popen[bytes]]:
    process = subprocess.Popen(
        [*_command(nginx, folder), "-g", "daemon off;"],
        env={**os.environ, "TZ": "UTC"},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    watcher = None
    try:
        # The guard removes the folder; the name of a region that nobody has keeps it off shared memory.
        watcher = guard.start(process.pid, f"detserve_gateway_{secrets.token_hex(8)}", folder)
        yield process
    finally:
        process.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(_STOP_S)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        if watcher is not None:
            watcher.kill()
            watcher.wait()


def _wait_until_listening(process: subprocess.Popen[bytes], host: str, port: int, folder: Path) -> None:
    deadline_s = time.monotonic() + _START_S
    while is_free(port, host):
        if process.poll() is not None or time.monotonic() > deadline_s:
            log = (folder / "error.log").read_text(errors="replace").strip().splitlines()
            raise GatewayError(f"nginx does not start: {log[-1] if log else 'it says nothing'}")
        time.sleep(_POLL_S)


@contextmanager
def _watching(paths: list[Path], gateway: RunningGateway) -> Iterator[None]:
    """Reload when a file has changed, and again until nginx takes it: a pair is never written at once."""
    stopped = threading.Event()

    def watch() -> None:
        taken = _stamps(paths)
        while not stopped.wait(_WATCH_S):
            stamps = _stamps(paths)
            if stamps != taken:
                with contextlib.suppress(Exception):
                    gateway.reload()
                    taken = stamps

    thread = threading.Thread(target=watch, name="detserve-gateway-watch", daemon=True)
    thread.start()
    try:
        yield
    finally:
        stopped.set()
        thread.join()


def _stamps(paths: list[Path]) -> list[tuple[int, int, int] | None]:
    stamps: list[tuple[int, int, int] | None] = []
    for path in paths:
        try:
            found = path.stat()
            stamps.append((found.st_mtime_ns, found.st_size, found.st_ino))
        except OSError:
            stamps.append(None)
    return stamps
