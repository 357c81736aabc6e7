"""What a client shows to a gateway and what it checks it against: API key, certificates, TLS."""

from __future__ import annotations

import os
import re
import ssl
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from detserve_core.contract import GATEWAY_HEADER, GRPC_PREFIX, MODEL_HEADER
from detserve_core.errors import SecurityError

ENVIRONMENT = ("DETSERVE_API_KEY", "DETSERVE_CA", "DETSERVE_CERTIFICATE")


@dataclass(frozen=True)
class Security:
    """All of it may be left out: a server without a gateway wants none.

    Args:
        api_key: as ``detserve keys create`` prints it.
        ca: PEM file of the authorities the server's certificate is checked against; None is the system's.
        certificate: PEM file of the client's certificate; its private key is in the same file or in the file
            beside it with the suffix ``.key``.

    Raises:
        SecurityError: the key is empty or has a space in it, or a file cannot be read.
    """

    api_key: str | None = field(default=None, repr=False)
    ca: Path | str | None = None
    certificate: Path | str | None = None

    def __post_init__(self) -> None:
        """Check what is given."""
        if self.api_key is not None:
            object.__setattr__(
                self, "api_key", self.api_key.strip()
            )  # a file of a key ends with a line break
        if self.api_key is not None and not re.fullmatch(r"[!-~]+", self.api_key):
            raise SecurityError("the API key is empty or has a space or line break in it; give the key alone")
        for path in (self.ca, self.certificate):
            if path is not None and not Path(path).is_file():
                raise SecurityError(f"{path} does not exist; expected a certificate in PEM form")

    @classmethod
    def from_environment(
        cls,
        environment: Mapping[str, str] | None = None,
        *,
        api_key_file: Path | None = None,
        ca: Path | None = None,
        certificate: Path | None = None,
    ) -> Security:
        """What is given, else what DETSERVE_API_KEY, DETSERVE_CA and DETSERVE_CERTIFICATE say."""
        environment = os.environ if environment is None else environment
        key, environment_ca, environment_certificate = (environment.get(name) or None for name in ENVIRONMENT)
        if api_key_file is not None:
            try:
                key = api_key_file.read_text(encoding="ascii")
            except (OSError, UnicodeDecodeError) as error:
                raise SecurityError(f"the API key in {api_key_file} cannot be read ({error})") from None
        return cls(
            api_key=key,
            ca=ca or (Path(environment_ca) if environment_ca else None),
            certificate=certificate or (Path(environment_certificate) if environment_certificate else None),
        )

    def headers(self) -> dict[str, str]:
        """HTTP headers."""
        return {} if self.api_key is None else {"authorization": f"Bearer {self.api_key}"}

    def metadata(self, model: str) -> list[tuple[str, str]]:
        """gRPC metadata of a call to ``model``."""
        return [(MODEL_HEADER, model), *self.headers().items()] if self.api_key or self.certificate else []

    def ssl_context(self) -> ssl.SSLContext:
        """For an HTTP library."""
        try:
            context = ssl.create_default_context(cafile=self.ca)
            context.minimum_version = ssl.TLSVersion.TLSv1_2
            if self.certificate is not None:
                context.load_cert_chain(self.certificate, self._key_file())
        except (OSError, ssl.SSLError) as error:
            raise SecurityError(f"the certificates cannot be used: {error}") from None
        return context

    def grpc_credentials(self) -> Any:
        """``grpc.ChannelCredentials``."""
        import grpc

        self.ssl_context()  # says what is wrong with the files; gRPC would not
        if self.certificate is None:
            return grpc.ssl_channel_credentials(self.ca and Path(self.ca).read_bytes())
        return grpc.ssl_channel_credentials(
            self.ca and Path(self.ca).read_bytes(),
            private_key=self._key_file().read_bytes(),
            certificate_chain=Path(self.certificate).read_bytes(),
        )

    def _key_file(self) -> Path:
        certificate = Path(self.certificate or "")
        beside = certificate.with_suffix(".key")
        return beside if beside.is_file() else certificate


@dataclass(frozen=True)
class AsTheGateway(Security):
    """What a gateway shows to the Triton behind it, for who stands in its place.

    Args:
        secret: as ``detserve gateway render`` writes it.
    """

    secret: str = field(default="", repr=False)

    def headers(self) -> dict[str, str]:
        """HTTP headers."""
        return {GATEWAY_HEADER: self.secret}

    def metadata(self, model: str) -> list[tuple[str, str]]:
        """gRPC metadata of a call to ``model``."""
        return [(GRPC_PREFIX + GATEWAY_HEADER, self.secret)]


#: Nothing is shown, and TLS is checked against the system's authorities.
UNSECURED = Security()
