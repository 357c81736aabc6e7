"""``detserve verify``: check a signed model repository."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)


@app.command()
def verify(
    repository: Annotated[Path, typer.Option(help="Folder of models, signed with detserve sign.")],
    key: Annotated[Path, typer.Option(help="Ed25519 public key (PEM).")],
    copy_to: Annotated[
        Path | None,
        typer.Option(
            help="New folder, elsewhere, for a copy of exactly what was checked, for a server to read."
        ),
    ] = None,
) -> None:
    """Check that a repository is what was signed, to the last file; exit 1 naming the first that is not."""
    from detserve_server.signing.keys import read_public_key
    from detserve_server.signing.repository import verify_repository

    signed = verify_repository(repository, read_public_key(key), copy_to)
    typer.echo(
        f"OK: {signed.files} files, {signed.size_bytes / 1e6:.1f} MB, signed with the key {signed.key}"
    )
