"""Whatever lies where `detserve audit` reads a file: one sentence at once, no traceback, no endless wait."""

from __future__ import annotations

import json
import multiprocessing
import os
import resource
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from detserve.command import main
from detserve_server.audit.chain import GENESIS, chained
from detserve_server.audit.record import record_of
from detserve_server.signing.keys import create_key, read_private_key
from tests.server.audit.audit_logs import access_line, collected

KINDS: dict[str, Callable[[Path], object]] = {
    "fifo": os.mkfifo,
    "device": lambda path: path.symlink_to("/dev/zero"),
    "folder": Path.mkdir,
    "loop": lambda path: path.symlink_to(path.name),
    "nested": lambda path: path.write_bytes(b"[" * 2_000),
    "nested head": lambda path: path.write_text(
        f'{{"key": "{"0" * 16}", "signature": {"[" * 900}1{"]" * 900}}}'
    ),
    "huge": lambda path: _sparse(path, 2**36),
    "escape codes": lambda path: path.write_text('{"key": "\\u001b[2J\\ud800", "signature": "x"}'),
    "list": lambda path: path.write_text("[]"),
    "empty": lambda path: path.write_bytes(b""),
}
FILES = ("head.json", "anchor", "audit file", "access log", "private key", "public key")


def _sparse(path: Path, size_bytes: int) -> None:
    path.touch()
    os.truncate(path, size_bytes)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", FILES)
def test_it_is_said_in_one_sentence(tmp_path: Path, name: str, kind: str) -> None:
    directory, log, private = tmp_path / "audit", tmp_path / "audit-access.log", tmp_path / "audit.pem"
    public = create_key(private)
    collected(directory, read_private_key(private), [access_line(n) for n in range(5)])
    anchor = tmp_path / "anchor.json"
    (audit_file,) = directory.glob("audit-*.jsonl")
    odd = dict(zip(FILES, (directory / "head.json", anchor, audit_file, log, private, public), strict=True))[
        name
    ]
    if name == "access log" and kind in {"nested", "nested head", "huge", "escape codes", "list", "empty"}:
        pytest.skip("any text is read, as untrusted lines")
    odd.unlink(missing_ok=True)
    KINDS[kind](odd)
    verify = ["verify", str(directory), "--key", str(public)]
    anchored = [*verify, "--anchor", str(anchor)] if name == "anchor" else verify
    collect = ["collect", "--from", str(log), "--to", str(directory), "--key", str(private), "--once"]
    for command in (anchored, ["usage", *anchored[1:]], collect):
        affected = "collect" in command if name in {"access log", "private key"} else command != collect
        affected |= name in {"head.json", "audit file"}
        if affected:
            _says_one_sentence(command, tmp_path)
    if name == "access log" and kind != "loop":  # which may become a file; a link loop too cannot
        _says_one_sentence([part for part in collect if part != "--once"], tmp_path)


def _says_one_sentence(arguments: list[str], tmp_path: Path) -> None:
    errors = tmp_path / "stderr"
    context = multiprocessing.get_context("fork")
    process = context.Process(target=_command, args=(arguments, errors))
    process.start()
    process.join(30)
    is_waiting = process.is_alive()
    if is_waiting:
        process.kill()
        process.join()
    said = errors.read_text()
    assert not is_waiting, f"{arguments[0]} waits"
    assert (process.exitcode, said.count("\n")) == (1, 1), said
    assert said.startswith("detserve: ")
    assert said.strip().isprintable()


def _command(arguments: list[str], errors: Path) -> None:
    """`detserve audit`, in a child whose memory is bounded."""
    resource.setrlimit(resource.RLIMIT_AS, (2**32, 2**32))
    os.dup2(os.open(errors, os.O_CREAT | os.O_TRUNC | os.O_WRONLY), 2)
    sys.stderr = os.fdopen(2, "w", buffering=1)
    sys.argv = ["detserve", "audit", *arguments]
    main()


@pytest.mark.parametrize("first", [1, 2])
@pytest.mark.parametrize(
    ("is_first", "fields"),
    [
        (False, {"kind": "request"}),
        (False, {**record_of(access_line(1)), "key": "\ud800"}),
        (False, {**record_of(access_line(1)), "bytes_in": 10**400}),
        (False, {"kind": "\ud800"}),
        (False, {"kind": "untrusted"}),
        (True, {"kind": "request"}),
        (True, {"kind": "file", "file": "audit-2026-11-24.jsonl", "previous": "\ud800"}),
    ],
)
def test_a_chain_that_anybody_computed_of_anything(
    tmp_path: Path, first: int, is_first: bool, fields: dict[str, object]
) -> None:
    """Without a key nothing says who wrote it."""
    path, last, lines = tmp_path / "audit-2026-11-24.jsonl", GENESIS, []
    opening = {"kind": "file", "file": path.name, "previous": GENESIS, "time": "now"}
    for sequence, body in enumerate(([] if is_first else [opening]) + [fields], first):
        line, last = chained(last, {**body, "sequence": sequence})
        lines.append(line)
    path.write_bytes(b"".join(lines))
    head = {"sequence": sequence, "hash": last, "file": path.name, "key": "0" * 16, "signature": "x"}
    (tmp_path / "head.json").write_text(json.dumps(head))
    for command in ("verify", "usage"):
        _says_one_sentence([command, str(tmp_path), "--first", str(first)], tmp_path)
