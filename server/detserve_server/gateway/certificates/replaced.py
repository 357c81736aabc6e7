"""Client certificates that were made anew: the old one is good until it expires, so it can be revoked."""

from __future__ import annotations

from pathlib import Path

from cryptography import x509

from detserve_core.machine.whole_files import write_whole
from detserve_server.gateway.certificates.authority import common_name, read_certificate
from detserve_server.gateway.certificates.folder import CertificateFolder
from detserve_server.gateway.keys.key import utc_now


def keep_replaced(folder: CertificateFolder, path: Path) -> None:
    """Keep a client's certificate, not its key, before another one takes its place; forget expired ones."""
    if path.exists():
        serial = read_certificate(path).serial_number
        write_whole(folder.replaced / f"{serial:x}.crt", path.read_bytes())
    for kept in folder.replaced.glob("*.crt"):
        if read_certificate(kept).not_valid_after_utc < utc_now():
            kept.unlink()


def named(folder: CertificateFolder, name: str) -> list[x509.Certificate]:
    """Every certificate that was made for a client."""
    found = [folder.client(name), *sorted(folder.replaced.glob("*.crt"))]
    certificates = [read_certificate(path) for path in found if path.is_file()]
    return [certificate for certificate in certificates if common_name(certificate) == name]
