"""Where the files of ``detserve certs`` are.

::

    tls/ca/ca.crt, ca.key            the authority; keep ca.key off the machines that serve
    tls/gateway/server.crt, .key     what the gateway shows
    tls/gateway/clients.crt          whose client certificates it accepts; a company's authority may be added
    tls/gateway/clients.crl          which of them were revoked, from the first revocation on
    tls/gateway/clients.crl.conf     tells an nginx in a container of clients.crl
    tls/clients/NAME.crt, .key       what a client shows; it checks the gateway against ca.crt
    tls/clients/replaced/SERIAL.crt  what it showed before, so that it can be revoked
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class CertificateFolder:
    """The files of one authority."""

    root: Path

    @property
    def authority(self) -> Path:
        """The authority's certificate."""
        return self.root / "ca/ca.crt"

    @property
    def gateway(self) -> Path:
        """What ``detserve serve --tls`` and the gateway's container are given."""
        return self.root / "gateway"

    @property
    def server(self) -> Path:
        """The gateway's certificate."""
        return self.gateway / "server.crt"

    @property
    def client_authorities(self) -> Path:
        """The authorities whose client certificates the gateway accepts."""
        return self.gateway / "clients.crt"

    @property
    def revoked(self) -> Path:
        """The list of revoked client certificates."""
        return self.gateway / "clients.crl"

    @property
    def revoked_directive(self) -> Path:
        """The line of nginx's configuration that names the list."""
        return self.gateway / "clients.crl.conf"

    @property
    def replaced(self) -> Path:
        """Client certificates that were made anew before they expired."""
        return self.root / "clients/replaced"

    def client(self, name: str) -> Path:
        """A client's certificate."""
        return self.root / "clients" / f"{name}.crt"

    def certificates(self) -> list[Path]:
        """Every certificate there is."""
        found = [self.authority, self.server, *sorted((self.root / "clients").glob("*.crt"))]
        return [path for path in found if path.is_file()]


def key_of(certificate: Path) -> Path:
    """The private key's file beside a certificate's."""
    return certificate.with_suffix(".key")
