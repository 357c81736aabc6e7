"""``detserve keys``: API keys for the gateway."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Annotated, Any

import typer
from pydantic import ValidationError
from rich import box
from rich.console import Console
from rich.table import Column, Table

from detserve_core.machine.whole_files import whole_file, write_whole
from detserve_server.errors import GatewayError, KeyFileError
from detserve_server.gateway.keys.duration import parse_duration
from detserve_server.gateway.keys.gateways import KnownGateway, known_gateways
from detserve_server.gateway.keys.in_force import Acknowledged, wait_until_in_force
from detserve_server.gateway.keys.key import KeyRecord, new_key, utc_now
from detserve_server.gateway.keys.nginx import left_out, read_marked
from detserve_server.gateway.keys.store import KeyFile, change_keys, nginx_file, read_keys
from detserve_server.gateway.settings import RateLimits

app = typer.Typer(
    add_completion=False,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    help="API keys for the gateway; the file holds hashes only. A change waits until the running gateway "
    "shows that it is in force.",
)

KeysFile = Annotated[
    Path, typer.Option("--keys", metavar="FILE", help="The file of keys; nginx reads the .conf beside it.")
]
Gateways = Annotated[
    list[str] | None,
    typer.Option(
        "--gateway",
        metavar="URL",
        envvar="DETSERVE_GATEWAY",
        help="https://HOST:PORT of a gateway that must show the change; may be repeated. Without it: those "
        "that detserve serve runs on this file, or the one rendered beside its folder.",
    ),
]
NoGateway = Annotated[bool, typer.Option("--no-gateway", help="No gateway runs: do not wait for one.")]
Authority = Annotated[
    Path | None,
    typer.Option(
        "--ca",
        metavar="FILE",
        envvar="DETSERVE_CA",
        help="Authority of the gateway's certificate; not needed on loopback.",
    ),
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
    concurrency: Annotated[int, typer.Option(help="Requests in flight at a time.")] = 16,
    output: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Write the key here, for its owner to read alone.")
    ] = None,
    keys: KeysFile = DEFAULT_FILE,
    gateway: Gateways = None,
    no_gateway: NoGateway = False,
    ca: Authority = None,
) -> None:
    """Make a key and print it, this once."""
    if output is not None and os.path.lexists(output):
        raise KeyFileError(
            f"--output: {output} exists, and may hold another key; give the name of a new file"
        )
    gateways = _gateways(keys, gateway, no_gateway)
    if rate * 60 < 1:
        raise KeyFileError(f"--rate: got {rate:g} a second, expected {1 / 60:.4f}, once a minute, at least")
    try:
        text, record = new_key(
            client,
            models=_models(models),
            expires=None if expires is None else utc_now() + parse_duration(expires),
            limits=RateLimits(rate_per_s=rate, concurrency=concurrency),
        )
    except ValidationError as error:
        raise _mistake(error) from None
    with nullcontext() if output is None else _key_file(output, text):
        change_keys(keys, lambda file: _held(KeyFile(keys=(*file.keys, record)), record.id))
    if output is None:
        _note(f"Key {record.id} of {client} is in {keys} as a hash. It is shown only now:")
        print(text, flush=True)
    else:
        _note(f"Key {record.id} of {client} is in {output}, and in {keys} as a hash.")
    _wait(keys, gateways, ca, f"key {record.id} is in {keys}", "does not let it in yet", must=False)


@app.command("list")
def list_keys(keys: KeysFile = DEFAULT_FILE) -> None:
    """Show the keys: whose, for what, until when; limits are requests a second, and at a time."""
    now = utc_now()
    file = read_keys(keys)
    if os.access(nginx_file(keys), os.R_OK) and read_marked(nginx_file(keys), keys.read_bytes()) is None:
        _note(
            f"{nginx_file(keys)}, which nginx reads, is not of these keys: a change was broken off, or a "
            f"file restored or of an earlier version; write it again: detserve keys render --keys {keys}"
        )
    _note_left_out(file)
    table = Table(
        Column("id", no_wrap=True),
        Column("client", overflow="fold"),
        Column("state", no_wrap=True),
        Column("models", overflow="fold"),
        Column("limits", no_wrap=True),
        Column("created", no_wrap=True),
        Column("expires", no_wrap=True),
        box=box.SIMPLE_HEAD,
        show_edge=False,
        pad_edge=False,
        collapse_padding=True,
    )
    for key in file.keys:
        table.add_row(
            key.id,
            key.client,
            key.state(now),
            "all" if key.models is None else "\n".join(key.models),
            f"{key.limits.rate_per_s:g}/s, {key.limits.concurrency}",
            f"{key.created:%Y-%m-%d}",
            "never" if key.expires is None else f"{key.expires:%Y-%m-%d\n%H:%M UTC}",
        )
    Console(markup=False, emoji=False).print(table)


@app.command()
def scope(
    key_id: KeyId,
    models: Models = None,
    keys: KeysFile = DEFAULT_FILE,
    gateway: Gateways = None,
    no_gateway: NoGateway = False,
    ca: Authority = None,
) -> None:
    """Change the models a key is for."""
    gateways = _gateways(keys, gateway, no_gateway)
    _change(keys, key_id, lambda key: {"models": _models(models)})
    _wait(keys, gateways, ca, f"the models of key {key_id} are changed in {keys}", "goes by the earlier ones")


@app.command()
def expire(
    key_id: KeyId,
    after: Annotated[str, typer.Option("--in", metavar="30d", help="From now; 0s is at once.")],
    keys: KeysFile = DEFAULT_FILE,
    gateway: Gateways = None,
    no_gateway: NoGateway = False,
    ca: Authority = None,
) -> None:
    """Change when a key expires."""
    gateways = _gateways(keys, gateway, no_gateway)
    _change(keys, key_id, lambda key: {"expires": utc_now() + parse_duration(after)})
    _wait(keys, gateways, ca, f"the expiry of key {key_id} is changed in {keys}", "goes by the earlier one")


@app.command()
def revoke(
    key_id: KeyId,
    keys: KeysFile = DEFAULT_FILE,
    gateway: Gateways = None,
    no_gateway: NoGateway = False,
    ca: Authority = None,
) -> None:
    """End a key for good; it stays in the list."""
    gateways = _gateways(keys, gateway, no_gateway)
    _change(keys, key_id, lambda key: {"revoked": key.revoked or utc_now()})
    _wait(keys, gateways, ca, f"key {key_id} is revoked in {keys}", "still lets it in")


@app.command()
def render(
    keys: KeysFile = DEFAULT_FILE,
    gateway: Gateways = None,
    no_gateway: NoGateway = False,
    ca: Authority = None,
) -> None:
    """Write the file that nginx reads again, as after a restore from a backup."""
    gateways = _gateways(keys, gateway, no_gateway)
    read_keys(keys)
    change_keys(keys, lambda file: file)
    _note_left_out(read_keys(keys))
    _say(f"{nginx_file(keys)} is written.")
    _wait(keys, gateways, ca, f"{nginx_file(keys)} is written", "goes by an earlier file", must=False)


@contextmanager
def _key_file(path: Path, text: str) -> Iterator[None]:
    """Have the key in a file when the block ends well, whatever the file's mode was."""
    with whole_file(path) as temporary:
        write_whole(temporary, f"{text}\n".encode(), mode=0o600)
        yield


