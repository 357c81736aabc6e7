"""When each certificate of a folder expires."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path

from detserve_server.certificates.authority import common_name, hosts_of, read_certificate

#: A certificate is due when less than this share of its life is left.
DUE_SHARE = 1 / 3


@dataclass(frozen=True)
class Expiry:
    """One certificate: for whom, until when. ``state`` is ``valid``, ``due`` or ``expired``."""

    path: Path
    name: str
    hosts: tuple[str, ...]
    serial: int
    expires: datetime
    left: timedelta
    state: str


def expiry_of(path: Path, now: datetime) -> Expiry:
    """Read a certificate; raises :class:`~detserve_server.errors.CertificateError`."""
    certificate = read_certificate(path)
    begins, expires = certificate.not_valid_before_utc, certificate.not_valid_after_utc
    left = expires - now
    state = "expired" if left <= timedelta(0) else "due" if left < (expires - begins) * DUE_SHARE else "valid"
    return Expiry(
        path=path,
        name=common_name(certificate),
        hosts=tuple(hosts_of(certificate)),
        serial=certificate.serial_number,
        expires=expires,
        left=left,
        state=state,
    )
