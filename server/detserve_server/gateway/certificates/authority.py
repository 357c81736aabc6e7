"""Making and signing certificates: EC P-256, with the extensions RFC 5280 asks of an authority and a leaf."""

from __future__ import annotations

import ipaddress
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta, timezone
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from detserve_core.machine.whole_files import write_whole
from detserve_server.errors import CertificateError
from detserve_server.gateway.certificates.folder import key_of

AUTHORITY_DAYS = 3650
SERVER_DAYS = 90
CLIENT_DAYS = 90

#: A machine whose clock is a little behind accepts what was made a moment ago.
CLOCK_SKEW = timedelta(minutes=5)


@dataclass(frozen=True)
class Certified:
    """A certificate and its private key."""

    certificate: x509.Certificate
    key: ec.EllipticCurvePrivateKey


def new_authority(name: str, *, days: float = AUTHORITY_DAYS) -> Certified:
    """An authority that signs leaves only."""
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    usage = _usage(key_cert_sign=True, crl_sign=True)
    builder = (
        _builder(subject, subject, key, days)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(usage, critical=True)
    )
    return Certified(builder.sign(key, hashes.SHA256()), key)


def new_server(authority: Certified, hosts: Sequence[str], *, days: float = SERVER_DAYS) -> Certified:
    """A server's certificate for host names (``*.example.org`` too) and IP addresses.

    Raises :class:`CertificateError`: no host, or one that is neither a name nor an address.
    """
    if not hosts:
        raise CertificateError("got no host, expected one name or address at least, as clients will write it")
    names = x509.SubjectAlternativeName([_general_name(host) for host in hosts])
    return _leaf(authority, hosts[0], ExtendedKeyUsageOID.SERVER_AUTH, days, names)


def new_client(authority: Certified, name: str, *, days: float = CLIENT_DAYS) -> Certified:
    """A client's certificate; ``name`` is its common name."""
    return _leaf(authority, name, ExtendedKeyUsageOID.CLIENT_AUTH, days, None)


def write_certified(path: Path, certified: Certified) -> None:
    """Write ``path`` (0644) and the private key beside it (0600)."""
    pem = certified.key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    write_whole(key_of(path), pem, mode=0o600)
    write_whole(path, certified.certificate.public_bytes(serialization.Encoding.PEM))


def read_certificate(path: Path) -> x509.Certificate:
    """The first certificate of a PEM file; raises :class:`CertificateError`."""
    try:
        return x509.load_pem_x509_certificate(path.read_bytes())
    except FileNotFoundError:
        raise CertificateError(
            f"{path} does not exist; make an authority first with: detserve certs init"
        ) from None
    except (OSError, ValueError) as error:
        raise CertificateError(f"{path} is not a certificate in PEM form ({error})") from None


def read_certified(path: Path) -> Certified:
    """A certificate and the key beside it; raises :class:`CertificateError`, also when they are no pair."""
    certificate = read_certificate(path)
    try:
        key = serialization.load_pem_private_key(key_of(path).read_bytes(), password=None)
    except (OSError, ValueError, TypeError) as error:
        raise CertificateError(f"the private key {key_of(path)} cannot be read ({error})") from None
    if not isinstance(key, ec.EllipticCurvePrivateKey) or key.public_key() != certificate.public_key():
        raise CertificateError(
            f"{key_of(path)} is not the private key of {path}; put the right one beside it"
        )
    return Certified(certificate, key)


def hosts_of(certificate: x509.Certificate) -> list[str]:
    """The host names and addresses a server's certificate is for."""
    try:
        names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except x509.ExtensionNotFound:
        return []
    return [*names.get_values_for_type(x509.DNSName), *map(str, names.get_values_for_type(x509.IPAddress))]


def common_name(certificate: x509.Certificate) -> str:
    """The subject's common name, "" when it has none."""
    found = certificate.subject.get_attributes_for_oid(NameOID.COMMON_NAME)
    return str(found[0].value) if found else ""


def _leaf(
    authority: Certified,
    name: str,
    purpose: x509.ObjectIdentifier,
    days: float,
    alternative_names: x509.SubjectAlternativeName | None,
) -> Certified:
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name[:64])])
    builder = (
        _builder(subject, authority.certificate.subject, key, days)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(_usage(digital_signature=True), critical=True)
        .add_extension(x509.ExtendedKeyUsage([purpose]), critical=False)
        .add_extension(
            x509.AuthorityKeyIdentifier.from_issuer_public_key(authority.key.public_key()), critical=False
        )
    )
    if alternative_names is not None:
        builder = builder.add_extension(alternative_names, critical=False)
    return Certified(builder.sign(authority.key, hashes.SHA256()), key)


def _builder(
    subject: x509.Name, issuer: x509.Name, key: ec.EllipticCurvePrivateKey, days: float
) -> x509.CertificateBuilder:
    now = datetime.now(timezone.utc)
    begins = now - CLOCK_SKEW if days > 0 else now + timedelta(days=days) - CLOCK_SKEW
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(begins)
        .not_valid_after(now + timedelta(days=days))
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
    )


def _usage(**wanted: bool) -> x509.KeyUsage:
    names = (
        "digital_signature", "content_commitment", "key_encipherment", "data_encipherment", "key_agreement",
        "key_cert_sign", "crl_sign", "encipher_only", "decipher_only",
    )  # fmt: skip
    return x509.KeyUsage(**{name: wanted.get(name, False) for name in names})


def _general_name(host: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(host))
    except ValueError:
        pass
    labels = host.removeprefix("*.").split(".")
    if not all(label and label.replace("-", "a").isalnum() and label.isascii() for label in labels):
        raise CertificateError(
            f"got the host {host!r}, expected a name such as gateway.example.org or an address"
        )
    return x509.DNSName(host)