def _change(keys: Path, key_id: str, fields: Callable[[KeyRecord], dict[str, Any]]) -> None:
    def change(file: KeyFile) -> KeyFile:
        key = file.find(key_id)
        try:
            changed = KeyRecord.model_validate({**key.model_dump(), **fields(key)})
        except ValidationError as error:
            raise _mistake(error) from None
        return _held(file.replaced(changed), key_id)

    read_keys(keys)
    change_keys(keys, change)
    key = read_keys(keys).find(key_id)
    models = "all models" if key.models is None else ", ".join(key.models)
    until = "" if key.expires is None else f", until {key.expires:%Y-%m-%d %H:%M} UTC"
    _say(f"Key {key.id} of {key.client}: {key.state(utc_now())}, for {models}{until}.")


def _held(file: KeyFile, key_id: str) -> KeyFile:
    """The same file, unless nginx could not hold the key that was changed; others are only noted."""
    for key, reason in left_out(file):
        if key.id == key_id:
            raise KeyFileError(reason)
    return file


def _note_left_out(file: KeyFile) -> None:
    for key, reason in left_out(file):
        _note(f"Key {key.id} of {key.client} is left out, nobody enters with it: {reason}")


def _gateways(keys: Path, named: list[str] | None, no_gateway: bool) -> list[KnownGateway] | None:
    """Where to ask; None is not to."""
    return None if no_gateway else known_gateways(keys, named or [])


def _wait(
    keys: Path,
    gateways: list[KnownGateway] | None,
    ca: Path | None,
    done: str,
    otherwise: str,
    *,
    must: bool = True,
) -> None:
    """Wait until the gateways show the change; raises :class:`GatewayError` with what is still in force."""
    if gateways is None:
        return
    answers = wait_until_in_force(keys, gateways, ca=ca)
    for answer in answers:
        if answer.after_s is not None:
            _note(f"in force at {answer.gateway.url} after {answer.after_s:.1f} s")
    if not any(answer.listens or not answer.gateway.guessed_from for answer in answers):
        nobody = f"no running gateway is known that goes by {keys}"
        if answers:
            nobody += (
                f" ({answers[0].gateway.guessed_from} suggests {answers[0].gateway.url}: nobody listens)"
            )
        fix = "name one with --gateway https://HOST:PORT"
        if not must:
            _note(f"{nobody}; to wait for one, {fix}")
            return
        raise GatewayError(
            f"{done}, but {nobody}, so none has shown it; {fix}, or say --no-gateway when none runs"
        )
    asked = [answer for answer in answers if answer.listens or not answer.gateway.guessed_from]
    faults = [_fault(answer, otherwise) for answer in asked if answer.after_s is None]
    if faults:
        raise GatewayError(f"{done}, but {'; '.join(faults)}")


def _fault(answer: Acknowledged, otherwise: str) -> str:
    url, guess = answer.gateway
    if answer.earlier:
        text = f"the gateway at {url} {otherwise}: {answer.fault}; its error log says what nginx refuses, "
        text += "and where there is no word, what looks after nginx may run no more: start it again"
    else:
        text = f"the gateway at {url} has not shown it: {answer.fault}"
    return text + (f" (guessed from {guess}; name another with --gateway)" if guess else "")


def _say(text: str) -> None:
    Console(markup=False, emoji=False, soft_wrap=True).print(text, highlight=False)


def _note(text: str) -> None:
    Console(stderr=True, markup=False, emoji=False, soft_wrap=True).print(text, highlight=False)


def _models(models: str | None) -> tuple[str, ...] | None:
    return None if models is None else tuple(name.strip() for name in models.split(","))


def _mistake(error: ValidationError) -> KeyFileError:
    first = error.errors()[0]
    where = ".".join(map(str, first["loc"]))
    return KeyFileError(f"{where}: got {first['input']!r}: {first['msg']}")
