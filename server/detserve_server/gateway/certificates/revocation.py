"""Certificates that were taken back: the lists (CRLs, RFC 5280) of ``clients.crl``.

nginx asks the list of every authority in a client's chain, and refuses the certificate where there is none
or it is out of date. The first is found by :func:`check_lists`, the second ``detserve certs list`` shows.
"""

from __future__ import annotations

import fcntl
import re
from collections.abc import Iterable, Mapping
from datetime import datetime
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization

from detserve_core.machine.whole_files import write_whole
from detserve_server.errors import CertificateError
from detserve_server.gateway.certificates.authority import CLOCK_SKEW, Certified
from detserve_server.gateway.certificates.folder import CertificateFolder
from detserve_server.regular_file import read_regular

#: What an nginx in a container includes where it is there; ``..`` is seen from the folder of nginx.conf.
DIRECTIVE = b"ssl_crl ../tls/clients.crl;\n"

_LARGEST_BYTES = 16 * 2**20
_PEM = re.compile(rb"-----BEGIN X509 CRL-----.*?-----END X509 CRL-----", re.DOTALL)


def read_lists(path: Path) -> list[x509.CertificateRevocationList]:
    """The lists in a PEM file, none where there is no file; raises :class:`CertificateError`."""
    try:
        lists = [x509.load_pem_x509_crl(block) for block in _PEM.findall(read_regular(path, _LARGEST_BYTES))]
    except FileNotFoundError:
        return []
    except (OSError, ValueError) as error:
        raise CertificateError(f"{path} is not a revocation list in PEM form ({error})") from None
    if not lists:
        raise CertificateError(f"{path} has no revocation list, expected -----BEGIN X509 CRL-----")
    return lists


def revoked_by(authority: x509.Certificate, path: Path) -> dict[int, datetime]:
    """The serial numbers that an authority took back, and when."""
    return {
        entry.serial_number: entry.revocation_date_utc
        for revoked in read_lists(path)
        if _is_of(revoked, authority)
        for entry in revoked
    }


def write_list(
    folder: CertificateFolder, authority: Certified, serials: Iterable[int], now: datetime
) -> None:
    """Put ``serials`` on the authority's list, beside those that are on it; other authorities' lists stay.

    It is good for as long as the authority itself: one that ran out would close the gateway to everybody.

    Raises:
        CertificateError: nginx would refuse every client of an authority that has no list.
    """
    with folder.authority.open("rb") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        revoked = revoked_by(authority.certificate, folder.revoked)
        own = _signed(authority, dict.fromkeys(serials, now) | revoked, now)
        others = [each for each in read_lists(folder.revoked) if not _is_of(each, authority.certificate)]
        _check(folder.client_authorities, [own, *others], folder.revoked, now)
        pem = b"".join(each.public_bytes(serialization.Encoding.PEM) for each in [own, *others])
        write_whole(folder.revoked, pem)
        write_whole(folder.revoked_directive, DIRECTIVE)


def check_lists(authorities: Path, path: Path, now: datetime) -> None:
    """Raise :class:`CertificateError` where nginx would refuse all clients of an authority."""
    if not path.exists():
        raise CertificateError(f"{path} is gone, and with it who was revoked; put it back")
    _check(authorities, read_lists(path), path, now)


def _check(authorities: Path, lists: list[x509.CertificateRevocationList], path: Path, now: datetime) -> None:
    try:
        certificates = x509.load_pem_x509_certificates(authorities.read_bytes())
    except (OSError, ValueError) as error:
        raise CertificateError(f"{authorities} has no certificates in PEM form ({error})") from None
    for certificate in certificates:
        if certificate.not_valid_after_utc <= now:
            continue
        if not any(_is_of(each, certificate) for each in lists):
            name = certificate.subject.rfc4514_string()
            raise CertificateError(
                f"{authorities} accepts clients of {name}, but {path} has no list of that authority "
                f"and nginx would refuse them all; append its list (CRL, PEM) to {path}, an empty one will do"
            )


def _signed(
    authority: Certified, revoked: Mapping[int, datetime], now: datetime
) -> x509.CertificateRevocationList:
    issuer = x509.AuthorityKeyIdentifier.from_issuer_public_key(authority.key.public_key())
    builder = (
        x509.CertificateRevocationListBuilder()
        .issuer_name(authority.certificate.subject)
        .last_update(now - CLOCK_SKEW)
        .next_update(authority.certificate.not_valid_after_utc)
        .add_extension(x509.CRLNumber(int(now.timestamp() * 1000)), critical=False)
        .add_extension(issuer, critical=False)
    )
    for serial, since in revoked.items():
        entry = x509.RevokedCertificateBuilder().serial_number(serial).revocation_date(since).build()
        builder = builder.add_revoked_certificate(entry)
    return builder.sign(authority.key, hashes.SHA256())


def _is_of(revoked: x509.CertificateRevocationList, authority: x509.Certificate) -> bool:
    if revoked.issuer != authority.subject:
        return False
    try:
        return revoked.is_signature_valid(authority.public_key())  # type: ignore[arg-type]
    except TypeError:  # a kind of key that signs nothing
        return False
