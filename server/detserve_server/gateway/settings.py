"""What an operator decides about the gateway."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, model_validator

MIB = 2**20

#: The settings from which nginx.conf was rendered, beside it.
SETTINGS = "gateway.json"

_ADDRESS = re.compile(r"(?:[A-Za-z0-9_.-]+|\[[0-9A-Fa-f:]+\]):\d{1,5}")
_LISTEN = re.compile(r"(?:(?:[0-9.]+|\[[0-9A-Fa-f:]+\]|\*):)?\d{1,5}")
_LOG = re.compile(r"/[A-Za-z0-9_./+-]+|syslog:[A-Za-z0-9_.:=,/-]+")


def _matching(pattern: re.Pattern[str], expected: str) -> AfterValidator:
    def check(text: str) -> str:
        if not pattern.fullmatch(text):
            raise ValueError(f"got {text!r}, expected {expected}")
        return text

    return AfterValidator(check)


def _plain_path(path: Path) -> Path:
    if not re.fullmatch(r"/[A-Za-z0-9_./+-]+", str(path)):
        raise ValueError(f"got {str(path)!r}, expected an absolute path of letters, digits and _ . / + -")
    return path


ServerAddress = Annotated[str, _matching(_ADDRESS, "HOST:PORT")]
ListenAddress = Annotated[str, _matching(_LISTEN, "PORT or ADDRESS:PORT")]
LogTarget = Annotated[str, _matching(_LOG, "an absolute path or syslog:server=...")]
PlainPath = Annotated[Path, AfterValidator(_plain_path)]


class _Settings(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Upstream(_Settings):
    """One Triton: ``HOST:PORT`` of its gRPC and its HTTP service, and its share of the requests.

    One of ``weight`` 3 gets three times as many as one of 1.
    """

    grpc: ServerAddress
    http: ServerAddress
    weight: int = Field(1, ge=1, le=10_000)


class RateLimits(_Settings):
    """What one client may do. ``rate_per_s`` requests a second, with a burst of one second's worth."""

    rate_per_s: float = Field(100, gt=0.01, le=1_000_000)
    concurrency: int = Field(16, ge=1, le=10_000)


class GatewaySettings(_Settings):
    """Everything :func:`~detserve_server.gateway.configuration.render` needs.

    Paths are as nginx sees them: inside its container, where it runs in one.

    Attributes:
        upstreams: the Tritons; each request goes to the one with the fewest in flight.
        rest: ``HOST:PORT`` of each ``detserve rest``; without one, its paths are closed.
        certificate, certificate_key: PEM files, the server's chain and its private key; from
            ``detserve certs`` or a company's own authority.
        client_authorities: PEM file of the authorities whose client certificates are accepted; with it a
            client must show one.
        client_crl: PEM file of the revocation lists (CRLs) of all those authorities.
        client_crl_conf: instead, a file with the directive ``ssl_crl`` that nginx includes once it is there.
        keys: the ``keys.conf`` that ``detserve keys`` writes. Without it, a client is who its certificate's
            common name says, may use every model and has ``certificate_limits``.
        secret: file with the header that Triton wants from the gateway; see
            :func:`~detserve_server.gateway.shared_secret.write_secret`.
        error_log: None is the standard error stream.
        run_dir: writable folder for the pid, for alerts.log and for bodies that are larger than 1 MiB.
        connections: places of one worker, those to Triton included; each wants two open files.
    """

    listen: tuple[ListenAddress, ...] = Field(("8443",), min_length=1)
    upstreams: tuple[Upstream, ...] = Field(min_length=1)
    rest: tuple[ServerAddress, ...] = ()
    certificate: PlainPath
    certificate_key: PlainPath
    client_authorities: PlainPath | None = None
    client_crl: PlainPath | None = None
    client_crl_conf: PlainPath | None = None
    keys: PlainPath | None = None
    secret: PlainPath | None = None
    certificate_limits: RateLimits = RateLimits()
    access_log: LogTarget
    error_log: PlainPath | None = None
    run_dir: PlainPath = Path("/tmp")  # noqa: S108
    max_body_bytes: int = Field(16 * MIB, ge=1024)
    client_timeout_s: int = Field(10, ge=1)
    inference_timeout_s: int = Field(60, ge=1)
    workers: int | None = Field(None, ge=1)
    connections: int = Field(2048, ge=64, le=65_536)

    @property
    def shutdown_timeout_s(self) -> int:
        """How long nginx goes on with the requests in flight when it is to end."""
        return self.inference_timeout_s + self.client_timeout_s

    @model_validator(mode="after")
    def _somebody_is_known(self) -> GatewaySettings:
        if self.keys is None and self.client_authorities is None:
            raise ValueError(
                "got neither keys nor client_authorities, expected one at least: nobody could enter"
            )
        return self
