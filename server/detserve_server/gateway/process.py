"""nginx as the gateway of this machine, for as long as a ``with`` block runs."""

from __future__ import annotations

import os
import secrets
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from pydantic import ValidationError

from detserve_core.machine.ports import LOOPBACK, choose_ports, is_free
from detserve_core.machine.process_group import stop_group
from detserve_server.errors import GatewayError, ServerStopped
from detserve_server.gateway.certificates.revocation import check_lists
from detserve_server.gateway.changing_files import ChangingFiles, say, stamps, watching
from detserve_server.gateway.configuration import render
from detserve_server.gateway.keys.gateways import announced
from detserve_server.gateway.keys.key import utc_now
from detserve_server.gateway.keys.nginx import notes_of
from detserve_server.gateway.keys.store import keys_for_nginx
from detserve_server.gateway.settings import SETTINGS, GatewaySettings, Upstream
from detserve_server.gateway.shared_secret import write_secret
from detserve_server.gateway.upkeep import ALERTS, killed_workers, places, turn_logs_over, with_new_counts
from detserve_server.triton import orphans

_POLL_S = 0.05
_START_S = 10.0
_STOP_S = 5.0

#: The file names of ``--tls DIR``, as ``detserve certs`` writes them.
SERVER_CERTIFICATE, SERVER_KEY, CLIENT_AUTHORITIES = "server.crt", "server.key", "clients.crt"
CLIENT_CRL = "clients.crl"


