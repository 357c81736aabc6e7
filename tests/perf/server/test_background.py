"""Programs that run beside a measurement: ready, failing, gone afterwards."""

import subprocess
import sys
import time
from pathlib import Path

import pytest

from detserve_core.machine.processes import process_tree
from detserve_perf.errors import MeasurementError
from detserve_perf.server.background import running

_SLEEPER = (
    "import subprocess, sys; subprocess.Popen([sys.executable, '-c', 'input()'], stdin=subprocess.PIPE); "
)


def _run(folder: Path, script: str, **options):
    ready = folder / "ready"
    return running(
        [sys.executable, "-c", script],
        name="the program",
        log=folder / "log",
        is_ready=ready.exists,
        **options,
    )


def test_the_whole_session_ends_with_the_block(tmp_path: Path) -> None:
    script = f"{_SLEEPER} open({str(tmp_path / 'ready')!r}, 'w'); import signal; signal.pause()"
    with _run(tmp_path, script) as pid:
        tree = process_tree(pid)
        assert len(tree) == 2
    assert not any(Path(f"/proc/{one}").exists() for one in tree)


def test_a_program_that_ends_too_early_is_quoted(tmp_path: Path) -> None:
    with pytest.raises(MeasurementError, match=r"the program ended before it was ready: no luck$"):
        with _run(tmp_path, "print('no luck\\n;')"):
            pass


def test_a_program_that_is_never_ready_is_ended(tmp_path: Path) -> None:
    pid_file = tmp_path / "pid"
    script = f"import os, signal; open({str(pid_file)!r}, 'w').write(str(os.getpid())); signal.pause()"
    with pytest.raises(MeasurementError, match="was not ready after 1 s: it says nothing"):
        with _run(tmp_path, script, ready_timeout_s=1):
            pass
    assert not Path(f"/proc/{pid_file.read_text()}").exists()


def test_a_flaky_start_is_tried_again(tmp_path: Path) -> None:
    ready, tried = tmp_path / "ready", tmp_path / "tried"
    script = (
        f"from pathlib import Path; import signal; tried = Path({str(tried)!r}); first = not tried.exists(); "
        f"tried.touch(); first and exit(1); Path({str(ready)!r}).touch(); signal.pause()"
    )
    with _run(tmp_path, script, attempts=2) as pid:
        assert process_tree(pid)


def test_a_killed_measurement_leaves_no_program(tmp_path: Path) -> None:
    """kill -9 of the process that measures."""
    pid_file = tmp_path / "pid"
    inner = f"import os, signal; open({str(pid_file)!r}, 'w').write(str(os.getpid())); signal.pause()"
    outer = f"""
import os, signal, sys
from pathlib import Path
from detserve_perf.server.background import running
file = Path({str(pid_file)!r})
with running([sys.executable, "-c", {inner!r}], name="it", log=file.with_name("log"),
             is_ready=lambda: file.exists() and file.read_text()):
    os.kill(os.getpid(), signal.SIGKILL)
"""
    subprocess.run([sys.executable, "-c", outer], check=False)
    deadline_s = time.monotonic() + 5
    while Path(f"/proc/{pid_file.read_text()}").exists() and time.monotonic() < deadline_s:
        time.sleep(0.05)
    assert not Path(f"/proc/{pid_file.read_text()}").exists()
