"""When each certificate of a folder expires, and each revocation list."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path

from detserve_server.errors import CertificateError
from detserve_server.gateway.certificates.authority import common_name, hosts_of, read_certificate
from detserve_server.gateway.certificates.revocation import read_lists
from detserve_server.gateway.keys.key import utc_now

#: A certificate is due when less than this share of its life is left.
DUE_SHARE = 1 / 3


@dataclass(frozen=True)
class Expiry:
    """One certificate or list: for whom, until when. ``state`` is ``valid``, ``due`` or ``expired``."""

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
    return Expiry(
        path=path,
        name=common_name(certificate),
        hosts=tuple(hosts_of(certificate)),
        serial=certificate.serial_number,
        expires=expires,
        left=expires - now,
        state=_state(begins, expires, now),
    )


def expiries_of_lists(path: Path, now: datetime) -> list[Expiry]:
    """The revocation lists of a file; raises :class:`~detserve_server.errors.CertificateError`."""
    return [
        Expiry(
            path=path,
            name=f"revoked by {revoked.issuer.rfc4514_string()}",
            hosts=(),
            serial=0,
            expires=expires,
            left=expires - now,
            state=_state(revoked.last_update_utc, expires, now),
        )
        for revoked in read_lists(path)
        if (expires := revoked.next_update_utc) is not None
    ]


def ends_in(folder: Path) -> dict[str, int]:
    """Metrics of when a gateway's certificate ends, and its first revocation list; what is absent has none.

    Seconds since 1970. A certificate or list that cannot be read has none either: nginx refuses it.
    """
    now, found = utc_now(), dict[str, int]()
    with suppress(CertificateError, ValueError):
        ends = expiry_of(folder / "server.crt", now).expires
        found["detserve_gateway_certificate_expires_timestamp_seconds"] = int(ends.timestamp())
    with suppress(CertificateError, ValueError):
        ends = min(each.expires for each in expiries_of_lists(folder / "clients.crl", now))
        found["detserve_gateway_revocations_expire_timestamp_seconds"] = int(ends.timestamp())
    return found


def _state(begins: datetime, expires: datetime, now: datetime) -> str:
    if expires <= now:
        return "expired"
    return "due" if expires - now < (expires - begins) * DUE_SHARE else "valid"
