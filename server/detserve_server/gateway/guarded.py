"""The embedded server behind the gateway: Triton, and plain HTTP before it, answer nobody but nginx."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple, NoReturn

from detserve_core.machine.ports import LOOPBACK
from detserve_server.gateway.process import RunningGateway, running_gateway
from detserve_server.gateway.settings import Upstream
from detserve_server.gateway.shared_secret import new_secret
from detserve_server.rest_process import RunningRest, rest_beside
from detserve_server.triton.embedded import RunningServer, embedded_server

_POLL_S = 0.5


class GuardedServer(NamedTuple):
    """The processes. ``triton``'s and ``rest``'s own addresses answer health checks only."""

    triton: RunningServer
    gateway: RunningGateway
    rest: RunningRest | None = None

    def wait(self) -> NoReturn:
        """Block while all run; raises :class:`~detserve_server.errors.ServerStopped` when one has ended."""
        while True:
            self.gateway.check_running()
            if self.rest is not None:
                self.rest.check_running()
            self.triton.check_running(_POLL_S)


@contextmanager
def guarded_server(
    repository: Path,
    *,
    tls: Path,
    keys: Path | None,
    require_client_certificate: bool = False,
    host: str = LOOPBACK,
    port: int | None = None,
    access_log: Path,
    metrics_port: int | None = None,
    rest_port: int | None = None,
    models: Sequence[str] | None = None,
    log_file: Path | None = None,
    require_signature: Path | None = None,
    **limits: int,
) -> Iterator[GuardedServer]:
    """Serve a model repository through the gateway until the block ends.

    With ``rest_port``, ``detserve rest`` runs there for the gateway, which opens its paths. The other
    arguments are those of :func:`~detserve_server.triton.embedded.embedded_server` and
    :func:`~detserve_server.gateway.process.running_gateway`, which also say what is raised.
    """
    secret = new_secret()
    with (
        embedded_server(
            repository,
            metrics_port=metrics_port,
            models=models,
            log_file=log_file,
            gateway_secret=secret,
            require_signature=require_signature,
        ) as triton,
        rest_beside(triton.http_url, rest_port, secret=secret) as rest,
        running_gateway(
            [Upstream(grpc=_address(triton.grpc_url), http=_address(triton.http_url))],
            tls=tls,
            keys=keys,
            require_client_certificate=require_client_certificate,
            host=host,
            port=port,
            secret=secret,
            access_log=access_log,
            rest=() if rest is None else (rest.address,),
            **limits,
        ) as gateway,
    ):
        yield GuardedServer(triton, gateway, rest)


def _address(url: str) -> str:
    return url.partition("://")[2]
