"""``detserve certs``: certificates for the gateway and its clients."""

from __future__ import annotations

import re
from datetime import datetime
from pathlib import Path
from typing import Annotated

import typer
from cryptography import x509
from cryptography.exceptions import InvalidSignature
from rich.console import Console
from rich.table import Table

from detserve_core.machine.whole_files import write_whole
from detserve_server.errors import CertificateError
from detserve_server.gateway.certificates.authority import (
    AUTHORITY_DAYS,
    CLIENT_DAYS,
    SERVER_DAYS,
    Certified,
    common_name,
    hosts_of,
    new_authority,
    new_client,
    new_server,
    read_certificate,
    read_certified,
    write_certified,
)
from detserve_server.gateway.certificates.expiry import expiries_of_lists, expiry_of
from detserve_server.gateway.certificates.folder import CertificateFolder
from detserve_server.gateway.certificates.replaced import keep_replaced, named
from detserve_server.gateway.certificates.revocation import revoked_by, write_list
from detserve_server.gateway.keys.key import utc_now

app = typer.Typer(
    add_completion=False,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    help="Certificates for the gateway and its clients. A company's own files do as well: give their paths.",
)
issue_app = typer.Typer(add_completion=False, no_args_is_help=True, help="Make a certificate.")
app.add_typer(issue_app, name="issue")

Folder = Annotated[Path, typer.Option("--tls", metavar="DIR", help="Folder of the certificates.")]
Days = Annotated[float, typer.Option(min=0, help="How long it is valid.")]
DEFAULT_FOLDER = Path("tls")


@app.command()
def init(
    name: Annotated[str, typer.Option(help="The authority's common name.")] = "detserve authority",
    days: Days = AUTHORITY_DAYS,
    tls: Folder = DEFAULT_FOLDER,
) -> None:
    """Make an authority."""
    folder = CertificateFolder(tls)
    if folder.authority.exists():
        raise CertificateError(
            f"{folder.authority} exists; give another folder, its certificates depend on it"
        )
    write_certified(folder.authority, new_authority(name, days=days))
    write_whole(folder.client_authorities, folder.authority.read_bytes())
    if folder.revoked.exists():  # an earlier authority's, whose clients are not accepted any more
        folder.revoked.unlink()
        write_list(folder, _authority(folder), [], utc_now())
    _said(
        f"{folder.authority} is what clients check the gateway against; "
        "keep the key beside it off the machines that serve."
    )


@issue_app.command()
def server(
    host: Annotated[list[str], typer.Option(help="Name or address clients write; may be repeated.")],
    days: Days = SERVER_DAYS,
    tls: Folder = DEFAULT_FOLDER,
) -> None:
    """Make the gateway's certificate; a running gateway takes it up."""
    folder = CertificateFolder(tls)
    write_certified(folder.server, new_server(_authority(folder), host, days=days))
    _said(f"{folder.server} is for {', '.join(host)}.")


@issue_app.command()
def client(
    name: Annotated[str, typer.Option(help="The client's name, the certificate's common name.")],
    days: Days = CLIENT_DAYS,
    tls: Folder = DEFAULT_FOLDER,
) -> None:
    """Make a client's certificate."""
    folder = CertificateFolder(tls)
    path = folder.client(name)
    if not re.fullmatch(r"[A-Za-z0-9_.-]{1,64}", name):
        raise CertificateError(f"got the name {name!r}, expected up to 64 letters, digits, _ . -")
    authority = _authority(folder)
    keep_replaced(folder, path)
    write_certified(path, new_client(authority, name, days=days))
    _said(f"{path} and the key beside it are for {name}.")


@app.command("list")
def list_certificates(tls: Folder = DEFAULT_FOLDER) -> None:
    """Show when each certificate expires, and what is revoked; exit 1 when one has expired, or is due."""
    folder, now = CertificateFolder(tls), utc_now()
    found = [*(expiry_of(path, now) for path in _existing(folder)), *expiries_of_lists(folder.revoked, now)]
    revoked = _revoked(folder)
    table = Table("certificate", "for", "expires", "days left", "state")
    for expiry in found:
        table.add_row(
            str(expiry.path),
            ", ".join(expiry.hosts) or expiry.name,
            f"{expiry.expires:%Y-%m-%d %H:%M} UTC",
            f"{expiry.left.total_seconds() / 86400:.1f}",
            "revoked" if expiry.serial in revoked else expiry.state,
        )
    Console(markup=False, emoji=False).print(table)
    for serial, since in revoked.items():
        _said(f"revoked {since:%Y-%m-%d %H:%M} UTC: serial number {serial:x}")
    if any(expiry.state != "valid" and expiry.serial not in revoked for expiry in found):
        raise typer.Exit(1)


