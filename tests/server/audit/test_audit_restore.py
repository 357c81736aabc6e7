"""Lines behind the head: a killed collector's are told from those of a newer head; none is ever deleted."""

from __future__ import annotations

import hashlib
import json
import random
import shutil
from contextlib import suppress
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from detserve_server.audit import ledger
from detserve_server.audit.collect import collect
from detserve_server.audit.verify import verify
from detserve_server.errors import AuditBroken, AuditError
from tests.server.audit.audit_logs import access_line, ids_aside, put_back, request_ids

KEY = Ed25519PrivateKey.generate()
PUBLIC = KEY.public_key()
ONE_FILE, MANY_FILES = 2**20, 4000


class _Site:
    """An access log and its collector; :attr:`heads` are those after each run."""

    def __init__(self, folder: Path, file_bytes: int = ONE_FILE) -> None:
        self.log, self.directory = folder / "access.log", folder / "audit"
        self.log.touch()
        self.file_bytes, self.written = file_bytes, 0
        self.heads: list[bytes] = []
        self.notes: list[str] = []

    def run(self, count: int = 0) -> None:
        with self.log.open("ab") as file:
            file.writelines(access_line(self.written + n) for n in range(count))
        self.written += count
        collect(
            self.log, self.directory, KEY, once=True, file_bytes=self.file_bytes, on_note=self.notes.append
        )
        self.heads.append((self.directory / "head.json").read_bytes())

    def put_back(self, number: int, how: str) -> None:
        put_back(self.directory, self.heads[number], KEY, how)

    def tear(self) -> None:
        newest = max(self.directory.glob("audit-*.jsonl"), key=lambda path: (len(path.name), path.name))
        newest.write_bytes(newest.read_bytes()[:-7])

    def content(self) -> dict[str, bytes]:
        return {path.name: path.read_bytes() for path in self.directory.iterdir()}


@pytest.fixture(autouse=True)
def short_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    """``verify`` waits 5 s for a collector that writes; none does here."""
    monkeypatch.setattr("detserve_server.audit.verify._COLLECTOR_S", 0.2)


@pytest.mark.parametrize("file_bytes", [ONE_FILE, MANY_FILES])
@pytest.mark.parametrize("number", [0, 1, 4])
@pytest.mark.parametrize("has_access_log", [True, False])
def test_an_older_head_that_was_put_back_is_refused_and_nothing_changes(
    tmp_path: Path, file_bytes: int, number: int, has_access_log: bool
) -> None:
    site = _Site(tmp_path, file_bytes)
    for _ in range(6):
        site.run(10)
    site.put_back(number, "older")
    if not has_access_log:
        site.log.write_bytes(b"")
    before = site.content()
    with pytest.raises(
        AuditBroken, match=r"head\.json ends at record .* replaced by an older one\. Put the n"
    ):
        site.run()
    assert site.content() == before
    with pytest.raises(AuditBroken, match="an older head was put back; put the newest back"):
        verify(site.directory, PUBLIC)
    (site.directory / "head.json").write_bytes(site.heads[5])
    site.log.touch()
    assert verify(site.directory, PUBLIC).counts["request"] == 60


@pytest.mark.parametrize("torn", [True, False])
def test_the_head_of_a_killed_collector_does_not_hide_a_newer_one(tmp_path: Path, torn: bool) -> None:
    site = _Site(tmp_path)
    for _ in range(3):
        site.run(10)
    site.put_back(1, "killed")
    mid_commit = (site.directory / "head.json").read_bytes()
    (site.directory / "head.json").write_bytes(site.heads[2])
    site.run(10)
    (site.directory / "head.json").write_bytes(mid_commit)
    if torn:
        site.tear()
    before = site.content()
    with pytest.raises(AuditBroken, match="replaced by an older one"):
        site.run()
    assert site.content() == before
    with pytest.raises(AuditBroken, match="an older head was put back|is not a line that a collector writes"):
        verify(site.directory, PUBLIC)


