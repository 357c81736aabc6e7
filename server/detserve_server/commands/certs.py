"""``detserve certs``: certificates for the gateway and its clients."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from detserve_client.files import write_whole
from detserve_server.certificates.authority import (
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
from detserve_server.certificates.expiry import expiry_of
from detserve_server.certificates.folder import CertificateFolder
from detserve_server.errors import CertificateError
from detserve_server.keys.key import utc_now

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
    if not name.replace("-", "a").replace("_", "a").replace(".", "a").isalnum() or len(name) > 64:
        raise CertificateError(f"got the name {name!r}, expected up to 64 letters, digits, _ . -")
    write_certified(path, new_client(_authority(folder), name, days=days))
    _said(f"{path} and the key beside it are for {name}.")


@app.command("list")
def list_certificates(tls: Folder = DEFAULT_FOLDER) -> None:
    """Show when each certificate expires; exit 1 when one has, or is due."""
    now = utc_now()
    found = [expiry_of(path, now) for path in _existing(CertificateFolder(tls))]
    table = Table("certificate", "for", "expires", "days left", "state")
    for expiry in found:
        table.add_row(
            str(expiry.path),
            ", ".join(expiry.hosts) or expiry.name,
            f"{expiry.expires:%Y-%m-%d %H:%M} UTC",
            f"{expiry.left.total_seconds() / 86400:.1f}",
            expiry.state,
        )
    Console(markup=False, emoji=False).print(table)
    if any(expiry.state != "valid" for expiry in found):
        raise typer.Exit(1)


@app.command()
def rotate(
    all_certificates: Annotated[bool, typer.Option("--all", help="Those that are not due yet too.")] = False,
    tls: Folder = DEFAULT_FOLDER,
) -> None:
    """Make the certificates that are due anew, for the same names and for as long."""
    folder = CertificateFolder(tls)
    authority, now = _authority(folder), utc_now()
    for path in _existing(folder):
        if path == folder.authority or (expiry_of(path, now).state == "valid" and not all_certificates):
            continue
        write_certified(path, _again(authority, path))
        _said(f"{path} is made anew.")


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
