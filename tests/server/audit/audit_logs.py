"""Access log lines as the gateway writes them, and audit logs made of them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from detserve_server.audit.chain import End, Head, read_head, write_head
from detserve_server.audit.collect import collect


def access_line(number: int, **fields: Any) -> bytes:
    """One line with its line break; ``number`` makes it unlike every other."""
    usual = {
        "time": f"2026-11-24T13:49:{number % 60:02}.{number % 1000:03}+00:00",
        "request_id": f"{number:032x}",
        "client": "shop",
        "peer": "10.0.0.7",
        "certificate": "",
        "protocol": "grpc",
        "model": "codes_yolo",
        "method": "ModelInfer",
        "status": 200,
        "grpc_status": 0,
        "bytes_in": 50_000,
        "bytes_out": 2_600,
        "latency_s": 0.030,
        "upstream_s": 0.025,
    }
    return json.dumps({**usual, **fields}).encode() + b"\n"


def collected(
    directory: Path, key: Ed25519PrivateKey, lines: list[bytes], *, file_bytes: int = 2**20, runs: int = 1
) -> Path:
    """An audit log of these lines, collected in ``runs`` runs."""
    log = directory.parent / f"{directory.name}-access.log"
    log.touch()
    for run in range(runs):
        with log.open("ab") as file:
            file.writelines(lines[run::runs])
        collect(log, directory, key, once=True, file_bytes=file_bytes, on_note=print)
    return directory


def records(directory: Path) -> list[dict[str, Any]]:
    """What the audit files hold, read without the code under test."""
    paths = sorted(directory.glob("audit-*.jsonl"), key=lambda path: (len(path.name), path.name))
    return [json.loads(line) for path in paths for line in path.read_bytes().splitlines()]


def request_ids(directory: Path) -> list[int]:
    """The numbers of the lines collected, in order."""
    return [int(one["request_id"], 16) for one in records(directory) if one["kind"] == "request"]


def ids_aside(directory: Path) -> list[int]:
    """The numbers of the whole lines that a collector moved aside."""
    lines = [line for path in directory.glob("*.aside-*") for line in path.read_bytes().splitlines(True)]
    found = [json.loads(line) for line in lines if line.endswith(b"\n")]
    return [int(one["request_id"], 16) for one in found if one["kind"] == "request"]


def put_back(directory: Path, older: bytes, key: Ed25519PrivateKey, how: str) -> None:
    """Put an older ``head.json`` in the place of the newest.

    ``how``: ``older`` as it was, ``killed`` as a collector leaves it that is killed before the newest head,
    ``version 1`` as collectors wrote it that did not say what comes next.
    """
    path = directory / "head.json"
    newest = read_head(path, key.public_key())
    path.write_bytes(older)
    head = read_head(path, key.public_key())
    if how == "killed":
        write_head(directory, head.before(End(**_end(newest))), key)
    elif how == "version 1":
        write_head(directory, head.model_copy(update={"schema_version": 1, "next": None}), key)


def _end(head: Head) -> dict[str, Any]:
    return {name: getattr(head, name) for name in End.model_fields}
