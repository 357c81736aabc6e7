"""``detserve sign``: sign a model repository."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)


@app.command()
def sign(
    repository: Annotated[Path, typer.Option(help="Folder of models, as made by detserve build.")],
    key: Annotated[Path, typer.Option(help="Ed25519 private key (PEM).")],
    create_key: Annotated[
        bool, typer.Option("--create-key", help="Make the key if it is not there yet.")
    ] = False,
) -> None:
    """Sign every file of a repository, so that serving it can refuse any other (Ed25519)."""
    from detserve_server.signing.keys import create_key as create
    from detserve_server.signing.keys import read_private_key
    from detserve_server.signing.repository import sign_repository

    if create_key and not key.exists():
        typer.echo(f"made {key}, keep it secret; verify with {create(key)}")
    signed = sign_repository(repository, read_private_key(key))
    typer.echo(f"{signed.path}: {signed.files} files, {signed.size_bytes / 1e6:.1f} MB, key {signed.key}")
    for name in signed.unbuilt:
        typer.echo(f"signed, though no build's manifest names it: {name}", err=True)
