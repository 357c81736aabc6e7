"""Outputs onto what is no plain file: they are written through it, and it stays what it is."""

from __future__ import annotations

import os
import stat
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from detserve_core.errors import OutputError
from detserve_core.machine.whole_files import whole_file, write_whole


def test_a_link_stays_and_its_target_is_replaced(tmp_path: Path) -> None:
    real, link, dangling = tmp_path / "store/real", tmp_path / "link", tmp_path / "dangling"
    real.parent.mkdir()
    real.write_text("old")
    link.symlink_to("store/real")
    dangling.symlink_to("store/new")
    write_whole(link, b"new")
    write_whole(dangling, b"first")
    assert link.is_symlink()
    assert real.read_text() == "new"
    assert (tmp_path / "store/new").read_text() == "first"
    assert sorted(path.name for path in real.parent.iterdir()) == ["new", "real"]


def test_a_link_to_itself_is_a_sentence(tmp_path: Path) -> None:
    (tmp_path / "a").symlink_to("a")
    with pytest.raises(OutputError, match="a cannot be written"):
        write_whole(tmp_path / "a", b"x")


def test_a_pipe_gets_the_content(tmp_path: Path) -> None:
    pipe, got = tmp_path / "pipe", []
    os.mkfifo(pipe)
    reader = threading.Thread(target=lambda: got.append(pipe.read_bytes()))
    reader.start()
    write_whole(pipe, b"x" * 200_000)
    reader.join(30)
    assert got == [b"x" * 200_000]
    assert stat.S_ISFIFO(pipe.stat().st_mode)
    assert [path.name for path in tmp_path.iterdir()] == ["pipe"]


def test_a_block_that_fails_writes_nothing_into_a_pipe_or_link(tmp_path: Path) -> None:
    (tmp_path / "real").write_text("old")
    (tmp_path / "link").symlink_to("real")
    for path in (Path("/dev/null"), tmp_path / "link"):
        with pytest.raises(ZeroDivisionError), whole_file(path) as temporary:
            temporary.write_text("half")
            raise ZeroDivisionError
    assert (tmp_path / "real").read_text() == "old"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["link", "real"]


def test_a_device_stays_a_device() -> None:
    write_whole(Path("/dev/null"), b"nothing")
    assert stat.S_ISCHR(os.stat("/dev/null").st_mode)  # noqa: PTH116


def test_a_full_device_is_a_sentence() -> None:
    with pytest.raises(OutputError, match="/dev/full cannot be written: No space left"):
        write_whole(Path("/dev/full"), b"x" * 100_000)


def test_a_shells_process_substitution_and_standard_output(tmp_path: Path) -> None:
    write = (
        "import sys; from pathlib import Path; from detserve_core.machine.whole_files import write_whole; "
    )
    write += "write_whole(Path(sys.argv[1]), b'content')"
    script = f'"$0" -c "$1" >(cat > {tmp_path}/got; touch {tmp_path}/done); "$0" -c "$1" /dev/stdout'
    done = subprocess.run(
        ["bash", "-c", script, sys.executable, write], capture_output=True, text=True, check=True
    )
    assert done.stdout == "content"
    deadline_s = time.monotonic() + 60
    while not (tmp_path / "done").exists() and time.monotonic() < deadline_s:
        time.sleep(0.05)
    assert (tmp_path / "got").read_text() == "content"


WRITTEN = """
import sys
from pathlib import Path
from detserve_core.machine.whole_files import write_whole
print("before")
write_whole(Path(sys.argv[1]), b"one\\n")
write_whole(Path(sys.argv[1]), b"two\\n")
print("after")
"""


@pytest.mark.parametrize("name", ["/dev/stdout", "/dev/fd/1", "/proc/self/fd/1"])
def test_what_a_descriptor_was_given_before_stays(tmp_path: Path, name: str) -> None:
    for mode, before in (("wb", b""), ("ab", b"an earlier line\n")):
        log = tmp_path / mode
        log.write_bytes(before)
        with log.open(mode) as stdout:
            subprocess.run([sys.executable, "-c", WRITTEN, name], stdout=stdout, check=True)
        assert log.read_bytes() == before + b"before\none\ntwo\nafter\n"