@pytest.mark.parametrize(
    "first", [3, 12]
)  # the lines that lost their head are in the same file, or in a new one
@pytest.mark.parametrize("torn", [True, False])
def test_a_collector_killed_between_the_lines_and_the_head(tmp_path: Path, first: int, torn: bool) -> None:
    site = _Site(tmp_path, MANY_FILES)
    site.run(first)
    files = len(list(site.directory.glob("audit-*")))
    site.run(9)
    assert (len(list(site.directory.glob("audit-*"))) > files) == (first == 12)
    site.put_back(0, "killed")
    if torn:
        site.tear()
    with pytest.raises(AuditBroken, match="collector was killed|is not a line that a collector writes"):
        verify(site.directory, PUBLIC)
    site.run()
    assert request_ids(site.directory) == list(range(site.written))
    assert verify(site.directory, PUBLIC).counts["request"] == site.written
    aside = sorted(site.directory.glob("*.aside-*"))
    if torn:
        assert ids_aside(site.directory) == list(range(first, site.written - 1))
        assert len(site.notes) == 1
        assert str(aside[0]) in site.notes[0]
    else:  # whole: the intent that was signed before them names their hash
        assert not aside
    site.run(5)
    assert request_ids(site.directory) == list(range(site.written))
    verify(site.directory, PUBLIC)


