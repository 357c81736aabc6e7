"""The collector neither loses nor repeats a line: rotation of either log, restarts, kills, a full disk."""

from __future__ import annotations

import os
import random
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from detserve_server.audit.access_log import AccessLog
from detserve_server.audit.chain import Position
from detserve_server.audit.collect import collect
from detserve_server.audit.verify import verify
from detserve_server.errors import AuditError
from detserve_server.signing.keys import create_key, read_public_key
from tests.server.audit.audit_logs import access_line, put_back, records, request_ids

KEY = Ed25519PrivateKey.generate()


class _Log:
    """An access log with a gateway's habits, and a collector that is run when asked."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / "access.log"
        self.path.touch()
        self.directory = folder / "audit"
        self.written = 0

    def write(self, count: int, path: Path | None = None) -> None:
        with (path or self.path).open("ab") as file:
            for _ in range(count):
                file.write(access_line(self.written))
                self.written += 1

    def collect(self) -> int:
        return collect(self.path, self.directory, KEY, once=True, file_bytes=4000, on_note=print)

    def check(self) -> None:
        self.collect()
        assert sorted(request_ids(self.directory)) == list(range(self.written))
        verify(self.directory, KEY.public_key())


@pytest.fixture
def log(tmp_path: Path) -> _Log:
    return _Log(tmp_path)


def _rename(log: _Log) -> None:
    """What logrotate and nginx do; the last lines still go to the old file."""
    log.write(2)
    for number in range(400, 0, -1):  # none is dropped, however slow the collector starts
        older = log.path.with_name(f"access.log.{number}")
        if older.exists():
            older.rename(older.with_name(f"access.log.{number + 1}"))
    log.path.rename(log.path.with_name("access.log.1"))
    log.write(1, log.path.with_name("access.log.1"))
    log.path.touch()


def _copy_and_truncate(log: _Log) -> None:
    shutil.copy(log.path, log.path.with_name(f"access.log-{time.monotonic_ns()}"))
    log.path.write_bytes(b"")


def _replace_inode(log: _Log) -> None:
    """The rotated file is removed after it was read, and its inode may be used again."""
    log.collect()
    log.path.unlink()
    log.path.touch()


@pytest.mark.parametrize("rotate", [_rename, _copy_and_truncate])
def test_rotation_of_the_access_log(log: _Log, rotate: Callable[[_Log], None]) -> None:
    for step in range(12):
        log.write(step % 4)
        if step % 3:
            log.collect()
        rotate(log)
        log.write(step % 2)
    log.check()
    assert {record["kind"] for record in records(log.directory)} == {"request", "file"}


def test_a_log_that_was_read_and_removed_is_a_gap(log: _Log) -> None:
    log.write(5)
    _replace_inode(log)
    log.write(3)
    log.check()
    assert [record["kind"] for record in records(log.directory)].count("gap") == 1


def test_seeded_histories_of_writes_rotations_and_runs(tmp_path: Path) -> None:
    for seed in range(20):
        chance, log = random.Random(seed), _Log(_made(tmp_path / str(seed)))  # noqa: S311
        for _ in range(30):
            match chance.choice(["write", "write", "collect", "rename", "copy", "half"]):
                case "write":
                    log.write(chance.randrange(20))
                case "collect":
                    log.collect()
                case "rename":
                    _rename(log)
                case "copy":
                    _copy_and_truncate(log)
                case "half":
                    line = access_line(log.written)
                    with log.path.open("ab", buffering=0) as file:
                        file.write(line[:50])
                        log.collect()
                        file.write(line[50:])
                    log.written += 1
        log.check()


def _made(folder: Path) -> Path:
    folder.mkdir()
    return folder


def test_a_deleted_log_is_read_to_its_end_and_then_closed(log: _Log) -> None:
    log.write(3)
    access_log = AccessLog(log.path)
    position = access_log.read(Position()).position
    with log.path.open("ab", buffering=0) as old:
        log.path.unlink()
        log.path.write_bytes(access_line(100))
        old.write(access_line(3))
        batch = access_log.read(position)
        assert [int(record["request_id"], 16) for record in batch.records] == [3, 100]
        opened = len(list(Path("/proc/self/fd").iterdir()))
        os.utime(old.fileno(), (0, 0))  # long ago
    position = access_log.read(batch.position).position
    assert len(list(Path("/proc/self/fd").iterdir())) == opened - 2  # ours and the reader's
    assert len(position.offsets_bytes) == 1
    access_log.close()


def test_compressed_and_foreign_siblings_are_not_read(log: _Log) -> None:
    log.write(2)
    for name in ("access.log.2.gz", "access.logs", "access.log2", "error.log"):
        log.path.with_name(name).write_bytes(access_line(99))
    log.check()


def test_lines_beyond_memory_are_one_untrusted_record(log: _Log) -> None:
    log.write(1)
    with log.path.open("ab") as file:
        file.write(b"x" * 3_000_000 + access_line(77))
    log.write(1)
    log.check()
    untrusted = [record for record in records(log.directory) if record["kind"] == "untrusted"]
    assert [record["reason"] for record in untrusted] == ["too long"]
    assert untrusted[0]["bytes"] == 3_000_000 + len(access_line(77)) - 1


def test_no_access_log_is_said_in_a_sentence(tmp_path: Path) -> None:
    with pytest.raises(AuditError, match="there is no access log"):
        collect(tmp_path / "none", tmp_path / "audit", KEY, once=True, on_note=print)


# ---- the command, as its own process


@pytest.fixture
def key(tmp_path: Path) -> Path:
    create_key(tmp_path / "audit.pem")
    return tmp_path / "audit.pem"


def _start(log: _Log, key: Path, *, once: bool = False) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "detserve.command", "audit", "collect", "--from", str(log.path)]
    command += ["--to", str(log.directory), "--key", str(key), *(["--once"] if once else [])]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def _until(condition: Callable[[], bool], seconds: float = 20) -> None:
    deadline_s = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline_s, "did not come about"
        time.sleep(0.05)


def _ids(log: _Log) -> list[int]:
    return request_ids(log.directory) if log.directory.exists() else []


@pytest.mark.slow
def test_killed_again_and_again_while_it_writes(log: _Log, key: Path) -> None:
    chance, writing = random.Random(4), True  # noqa: S311

    def write() -> None:
        while writing:
            log.write(50)
            if chance.random() < 0.05:
                _rename(log)
            time.sleep(0.01)

    writer = threading.Thread(target=write)
    writer.start()
    try:
        for _ in range(8):
            process = _start(log, key)
            time.sleep(chance.uniform(0.6, 1.6))
            process.send_signal(chance.choice([signal.SIGKILL, signal.SIGTERM]))
            process.communicate()
    finally:
        writing = False
        writer.join()
    process = _start(log, key, once=True)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 0, errors
    assert len(_ids(log)) == log.written > 1000
    assert sorted(_ids(log)) == list(range(log.written))
    verify(log.directory, read_public_key(key.with_name("audit.public.pem")))


def test_a_file_size_limit_stops_with_one_sentence_and_loses_nothing(log: _Log, key: Path) -> None:
    log.write(500)
    command = [sys.executable, "-m", "detserve.command", "audit", "collect", "--from", str(log.path)]
    command += ["--to", str(log.directory), "--key", str(key), "--once"]
    limited = subprocess.run(
        ["bash", "-c", 'ulimit -f 60; exec "$@"', "bash", *command],
        capture_output=True,
        text=True,
        check=False,
    )
    assert limited.returncode == 1
    assert limited.stderr.count("\n") == 1
    assert "cannot be written (File too large); make room" in limited.stderr
    verify(log.directory, None)
    assert subprocess.run(command, check=False).returncode == 0
    assert sorted(_ids(log)) == list(range(500))


def test_what_was_written_before_sigterm_is_still_read(log: _Log, key: Path) -> None:
    for _ in range(3):
        process = _start(log, key)
        log.write(1)
        _until(lambda: len(_ids(log)) == log.written)
        log.write(5000)  # two batches
        process.terminate()
        _, errors = process.communicate(timeout=20)
        assert process.returncode == 0, errors
        assert sorted(_ids(log)) == list(range(log.written))


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 200 KiB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    if (
        os.geteuid()
        or subprocess.run(
            ["mount", "-t", "tmpfs", "-o", "size=200k", "tmpfs", folder], capture_output=True, check=False
        ).returncode
    ):
        pytest.skip("needs the right to mount a tmpfs")
    yield folder
    subprocess.run(["umount", folder], check=True)


def test_a_full_disk_is_waited_out_and_nothing_is_lost(log: _Log, key: Path, small_disk: Path) -> None:
    log.directory = small_disk / "audit"
    filler = small_disk / "filler"
    filler.write_bytes(b"x" * 100_000)
    process = _start(log, key)
    try:
        log.write(100)
        _until(lambda: len(_ids(log)) == 100)
        log.write(200)  # about 90 KB: more than is left
        assert process.stderr is not None
        assert "cannot be written (No space left on device); make room" in process.stderr.readline()
        time.sleep(3)  # it waits, and says so once
        assert process.poll() is None
        assert verify(log.directory, None).counts["request"] == 100
        filler.unlink()
        _until(lambda: len(_ids(log)) == 300)
        assert "going on" in process.stderr.readline()
    finally:
        process.terminate()
        process.communicate()
    assert process.returncode == 0
    assert sorted(_ids(log)) == list(range(300))
    verify(log.directory, read_public_key(key.with_name("audit.public.pem")))


def test_a_full_disk_at_the_start_leaves_what_a_killed_collector_left(log: _Log, small_disk: Path) -> None:
    log.directory = small_disk / "audit"
    log.write(5)
    log.collect()
    older = (log.directory / "head.json").read_bytes()
    log.write(50)
    log.collect()
    put_back(log.directory, older, KEY, "killed")
    newest = max(log.directory.glob("audit-*.jsonl"), key=lambda path: (len(path.name), path.name))
    newest.write_bytes(newest.read_bytes()[:-7])
    before = {path.name: path.read_bytes() for path in log.directory.iterdir()}
    filler = small_disk / "filler"
    with suppress(OSError), filler.open("wb", buffering=0) as file:
        while file.write(b"x" * 1024):
            pass
    with pytest.raises(AuditError, match="cannot be moved to .* make room there"):
        log.collect()
    assert {path.name: path.read_bytes() for path in log.directory.iterdir()} == before
    filler.unlink()
    log.check()


def test_a_full_disk_does_not_keep_it_from_ending(log: _Log, key: Path, small_disk: Path) -> None:
    log.directory = small_disk / "audit"
    process = _start(log, key)
    _until(lambda: (log.directory / "head.json").exists())
    log.write(1000)
    assert process.stderr is not None
    assert "waiting" in process.stderr.readline()
    process.terminate()
    _, errors = process.communicate(timeout=10)
    assert process.returncode == 1
    assert errors.count("\n") == 1
    assert "make room there: nothing is lost" in errors


def test_verify_and_usage_beside_a_running_collector(log: _Log, key: Path, tmp_path: Path) -> None:
    process = _start(log, key)
    _until(lambda: (log.directory / "head.json").exists())
    try:
        for _ in range(15):
            log.write(200)
            verify(log.directory, read_public_key(key.with_name("audit.public.pem")))
            time.sleep(0.1)
    finally:
        process.terminate()
        process.communicate()
    command = [sys.executable, "-m", "detserve.command", "audit"]
    public = str(key.with_name("audit.public.pem"))
    done = subprocess.run(
        [*command, "verify", str(log.directory), "--key", public], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0
    assert done.stdout.startswith("OK: ")
    output = tmp_path / "usage.csv"
    summed = [*command, "usage", str(log.directory), "--key", public, "--output", str(output)]
    assert subprocess.run(summed, capture_output=True, check=False).returncode == 0
    newest = sorted(log.directory.glob("audit-*.jsonl"))[0]
    newest.write_bytes(newest.read_bytes().replace(b'"bytes_in":50000', b'"bytes_in":50001', 1))
    written = output.read_bytes()
    broken = subprocess.run(summed, capture_output=True, text=True, check=False)
    assert broken.returncode == 1
    assert f"detserve: {newest}:2: record 2 was changed" in broken.stderr
    assert output.read_bytes() == written


def test_files_that_are_renamed_while_they_are_looked_for_are_read_once(tmp_path: Path) -> None:
    """Old ones, for which nobody lingers: a file that one look misses is neither deleted nor new after it."""
    path, hour_ago_s = tmp_path / "access.log", time.time() - 3600
    path.touch()
    for number in range(1, 61):
        older = path.with_name(f"access.log.{number}")
        older.write_bytes(access_line(number))
        os.utime(older, (hour_ago_s, hour_ago_s))
    over = threading.Event()

    def shift() -> None:
        for first in range(1, 80):
            for number in range(first + 59, first - 1, -1):
                path.with_name(f"access.log.{number}").rename(path.with_name(f"access.log.{number + 1}"))
            time.sleep(0.005)
        over.set()

    shifting = threading.Thread(target=shift)
    shifting.start()
    position, records = Position({}, ""), 0
    while not over.is_set():
        log = AccessLog(path)  # a collector that was killed opens all anew
        batch = log.read(position)
        log.close()
        position, records = batch.position, records + len(batch.records)
    shifting.join()
    assert records == 60