@app.command()
def revoke(
    certificate: Annotated[
        str, typer.Argument(metavar="NAME|SERIAL|FILE", help="A name means every certificate made for it.")
    ],
    tls: Folder = DEFAULT_FOLDER,
) -> None:
    """Take client certificates back; a running gateway refuses them within seconds."""
    folder, now = CertificateFolder(tls), utc_now()
    authority = _authority(folder)
    serials = _serials(folder, authority.certificate, certificate)
    write_list(folder, authority, serials, now)
    for serial in serials:
        _said(f"serial number {serial:x} is revoked.")
    _said(f"{folder.revoked} goes to every gateway; a running one takes it up within seconds.")


@app.command()
def rotate(
    all_certificates: Annotated[bool, typer.Option("--all", help="Those that are not due yet too.")] = False,
    tls: Folder = DEFAULT_FOLDER,
) -> None:
    """Renew the certificates that expire soon, for the same names and for as long.

    A revoked one stays as it is unless --all is given; detserve certs issue client makes one anew as well.
    """
    folder = CertificateFolder(tls)
    authority, now = _authority(folder), utc_now()
    revoked = _revoked(folder)
    for path in _existing(folder):
        expiry = expiry_of(path, now)
        due = expiry.state != "valid" and expiry.serial not in revoked
        if path == folder.authority or not (due or all_certificates):
            continue
        if path != folder.server:
            keep_replaced(folder, path)
        write_certified(path, _again(authority, path))
        _said(f"{path} is made anew.")
    if folder.revoked.exists():
        write_list(folder, authority, [], now)


def _serials(folder: CertificateFolder, authority: x509.Certificate, wanted: str) -> list[int]:
    """The serial numbers that a name, a serial number or a file stands for."""
    if found := named(folder, wanted):
        of_this_authority = [each for each in found if _signed_by(authority, each)]
        if not of_this_authority:
            raise CertificateError(
                f"the certificate of {wanted} is not signed by {folder.authority}; who did can revoke it"
            )
        return [each.serial_number for each in of_this_authority]
    if Path(wanted).is_file():
        certificate = read_certificate(Path(wanted))
        if not _signed_by(authority, certificate) or hosts_of(certificate):
            raise CertificateError(f"{wanted} is not a client's certificate signed by {folder.authority}")
        return [certificate.serial_number]
    if re.fullmatch(r"[0-9A-Fa-f]{30,40}", wanted):
        return [int(wanted, 16)]
    raise CertificateError(
        f"got {wanted!r}, expected a name in {folder.root / 'clients'}, a serial number of 30 to 40 "
        "hexadecimal digits or the file of a certificate"
    )


def _signed_by(authority: x509.Certificate, certificate: x509.Certificate) -> bool:
    try:
        certificate.verify_directly_issued_by(authority)
    except (ValueError, TypeError, InvalidSignature):
        return False
    return True


def _revoked(folder: CertificateFolder) -> dict[int, datetime]:
    if not folder.authority.exists():
        return {}
    return revoked_by(read_certificate(folder.authority), folder.revoked)


def _again(authority: Certified, path: Path) -> Certified:
    old = read_certificate(path)
    days = (old.not_valid_after_utc - old.not_valid_before_utc).total_seconds() / 86400
    if hosts := hosts_of(old):
        return new_server(authority, hosts, days=days)
    return new_client(authority, common_name(old), days=days)


def _authority(folder: CertificateFolder) -> Certified:
    return read_certified(folder.authority)


def _existing(folder: CertificateFolder) -> list[Path]:
    found = folder.certificates()
    if not found:
        raise CertificateError(
            f"{folder.root} has no certificate; make an authority with: detserve certs init"
        )
    return found


def _said(sentence: str) -> None:
    Console(markup=False, emoji=False).print(sentence, highlight=False, soft_wrap=True)
