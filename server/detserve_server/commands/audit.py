"""``detserve audit``: collect, verify, usage."""

from __future__ import annotations

import signal
from collections.abc import Callable, Mapping
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from detserve_core.machine.whole_files import write_whole

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

    from detserve_server.audit.usage import Use

app = typer.Typer(
    add_completion=False,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    help="The tamper-evident log of who asked what: collect it, verify it, sum it up.",
)

_Directory = Annotated[Path, typer.Argument(metavar="DIR", help="The audit log's folder.")]
_PublicKey = Annotated[
    Path | None,
    typer.Option("--key", help="Public key of the collector; without it signatures are not checked."),
]
_Anchors = Annotated[
    list[Path] | None, typer.Option("--anchor", help="A copy of head.json kept elsewhere; may be repeated.")
]
_First = Annotated[
    int, typer.Option(min=1, help="Sequence of the first record, if older files were archived.")
]
_DAY = ["%Y-%m-%d"]


@app.command()
def collect(
    log: Annotated[Path, typer.Option("--from", help="Access log of the gateway, in JSON lines.")],
    directory: Annotated[Path, typer.Option("--to", help="Folder of the audit log.")],
    key: Annotated[Path, typer.Option(help="Ed25519 private key (PEM) that signs the end of the log.")],
    create_key: Annotated[bool, typer.Option(help="Make the key if it is not there yet.")] = False,
    once: Annotated[
        bool, typer.Option("--once", help="Stop when everything written so far is read.")
    ] = False,
    file_mib: Annotated[int, typer.Option(min=1, help="Begin a new file at this size, and each day.")] = 64,
    metrics_port: Annotated[
        int | None,
        typer.Option(min=1, max=65535, help="Serve requests by client to Prometheus on this port."),
    ] = None,
    metrics_host: Annotated[
        str, typer.Option(help="Address for --metrics-port; 0.0.0.0 lets other machines read it.")
    ] = "127.0.0.1",
) -> None:
    """Follow the gateway's access log and chain every line into the audit log, until Ctrl-C or SIGTERM.

    After SIGTERM it still reads what was written until then.
    """
    from detserve_server.audit.access_log import GATEWAY_METRICS
    from detserve_server.audit.client_metrics import serve_client_metrics
    from detserve_server.audit.collect import collect as run
    from detserve_server.audit.collector_state import CollectorState
    from detserve_server.signing.keys import create_key as create
    from detserve_server.signing.keys import read_private_key

    told: list[int] = []
    signal.signal(signal.SIGTERM, lambda number, _frame: told.append(number))
    if create_key and not key.exists():
        typer.echo(f"made {key}; verify with {create(key)}", err=True)
    private = read_private_key(key)
    on_record: Callable[[Mapping[str, Any]], None] = lambda record: None  # noqa: E731
    state = CollectorState({"audit": directory, "log": log.parent})
    if metrics_port is not None:
        gateway = log.with_name(GATEWAY_METRICS)
        on_record = serve_client_metrics(metrics_port, address=metrics_host, gateway=gateway, state=state)
    try:
        count = run(
            log,
            directory,
            private,
            once=once,
            ending=lambda: bool(told),
            file_bytes=file_mib * 2**20,
            on_note=lambda note: typer.echo(f"detserve audit: {note}", err=True),
            on_record=on_record,
            on_caught_up=state.caught_up,
        )
    except KeyboardInterrupt:
        return
    typer.echo(f"{count} records collected into {directory}")


@app.command()
def verify(directory: _Directory, key: _PublicKey = None, anchor: _Anchors = None, first: _First = 1) -> None:
    """Check that no line was changed, removed, added or moved; exit 1 naming the first that was."""
    from detserve_server.audit.verify import verify as run

    verdict = run(directory, _public(key), anchors=anchor or [], first=first)
    kinds = ", ".join(f"{count} {kind}" for kind, count in sorted(verdict.counts.items())) or "no records"
    between = f", requests from {verdict.first_time} to {verdict.last_time}" if verdict.first_time else ""
    typer.echo(f"OK: {verdict.sequence} records ({kinds}) in {verdict.files} files{between}")
    if key is None:
        typer.echo("The signature was not checked: give --key to know who wrote this.", err=True)


@app.command()
def usage(
    directory: _Directory,
    output: Annotated[Path | None, typer.Option(help="CSV file for the sums.")] = None,
    by_key: Annotated[
        bool, typer.Option("--by-key", help="A row for each key of a client, by its id.")
    ] = False,
    since: Annotated[datetime | None, typer.Option("--from", formats=_DAY, help="First day, in UTC.")] = None,
    until: Annotated[datetime | None, typer.Option("--to", formats=_DAY, help="Last day, in UTC.")] = None,
    key: _PublicKey = None,
    anchor: _Anchors = None,
    first: _First = 1,
) -> None:
    """Sum requests, inferences, bytes and compute seconds per client and day; a broken log is not summed.

    inferences: successful requests with pictures; a request of the detserve client holds one picture, one of
    another client at least one. compute_s: the seconds for which Triton had the requests, its queue included.
    Where the gateway logs one refusal in n, requests and not ok are estimates: such a line counts n times.
    """
    from detserve_server.audit.usage import Usage, usage_csv
    from detserve_server.audit.verify import verify as run

    sums = Usage(since.date() if since else None, until.date() if until else None, by_key=by_key)
    run(directory, _public(key), anchors=anchor or [], first=first, on_record=sums.update)
    rows = sums.rows()
    if output is not None:
        write_whole(output, usage_csv(rows, by_key=by_key).encode())
    table = _table(rows, by_key=by_key)
    if sums.sampled:
        table.caption = (
            f"requests and not ok are estimates: {sums.sampled:,} lines stand for several refusals each"
        )
    Console(emoji=False).print(table)
    if sums.untrusted or sums.gaps:
        typer.echo(f"Not in the sums: {sums.untrusted} untrusted lines, {sums.gaps} gaps.", err=True)


def _table(rows: list[Use], *, by_key: bool) -> Table:
    table = Table(box=SIMPLE_HEAD, show_edge=False, collapse_padding=True)
    for heading in ("day", "client", *(["key"] if by_key else [])):
        table.add_column(heading, overflow="fold", no_wrap=heading == "day")
    for heading in ("requests", "not ok", "inferences", "MB in", "MB out", "compute s"):
        table.add_column(heading, justify="right", overflow="fold", min_width=len(heading.split()[0]))
    for use in rows:
        table.add_row(
            use.day,
            escape(use.client) or "(unknown)",
            *([escape(use.key) or "(none)"] if by_key else []),
            f"{use.requests:,}",
            f"{use.not_ok:,}",
            f"{use.inferences:,}",
            f"{use.bytes_in / 1e6:,.2f}",
            f"{use.bytes_out / 1e6:,.2f}",
            f"{use.compute_s:,.1f}",
        )
    return table


def _public(path: Path | None) -> Ed25519PublicKey | None:
    from detserve_server.signing.keys import read_public_key

    return None if path is None else read_public_key(path)