@dataclass(frozen=True)
class RunningGateway:
    """Where the gateway listens; both protocols share the port. ``folder`` is for ``detserve rollout``."""

    host: str
    port: int
    folder: Path
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
        """Take up changed keys and certificates now; requests in flight are finished by the old workers.

        Raises :class:`GatewayError` when nginx refuses them, and goes on with the old ones.
        """
        try:
            self._refresh()
        finally:
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
    rest: Sequence[str] = (),
    **limits: int,
) -> Iterator[RunningGateway]:
    """Run nginx in front of ``upstreams``; changed keys and certificates are taken up within a second.

    ``tls`` holds server.crt, server.key and, for client certificates, clients.crt, with clients.crl from the
    first revocation on; ``keys`` is a keys.json; ``rest`` names each ``detserve rest`` as HOST:PORT.
    ``limits`` are further fields of :class:`GatewaySettings`.
    A change that cannot be read, or that nginx refuses, is said on the standard error stream and in
    ``gateway.prom`` beside the access log; what was in force stays so. A file beside ``keys`` says where it
    runs, for ``detserve keys`` to ask.

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
        certificates = {name: _present(tls, name) for name in (SERVER_CERTIFICATE, SERVER_KEY)}
        if require_client_certificate:
            certificates[CLIENT_AUTHORITIES] = _present(tls, CLIENT_AUTHORITIES)
        settings = _settings(
            listen=(f"{host}:{port}",),
            upstreams=tuple(upstreams),
            rest=tuple(rest),
            certificate=folder / SERVER_CERTIFICATE,
            certificate_key=folder / SERVER_KEY,
            client_authorities=folder / CLIENT_AUTHORITIES if require_client_certificate else None,
            keys=folder / "keys.conf" if keys else None,
            secret=folder / "secret.conf" if secret else None,
            access_log=str(access_log),
            error_log=folder / "error.log",
            run_dir=folder,
            **limits,
        )
        settings = settings.model_copy(update={"connections": places(settings.connections)})
        if secret:
            write_secret(folder / "secret.conf", folder / "triton.env", secret)
        sources = {"certificates": partial(_certificates, certificates, settings, tls)}
        if keys is not None:
            sources["keys"] = partial(_keys, keys, folder, set())
        files = ChangingFiles(folder, sources, lambda: check_configuration(nginx, folder))

        def refresh() -> None:
            for refusal in files.take_up().values():
                raise refusal

        watched = [*certificates.values(), (tls / CLIENT_CRL).absolute(), folder / ALERTS]
        watched += [keys] if keys else []
        seen = stamps(watched)
        refresh()
        with _process(nginx, folder, settings.shutdown_timeout_s) as process:
            _wait_until_listening(process, host, port, folder)

            told = 0

            def look() -> None:
                nonlocal told
                killed = killed_workers(folder / ALERTS)
                if killed > told:
                    say(f"{killed} workers of nginx were killed so far; the counts of requests begin anew")
                told = killed
                if turn_logs_over(access_log, folder):
                    process.send_signal(signal.SIGUSR1)

            hang_up = partial(process.send_signal, signal.SIGHUP)
            with (
                watching(watched, seen, files, hang_up, look, access_log),
                announced(keys, host, port, process.pid) if keys else nullcontext(),
            ):
                yield RunningGateway(host, port, folder, process.pid, access_log, process, refresh)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def find_nginx() -> str:
    """The nginx program; raises :class:`GatewayError` when it is not installed."""
    found = shutil.which("nginx", path=os.pathsep.join([os.environ.get("PATH", ""), "/usr/sbin", "/sbin"]))
    if found is None:
        raise GatewayError("nginx is not installed; install it with: apt-get install nginx-light")
    return found


def check_configuration(nginx: str, folder: Path, name: str = "nginx.conf") -> None:
    """``nginx -t`` on a file of ``folder``; raises :class:`GatewayError` with nginx's first complaint.

    It runs in its own session, where a Ctrl-C of this terminal does not reach it.
    """
    where = ("-p", str(folder), "-c", str(folder / name), "-e", os.devnull)
    checked = subprocess.run(
        [nginx, *where, "-t", "-q"], capture_output=True, text=True, start_new_session=True
    )
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


def _certificates(files: dict[str, Path], settings: GatewaySettings, tls: Path) -> dict[str, bytes]:
    """The certificates as they are now, and the settings and the nginx.conf that fit them.

    A roll-out writes other servers into the settings of the run folder; they stay.
    """
    written = settings.run_dir / SETTINGS
    if written.exists():
        directed = GatewaySettings.model_validate_json(written.read_bytes())
        settings = settings.model_copy(update={"upstreams": directed.upstreams})
    now = {name: path.read_bytes() for name, path in files.items()}
    crl = tls / CLIENT_CRL
    if CLIENT_AUTHORITIES in files and (crl.exists() or (tls / f"{CLIENT_CRL}.conf").exists()):
        check_lists(files[CLIENT_AUTHORITIES], crl, utc_now())
        now[CLIENT_CRL] = crl.read_bytes()
        settings = settings.model_copy(update={"client_crl": settings.run_dir / CLIENT_CRL})
    killed = killed_workers(settings.run_dir / ALERTS)
    return now | {
        SETTINGS: settings.model_dump_json(indent=2).encode() + b"\n",
        "nginx.conf": with_new_counts(render(settings).encode(), killed),
    }


def _keys(path: Path, run_dir: Path, said: set[str]) -> dict[str, bytes]:
    """``keys.conf`` of the present keys; a key that nginx could not hold is said once."""
    text = keys_for_nginx(path)
    for note in notes_of(text):
        if note not in said:
            said.add(note)
            say(note)
    return {"keys.conf": with_new_counts(text, killed_workers(run_dir / ALERTS))}


def _present(tls: Path, name: str) -> Path:
    path = (tls / name).absolute()
    if not path.is_file():
        beneath = tls / "gateway" / name
        if beneath.is_file():
            raise GatewayError(f"{path} is missing, but there is {beneath}; give --tls {tls / 'gateway'}")
        raise GatewayError(f"{path} is missing; make it with detserve certs, or put your own file there")
    return path


def _command(nginx: str, folder: Path) -> list[str]:
    return [nginx, "-p", str(folder), "-c", str(folder / "nginx.conf"), "-e", str(folder / "error.log")]


@contextmanager
def _process(nginx: str, folder: Path, drain_s: float) -> Iterator[subprocess.Popen[bytes]]:
    """Run nginx; at the end it finishes the requests in flight, ``drain_s`` at most, and takes no other."""
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
        # The watcher removes the folder; the name of a region that nobody has keeps it off shared memory.
        watcher = orphans.watch(process.pid, f"detserve_gateway_{secrets.token_hex(8)}", folder)
        yield process
    finally:
        stop_group(process, drain_s + _STOP_S, ask=signal.SIGQUIT)
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
