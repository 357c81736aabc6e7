"""``detserve keys``: API keys for the gateway."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer
from pydantic import ValidationError
from rich.console import Console
from rich.table import Column, Table

from detserve_server.errors import KeyFileError
from detserve_server.gateway.settings import Limits
from detserve_server.keys.duration import parse_duration
from detserve_server.keys.key import KeyRecord, new_key, utc_now
from detserve_server.keys.store import KeyFile, change_keys, nginx_file, read_keys

app = typer.Typer(
    add_completion=False,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    help="API keys for the gateway; the file holds hashes only. A running gateway takes changes up.",
)

KeysFile = Annotated[
    Path, typer.Option("--keys", metavar="FILE", help="The file of keys; nginx reads the .conf beside it.")
]
KeyId = Annotated[str, typer.Argument(metavar="ID", help="As detserve keys list shows it.")]
Models = Annotated[str | None, typer.Option(metavar="A,B", help="The models it is for. Without it: all.")]
DEFAULT_FILE = Path("keys.json")


@app.command()
def create(
    client: Annotated[str, typer.Option(metavar="NAME", help="Who the key is for; the audit log's client.")],
    models: Models = None,
    expires: Annotated[str | None, typer.Option(metavar="90d", help="Without it: never.")] = None,
    rate: Annotated[
        float, typer.Option(help="Requests a second; a burst of one second is let through.")
    ] = 100,
    concurrency: Annotated[int, typer.Option(help="Requests under way at a time.")] = 16,
    keys: KeysFile = DEFAULT_FILE,
) -> None:
    """Make a key and print it, this once."""
    try:
        text, record = new_key(
            client,
            models=_models(models),
            expires=None if expires is None else utc_now() + parse_duration(expires),
            limits=Limits(rate_per_s=rate, concurrency=concurrency),
        )
    except ValidationError as error:
        raise _mistake(error) from None
    change_keys(keys, lambda file: KeyFile(keys=(*file.keys, record)))
    Console(stderr=True, markup=False, emoji=False).print(
        f"Key {record.id} of {client} is in {keys} as a hash. It is shown only now:", highlight=False
    )
    print(text)


@app.command("list")
def list_keys(keys: KeysFile = DEFAULT_FILE) -> None:
    """Show the keys: whose, for what, until when."""
    now = utc_now()
    table = Table(
        Column("id", no_wrap=True),
        "client",
        "state",
        "models",
        "requests/s",
        "at a time",
        "created",
        "expires",
    )
    for key in read_keys(keys).keys:
        table.add_row(
            key.id,
            key.client,
            key.state(now),
            "all" if key.models is None else ", ".join(key.models),
            f"{key.limits.rate_per_s:g}",
            str(key.limits.concurrency),
            f"{key.created:%Y-%m-%d}",
            "never" if key.expires is None else f"{key.expires:%Y-%m-%d %H:%M} UTC",
        )
    Console(markup=False, emoji=False).print(table)


@app.command()
def scope(key_id: KeyId, models: Models = None, keys: KeysFile = DEFAULT_FILE) -> None:
    """Change the models a key is for."""
    _change(keys, key_id, lambda key: {"models": _models(models)})


@app.command()
def expire(
    key_id: KeyId,
    after: Annotated[str, typer.Option("--in", metavar="30d", help="From now; 0s is at once.")],
    keys: KeysFile = DEFAULT_FILE,
) -> None:
    """Change when a key expires."""
    _change(keys, key_id, lambda key: {"expires": utc_now() + parse_duration(after)})


@app.command()
def revoke(key_id: KeyId, keys: KeysFile = DEFAULT_FILE) -> None:
    """End a key for good; it stays in the list."""
    _change(keys, key_id, lambda key: {"revoked": key.revoked or utc_now()})


@app.command()
def render(keys: KeysFile = DEFAULT_FILE) -> None:
    """Write the file that nginx reads again, as after a restore from a backup."""
    read_keys(keys)
    change_keys(keys, lambda file: file)
    Console(markup=False, emoji=False).print(f"{nginx_file(keys)} is written.", highlight=False)


def _change(keys: Path, key_id: str, fields: Callable[[KeyRecord], dict[str, Any]]) -> None:
    read_keys(keys).find(key_id)

    def change(file: KeyFile) -> KeyFile:
        key = file.find(key_id)
        try:
            return file.replaced(KeyRecord.model_validate({**key.model_dump(), **fields(key)}))
        except ValidationError as error:
            raise _mistake(error) from None

    change_keys(keys, change)
    key = read_keys(keys).find(key_id)
    Console(markup=False, emoji=False).print(
        f"Key {key.id} of {key.client}: {key.state(utc_now())}.", highlight=False
    )


def _models(models: str | None) -> tuple[str, ...] | None:
    return None if models is None else tuple(name.strip() for name in models.split(","))


def _mistake(error: ValidationError) -> KeyFileError:
    first = error.errors()[0]
    where = ".".join(map(str, first["loc"]))
    return KeyFileError(f"{where}: got {first['input']!r}: {first['msg']}")
