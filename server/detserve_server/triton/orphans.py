"""Runs beside the embedded server and ends it if the Python that started it dies without doing so.

Started as a script with the standard library only:
``orphans.py PARENT_PID SERVER_PID REGION_PREFIX FOLDER...``.
The kernel's parent-death signal would not do: it fires when the *thread* that started the server ends, and it
leaves the shared memory and the temporary folder behind. The parent kills this process at a regular stop.
"""

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

_INTERVAL_S = 0.3


def _end_with_parent(parent_pid: int, server_pid: int, region_prefix: str, folders: list[str]) -> None:
    """Wait until the parent has gone, then end the server's whole process group and remove what it left."""
    while os.getppid() == parent_pid:
        time.sleep(_INTERVAL_S)
    with contextlib.suppress(ProcessLookupError):
        os.killpg(server_pid, signal.SIGKILL)
    time.sleep(_INTERVAL_S)
    for path in Path("/dev/shm").glob("*"):  # noqa: S108
        if path.name.startswith(region_prefix):
            path.unlink(missing_ok=True)
    for folder in folders:
        shutil.rmtree(folder, ignore_errors=True)


def watch(server_pid: int, region_prefix: str, *folders: Path) -> subprocess.Popen[bytes]:
    """Watch over a process of this one, in its own process."""
    return subprocess.Popen(
        [
            *(sys.executable, "-I", "-S", __file__),
            *(str(os.getpid()), str(server_pid), region_prefix, *map(str, folders)),
        ],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )


if __name__ == "__main__":
    _end_with_parent(int(sys.argv[1]), int(sys.argv[2]), sys.argv[3], sys.argv[4:])