@pytest.mark.parametrize("fails_at", ["before the lines", "within the lines", "before the head"])
def test_a_commit_broken_off_anywhere(tmp_path: Path, fails_at: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A kill at each step, as the disk has it: no code of the commit runs after it."""
    site = _Site(tmp_path)
    site.run(5)
    with monkeypatch.context() as patch:
        _kill(patch, fails_at)
        with pytest.raises(_Killed):
            site.run(4)
    site.run(3)
    assert request_ids(site.directory) == list(range(12))
    assert verify(site.directory, PUBLIC).counts["request"] == 12
    assert len(list(site.directory.glob("*.aside-*"))) == (fails_at == "within the lines")


class _Killed(BaseException):
    pass


def _kill(patch: pytest.MonkeyPatch, fails_at: str) -> None:
    write_head, calls = ledger.write_head, []

    def counted(directory: Path, head: ledger.Head, key: Ed25519PrivateKey) -> None:
        calls.append(head)
        if (len(calls), fails_at) in {(1, "before the lines"), (2, "before the head")}:
            raise _Killed
        write_head(directory, head, key)
        if fails_at == "within the lines":
            newest = max(directory.glob("audit-*.jsonl"))
            with newest.open("ab") as file:
                file.write(b'{"bytes_in":50000,"by')
            raise _Killed

    patch.setattr(ledger, "write_head", counted)


def test_forged_lines_are_never_committed(tmp_path: Path) -> None:
    """Whoever can write the folder can compute lines that chain on, not the hash that was signed before."""
    site, other = _Site(tmp_path), _Site(_made(tmp_path / "other"))
    site.run(5)
    site.run(4)
    site.put_back(0, "killed")
    shutil.copytree(site.directory, other.directory)
    path = max(site.directory.glob("audit-*.jsonl"))
    lines = path.read_bytes().splitlines(keepends=True)
    forged, last = [], _hash(lines[5])
    for line in lines[6:]:
        text, last = _chained(last, line.replace(b'"client":"shop"', b'"client":"mole"'))
        forged.append(text)
    path.write_bytes(b"".join(lines[:6] + forged))
    before = site.content()
    with pytest.raises(AuditBroken, match="replaced by an older one"):
        site.run()
    assert site.content() == before
    path.write_bytes(b"".join(lines[:6] + forged[:3]))
    site.run()
    assert b"mole" not in path.read_bytes()
    assert ids_aside(site.directory) == [5, 6, 7]
    assert request_ids(site.directory) == list(range(9))
    verify(site.directory, PUBLIC)


def _made(folder: Path) -> Path:
    folder.mkdir()
    return folder


def _hash(line: bytes) -> str:
    return str(json.loads(line)["hash"])


def _chained(previous: str, line: bytes) -> tuple[bytes, str]:
    body = json.loads(line)
    del body["hash"]
    text = json.dumps(body, sort_keys=True, separators=(",", ":"))
    digest = hashlib.sha256(f"{previous}{text}".encode()).hexdigest()
    return json.dumps(
        {**body, "hash": digest}, sort_keys=True, separators=(",", ":")
    ).encode() + b"\n", digest


def test_files_that_are_not_the_collectors_stay(tmp_path: Path) -> None:
    site = _Site(tmp_path)
    site.run(5)
    for name in (
        "audit-2999-01-01.jsonl",
        "audit-2999-01-01.2.jsonl",
        "audit-notes.jsonl",
        "audit-x.jsonl.old",
    ):
        (site.directory / name).write_bytes(b"not a collector's\n")
    before = site.content()
    with pytest.raises(AuditBroken, match=r"audit-2999-01-01\.jsonl does not follow .*; move it away"):
        site.run(3)
    assert site.content() == before
    for path in site.directory.glob("audit-2999-*"):
        path.rename(tmp_path / path.name)
    site.run()
    assert request_ids_of(site) == list(range(8))


def request_ids_of(site: _Site) -> list[int]:
    """Without the files that are none of the collector's."""
    folder = site.directory.with_name("copy")
    folder.mkdir()
    for path in site.directory.glob("audit-2*.jsonl"):
        shutil.copy(path, folder)
    return request_ids(folder)


def test_a_file_that_appears_where_the_next_would_be_written_stays(tmp_path: Path) -> None:
    site = _Site(tmp_path, 100)
    site.run(1)
    head = ledger.read_head(site.directory / "head.json", PUBLIC)
    path = site.directory / head.file.replace(".jsonl", ".1.jsonl")
    with ledger.open_ledger(site.directory, KEY, file_bytes=100) as opened:
        path.write_bytes(b"")
        with pytest.raises(AuditBroken, match="was not written by this collector"):
            opened.append([{"kind": "gap", "what": "a test"}], opened.head.position)
    assert path.read_bytes() == b""


# ---- logs of the first version, whose head did not say what comes next


@pytest.mark.parametrize("torn", [True, False])
def test_version_1_killed_between_the_lines_and_the_head(tmp_path: Path, torn: bool) -> None:
    site = _Site(tmp_path)
    site.run(5)
    site.run(9)
    site.put_back(0, "version 1")
    if torn:
        site.tear()
    site.run()
    assert ids_aside(site.directory) == list(range(5, 14 - torn))
    assert request_ids(site.directory) == list(range(14))
    assert verify(site.directory, PUBLIC).counts["request"] == 14  # all that lies aside came again


def test_version_1_in_doubt_nothing_is_deleted_and_verify_misses_what_did_not_come_again(
    tmp_path: Path,
) -> None:
    site = _Site(tmp_path)
    site.run(5)
    site.run(9)
    site.put_back(0, "version 1")
    site.log.write_bytes(b"")  # its lines were rotated away long ago
    site.run(0)
    assert sorted(request_ids(site.directory) + ids_aside(site.directory)) == list(range(14))
    with pytest.raises(AuditBroken, match=r"\.aside-.* holds 9 records that are not in the log"):
        verify(site.directory, PUBLIC)


@pytest.mark.parametrize(("file_bytes", "batch"), [(MANY_FILES, 10), (2**26, 3000)])
def test_version_1_more_than_a_batch_is_refused(tmp_path: Path, file_bytes: int, batch: int) -> None:
    site = _Site(tmp_path, file_bytes)
    for _ in range(4):
        site.run(batch)
    site.put_back(0, "version 1")
    before = site.content()
    with pytest.raises(AuditBroken, match="replaced by an older one"):
        site.run()
    assert site.content() == before


def test_version_1_put_back_after_this_version_wrote_is_refused(tmp_path: Path) -> None:
    site = _Site(tmp_path)
    site.run(5)
    site.put_back(0, "version 1")
    site.heads[0] = (site.directory / "head.json").read_bytes()
    site.log.rename(site.log.with_name("access.log.1"))
    site.log.write_bytes(access_line(99))
    site.log.write_bytes(b"")
    site.run()  # a new position and no lines
    for _ in range(2):
        site.run(2)
        assert verify(site.directory, PUBLIC).counts["request"] == site.written
    (site.directory / "head.json").write_bytes(site.heads[0])
    with pytest.raises(AuditBroken, match="replaced by an older one"):
        site.run()


def test_seeded_heads_put_back_never_lose_a_record(tmp_path: Path) -> None:
    """Whatever is put back and torn, and whether it is refused or not: each record is there or lies aside."""
    for seed in range(40):
        chance = random.Random(seed)  # noqa: S311
        site = _Site(_made(tmp_path / str(seed)), chance.choice([ONE_FILE, MANY_FILES]))
        for _ in range(5):
            site.run(chance.randrange(1, 12))
        site.put_back(chance.randrange(5), chance.choice(["older", "killed", "version 1"]))
        if torn := chance.random() < 0.3:
            site.tear()
        if chance.random() < 0.5:
            site.log.write_bytes(b"")
        with suppress(AuditBroken, AuditError):
            site.run()
        lines = [line for path in site.directory.glob("audit-*") for line in path.read_bytes().splitlines()]
        held = {n for n in range(site.written) if any(b'"%032x"' % n in line for line in lines)}
        assert len(held) >= site.written - torn, seed
